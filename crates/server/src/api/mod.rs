//! The HTTP API: OpenAI's files, uploads, batches and models, and what we add to them.
//!
//! One file per noun. A handler parses, calls one verb of the store, rings the bell and shows the result; what it
//! refuses is built in `error.rs`. Absent on purpose: CORS, HTTP/2, TLS (a proxy's business) and compression.

mod auth;
mod batch_request;
mod batch_view;
mod batches;
mod body;
mod content;
mod create_batch;
mod error;
mod files;
mod guard;
#[cfg(test)]
mod harness;
mod health;
mod inspect;
mod json;
mod lists;
mod models;
mod multipart;
mod openapi;
mod overview;
mod page;
mod receive;
mod request_id;
mod results;
mod retry;
mod serve;
mod spans;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use http::Method;

use crate::context::Context;

pub(crate) use serve::serve;

/// All routes behind all layers: a call gets its id, must be meant for us, is refused while the server stops, and must
/// be somebody's. What only asks whether the server is there needs neither a key nor a server that goes on.
pub(crate) fn router(ctx: Arc<Context>) -> Router {
    let behind_auth = routes()
        .router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&ctx), auth::layer))
        .layer(middleware::from_fn_with_state(Arc::clone(&ctx), refuse_while_stopping));
    let open = open_routes().router.method_not_allowed_fallback(wrong_method);
    behind_auth
        .merge(open)
        .layer(middleware::from_fn_with_state(Arc::clone(&ctx), guard::layer))
        .layer(middleware::from_fn(request_id::layer))
        .with_state(ctx)
}

/// A router that remembers what it routes, so that its description can be checked against it.
#[derive(Default)]
struct Routes {
    router: Router<Arc<Context>>,
    table: Vec<(Method, &'static str)>,
}

impl Routes {
    fn add(mut self, method: Method, path: &'static str, to: MethodRouter<Arc<Context>>) -> Self {
        self.router = self.router.route(path, to);
        self.table.push((method, path));
        self
    }
}

fn routes() -> Routes {
    Routes::default()
        .add(Method::POST, "/v1/files", post(files::upload))
        .add(Method::GET, "/v1/files", get(files::list))
        .add(Method::GET, "/v1/files/{id}", get(files::retrieve))
        .add(Method::DELETE, "/v1/files/{id}", delete(files::delete))
        .add(Method::GET, "/v1/files/{id}/content", get(content::content))
        .add(Method::POST, "/v1/uploads", post(uploads::create))
        .add(Method::GET, "/v1/uploads/{id}", get(uploads::retrieve))
        .add(Method::POST, "/v1/uploads/{id}/parts", post(uploads::add_part))
        .add(Method::POST, "/v1/uploads/{id}/complete", post(uploads::complete))
        .add(Method::POST, "/v1/uploads/{id}/cancel", post(uploads::cancel))
        .add(Method::POST, "/v1/batches", post(create_batch::create))
        .add(Method::GET, "/v1/batches", get(batches::list))
        .add(Method::GET, "/v1/batches/{id}", get(batches::retrieve))
        .add(Method::POST, "/v1/batches/{id}", post(batches::update))
        .add(Method::DELETE, "/v1/batches/{id}", delete(batches::delete))
        .add(Method::POST, "/v1/batches/{id}/cancel", post(batches::cancel))
        .add(Method::POST, "/v1/batches/{id}/pause", post(batches::pause))
        .add(Method::POST, "/v1/batches/{id}/resume", post(batches::resume))
        .add(Method::POST, "/v1/batches/{id}/retry", post(retry::retry))
        .add(Method::GET, "/v1/batches/{id}/merged", get(retry::merged))
        .add(Method::GET, "/v1/batches/{id}/results", get(results::results))
        .add(Method::GET, "/v1/batches/{id}/failed", get(results::failed))
        .add(Method::GET, "/v1/batches/{id}/manifest", get(results::manifest))
        .add(Method::GET, "/v1/overview", get(overview::overview))
        .add(Method::GET, "/v1/models", get(models::list))
        .add(Method::GET, "/v1/models/{*id}", get(models::retrieve))
        .add(Method::GET, "/health", get(health::health))
        .add(Method::GET, "/health/worker", get(health::worker_health))
        .add(Method::GET, "/metrics", get(health::metrics))
}

/// Routes that need no key.
fn open_routes() -> Routes {
    Routes::default()
        .add(Method::GET, "/", get(page::index))
        .add(Method::GET, "/page/{name}", get(page::part))
        .add(Method::GET, "/health/live", get(health::live))
        .add(Method::GET, "/health/ready", get(health::ready))
        .add(Method::GET, "/openapi.json", get(openapi::openapi))
}

async fn refuse_while_stopping(
    State(ctx): State<Arc<Context>>,
    request: Request,
    next: Next,
) -> Response {
    if ctx.stop.is_cancelled() {
        return error::shutting_down().into_response();
    }
    next.run(request).await
}

async fn unknown_path(request: Request) -> error::ApiError {
    error::unknown_path(request.method(), request.uri().path())
}

async fn wrong_method(request: Request) -> error::ApiError {
    error::wrong_method(request.method(), request.uri().path())
}
