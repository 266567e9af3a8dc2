//! The outermost layer: every answer carries an `x-request-id`, and a bug in a handler is an answer, not a lost call.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::{HeaderName, HeaderValue};
use tracing::Instrument as _;

use crate::api::error;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) async fn layer(request: Request, next: Next) -> Response {
    let id = format!("req_{}", crate::clock::new_id().simple());
    let span = tracing::debug_span!("call", method = %request.method(), path = request.uri().path(), id);
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span).await;
    // The panic itself was logged by its hook, with the place.
    let mut response = answer.unwrap_or_else(|_| error::panicked().into_response());
    let value = HeaderValue::from_str(&id).expect("hexadecimal digits are a header value");
    response.headers_mut().insert(REQUEST_ID, value);
    response
}
