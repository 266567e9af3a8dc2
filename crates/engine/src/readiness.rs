//! Whether an engine that is being started answers yet, and whether somebody is there before it is.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Uri};
use overnight_domain::fault::Fault;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::Client;
use crate::endpoint::EndpointConfig;
use crate::engine::Engine;
use crate::patience::Patience;

/// One look is no longer: the next one comes soon.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Who listens at the address of an engine that we are about to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupant {
    Nobody,
    /// An engine that lists its models: somebody else has started it.
    Engine,
    /// It takes connections and is no engine that we could use.
    Stranger,
}

/// Looks at the address of one engine.
pub struct Readiness {
    client: Client,
}

impl Readiness {
    pub fn new(config: &EndpointConfig) -> Result<Self, crate::EndpointError> {
        Ok(Self { client: Client::new(config)? })
    }

    /// Whether it would answer a request now. Some engines listen, and even list their models, while they still load:
    /// `/health` of vLLM, SGLang, llama.cpp and TEI says so with 503. Who does not know the route is as ready as its
    /// probe says.
    pub async fn is_ready(&self, engine: &dyn Engine) -> bool {
        let probed = timeout(LOOK_WITHIN, engine.probe()).await;
        if !matches!(probed, Ok(Ok(()))) {
            return false;
        }
        let mut patience = Patience::new(LOOK_WITHIN, LOOK_WITHIN);
        let route = Uri::from_static("/health");
        match self.client.exchange(Method::GET, route, Bytes::new(), &mut patience).await {
            Ok(reply) => !reply.head.status.is_server_error(),
            Err(Fault::Down { .. } | Fault::Timeout { .. }) => false,
            // It closed the connection rather than answer a route that it does not know.
            Err(_) => true,
        }
    }

    /// Who is there before we start anything.
    pub async fn occupant(&self, engine: &dyn Engine) -> Occupant {
        let address = &self.client.address;
        let connected = TcpStream::connect((address.host.as_str(), address.port));
        if !matches!(timeout(LOOK_WITHIN, connected).await, Ok(Ok(_))) {
            return Occupant::Nobody;
        }
        match timeout(LOOK_WITHIN, engine.models()).await {
            Ok(Ok(_)) => Occupant::Engine,
            _ => Occupant::Stranger,
        }
    }
}
