//! LM Studio, from the documentation of its REST API v0 (0.3.6 and later). It lists what is downloaded, and tells of each
//! model whether it is loaded; what is not loaded yet is loaded by the first call. It tells no load.

use overnight_domain::engine_facts::{EngineFacts, ModelFacts};
use serde_json::Value;

use super::{Answers, INPUTS_PER_CALL, Question, text};

pub(super) fn read(mut facts: EngineFacts, answers: &Answers) -> EngineFacts {
    let list = answers.json(Question::LmStudioModels).unwrap_or_default();
    let of = |model: &Value| {
        let is_loaded = model["state"].as_str().map(|state| state == "loaded");
        Some(ModelFacts {
            name: text(&model["id"])?,
            digest: None,
            // What it was trained for is no promise of what it will be loaded with.
            context_len: model["loaded_context_length"].as_u64(),
            is_loaded,
        })
    };
    let models: Vec<ModelFacts> = list["data"].as_array().into_iter().flatten().filter_map(of).collect();
    if !models.is_empty() {
        facts.models = models;
    }
    facts.capacity.inputs_per_call = Some(INPUTS_PER_CALL);
    facts
}

pub(crate) fn is_list(list: &Value) -> bool {
    let is_model = |model: &Value| model["id"].is_string() && model["state"].is_string();
    list["data"].as_array().is_some_and(|models| models.iter().all(is_model))
}
