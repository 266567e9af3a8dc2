//! The head of an HTTP request, and what the engine must know of the body before it can decide.

use memchr::memmem;
use overnight_domain::route::Route;
use serde::Deserialize;

use crate::ollama::{Tell, Work};
use crate::shapes::{Page, tei};

/// The head of a request, read once and kept until the body is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) target: Target,
    /// Up to the body.
    pub(crate) len: usize,
    pub(crate) body_len: usize,
    pub(crate) keeps_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) awaits_continue: bool,
    pub(crate) is_authorized: bool,
}

/// What the request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Work(Route),
    /// Of Ollama's own routes.
    Ollama(Work),
    OllamaTells(Tell),
    /// Of TEI's own routes.
    Tei(tei::Work),
    /// Where engines tell of themselves.
    Page(Page),
    Models,
    Health,
    ReadScript,
    WriteScript,
    ReadCalls,
    ClearCalls,
    /// A path that is known, with a method that is not.
    WrongMethod,
    Unknown,
}

/// Why a head cannot be taken. The connection is closed after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadError {
    Malformed,
    TooLarge,
    /// Without a length we would have to read chunks, which no client of ours sends.
    LengthRequired,
    BodyTooLarge,
}

impl Head {
    /// `None` while the head is not whole.
    pub(crate) fn read(input: &[u8], api_key: Option<&str>) -> Result<Option<Self>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let head_len = match request.parse(input) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if input.len() > HEAD_LEN_MAX => {
                return Err(HeadError::TooLarge);
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed),
        };
        let target = Target::of(request.method.unwrap_or(""), request.path.unwrap_or(""));
        let mut head = Self {
            target,
            len: head_len,
            body_len: 0,
            keeps_alive: request.version == Some(1),
            awaits_continue: false,
            is_authorized: api_key.is_none(),
        };
        for header in request.headers.iter() {
            head.take_header(header.name, header.value, api_key)?;
        }
        Ok(Some(head))
    }

    fn take_header(&mut self, name: &str, value: &[u8], api_key: Option<&str>) -> Result<(), HeadError> {
        // The length tells most headers apart without comparing them.
        match name.len() {
            14 if name.eq_ignore_ascii_case("content-length") => {
                let text = std::str::from_utf8(value).map_err(|_| HeadError::Malformed)?;
                self.body_len = text.trim().parse().map_err(|_| HeadError::Malformed)?;
                if self.body_len > BODY_LEN_MAX {
                    return Err(HeadError::BodyTooLarge);
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                return Err(HeadError::LengthRequired);
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                if value.eq_ignore_ascii_case(b"close") {
                    self.keeps_alive = false;
                } else if value.eq_ignore_ascii_case(b"keep-alive") {
                    self.keeps_alive = true;
                }
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                self.awaits_continue = value.eq_ignore_ascii_case(b"100-continue");
            }
            13 if name.eq_ignore_ascii_case("authorization") => {
                let token = value.strip_prefix(b"Bearer ");
                self.is_authorized = api_key.is_none_or(|key| token == Some(key.as_bytes()));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Target {
    fn of(method: &str, path: &str) -> Self {
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        // The route that nearly every request takes goes first.
        if method == "POST" && path == Route::ChatCompletions.path() {
            return Self::Work(Route::ChatCompletions);
        }
        let route = Route::ALL.into_iter().find(|route| route.path() == path);
        match (method, path, route) {
            ("POST", _, Some(route)) => Self::Work(route),
            ("POST", "/api/chat", _) => Self::Ollama(Work::Chat),
            ("POST", "/api/generate", _) => Self::Ollama(Work::Generate),
            ("POST", "/api/embed", _) => Self::Ollama(Work::Embed),
            ("GET", "/api/version", _) => Self::OllamaTells(Tell::Version),
            ("GET", "/api/tags", _) => Self::OllamaTells(Tell::Tags),
            ("GET", "/api/ps", _) => Self::OllamaTells(Tell::Ps),
            ("POST", "/api/show", _) => Self::OllamaTells(Tell::Show),
            ("POST", path, _) if let Some(work) = tei::Work::find(path) => Self::Tei(work),
            ("GET", path, _) if let Some(page) = Page::find(path) => Self::Page(page),
            ("GET", "/v1/models", _) => Self::Models,
            ("GET", "/health", _) => Self::Health,
            ("GET", "/sim/script", _) => Self::ReadScript,
            ("POST", "/sim/script", _) => Self::WriteScript,
            ("GET", "/sim/calls", _) => Self::ReadCalls,
            ("DELETE", "/sim/calls", _) => Self::ClearCalls,
            (_, "/v1/models" | "/health" | "/sim/script" | "/sim/calls", _) | (_, _, Some(_)) => {
                Self::WrongMethod
            }
            _ => Self::Unknown,
        }
    }
}

/// The model that a body names, as it stands between its quotation marks (escapes and all).
///
/// One `"model":"..."` in the bytes can only be the member itself or one nested in another; where there are several, or
/// none, the whole body is parsed.
pub(crate) fn model_of(body: &[u8]) -> Option<&str> {
    let mut found = None;
    for start in memmem::find_iter(body, b"\"model\"") {
        let Some(value) = string_after_colon(&body[start + 7..]) else { continue };
        if found.is_some() {
            return model_by_parsing(body);
        }
        found = Some(value);
    }
    match found {
        Some(value) => std::str::from_utf8(value).ok(),
        None => model_by_parsing(body),
    }
}

/// What stands between quotation marks after `: `.
fn string_after_colon(bytes: &[u8]) -> Option<&[u8]> {
    let value = bytes.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    let mut end = 0;
    loop {
        end += memchr::memchr2(b'"', b'\\', &value[end..])?;
        if value[end] == b'"' {
            return Some(&value[..end]);
        }
        end += 2;
        if end >= value.len() {
            return None;
        }
    }
}

fn model_by_parsing(body: &[u8]) -> Option<&str> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: &'a serde_json::value::RawValue,
    }
    let named: Named<'_> = serde_json::from_slice(body).ok()?;
    named.model.get().strip_prefix('"')?.strip_suffix('"')
}

const HEADERS_MAX: usize = 64;

/// As much as common servers take.
const HEAD_LEN_MAX: usize = 64 << 10;

/// Over any request line that is taken (16 MiB), so that our own limit is what a test meets.
const BODY_LEN_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text = b"POST /v1/embeddings?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: close\r\n\r\n";
        assert_eq!(Head::read(&text[..30], None), Ok(None));
        let head = Head::read(text, None).expect("well formed").expect("whole");
        assert_eq!(head.target, Target::Work(Route::Embeddings));
        assert_eq!((head.len, head.body_len, head.keeps_alive), (text.len(), 12, false));
    }

    #[test]
    fn heads_that_cannot_be_taken_are_told_apart() {
        let read = |text: &str| Head::read(text.as_bytes(), None);
        assert_eq!(read("BAD\r\n\r\n"), Err(HeadError::Malformed));
        assert_eq!(
            read("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(HeadError::LengthRequired)
        );
        assert_eq!(
            read("POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n"),
            Err(HeadError::BodyTooLarge)
        );
        let endless = format!("GET / HTTP/1.1\r\na: {}", "x".repeat(HEAD_LEN_MAX));
        assert_eq!(read(&endless), Err(HeadError::TooLarge));
    }

    #[test]
    fn a_key_is_compared_whole() {
        let authorized = |value: &str| {
            let text = format!("GET /v1/models HTTP/1.1\r\nAuthorization: {value}\r\n\r\n");
            Head::read(text.as_bytes(), Some("secret"))
                .expect("well formed")
                .expect("whole")
                .is_authorized
        };
        assert!(authorized("Bearer secret"));
        assert!(!authorized("Bearer secret2"));
        assert!(!authorized("secret"));
    }

    #[test]
    fn the_model_is_found_whatever_stands_around_it() {
        for (body, model) in [
            (r#"{"model":"a","messages":[]}"#, Some("a")),
            (r#"{"messages":[{"content":"\"model\":\"x\""}], "model" : "b/c:d" }"#, Some("b/c:d")),
            (r#"{"metadata":{"model":"nested"},"model":"top"}"#, Some("top")),
            (r#"{"tools":[{"model":{"type":"string"}}],"model":"top"}"#, Some("top")),
            (r#"{"mod\u0065l":"escaped"}"#, Some("escaped")),
            (r#"{"model":"q\"uote"}"#, Some(r#"q\"uote"#)),
            (r#"{"model":7}"#, None),
            ("{}", None),
            (r#"{"model":"cut\"#, None),
        ] {
            assert_eq!(model_of(body.as_bytes()), model, "{body}");
        }
    }
}
