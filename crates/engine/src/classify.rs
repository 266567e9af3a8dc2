//! From a reply to an answer or a fault: the fault table, as far as it speaks of HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, DATE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName};
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;

use crate::answer;
use crate::client::{ERROR_LEN_MAX, REFUSAL_LEN_MAX};
use crate::engine::Answer;
use crate::reply::{BodyEnd, Reply};
use crate::secret::Secret;

/// An engine that asks for more is asked again all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// A sentence or two: what a log line or a status page can show.
const DETAIL_LEN_MAX: usize = 300;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(crate) fn read_answer(route: Route, reply: Reply, answer_len_max: u64) -> Result<Answer, Fault> {
    let (head, body) = read_success(reply, answer_len_max)?;
    let answer = read_answer_body(route, &body)?;
    let request_id = head.get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    Ok(Answer { request_id, ..answer })
}

/// The answer that a body of the route's shape is.
pub(crate) fn read_answer_body(route: Route, body: &Bytes) -> Result<Answer, Fault> {
    let start = body.len() - body.trim_ascii_start().len();
    let body = body.slice(start..start + body.trim_ascii().len());
    let reading = answer::read(route, &body)
        .map_err(|reason| Fault::Garbage { detail: format!("{reason} in `{}`", shorten(&body)) })?;
    Ok(Answer { status: 200, body, usage: reading.usage, model: reading.model, request_id: None })
}

pub(crate) fn read_models(reply: Reply, answer_len_max: u64) -> Result<Vec<String>, Fault> {
    let (_, body) = read_success(reply, answer_len_max)?;
    answer::read_models(&body)
        .map_err(|reason| Fault::Garbage { detail: format!("{reason} in `{}`", shorten(&body)) })
}

/// Whoever answers is alive, even with an error about the route; only a closed door and trouble of its own count.
pub(crate) fn read_probe(reply: &Reply) -> Result<(), Fault> {
    match reply.head.status.as_u16() {
        401 | 403 | 500.. => Err(read_failure(reply)),
        _ => Ok(()),
    }
}

/// The headers and the whole body of a 200.
pub(crate) fn read_success(reply: Reply, answer_len_max: u64) -> Result<(HeaderMap, Bytes), Fault> {
    if reply.head.status != 200 {
        return Err(read_failure(&reply));
    }
    match reply.end {
        BodyEnd::Whole => {}
        BodyEnd::Over => return Err(Fault::TooLong { limit: answer_len_max }),
        BodyEnd::Fault(fault) => return Err(fault),
    }
    match reply.head.headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let detail = format!("content-encoding {encoding:?}, which was not asked for");
            Err(Fault::Garbage { detail })
        }
        _ => Ok((reply.head.headers, reply.body)),
    }
}

/// The status alone decides, even where the body was cut off: the engine has said no.
pub(crate) fn read_failure(reply: &Reply) -> Fault {
    let status = reply.head.status.as_u16();
    let headers = &reply.head.headers;
    let body = |len_max: u64| reply.body[..reply.body.len().min(len_max as usize)].to_vec();
    match status {
        429 | 503 | 529 => {
            Fault::Busy { status, retry_after: read_retry_after(headers), detail: describe(&reply.body) }
        }
        408 | 409 | 500.. => Fault::EngineError { status, body: body(ERROR_LEN_MAX) },
        300..400 => {
            let target = headers.get(LOCATION).map_or(&b"nowhere"[..], |target| target.as_bytes());
            Fault::Misconfigured { status, detail: format!("redirects to `{}`", shorten(target)) }
        }
        401..=405 | 407 => Fault::Misconfigured { status, detail: describe(&reply.body) },
        400..500 => Fault::Refused { status, body: body(REFUSAL_LEN_MAX) },
        _ => Fault::Garbage { detail: format!("status {status}, where 200 was expected") },
    }
}

/// Some engines repeat a key that they do not accept.
pub(crate) fn hide_key(key: Option<&Secret>, mut fault: Fault) -> Fault {
    if let (Some(key), Fault::Misconfigured { detail, .. } | Fault::Busy { detail, .. }) =
        (key, &mut fault)
        && detail.contains(key.expose())
    {
        *detail = detail.replace(key.expose(), "[secret]");
    }
    fault
}

/// Seconds, with a fraction or not, or a date. A date is measured against the engine's own clock, which the answer tells
/// in `Date`: ours may differ by more than the wait. Without one, it says nothing.
fn read_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        if seconds.is_nan() {
            return None;
        }
        return Some(Duration::from_secs_f64(seconds.clamp(0.0, RETRY_AFTER_MAX.as_secs_f64())));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(now).unwrap_or_default().min(RETRY_AFTER_MAX))
}

/// What a body says of an error, in one line.
pub(crate) fn describe(body: &[u8]) -> String {
    match answer::read_error(body) {
        Some(message) => shorten(message.as_bytes()),
        None => shorten(body),
    }
}

/// One line of readable text.
fn shorten(text: &[u8]) -> String {
    // A character takes at most four bytes: what is cut here would not be shown.
    let text = &text[..text.len().min(DETAIL_LEN_MAX * 4)];
    let text = String::from_utf8_lossy(text);
    let mut chars = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = chars.by_ref().take(DETAIL_LEN_MAX).collect();
    if chars.next().is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};

    use super::*;

    fn reply(status: u16, body: &'static [u8]) -> Reply {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = status.try_into().unwrap();
        Reply { head, body: Bytes::from_static(body), end: BodyEnd::Whole }
    }

    fn retry_after(text: &str, date: Option<&'static str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_static(date));
        }
        read_retry_after(&headers)
    }

    #[test]
    fn every_status_has_its_fault() {
        for status in 200..=999_u16 {
            let Err(fault) = read_answer(Route::Responses, reply(status, b"{}"), 10) else {
                assert_eq!(status, 200);
                continue;
            };
            let expected = match status {
                429 | 503 | 529 => "engine_busy",
                300..=399 | 401 | 402 | 403 | 404 | 405 | 407 => "endpoint_misconfigured",
                408 | 409 | 500..=999 => "engine_error",
                400..=499 => "request_refused",
                _ => "engine_garbage",
            };
            assert_eq!(fault.kind(), expected, "for status {status}");
        }
    }

    #[test]
    fn retry_after_takes_every_form() {
        let seconds = Duration::from_secs_f64;
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(retry_after("7", None), Some(seconds(7.0)));
        assert_eq!(retry_after(" 0.25 ", None), Some(seconds(0.25)));
        assert_eq!(retry_after("-3", None), Some(seconds(0.0)));
        assert_eq!(retry_after("1e300", None), Some(seconds(3600.0)));
        assert_eq!(retry_after("NaN", None), None);
        assert_eq!(retry_after("soon", None), None);
        assert_eq!(retry_after("", None), None);
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:30 GMT", date), Some(seconds(30.0)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:27:30 GMT", date), Some(seconds(0.0)));
        assert_eq!(retry_after("Thu, 22 Oct 2015 07:28:00 GMT", date), Some(seconds(3600.0)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:30 GMT", None), None);
    }

    #[test]
    fn an_answer_is_the_object_without_the_space_around_it() {
        let answer = read_answer(Route::Responses, reply(200, b"\r\n {\"a\": 1}\n\n"), 100).unwrap();
        assert_eq!(&answer.body[..], b"{\"a\": 1}");
    }

    #[test]
    fn a_refusal_counts_even_when_its_body_was_cut() {
        let mut cut = reply(400, b"{\"err");
        cut.end = BodyEnd::Fault(Fault::Lost { detail: String::new() });
        let fault = read_answer(Route::Responses, cut, 10).unwrap_err();
        assert_eq!(fault, Fault::Refused { status: 400, body: b"{\"err".to_vec() });
    }

    #[test]
    fn details_are_short_lines() {
        assert_eq!(describe(br#"{"error":{"message":"no\nkey"}}"#), "no key");
        let long = "\u{e9}".repeat(5_000);
        let short = shorten(long.as_bytes());
        assert_eq!(short.chars().count(), DETAIL_LEN_MAX + 3);
    }
}
