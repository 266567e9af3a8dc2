//! `GET /v1/files/{id}/content`: the bytes exactly as stored, whole or one range of them, streamed.
//!
//! The type is always `application/octet-stream`: it keeps HTTP libraries from guessing a character set. A download in
//! progress survives deletion of the file.

use std::ops::Range;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use overnight_domain::file::File;

use crate::api::auth::Caller;
use crate::api::error::Result;
use crate::api::files;
use crate::context::Context;

pub(super) async fn content(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let file = files::find(&ctx, &caller, &id).await?;
    let etag = format!("\"{}\"", file.sha256);
    if is_known(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let wanted = match wanted(&headers, &etag, file.len) {
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
        Wanted::Nothing => {
            let unmet = HeaderValue::from_str(&format!("bytes */{}", file.len));
            let unmet = unmet.expect("digits are a header value");
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, [(CONTENT_RANGE, unmet)]).into_response());
        }
    };
    let status = if wanted.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let range = wanted.clone().unwrap_or(0..file.len);
    let len = range.end - range.start;
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from_stream(ctx.blobs.stream(&file.blob, range.clone()).await?)
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        let value = HeaderValue::from_str(value).expect("built of visible ASCII");
        headers.insert(name, value);
    };
    set(CONTENT_TYPE, "application/octet-stream");
    set(CONTENT_LENGTH, &len.to_string());
    set(CONTENT_DISPOSITION, &disposition(&file));
    set(ETAG, &etag);
    set(ACCEPT_RANGES, "bytes");
    if wanted.is_some() {
        set(CONTENT_RANGE, &format!("bytes {}-{}/{}", range.start, range.end - 1, file.len));
    }
    Ok(response)
}

fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let Some(list) = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    list.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == etag)
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    /// A range behind the end.
    Nothing,
}

/// One range is served; several, or what is no range at all, get the whole, as HTTP allows.
fn wanted(headers: &HeaderMap, etag: &str, len: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(IF_RANGE).is_some_and(|seen| seen != etag) {
        return Wanted::Whole;
    }
    let Some((first, last)) = text(RANGE)
        .and_then(|range| range.trim().strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let range = match (first.trim(), last.trim()) {
        ("", last) => match last.parse::<u64>() {
            Ok(tail) => len.saturating_sub(tail)..len,
            Err(_) => return Wanted::Whole,
        },
        (first, "") => match first.parse() {
            Ok(first) => first..len,
            Err(_) => return Wanted::Whole,
        },
        (first, last) => match (first.parse(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => first..len.min(last.saturating_add(1)),
            _ => return Wanted::Whole,
        },
    };
    if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) }
}

/// The plain form for everybody, and the encoded one for names that are not ASCII.
fn disposition(file: &File) -> String {
    let plain: String = file
        .filename
        .chars()
        .map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' ' { c } else { '_' })
        .collect();
    if plain == file.filename {
        return format!("attachment; filename=\"{plain}\"");
    }
    let encoded: String = file
        .filename
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &'static str, len: u64) -> Wanted {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(text))]);
        wanted(&headers, "\"x\"", len)
    }

    #[test]
    fn one_range_is_understood() {
        assert_eq!(range("bytes=0-9", 100), Wanted::Part(0..10));
        assert_eq!(range("bytes=90-", 100), Wanted::Part(90..100));
        assert_eq!(range("bytes=-5", 100), Wanted::Part(95..100));
        assert_eq!(range("bytes=-500", 100), Wanted::Part(0..100));
        assert_eq!(range("bytes=50-18446744073709551615", 100), Wanted::Part(50..100));
        assert_eq!(range("bytes=100-", 100), Wanted::Nothing);
        assert_eq!(range("bytes=-0", 100), Wanted::Nothing);
        for text in ["bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes"] {
            assert_eq!(range(text, 100), Wanted::Whole, "{text}");
        }
    }

    #[test]
    fn a_range_of_other_bytes_is_the_whole() {
        let headers = HeaderMap::from_iter([
            (RANGE, HeaderValue::from_static("bytes=0-9")),
            (IF_RANGE, HeaderValue::from_static("\"old\"")),
        ]);
        assert_eq!(wanted(&headers, "\"new\"", 100), Wanted::Whole);
    }
}
