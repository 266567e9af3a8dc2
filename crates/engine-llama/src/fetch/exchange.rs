//! What is said to the hub and what its answers mean: what a file is, its bytes from somewhere on, which others there
//! are. Redirects are followed here, because the token must not go along to another host.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use overnight_domain::limits::{HUB_LIST_LEN_MAX, HUB_NAMES_SHOWN, HUB_REDIRECTS_MAX};
use serde::Deserialize;
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, http};

use super::address::{Address, has_suffix};
use super::error::FetchError;
use super::hub::Hub;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The words of a refusal that are shown.
const SAID_LEN_MAX: usize = 200;

type Response = http::Response<Body>;

/// A file as the hub tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) file: String,
    /// What the cache names its bytes by: a SHA-256 where the hub keeps the file in LFS.
    pub(super) etag: String,
    pub(super) len: u64,
}

impl Remote {
    pub(super) fn sha256(&self) -> Option<&str> {
        is_hex(&self.etag, 64).then_some(self.etag.as_str())
    }
}

/// How asking went: what may pass is told apart, so that only that is asked again.
pub(super) enum Failure {
    Passing { reason: String, pause: Option<Duration> },
    Final(FetchError),
}

/// The bytes of a file from `start` on; the hub may have begun at 0 although it was asked for less.
pub(super) struct Stream {
    pub(super) start: u64,
    pub(super) body: Body,
}

pub(super) struct Exchange<'a> {
    pub(super) hub: &'a Hub,
    address: &'a Address,
    agent: Agent,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(hub: &'a Hub, address: &'a Address) -> Result<Self, FetchError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("overnight/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(hub.patience.silence_max));
        if is_loopback(&hub.endpoint) {
            // A stand-in or a mirror of this machine: no proxy reaches it.
            config = config.proxy(None);
        }
        if hub.endpoint.starts_with("https:") {
            config = config.tls_config(TlsConfig::builder().root_certs(system_roots(hub)?).build());
        }
        Ok(Self { hub, address, agent: config.build().new_agent() })
    }

    /// What the revision means, and what the file is there.
    pub(super) fn look_up(&self, revision: &str, file: &str) -> Result<(String, Remote), FetchError> {
        self.persistently(|| {
            let url = self.url_of(revision, file);
            let response = self.ask(&url, Ask::Head)?;
            let status = response.status();
            if status.is_success() || status.is_redirection() {
                self.remote(response.headers(), file)
            } else {
                Err(self.refusal(response, revision, file))
            }
        })
    }

    /// One attempt, to which the caller adds its own patience.
    pub(super) fn bytes(&self, commit: &str, remote: &Remote, from: u64) -> Result<Stream, Failure> {
        let response = self.ask(&self.url_of(commit, &remote.file), Ask::From(from))?;
        match response.status() {
            StatusCode::OK => Ok(Stream { start: 0, body: response.into_body() }),
            StatusCode::PARTIAL_CONTENT => {
                let range = header(response.headers(), "content-range").unwrap_or_default();
                let start = range.strip_prefix("bytes ").and_then(|range| range.split_once('-'));
                match start.and_then(|(start, _)| start.trim().parse().ok()) {
                    Some(start) if start == from => Ok(Stream { start, body: response.into_body() }),
                    _ => {
                        Err(self
                            .strange(format!("it sent the range `{range}` when asked from {from} on")))
                    }
                }
            }
            _ => Err(self.refusal(response, commit, &remote.file)),
        }
    }

    /// Asks again, for a bounded time, what failed in passing.
    fn persistently<T>(&self, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, FetchError> {
        // Fewer than for a download, of which something may be there already: somebody sits and waits for the message.
        let repeats_max = self.hub.patience.repeats_max.div_ceil(2);
        let mut repeats = 0;
        loop {
            match ask() {
                Ok(found) => return Ok(found),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, .. }) if repeats == repeats_max => {
                    return Err(FetchError::Unreachable { endpoint: self.hub.endpoint.clone(), reason });
                }
                Err(Failure::Passing { pause, .. }) => {
                    self.pause(repeats, pause);
                    repeats += 1;
                }
            }
        }
    }

    /// Before a repetition: as long as the hub asks for, or longer each time.
    pub(super) fn pause(&self, repeats: u32, asked: Option<Duration>) {
        let own = self.hub.patience.pause.saturating_mul(1 << repeats.min(10));
        std::thread::sleep(asked.unwrap_or(own).min(PAUSE_MAX));
    }

    fn url_of(&self, revision: &str, file: &str) -> String {
        let Hub { endpoint, .. } = self.hub;
        let repo = &self.address.repo;
        format!("{endpoint}/{repo}/resolve/{}/{}", encode(revision, ""), encode(file, "/"))
    }

    fn ask(&self, url: &str, ask: Ask) -> Result<Response, Failure> {
        let home = origin(&self.hub.endpoint);
        let mut url = url.to_owned();
        for _ in 0..=HUB_REDIRECTS_MAX {
            let at_home = origin(&url) == home;
            let mut request = match ask {
                Ask::Head => self.agent.head(&url),
                Ask::From(_) | Ask::List => self.agent.get(&url),
            };
            request = request.header("accept-encoding", "identity");
            if let Ask::From(from) = ask
                && from > 0
            {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.hub.token.as_ref().filter(|_| at_home) {
                request = request.header("authorization", token.header());
            }
            let response = request.call().map_err(|error| passing(&error))?;
            let status = response.status();
            // 304 and the like are no redirects, and fail below.
            let target = match header(response.headers(), "location") {
                Some(location) if status.is_redirection() => self.target(&url, location)?,
                _ => return Ok(response),
            };
            // Where the bytes lie is not asked what they are: its answer would be that of a signed address.
            if ask == Ask::Head && origin(&target) != origin(&url) {
                return Ok(response);
            }
            url = target;
        }
        Err(self.strange(format!("more than {HUB_REDIRECTS_MAX} redirects")))
    }

    fn target(&self, from: &str, location: &str) -> Result<String, Failure> {
        let scheme = from.split_once("//").map_or("https:", |(scheme, _)| scheme);
        let target = if location.starts_with("//") {
            format!("{scheme}{location}")
        } else if location.starts_with('/') {
            format!("{}{location}", origin(from))
        } else {
            location.to_owned()
        };
        let is_secure = target.starts_with("https://");
        if is_secure || (target.starts_with("http://") && scheme == "http:") {
            Ok(target)
        } else {
            Err(self.strange(format!("a redirect to `{}`", cut(location))))
        }
    }

    fn remote(&self, headers: &HeaderMap, file: &str) -> Result<(String, Remote), Failure> {
        let commit = header(headers, "x-repo-commit").unwrap_or_default();
        if !is_hex(commit, 40) {
            return Err(self.strange(format!("no commit for `{file}`")));
        }
        let etag =
            header(headers, "x-linked-etag").or_else(|| header(headers, "etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let is_name =
            etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_name || !(1..=128).contains(&etag.len()) {
            return Err(self.strange(format!("no usable ETag for `{file}`")));
        }
        let len = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
        let len = len
            .and_then(|len| len.parse().ok())
            .ok_or_else(|| self.strange(format!("no length for `{file}`")))?;
        Ok((commit.to_owned(), Remote { file: file.to_owned(), etag: etag.to_owned(), len }))
    }

    fn refusal(&self, mut response: Response, revision: &str, file: &str) -> Failure {
        let status = response.status();
        let code = header(response.headers(), "x-error-code").unwrap_or_default().to_owned();
        let repo = self.address.repo.clone();
        let endpoint = self.hub.endpoint.clone();
        let advice = match &self.hub.token {
            Some(_) => "set `HF_TOKEN` to a token that may read it",
            None => "set `HF_TOKEN` to your token",
        };
        let error = match (status.as_u16(), code.as_str()) {
            (_, "GatedRepo") => FetchError::Gated { endpoint, repo, advice },
            (401 | 403 | 404, "RepoNotFound") => FetchError::NoRepo { repo, advice },
            (_, "RevisionNotFound") => {
                FetchError::NoRevision { repo, revision: self.address.revision.clone() }
            }
            (401, _) if self.hub.token.is_some() => FetchError::Token { endpoint },
            (401, _) => FetchError::NoRepo { repo, advice },
            (403, _) => FetchError::Gated { endpoint, repo, advice },
            (404, _) => {
                let close = self.close_names(revision, file);
                FetchError::NoFile {
                    repo,
                    revision: self.address.revision.clone(),
                    file: file.to_owned(),
                    close,
                }
            }
            (408 | 425 | 429 | 500..=599, _) => {
                let seconds =
                    header(response.headers(), "retry-after").and_then(|text| text.parse().ok());
                let reason = format!("it answered {status}{}", said(&mut response));
                return Failure::Passing { reason, pause: seconds.map(Duration::from_secs) };
            }
            _ => {
                let said = said(&mut response);
                FetchError::Refused { endpoint, file: file.to_owned(), status: status.as_u16(), said }
            }
        };
        Failure::Final(error)
    }

    /// The files of the repository that may have been meant, the closest first. Nothing where it cannot be asked: it
    /// only makes a message better.
    fn close_names(&self, revision: &str, file: &str) -> Vec<String> {
        let Hub { endpoint, .. } = self.hub;
        let repo = &self.address.repo;
        let url = format!("{endpoint}/api/models/{repo}/revision/{}", encode(revision, ""));
        let Ok(response) = self.ask(&url, Ask::List) else { return Vec::new() };
        let mut text = Vec::new();
        let mut reader = response.into_body().into_reader().take(HUB_LIST_LEN_MAX);
        let listing = match reader.read_to_end(&mut text) {
            Ok(_) => serde_json::from_slice::<Listing>(&text),
            Err(_) => return Vec::new(),
        };
        let names = listing.map(|listing| listing.siblings).unwrap_or_default();
        closest(file, names.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    fn strange(&self, reason: String) -> Failure {
        let endpoint = self.hub.endpoint.clone();
        Failure::Final(FetchError::Strange { endpoint, reason })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Head,
    From(u64),
    List,
}

#[derive(Deserialize)]
struct Listing {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

fn closest(file: &str, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| has_suffix(name) && name.chars().all(|c| !c.is_control()));
    // Of a model in many files the first stands for all.
    names.retain(|name| {
        super::split_parts(name).is_none_or(|parts| parts.first().is_some_and(|first| first == name))
    });
    let wanted = file.to_lowercase();
    let mut scored: Vec<(f64, String)> = names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name))
        .collect();
    scored.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    scored.into_iter().take(HUB_NAMES_SHOWN).map(|(_, name)| name).collect()
}

/// Nothing but the network or the hub's machine is at fault.
fn passing(error: &ureq::Error) -> Failure {
    let reason = match error {
        ureq::Error::HostNotFound => "its name is not known here".to_owned(),
        ureq::Error::Timeout(timeout) => format!("no answer in time ({timeout})"),
        other => other.to_string(),
    };
    Failure::Passing { reason, pause: None }
}

/// What a refusal says, as one short line.
fn said(response: &mut Response) -> String {
    let mut told = header(response.headers(), "x-error-message").unwrap_or_default().to_owned();
    if told.is_empty() {
        let mut text = Vec::new();
        let mut reader = response.body_mut().as_reader().take(SAID_LEN_MAX as u64);
        // Words that break off are still words.
        let _ = reader.read_to_end(&mut text);
        told = String::from_utf8_lossy(&text).into_owned();
    }
    let line = told.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() || line.starts_with('<') { String::new() } else { format!(": {}", cut(&line)) }
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAID_LEN_MAX).collect()
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Scheme, host and port.
fn origin(url: &str) -> String {
    let after = url.find("//").map_or(0, |at| at + 2);
    let end = url[after..].find(['/', '?', '#']).map_or(url.len(), |at| after + at);
    url[..end].to_lowercase()
}

fn is_loopback(endpoint: &str) -> bool {
    let origin = origin(endpoint);
    let host = origin.split_once("//").map_or(origin.as_str(), |(_, host)| host);
    host.starts_with("127.") || host.starts_with("[::1]") || host.split(':').next() == Some("localhost")
}

/// Percent-encoding of everything but what stands for itself everywhere.
fn encode(text: &str, also_plain: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || also_plain.contains(c) {
            encoded.push(c);
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes any text");
        }
    }
    encoded
}

/// As engines are trusted: by the system's certificates, those of a company's own authority among them.
fn system_roots(hub: &Hub) -> Result<RootCerts, FetchError> {
    let system = rustls_native_certs::load_native_certs();
    if system.certs.is_empty() {
        let reason = system.errors.first().map_or_else(
            || "the system has no certificates; install the package `ca-certificates`".to_owned(),
            ToString::to_string,
        );
        return Err(FetchError::Unreachable { endpoint: hub.endpoint.clone(), reason });
    }
    Ok(system.certs.iter().map(|root| Certificate::from_der(root).to_owned()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.example:8443/a//b?c"), "https://hub.example:8443");
        assert_eq!(origin("https://hub.example"), "https://hub.example");
        assert_ne!(origin("https://hub.example.evil.example/"), origin("https://hub.example/"));
        assert_ne!(origin("https://hub.example@evil.example/"), origin("https://hub.example/"));
        assert_ne!(origin("http://127.0.0.1:1/"), origin("http://127.0.0.1:2/"));
    }

    #[test]
    fn paths_are_encoded_and_revisions_wholly() {
        assert_eq!(encode("b/a b+\u{e9}.gguf", "/"), "b/a%20b%2B%C3%A9.gguf");
        assert_eq!(encode("refs/pr/1", ""), "refs%2Fpr%2F1");
    }

    #[test]
    fn the_closest_names_come_first_and_parts_once() {
        let names = ["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-F16-00001-of-00002.gguf"];
        let mut all: Vec<String> = names.map(str::to_owned).into();
        all.push("m-F16-00002-of-00002.gguf".to_owned());
        let found = closest("m-q4_k.gguf", all);
        assert_eq!(found[0], "m-Q4_K_M.gguf");
        assert_eq!(found.len(), 3);
    }
}
