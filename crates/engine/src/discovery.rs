//! Finding the engines that already run on this machine, for when none is configured.

use std::time::Duration;

use futures::future::join_all;
use overnight_domain::engine_facts::{EngineFacts, Flavour};
use tokio::time::timeout;

use crate::EngineKind;
use crate::endpoint::EndpointConfig;
use crate::engine::Engine;
use crate::openai::OpenAi;

/// Where engines listen unless they were told otherwise, in the order in which we would use them: Ollama, vLLM,
/// llama.cpp (and TEI in its container), SGLang, LM Studio, TEI, our own.
pub const USUAL_PORTS: [u16; 7] = [11434, 8000, 8080, 30000, 1234, 3000, 8643];

/// An engine that answered with its models.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// After what it is, and unlike that of any other found with it.
    pub name: String,
    pub kind: EngineKind,
    pub url: String,
    pub facts: EngineFacts,
}

/// Asks all ports of this machine at once and returns within `longest`, in the order of the ports. What is there is told
/// by its answers, not by the port. Whoever does not answer as an engine is passed over: other programs listen on such
/// ports too.
pub async fn discover(ports: &[u16], longest: Duration) -> Vec<Found> {
    let asked = ports.iter().map(|port| timeout(longest, ask(*port, longest)));
    let mut found: Vec<Found> = Vec::new();
    for engine in join_all(asked).await.into_iter().filter_map(|answered| answered.ok().flatten()) {
        let number =
            found.iter().filter(|other| other.facts.flavour == engine.facts.flavour).count() + 1;
        let name = if number > 1 { format!("{}-{number}", engine.name) } else { engine.name.clone() };
        found.push(Found { name, ..engine });
    }
    found
}

async fn ask(port: u16, longest: Duration) -> Option<Found> {
    let url = format!("http://127.0.0.1:{port}/v1");
    let mut config = EndpointConfig::new("discovery", &*url);
    // A question that nobody answers must not cost what the others have brought.
    config.probe_timeout = longest.mul_f64(0.8);
    let facts = OpenAi::new(&config).ok()?.facts().await.ok()?;
    let (kind, url) = match facts.flavour {
        Flavour::Ollama => (EngineKind::Ollama, url.trim_end_matches("/v1").to_owned()),
        _ => (EngineKind::OpenAi, url),
    };
    Some(Found { name: name_of(facts.flavour).to_owned(), kind, url, facts })
}

/// What endpoints are called that have no name of their own.
const fn name_of(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Ollama => "ollama",
        Flavour::Vllm => "vllm",
        Flavour::Sglang => "sglang",
        Flavour::LlamaCpp => "llama.cpp",
        Flavour::Tei => "tei",
        Flavour::LmStudio => "lmstudio",
        Flavour::Overnight => "builtin",
        Flavour::Other => "engine",
    }
}
