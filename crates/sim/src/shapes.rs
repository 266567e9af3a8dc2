//! The shapes of vLLM, SGLang, llama.cpp, TEI and LM Studio: what each tells of itself on its own routes, its own words
//! for errors, and answers that do what the request asks for (tools, JSON, `stop`, `max_tokens`).
//!
//! Written from the same documentation and source as `crates/engine/src/facts/`, where the versions are named. What the
//! shapes tell of load is what the ledger counts.

use overnight_domain::route::Route;
use serde_json::Value;

use crate::calls::CallsView;
use crate::script::Script;
use crate::shape::Shape;

pub(crate) mod chat;
mod llama_cpp;
mod lm_studio;
mod sglang;
pub(crate) mod tei;
mod vllm;

/// A route on which engines tell of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Version,
    Metrics,
    Props,
    Slots,
    Info,
    ServerInfo,
    GetServerInfo,
    LmStudioModels,
}

impl Page {
    pub(crate) fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/version" => Self::Version,
            "/metrics" => Self::Metrics,
            "/props" => Self::Props,
            "/slots" => Self::Slots,
            "/info" => Self::Info,
            "/server_info" => Self::ServerInfo,
            "/get_server_info" => Self::GetServerInfo,
            "/api/v0/models" => Self::LmStudioModels,
            _ => return None,
        })
    }
}

/// What an engine says on one of its pages.
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Told {
    fn json(body: &Value) -> Self {
        Self { status: 200, content_type: "application/json", body: body.to_string() }
    }

    fn text(body: String) -> Self {
        Self { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", body }
    }
}

/// None where the engine has no such page.
pub(crate) fn page(page: Page, script: &Script, calls: &CallsView) -> Option<Told> {
    match script.shape {
        Shape::Vllm => vllm::page(page, script, calls),
        Shape::Sglang => sglang::page(page, script, calls),
        Shape::LlamaCpp => llama_cpp::page(page, script, calls),
        Shape::Tei => tei::page(page, script, calls),
        Shape::LmStudio => Some(lm_studio::page(page, script)),
        Shape::OpenAi | Shape::Ollama => None,
    }
}

/// Whether the engine has this route of the OpenAI dialect.
pub(crate) const fn has_route(shape: Shape, route: Route) -> bool {
    match shape {
        Shape::OpenAi | Shape::Ollama | Shape::Vllm => true,
        Shape::Sglang => !matches!(route, Route::Moderations),
        Shape::LlamaCpp => !matches!(route, Route::Moderations | Route::Score),
        Shape::LmStudio => !matches!(route, Route::Moderations | Route::Rerank | Route::Score),
        Shape::Tei => matches!(route, Route::Embeddings),
    }
}

/// TEI has no list of models.
pub(crate) const fn has_models(shape: Shape) -> bool {
    !matches!(shape, Shape::Tei)
}

/// What stands in the list of models beside the name.
pub(crate) const fn owner(shape: Shape) -> &'static str {
    match shape {
        Shape::Vllm => "vllm",
        Shape::Sglang => "sglang",
        Shape::LlamaCpp => "llamacpp",
        Shape::LmStudio => "organization_owner",
        Shape::Ollama => "library",
        Shape::Tei | Shape::OpenAi => "sim",
    }
}

/// What the engine says when it does not take a request: status and body. None where it says what OpenAI says.
pub(crate) fn refusal(shape: Shape, refused: Refused<'_>) -> Option<(u16, Value)> {
    match shape {
        Shape::Vllm => Some(vllm::refusal(refused)),
        Shape::Sglang => sglang::refusal(refused),
        Shape::LlamaCpp => llama_cpp::refusal(refused),
        Shape::OpenAi | Shape::Ollama | Shape::Tei | Shape::LmStudio => None,
    }
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused<'a> {
    UnknownModel(&'a str),
    TooLong { prompt_tokens: u64, context_len: u64 },
}

/// A context is scripted in bytes; this many tokens it is.
fn context_len(script: &Script) -> u64 {
    script.context_bytes.map_or(32_768, crate::answer::tokens)
}

fn slots(script: &Script) -> usize {
    script.slots.unwrap_or(4)
}

/// How many are worked on, and how many wait.
fn load(script: &Script, calls: &CallsView) -> (u64, u64) {
    let running = calls.in_flight.min(script.slots.map_or(u64::MAX, |slots| slots as u64));
    (running, calls.in_flight - running)
}
