//! vLLM, from the source of 0.6 to 0.11 (`vllm/v1/metrics/loggers.py`, `vllm/engine/metrics.py`) and its documentation of
//! production metrics: old and new names. A metric that is renamed lives on under its old name for two minor versions.

use overnight_domain::engine_facts::EngineFacts;

use super::{Answers, INPUTS_PER_CALL, Question, narrow, text};
use crate::prometheus::{Metrics, Sample};

pub(super) fn read(mut facts: EngineFacts, answers: &Answers) -> EngineFacts {
    facts.version = answers.json(Question::Version).and_then(|body| text(&body["version"]));
    for model in &mut facts.models {
        model.is_loaded = Some(true);
    }
    // It takes lists of any length, and queues without limit unless it is told otherwise.
    facts.capacity.inputs_per_call = Some(INPUTS_PER_CALL);
    let metrics = answers.metrics();
    facts.capacity.kv_tokens = kv_tokens(&metrics);
    let load = &mut facts.load;
    load.running = narrow(metrics.count(&["vllm:num_requests_running"]));
    load.waiting = narrow(metrics.count(&["vllm:num_requests_waiting"]));
    load.kv_usage = metrics.mean(&["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"]);
    load.prompt_tokens_total = metrics.count(&["vllm:prompt_tokens_total", "vllm:prompt_tokens"]);
    load.generated_tokens_total =
        metrics.count(&["vllm:generation_tokens_total", "vllm:generation_tokens"]);
    load.preemptions_total = metrics.count(&["vllm:num_preemptions_total", "vllm:num_preemptions"]);
    load.cache_queries_total = metrics.count(&[
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_queries",
        "vllm:gpu_prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries",
    ]);
    load.cache_hits_total = metrics.count(&[
        "vllm:prefix_cache_hits_total",
        "vllm:prefix_cache_hits",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits",
    ]);
    if load.running.is_none() {
        facts.notices.push(
            "vLLM tells nothing of its load: start it without `--disable-log-stats`, and let `/metrics` through".to_owned(),
        );
    }
    facts
}

/// The labels of an information metric, one series per data-parallel rank. Newer versions give the tokens themselves,
/// which for models of mixed attention are not the product of blocks and their size.
fn kv_tokens(metrics: &Metrics<'_>) -> Option<u64> {
    let of = |rank: &Sample<'_>| {
        rank.number("kv_cache_size_tokens")
            .or_else(|| rank.number("num_gpu_blocks")?.checked_mul(rank.number("block_size")?))
            .filter(|tokens| *tokens > 0)
    };
    let ranks: Vec<u64> = metrics.series(&["vllm:cache_config_info"]).iter().filter_map(of).collect();
    (!ranks.is_empty()).then(|| ranks.iter().fold(0, |sum: u64, tokens| sum.saturating_add(*tokens)))
}
