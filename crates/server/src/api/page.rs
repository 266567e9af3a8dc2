//! The page at `/`: a few files that are part of the binary.
//!
//! It has no data of its own: its script asks `GET /v1/overview` and acts through the same API as everybody. Nothing
//! is loaded from elsewhere, and the policy that goes with it forbids so; nothing that came from a caller is ever put
//! into the page as markup.

use std::sync::LazyLock;

use axum::extract::{Path, Request};
use axum::response::{IntoResponse as _, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

use crate::api::error::{self, ApiError};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

struct Part {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

macro_rules! part {
    ($name:literal, $kind:expr) => {
        Part { name: $name, kind: $kind, content: include_str!(concat!("page/", $name)) }
    };
}

const INDEX: Part = part!("index.html", HTML);
const PARTS: [Part; 9] = [
    part!("style.css", STYLE),
    part!("icon.svg", IMAGE),
    part!("main.js", SCRIPT),
    part!("api.js", SCRIPT),
    part!("batches.js", SCRIPT),
    part!("elements.js", SCRIPT),
    part!("server.js", SCRIPT),
    part!("submit.js", SCRIPT),
    part!("words.js", SCRIPT),
];

/// One for all: the parts belong together, and a browser that has them asks once a visit whether they are still right.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let whole: String = PARTS.iter().chain([&INDEX]).map(|part| part.content).collect();
    format!("\"{:016x}\"", xxh3_64(whole.as_bytes()))
});

/// `GET /`
pub(super) async fn index(headers: HeaderMap) -> Response {
    show(&INDEX, &headers)
}

/// `GET /page/{name}`
pub(super) async fn part(Path(name): Path<String>, request: Request) -> Result<Response, ApiError> {
    match PARTS.iter().find(|part| part.name == name) {
        Some(part) => Ok(show(part, request.headers())),
        None => Err(error::unknown_path(request.method(), request.uri().path())),
    }
}

fn show(part: &Part, headers: &HeaderMap) -> Response {
    let cached = [(ETAG, TAG.as_str()), (CACHE_CONTROL, "no-cache")];
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if known.split(',').any(|known| known.trim().trim_start_matches("W/") == *TAG) {
        return (StatusCode::NOT_MODIFIED, cached).into_response();
    }
    let guarded = [
        (CONTENT_TYPE, part.kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (cached, guarded, part.content).into_response()
}

#[cfg(test)]
mod tests;
