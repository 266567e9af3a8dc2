//! TLS for endpoints: the system's roots, and those that the endpoint adds.

use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::endpoint::{EndpointConfig, EndpointError};

/// Certificates of the system that cannot be parsed are passed over, as every other client does; to have none at all
/// is an error now rather than a riddle at the first call.
pub(crate) fn connector(config: &EndpointConfig) -> Result<TlsConnector, EndpointError> {
    let no_roots = |reason: String| EndpointError::Roots { name: config.name.clone(), reason };
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    for root in &config.extra_roots {
        roots.add(root.clone()).map_err(|error| no_roots(error.to_string()))?;
    }
    if roots.is_empty() {
        let reason = system.errors.first().map_or_else(
            || "the system has none; install the package `ca-certificates`".to_owned(),
            ToString::to_string,
        );
        return Err(no_roots(reason));
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(tls)))
}
