//! An address that takes a message: one POST of JSON; any 2xx means that it has it.

use std::io::Read as _;
use std::time::Duration;

use anyhow::ensure;
use overnight_domain::limits::{NOTICE_REPLY_LEN_MAX, NOTICE_TIMEOUT};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::Message;
use crate::config::{NotifyUrl, Secret};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Webhook {
    agent: Agent,
    url: NotifyUrl,
    headers: Vec<(String, Secret)>,
}

impl Webhook {
    pub(super) fn new(url: &NotifyUrl, headers: &[(String, Secret)]) -> anyhow::Result<Self> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("overnight/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(NOTICE_TIMEOUT));
        if url.shown.starts_with("https:") {
            config = config.tls_config(TlsConfig::builder().root_certs(system_roots()?).build());
        }
        Ok(Self { agent: config.build().new_agent(), url: url.clone(), headers: headers.to_vec() })
    }

    pub(super) fn shown(&self) -> &str {
        &self.url.shown
    }

    /// Blocks. Gives what was answered, or why it was not taken.
    pub(super) fn post(&self, message: &Message) -> Result<String, String> {
        let mut request = self
            .agent
            .post(self.url.address.expose())
            .header("content-type", "application/json")
            .header("idempotency-key", message.id());
        if let Some(headers) = request.headers_mut() {
            for (name, value) in &self.headers {
                let name = http::HeaderName::try_from(name.as_str());
                let value = http::HeaderValue::try_from(value.expose());
                // The configuration has refused what HTTP cannot carry.
                if let (Ok(name), Ok(value)) = (name, value) {
                    headers.insert(name, value);
                }
            }
        }
        let mut response = request.send(message.json().as_bytes()).map_err(|error| error.to_string())?;
        let mut said = Vec::new();
        let mut reader = response.body_mut().as_reader().take(NOTICE_REPLY_LEN_MAX as u64);
        // The status says whether it was taken; words that break off are still words.
        let _ = reader.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        let status = response.status();
        if status.is_success() {
            Ok(format!("{status} {said}").trim_end().to_owned())
        } else {
            Err(format!("it answered {status}: {said}").trim_end_matches([':', ' ']).to_owned())
        }
    }
}

/// As engines are trusted: by the system's certificates, those of a company's own authority among them.
fn system_roots() -> anyhow::Result<RootCerts> {
    let system = rustls_native_certs::load_native_certs();
    let why = system.errors.first().map_or_else(
        || "the system has none; install the package `ca-certificates`".to_owned(),
        ToString::to_string,
    );
    ensure!(!system.certs.is_empty(), "no certificates to trust for `notify.url`: {why}");
    Ok(system.certs.iter().map(|root| Certificate::from_der(root).to_owned()).into())
}
