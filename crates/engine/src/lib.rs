//! Asking a model over HTTP, and saying in the domain's words what came of it.
//!
//! An [`Engine`] is one endpoint that we can call. Asking it costs one [`Call`] and gives one [`Attempt`], which is an
//! answer that was checked to be one whole JSON object, or a classified `Fault`. Nothing here decides what follows from
//! a fault: that is the dispatcher's.
//!
//! Guaranteed: a body goes out byte for byte as it came in; every wait ends with the call's deadline; nothing longer
//! than the endpoint's limit is kept in memory; a call that is dropped closes its connection; a key is never shown.
//!
//! Deliberately absent: retries (but for a kept connection that turns out to be dead), redirects, proxies, compression,
//! HTTP/2 and streaming. A batch gains nothing from them, and each would blur whose fault a failure is.

use std::sync::Arc;

mod answer;
pub mod child;
mod classify;
mod client;
mod connection;
mod discovery;
mod endpoint;
mod engine;
mod facts;
mod flavour;
mod ollama;
mod openai;
mod patience;
mod pool;
mod prometheus;
mod readiness;
mod reply;
mod secret;
mod survey;
mod tei;
mod tls;

pub use discovery::{Found, USUAL_PORTS, discover};
pub use endpoint::{EndpointConfig, EndpointError, EngineKind};
pub use engine::{Answer, Attempt, Call, Engine};
pub use ollama::Ollama;
pub use openai::OpenAi;
pub use readiness::{Occupant, Readiness};
pub use secret::Secret;
pub use survey::keeps_connections;

/// The driver of an endpoint. Refuses a configuration that cannot work; whether somebody answers is not asked.
pub fn connect(kind: EngineKind, config: &EndpointConfig) -> Result<Arc<dyn Engine>, EndpointError> {
    Ok(match kind {
        EngineKind::OpenAi => Arc::new(OpenAi::new(config)?),
        EngineKind::Ollama => Arc::new(Ollama::new(config)?),
    })
}
