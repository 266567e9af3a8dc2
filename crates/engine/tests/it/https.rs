//! TLS: an endpoint's own root is trusted, nobody else is.

use std::sync::Arc;
use std::time::Duration;

use overnight_engine::{Call, EndpointConfig, Engine, OpenAi};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::server::{Server, call, good};

#[tokio::test]
async fn an_endpoint_with_a_root_of_its_own_is_asked_over_tls() {
    let (acceptor, root) = certificate();
    let mut server = Server::start_with([good()], Some(acceptor)).await;
    let mut config = EndpointConfig::new("gpu0", format!("https://localhost:{}/v1", server.port()));
    config.extra_roots.push(root);
    let engine = OpenAi::new(&config).unwrap();
    for _ in 0..2 {
        engine.ask(call()).await.result.unwrap();
        let (connection, head, _) = server.next_request().await;
        assert_eq!(connection, 0);
        assert!(head.contains(&format!("\r\nhost: localhost:{}\r\n", server.port())), "{head}");
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_down() {
    let (acceptor, _) = certificate();
    let (_, stranger) = certificate();
    let server = Server::start_with([good()], Some(acceptor)).await;
    let mut config = EndpointConfig::new("gpu0", format!("https://localhost:{}/v1", server.port()));
    config.extra_roots.push(stranger);
    let fault = OpenAi::new(&config).unwrap().ask(call()).await.result.unwrap_err();
    assert_eq!(fault.kind(), "engine_unavailable");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_in_time_is_down() {
    let server = Server::start([good()]).await;
    let mut config = EndpointConfig::new("gpu0", format!("https://localhost:{}/v1", server.port()));
    config.extra_roots.push(certificate().1);
    config.connect_timeout = Duration::from_millis(50);
    let fault = OpenAi::new(&config).unwrap().ask(call()).await.result.unwrap_err();
    assert_eq!(fault.kind(), "engine_unavailable");
    config.connect_timeout = call().deadline;
    let hurried = Call { deadline: Duration::from_millis(50), ..call() };
    let fault = OpenAi::new(&config).unwrap().ask(hurried).await.result.unwrap_err();
    assert_eq!(fault.kind(), "engine_unavailable", "nobody was asked: no attempt may be charged");
}

fn certificate() -> (TlsAcceptor, CertificateDer<'static>) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = signed.cert.der().clone();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), certificate)
}
