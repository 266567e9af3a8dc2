//! Which engine it is, from what it answers: never from the port it listens on.

use overnight_domain::engine_facts::Flavour;
use serde_json::Value;

use crate::facts::{Answers, Question, lm_studio, sglang, tei};

/// The flavour that the answers show, the surest sign first. [`Flavour::Other`] only says that none was seen.
///
/// Words of one engine are met at others (`owned_by` is copied along, many have a `/version`), so a route that only one
/// engine has, with members that only it knows, goes before them. Some answer every path with 200, so a status alone
/// shows nothing.
pub(crate) fn recognise(answers: &Answers) -> Flavour {
    let has = |question, is_like: fn(&Value) -> bool| {
        answers.json(question).is_some_and(|body| is_like(&body))
    };
    if has(Question::Info, tei::is_info) {
        return Flavour::Tei;
    }
    if has(Question::Props, is_props) {
        return Flavour::LlamaCpp;
    }
    if has(Question::ServerInfo, sglang::is_info) || has(Question::GetServerInfo, sglang::is_info) {
        return Flavour::Sglang;
    }
    if let Some(flavour) = by_metrics(answers) {
        return flavour;
    }
    if has(Question::LmStudioModels, lm_studio::is_list) {
        return Flavour::LmStudio;
    }
    by_owner(answers).unwrap_or_else(|| {
        if has(Question::OllamaVersion, |body| body["version"].is_string()) {
            Flavour::Ollama
        } else {
            Flavour::Other
        }
    })
}

fn is_props(props: &Value) -> bool {
    props["total_slots"].is_u64() || props["default_generation_settings"]["n_ctx"].is_u64()
}

fn by_metrics(answers: &Answers) -> Option<Flavour> {
    answers.metrics().samples().find_map(|sample| match sample.name {
        name if name.starts_with("vllm:") => Some(Flavour::Vllm),
        name if name.starts_with("sglang:") => Some(Flavour::Sglang),
        name if name.starts_with("llamacpp:") => Some(Flavour::LlamaCpp),
        name if name.starts_with("overnight_engine_") => Some(Flavour::Overnight),
        name if name.starts_with("te_") => Some(Flavour::Tei),
        _ => None,
    })
}

fn by_owner(answers: &Answers) -> Option<Flavour> {
    answers.models().iter().find_map(|model| match model["owned_by"].as_str()? {
        "vllm" => Some(Flavour::Vllm),
        "sglang" => Some(Flavour::Sglang),
        "llamacpp" => Some(Flavour::LlamaCpp),
        "overnight-engine" => Some(Flavour::Overnight),
        _ => None,
    })
}
