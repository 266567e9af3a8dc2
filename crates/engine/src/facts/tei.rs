//! Text Embeddings Inference, from the source of 1.2 to 1.8 (`router/src/lib.rs`, `router/src/http/server.rs`). It has no
//! list of models: `/info` names the one that it serves.

use overnight_domain::engine_facts::{EngineFacts, ModelFacts};
use serde_json::Value;

use super::{Answers, Question, count, narrow, text};

pub(super) fn read(mut facts: EngineFacts, answers: &Answers) -> EngineFacts {
    let info = answers.json(Question::Info).unwrap_or_default();
    facts.version = text(&info["version"]);
    let input_tokens = info["max_input_length"].as_u64();
    facts.models = model(&info)
        .map(|name| ModelFacts {
            name,
            digest: text(&info["model_sha"]),
            context_len: input_tokens,
            is_loaded: Some(true),
        })
        .into_iter()
        .collect();
    let capacity = &mut facts.capacity;
    capacity.slots = count(&info["max_batch_requests"]);
    capacity.permits = count(&info["max_concurrent_requests"]);
    capacity.inputs_per_call = count(&info["max_client_batch_size"]);
    capacity.tokens_per_call = info["max_batch_tokens"].as_u64();
    capacity.input_tokens = input_tokens;
    facts.load.waiting = narrow(answers.metrics().count(&["te_queue_size"]));
    facts
}

pub(crate) fn is_info(info: &Value) -> bool {
    info["model_id"].is_string() && info["max_client_batch_size"].is_u64()
}

pub(crate) fn model(info: &Value) -> Option<String> {
    text(&info["model_id"])
}

/// It cuts inputs that are too long, and says nothing of it, unless a request forbids it.
pub(crate) fn cuts(info: &Value) -> bool {
    info["auto_truncate"].as_bool().unwrap_or(false)
}
