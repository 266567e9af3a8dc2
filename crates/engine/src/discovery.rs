//! Finding the engines that already run on this machine, for when none is configured.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::endpoint::EndpointConfig;
use crate::engine::Engine;
use crate::openai::OpenAi;

/// A place where an engine of this kind listens unless it was told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub kind: &'static str,
    pub port: u16,
}

/// The engines that people run, in the order in which we would use them.
pub const CANDIDATES: [Candidate; 5] = [
    Candidate { kind: "ollama", port: 11434 },
    Candidate { kind: "vllm", port: 8000 },
    Candidate { kind: "llama.cpp", port: 8080 },
    Candidate { kind: "sglang", port: 30000 },
    Candidate { kind: "lmstudio", port: 1234 },
];

/// An engine that answered with its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What usually listens there; it may be another engine of the same dialect.
    pub kind: &'static str,
    pub url: String,
    pub models: Vec<String>,
}

/// Asks all candidates at once and returns within `longest`, in the order of the candidates. Whoever does not answer
/// with a list of models is passed over: other programs listen on such ports too.
pub async fn discover(candidates: &[Candidate], longest: Duration) -> Vec<Found> {
    let asked = candidates.iter().map(|candidate| timeout(longest, ask(*candidate)));
    join_all(asked).await.into_iter().filter_map(|answered| answered.ok().flatten()).collect()
}

async fn ask(candidate: Candidate) -> Option<Found> {
    let url = format!("http://127.0.0.1:{}/v1", candidate.port);
    let engine = OpenAi::new(&EndpointConfig::new(candidate.kind, &*url)).ok()?;
    let models = engine.models().await.ok()?;
    Some(Found { kind: candidate.kind, url, models })
}
