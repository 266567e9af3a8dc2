//! The built-in engine (`crates/engine-llama`), which says all of itself beside its one model.

use overnight_domain::engine_facts::EngineFacts;

use super::{Answers, INPUTS_PER_CALL, count, narrow, text};

pub(super) fn read(mut facts: EngineFacts, answers: &Answers) -> EngineFacts {
    facts.capacity.inputs_per_call = Some(INPUTS_PER_CALL);
    if let (Some(model), Some(listed)) = (facts.models.first_mut(), answers.models().first()) {
        let own = &listed["overnight_engine"];
        // It is not there before the model is loaded.
        model.is_loaded = Some(own.is_object());
        facts.version = text(&own["version"]);
        facts.capacity.slots = count(&own["slots"]);
        facts.capacity.permits = count(&own["permits"]);
        facts.capacity.kv_tokens = own["kv_tokens"].as_u64();
        facts.capacity.input_tokens = own["input_tokens"].as_u64();
    }
    let metrics = answers.metrics();
    let load = &mut facts.load;
    load.running = narrow(metrics.count(&["overnight_engine_requests_running"]));
    load.waiting = narrow(metrics.count(&["overnight_engine_requests_waiting"]));
    load.generated_tokens_total = metrics.count(&["overnight_engine_answer_tokens_total"]);
    let computed = metrics.count(&["overnight_engine_prompt_tokens_computed_total"]);
    load.cache_hits_total = metrics.count(&["overnight_engine_prompt_tokens_cached_total"]);
    load.prompt_tokens_total =
        computed.zip(load.cache_hits_total).map(|(computed, cached)| computed.saturating_add(cached));
    load.cache_queries_total = load.prompt_tokens_total;
    facts
}
