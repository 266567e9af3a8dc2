//! SGLang, from the source and documentation of 0.4.6 to 0.5.5 (`srt/entrypoints/http_server.py`,
//! `srt/metrics/collector.py`, "Production Metrics"). `/get_server_info` was renamed to `/server_info`; where an admin key
//! guards both, the capacity stays unknown.

use overnight_domain::engine_facts::EngineFacts;
use serde_json::Value;

use super::{Answers, INPUTS_PER_CALL, Question, count, narrow, text};
use crate::prometheus::{Metrics, Sample, whole};

pub(super) fn read(mut facts: EngineFacts, answers: &Answers) -> EngineFacts {
    let info = answers.json(Question::ServerInfo).filter(is_info);
    let info = info.or_else(|| answers.json(Question::GetServerInfo)).unwrap_or_default();
    facts.version = text(&info["version"]);
    for model in &mut facts.models {
        model.is_loaded = Some(true);
        model.context_len = model.context_len.or_else(|| info["context_length"].as_u64());
    }
    let capacity = &mut facts.capacity;
    let ranks = info["dp_size"].as_u64().unwrap_or(1).max(1);
    capacity.kv_tokens =
        info["max_total_num_tokens"].as_u64().and_then(|tokens| tokens.checked_mul(ranks));
    capacity.slots = count(&info["max_running_requests"]).or_else(|| slots_of_ranks(&info));
    capacity.permits = capacity
        .slots
        .zip(count(&info["max_queued_requests"]))
        .map(|(slots, queued)| slots.saturating_add(queued));
    capacity.input_tokens = info["max_req_input_len"].as_u64();
    capacity.inputs_per_call = Some(INPUTS_PER_CALL);
    read_load(&mut facts, &answers.metrics());
    facts
}

pub(crate) fn is_info(info: &Value) -> bool {
    info["max_total_num_tokens"].is_u64()
}

/// Where `--max-running-requests` was not given, each rank tells what it came to.
fn slots_of_ranks(info: &Value) -> Option<u32> {
    let ranks = info["internal_states"].as_array()?;
    let of = |rank: &Value| count(&rank["effective_max_running_requests_per_dp"]);
    let slots: Vec<u32> = ranks.iter().filter_map(of).collect();
    (!slots.is_empty()).then(|| slots.iter().fold(0, |sum: u32, slots| sum.saturating_add(*slots)))
}

fn read_load(facts: &mut EngineFacts, metrics: &Metrics<'_>) {
    let load = &mut facts.load;
    load.running = narrow(sum(metrics, &["sglang:num_running_reqs"]).and_then(whole));
    load.waiting = narrow(sum(metrics, &["sglang:num_queue_reqs"]).and_then(whole));
    load.kv_usage = mean(metrics, &["sglang:token_usage"]);
    load.prompt_tokens_total = sum(metrics, &["sglang:prompt_tokens_total"]).and_then(whole);
    load.generated_tokens_total = sum(metrics, &["sglang:generation_tokens_total"]).and_then(whole);
    load.preemptions_total = sum(metrics, &["sglang:num_retractions_total"]).and_then(whole);
    load.cache_hits_total = sum(metrics, &["sglang:cached_tokens_total"]).and_then(whole);
    // Every prompt token is looked up.
    load.cache_queries_total = load.cache_hits_total.and(load.prompt_tokens_total);
    if load.running.is_none() {
        facts
            .notices
            .push("SGLang tells nothing of its load: start it with `--enable-metrics`".to_owned());
    }
}

/// With `--enable-metrics-for-all-schedulers` every tensor-parallel rank tells the same again, and with priorities on
/// there are series for each beside the one for all.
fn is_whole(series: &Sample<'_>) -> bool {
    series.label("tp_rank").is_none_or(|rank| rank == "0")
        && series.label("priority").is_none_or(|priority| priority.is_empty())
}

fn values(metrics: &Metrics<'_>, names: &[&str]) -> Vec<f64> {
    metrics.series(names).iter().filter(|series| is_whole(series)).map(|series| series.value).collect()
}

fn sum(metrics: &Metrics<'_>, names: &[&str]) -> Option<f64> {
    let values = values(metrics, names);
    (!values.is_empty()).then(|| values.iter().sum())
}

fn mean(metrics: &Metrics<'_>, names: &[&str]) -> Option<f64> {
    let values = values(metrics, names);
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
