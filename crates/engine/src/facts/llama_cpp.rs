//! llama.cpp's server, from its README and source of b4000 to b8700 (`tools/server/README.md`). `/slots` can be switched
//! off (`--no-slots`) and `/metrics` must be switched on (`--metrics`); each fills in for the other.

use overnight_domain::engine_facts::EngineFacts;
use serde_json::Value;

use super::{Answers, INPUTS_PER_CALL, Question, count, narrow, text};

pub(super) fn read(mut facts: EngineFacts, answers: &Answers) -> EngineFacts {
    let props = answers.json(Question::Props).unwrap_or_default();
    let slots = answers.json(Question::Slots);
    let slots = slots.as_ref().and_then(Value::as_array);
    facts.version = text(&props["build_info"]);
    // The context of one slot, not of all together.
    let context_len = props["default_generation_settings"]["n_ctx"]
        .as_u64()
        .or_else(|| slots?.first()?["n_ctx"].as_u64());
    let is_awake = props["is_sleeping"].as_bool().map(|is_sleeping| !is_sleeping);
    for (model, listed) in facts.models.iter_mut().zip(answers.models()) {
        // The router has many models, and tells of each whether it is loaded.
        let status = listed["status"]["value"].as_str().map(|status| status == "loaded");
        model.is_loaded = status.or(is_awake);
        model.context_len = context_len.filter(|len| *len > 0);
    }
    facts.capacity.slots = count(&props["total_slots"])
        .or_else(|| slots.and_then(|slots| u32::try_from(slots.len()).ok()))
        .filter(|slots| *slots > 0);
    facts.capacity.inputs_per_call = Some(INPUTS_PER_CALL);
    let metrics = answers.metrics();
    let load = &mut facts.load;
    load.running = slots
        .map(|slots| slots.iter().filter(|slot| is_processing(slot)).count() as u32)
        .or_else(|| narrow(metrics.count(&["llamacpp:requests_processing"])));
    load.waiting = narrow(metrics.count(&["llamacpp:requests_deferred"]));
    load.kv_usage = metrics.mean(&["llamacpp:kv_cache_usage_ratio"]);
    load.prompt_tokens_total = metrics.count(&["llamacpp:prompt_tokens_total"]);
    load.generated_tokens_total = metrics.count(&["llamacpp:tokens_predicted_total"]);
    facts
}

/// Old versions had a number for it.
fn is_processing(slot: &Value) -> bool {
    slot["is_processing"]
        .as_bool()
        .unwrap_or_else(|| slot["state"].as_u64().is_some_and(|state| state != 0))
}
