//! An endpoint as it is configured, and what must be known of its address before the first call.

use std::fmt;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use overnight_domain::route::Route;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::secret::Secret;

/// The dialect that an endpoint is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    OpenAi,
    /// Ollama's own routes.
    Ollama,
}

impl EngineKind {
    /// As it stands in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Ollama => "ollama",
        }
    }
}

/// How to reach one endpoint.
#[derive(Clone)]
pub struct EndpointConfig {
    pub name: String,
    /// The base to which routes are joined, such as `http://127.0.0.1:8000/v1`; without a path, `/v1` is meant.
    pub url: String,
    pub api_key: Option<Secret>,
    /// Sent with every call; they win over our own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Certificates to trust beside the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Name lookup, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long `probe` and `models` may take.
    pub probe_timeout: Duration,
    /// How long a connection is kept without work.
    pub idle_max: Duration,
    /// The longest answer that is taken, in bytes.
    pub answer_len_max: u64,
    /// The context that is asked for where a request does not say, with engines that take one.
    pub num_ctx: Option<u32>,
    /// Answers over a megabyte that are read at once; others of that length wait on the wire.
    pub long_answers_max: usize,
}

/// Up to here an answer is read without asking for room.
pub(crate) const LONG_LEN: u64 = 1024 * 1024;

impl EndpointConfig {
    /// An endpoint at `url` with our defaults.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            api_key: None,
            headers: Vec::new(),
            extra_roots: Vec::new(),
            // The SDKs' own figure: an engine on the same network connects in milliseconds.
            connect_timeout: Duration::from_secs(5),
            // An engine under full load answers even a list of models late.
            probe_timeout: Duration::from_secs(10),
            idle_max: Duration::from_secs(60),
            // As long as a request line may be: room for 500 embeddings of 4,096 numbers.
            answer_len_max: 16 * 1024 * 1024,
            num_ctx: None,
            // 128 MiB of the longest ones.
            long_answers_max: 8,
        }
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("EndpointConfig")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("api_key", &self.api_key)
            .field("headers", &headers)
            .field("extra_roots", &self.extra_roots.len())
            .field("connect_timeout", &self.connect_timeout)
            .field("probe_timeout", &self.probe_timeout)
            .field("idle_max", &self.idle_max)
            .field("num_ctx", &self.num_ctx)
            .field("answer_len_max", &self.answer_len_max)
            .field("long_answers_max", &self.long_answers_max)
            .finish()
    }
}

/// Why an endpoint cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("engine `{name}` has a url that cannot be used: {reason}")]
    Url { name: String, reason: String },
    #[error("engine `{name}` has an api_key with characters that a header cannot carry")]
    ApiKey { name: String },
    #[error("engine `{name}` must not set the header `{header}`: it belongs to the connection")]
    Header { name: String, header: HeaderName },
    #[error("engine `{name}` has no certificates to trust: {reason}")]
    Roots { name: String, reason: String },
}

/// Where an endpoint listens, taken apart once.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    host_header: HeaderValue,
    /// What stands before the engine's own routes, which lie beside `/v1`.
    root: String,
    models: Uri,
    routes: Vec<(Route, Uri)>,
}

impl Address {
    pub(crate) fn parse(config: &EndpointConfig) -> Result<Self, EndpointError> {
        let refused = |reason: String| EndpointError::Url { name: config.name.clone(), reason };
        let url: Uri = config.url.parse().map_err(|error| refused(format!("{error}")))?;
        let is_tls = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(refused("it must start with `http://` or `https://`".to_owned())),
        };
        let authority = url.authority().ok_or_else(|| refused("it names no host".to_owned()))?;
        if authority.as_str().contains('@') {
            return Err(refused("it holds a user or password; use `api_key` or `headers`".to_owned()));
        }
        if url.query().is_some() {
            return Err(refused("it holds a query; only a path may follow the host".to_owned()));
        }
        let base = match url.path().trim_end_matches('/') {
            "" => "/v1",
            path => path,
        };
        let join = |tail: &str| -> Result<Uri, EndpointError> {
            let path: PathAndQuery =
                format!("{base}{tail}").parse().map_err(|error| refused(format!("{error}")))?;
            Ok(Uri::from(path))
        };
        let mut routes = Vec::with_capacity(Route::ALL.len());
        for route in Route::ALL {
            let path = route.path();
            routes.push((route, join(path.strip_prefix("/v1").unwrap_or(path))?));
        }
        Ok(Self {
            is_tls,
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            host_header: HeaderValue::from_str(authority.as_str())
                .map_err(|error| refused(format!("{error}")))?,
            root: base.strip_suffix("/v1").unwrap_or(base).to_owned(),
            models: join("/models")?,
            routes,
        })
    }

    /// One of the engine's own routes.
    pub(crate) fn native(&self, path: &'static str) -> Uri {
        let path: Result<PathAndQuery, _> = format!("{}{path}", self.root).parse();
        Uri::from(path.expect("`parse` took a longer one"))
    }

    pub(crate) fn models(&self) -> Uri {
        self.models.clone()
    }

    pub(crate) fn route(&self, route: Route) -> Uri {
        let found = self.routes.iter().find(|(known, _)| *known == route);
        found.expect("`parse` joined every route").1.clone()
    }

    /// The headers of every call, built once.
    pub(crate) fn headers(&self, config: &EndpointConfig) -> Result<HeaderMap, EndpointError> {
        const USER_AGENT_VALUE: &str = concat!("overnight/", env!("CARGO_PKG_VERSION"));
        let mut headers = HeaderMap::with_capacity(8 + config.headers.len());
        headers.insert(HOST, self.host_header.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &config.api_key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.expose()));
            let mut value = value.map_err(|_| EndpointError::ApiKey { name: config.name.clone() })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        for (header, value) in &config.headers {
            if RESERVED.contains(header) {
                return Err(EndpointError::Header { name: config.name.clone(), header: header.clone() });
            }
            let mut value = value.clone();
            value.set_sensitive(true);
            headers.insert(header.clone(), value);
        }
        Ok(headers)
    }
}

/// Headers with which a setting could break the framing of a call, or ask for what we do not read.
const RESERVED: [HeaderName; 7] =
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, EXPECT, TE, UPGRADE];

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, EndpointError> {
        Address::parse(&EndpointConfig::new("gpu0", url))
    }

    #[test]
    fn joins_routes_to_the_base() {
        for (url, path) in [
            ("http://127.0.0.1:8000", "/v1/chat/completions"),
            ("http://127.0.0.1:8000/", "/v1/chat/completions"),
            ("http://127.0.0.1:8000/v1", "/v1/chat/completions"),
            ("http://127.0.0.1:8000/v1/", "/v1/chat/completions"),
            ("https://host/proxy/openai", "/proxy/openai/chat/completions"),
        ] {
            let address = address(url).unwrap();
            assert_eq!(address.route(Route::ChatCompletions).to_string(), path, "for `{url}`");
            let root = path.strip_suffix("/chat/completions").unwrap().trim_end_matches("/v1");
            assert_eq!(address.native("/info").to_string(), format!("{root}/info"), "for `{url}`");
        }
    }

    #[test]
    fn takes_hosts_apart() {
        let address = address("https://[::1]/v1").unwrap();
        assert!(address.is_tls);
        assert_eq!((address.host.as_str(), address.port), ("::1", 443));
        let config = EndpointConfig::new("gpu0", "https://[::1]/v1");
        assert_eq!(address.headers(&config).unwrap()[HOST], "[::1]");
    }

    #[test]
    fn refuses_urls_that_cannot_work_without_showing_a_password() {
        for url in
            ["127.0.0.1:8000", "ftp://host/v1", "http://u:hunter2@host/v1", "http://host/v1?a=b", ""]
        {
            let error = address(url).expect_err("must be refused").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn refuses_headers_of_the_connection() {
        let mut config = EndpointConfig::new("gpu0", "http://host");
        config.headers.push((TRANSFER_ENCODING, HeaderValue::from_static("chunked")));
        let address = Address::parse(&config).unwrap();
        assert!(matches!(address.headers(&config), Err(EndpointError::Header { .. })));
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut config = EndpointConfig::new("gpu0", "http://host");
        config.api_key = Some(Secret::new("sk-hidden"));
        config
            .headers
            .push((HeaderName::from_static("x-token"), HeaderValue::from_static("also-hidden")));
        let headers = Address::parse(&config).unwrap().headers(&config).unwrap();
        let shown = format!("{config:?} {headers:?} {}", config.api_key.as_ref().unwrap());
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("x-token"));
    }
}
