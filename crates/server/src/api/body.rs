//! The body of a call as it comes in: never waited for without end, and read on when its handler has lost interest.
//!
//! A server that answers an upload early and closes the socket is seen by openai-node as a broken connection. So when
//! a handler drops a body before its end, the rest goes to a [`Drain`], which reads and forgets it for a bounded time
//! and length while the answer is already on its way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures::future::FutureExt as _;
use http::Request;
use http::header::EXPECT;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use overnight_domain::limits::{DRAIN_FOR, DRAIN_LEN};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::api::error::{self, ApiError};

/// A caller that sends nothing of its body for so long has gone: the SDKs' own patience is ten minutes, but a live
/// connection moves some bytes within one.
const STALL_AFTER: Duration = Duration::from_secs(60);
/// Bodies that are drained at once; more are cut off, which costs their callers only the reason.
pub(super) const DRAINS_MAX: usize = 64;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where bodies go that nobody wants to read.
pub(super) type Drain = mpsc::Sender<Body>;

#[derive(Debug, thiserror::Error)]
#[error("nothing arrived for {} s", STALL_AFTER.as_secs())]
struct Stalled;

/// What a failed read of a body is to its caller.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> ApiError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<Stalled>() {
            return error::body_stalled(STALL_AFTER);
        }
        cause = error.source();
    }
    error::body_broken(&error)
}

/// Gives the body of a call its patience and its drain. A call without a body stays as it is.
pub(super) fn watch<B>(request: Request<B>, drain: &Drain) -> Request<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let is_asked_first = request.headers().contains_key(EXPECT);
    request.map(|body| {
        if body.is_end_stream() {
            return Body::empty();
        }
        Body::new(Watched {
            body: Some(Body::new(body)),
            patience: Box::pin(tokio::time::sleep(STALL_AFTER)),
            drain: drain.clone(),
            is_wanted: !is_asked_first,
        })
    })
}

/// Reads and forgets, within the limits.
pub(super) async fn forget(mut body: Body) {
    let read = async {
        let mut len: u64 = 0;
        while let Some(Ok(frame)) = body.frame().await {
            len += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            if len > DRAIN_LEN {
                return;
            }
        }
    };
    if tokio::time::timeout(DRAIN_FOR, read).await.is_err() {
        tracing::debug!("stopped draining a body that was too slow");
    }
}

struct Watched {
    /// None: it has ended or failed, and nothing is left to drain.
    body: Option<Body>,
    patience: Pin<Box<Sleep>>,
    drain: Drain,
    /// The caller sends the body without being asked, or was asked. Who waits for `100 Continue` is not told to go on
    /// only to be drained.
    is_wanted: bool,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        this.is_wanted = true;
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.patience.as_mut().reset(Instant::now() + STALL_AFTER);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.body = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.body = None;
                Poll::Ready(None)
            }
            Poll::Pending if this.patience.poll_unpin(cx).is_ready() => {
                this.body = None;
                Poll::Ready(Some(Err(Stalled.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| self.is_wanted && !body.is_end_stream()) {
            // A full drain cuts the body off.
            let _ = self.drain.try_send(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: Body, expects: bool) -> Request<Body> {
        let mut request = Request::new(body);
        if expects {
            request.headers_mut().insert(EXPECT, http::HeaderValue::from_static("100-continue"));
        }
        request
    }

    #[tokio::test]
    async fn what_a_handler_drops_goes_to_the_drain() {
        let (drain, mut drained) = mpsc::channel(1);
        drop(watch(call(Body::from("left unread"), false), &drain));
        let body = drained.try_recv().unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "left unread");
    }

    #[tokio::test]
    async fn what_was_read_or_never_sent_does_not() {
        let (drain, mut drained) = mpsc::channel(1);
        let read = watch(call(Body::from("abc"), false), &drain);
        read.into_body().collect().await.unwrap();
        drop(watch(call(Body::empty(), false), &drain));
        drop(watch(call(Body::from("waits for 100 Continue"), true), &drain));
        assert!(drained.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_says_nothing_is_given_up() {
        let (drain, _drained) = mpsc::channel(1);
        let silent = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let read = watch(call(silent, false), &drain).into_body().collect().await;
        let error = axum::response::IntoResponse::into_response(broken(&read.unwrap_err()));
        assert_eq!(error.status(), 408);
    }
}
