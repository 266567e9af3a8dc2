//! Talking to a server: blocking HTTP, with a bounded patience for a server that is busy or restarts.
//!
//! A call is sent again only where that is safe: when it only reads, when it names itself by an `Idempotency-Key`, or
//! when the server said 429 or 503, which mean that nothing was done.

use std::io::Read as _;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use ureq::{Agent, Body, SendBody};

use super::screen::Screen;
use crate::clock;
use crate::config::Secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A live connection moves something within this.
const STALL_AFTER: Duration = Duration::from_secs(120);
/// What a whole upload or download may take at most.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// JSON answers of the API; a page of results may hold one very long line.
const JSON_LEN_MAX: u64 = 128 << 20;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Answers that may break off in a row.
const BREAKS_MAX: u32 = 5;
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// A server that asks for a longer pause is asked again all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How long trouble is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// A busy server is given a minute; one that is not there ends the command.
    Brief,
    /// Restarts and full queues are waited for.
    Long,
}

impl Patience {
    const fn longest(self) -> Duration {
        match self {
            Self::Brief => Duration::from_secs(60),
            Self::Long => Duration::from_secs(7 * 24 * 3_600),
        }
    }
}

/// One call of the API.
#[derive(Debug, Clone)]
pub(super) struct Call {
    method: Method,
    path: String,
    body: Option<String>,
    /// Makes a creation safe to repeat.
    key: Option<String>,
    pub(super) patience: Patience,
    range_from: u64,
}

impl Call {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into(), None)
    }

    /// A POST whose repetition changes nothing more.
    pub(super) fn post(path: impl Into<String>, body: Option<String>) -> Self {
        let mut call = Self::new(Method::POST, path.into(), body);
        call.key = Some(clock::new_id().simple().to_string());
        call
    }

    fn new(method: Method, path: String, body: Option<String>) -> Self {
        Self { method, path, body, key: None, patience: Patience::Brief, range_from: 0 }
    }

    fn is_repeatable(&self) -> bool {
        self.method == Method::GET || self.key.is_some()
    }

    pub(super) fn patient(mut self) -> Self {
        self.patience = Patience::Long;
        self
    }

    pub(super) fn from(mut self, offset: u64) -> Self {
        self.range_from = offset;
        self
    }
}

/// Why a call did not succeed, with what to do next.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("`{0}` is no address of a server: write it as in `http://127.0.0.1:8642`")]
    Address(String),
    #[error(
        "no server answers at {base} ({detail}); start one with `overnight serve`, or name another with --server or OVERNIGHT_URL"
    )]
    Unreachable { base: String, detail: String },
    #[error("the connection to {base} broke: {detail}")]
    Broken { base: String, detail: String },
    #[error("{}", .0.shown())]
    Refused(Refusal),
    #[error("{base} answered something that is not Overnight's: {detail}")]
    Strange { base: String, detail: String },
}

impl ClientError {
    /// The kind of trouble, without its figures: what is waited for is said once for each.
    fn cause(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => {
                Some(refusal.code.clone().unwrap_or_else(|| refusal.status.to_string()))
            }
            _ => None,
        }
    }

    /// Without advice on what to do, for a call that is sent again anyway.
    fn why(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.message().to_owned(),
            other => other.to_string(),
        }
    }
}

/// The server's own words.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: Option<String>,
    pub(super) param: Option<String>,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// Nothing was done, and later it may be.
    pub(super) fn is_for_now(&self) -> bool {
        matches!(self.status, 429 | 503) && self.code.as_deref() != Some("insufficient_quota")
    }

    fn message(&self) -> &str {
        self.message.trim_end_matches('.')
    }

    fn shown(&self) -> String {
        let message = self.message();
        let next = match self.status {
            401 => "set OVERNIGHT_API_KEY to a key of this server",
            404 if self.message.starts_with("No batch") => "`overnight list` shows the batches",
            429 | 503 => "try again later",
            500.. => "the log of the server says more",
            _ => return message.to_owned(),
        };
        format!("{message}; {next}")
    }
}

#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    base: String,
    key: Option<Secret>,
    screen: Screen,
}

impl Client {
    pub(super) fn new(server: &str, key: Option<Secret>, screen: Screen) -> Result<Self, ClientError> {
        let wrong = || ClientError::Address(server.to_owned());
        let base = server.trim_end_matches('/');
        // People paste the address that they give to their SDK.
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(wrong());
        }
        let is_loopback = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .no_delay(true)
            .user_agent(concat!("overnight/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(STALL_AFTER))
            .timeout_per_write(Some(STALL_AFTER))
            .timeout_per_call(Some(TRANSFER_TIMEOUT));
        if is_loopback {
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().new_agent(), base, key, screen })
    }

    /// The server's address, without what people paste behind it.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn screen(&self) -> Screen {
        self.screen
    }

    /// The answer as it was written, and as it is read.
    pub(super) fn json<T: DeserializeOwned>(
        &self,
        call: &Call,
    ) -> Result<(Box<RawValue>, T), ClientError> {
        let mut breaks = 0;
        loop {
            match self.send(call).and_then(|response| self.read_json(response)) {
                // The server went away while it answered.
                Err(ClientError::Broken { .. }) if call.is_repeatable() && breaks < BREAKS_MAX => {
                    breaks += 1;
                    std::thread::sleep(PAUSE_FIRST);
                }
                other => return other,
            }
        }
    }

    pub(super) fn read_json<T: DeserializeOwned>(
        &self,
        mut response: Response<Body>,
    ) -> Result<(Box<RawValue>, T), ClientError> {
        let strange = |detail: String| ClientError::Strange { base: self.base.clone(), detail };
        let body = response.body_mut().with_config().limit(JSON_LEN_MAX).read_to_vec();
        let body = body.map_err(|error| self.transport(&error))?;
        let raw: Box<RawValue> =
            serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))?;
        let value = serde_json::from_str(raw.get()).map_err(|error| strange(error.to_string()))?;
        Ok((raw, value))
    }

    /// Sends a call until it succeeds, is refused for good, or patience ends.
    pub(super) fn send(&self, call: &Call) -> Result<Response<Body>, ClientError> {
        self.persist(call.patience, call.is_repeatable(), || {
            let mut request = self.request(&call.method, &call.path);
            if let Some(key) = &call.key {
                request = request.header("idempotency-key", key);
            }
            if call.range_from > 0 {
                request = request.header("range", format!("bytes={}-", call.range_from));
            }
            let response = match &call.body {
                Some(body) => {
                    let request = request.header("content-type", "application/json");
                    self.agent.run(finish(request, body.as_str())?)
                }
                None => self.agent.run(finish(request, ())?),
            };
            response.map_err(|error| self.transport(&error))
        })
    }

    /// One answer, whatever its status.
    pub(super) fn get_once(&self, path: &str) -> Result<Response<Body>, ClientError> {
        let request = finish(self.request(&Method::GET, path), ())?;
        self.agent.run(request).map_err(|error| self.transport(&error))
    }

    /// Sends a body that is read anew at each attempt.
    pub(super) fn send_stream(
        &self,
        path: &str,
        content_type: &str,
        len: u64,
        patience: Patience,
        mut body: impl FnMut() -> std::io::Result<Box<dyn std::io::Read>>,
    ) -> Result<Response<Body>, ClientError> {
        self.persist(patience, true, || {
            let request = self
                .request(&Method::POST, path)
                .header("content-type", content_type)
                .header("content-length", len);
            let mut reader = body().map_err(|error| self.transport(&ureq::Error::Io(error)))?;
            self.agent
                .run(finish(request, SendBody::from_reader(&mut reader))?)
                .map_err(|error| self.transport(&error))
        })
    }

    fn request(&self, method: &Method, path: &str) -> http::request::Builder {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {}", key.expose()));
        }
        request
    }

    fn persist(
        &self,
        patience: Patience,
        is_repeatable: bool,
        mut once: impl FnMut() -> Result<Response<Body>, ClientError>,
    ) -> Result<Response<Body>, ClientError> {
        let began = Instant::now();
        let mut pause = PAUSE_FIRST;
        let mut said = None;
        loop {
            let error = match once() {
                Ok(response) if response.status().is_success() => {
                    if said.is_some() {
                        self.screen.note(&format!("{} is back", self.base));
                    }
                    return Ok(response);
                }
                Ok(response) => ClientError::Refused(refusal(response)),
                Err(error) => error,
            };
            let wait = match &error {
                ClientError::Refused(refusal) if refusal.is_for_now() => {
                    refusal.retry_after.unwrap_or(pause).min(RETRY_AFTER_MAX)
                }
                ClientError::Unreachable { .. } if patience == Patience::Long => pause,
                ClientError::Broken { .. } if is_repeatable => pause,
                _ => return Err(error),
            };
            if began.elapsed() + wait > patience.longest() {
                return Err(error);
            }
            let cause = error.cause();
            let is_news = said.as_ref() != Some(&cause);
            if is_news && (patience == Patience::Long || wait > PAUSE_MAX) {
                let (why, seconds) = (error.why(), wait.as_secs_f64().ceil());
                self.screen
                    .note(&format!("waiting: {why}; asking again in {seconds} s (Ctrl-C ends it)"));
                said = Some(cause);
            }
            std::thread::sleep(wait);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn transport(&self, error: &ureq::Error) -> ClientError {
        let (base, detail) = (self.base.clone(), error.to_string());
        let is_unreachable = match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
            ureq::Error::Timeout(timeout) => {
                matches!(timeout, ureq::Timeout::Connect | ureq::Timeout::Resolve)
            }
            ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            _ => false,
        };
        if is_unreachable {
            ClientError::Unreachable { base, detail }
        } else {
            ClientError::Broken { base, detail }
        }
    }
}

fn finish<B>(request: http::request::Builder, body: B) -> Result<Request<B>, ClientError> {
    // A path of ours, or a key with characters that no header can carry.
    request.body(body).map_err(|error| ClientError::Address(error.to_string()))
}

fn refusal(mut response: Response<Body>) -> Refusal {
    #[derive(Deserialize)]
    struct Envelope {
        error: Words,
    }
    #[derive(Deserialize)]
    struct Words {
        message: String,
        code: Option<String>,
        param: Option<String>,
    }
    const SHOWN_LEN: u64 = 64 * 1024;
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let mut text = Vec::new();
    // What cannot be read is not shown.
    let _ = response.body_mut().as_reader().take(SHOWN_LEN).read_to_end(&mut text);
    if let Ok(Envelope { error: Words { message, code, param } }) = serde_json::from_slice(&text) {
        return Refusal { status, code, param, message, retry_after };
    }
    let text: String = String::from_utf8_lossy(&text).trim().chars().take(200).collect();
    let message = format!("the server answered {status} {text}").trim_end().to_owned();
    Refusal { status, code: None, param: None, message, retry_after }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Text as a part of a path or a query.
pub(super) fn escape(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'~');
    text.bytes()
        .map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests;
