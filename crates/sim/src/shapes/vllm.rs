//! vLLM 0.11.

use serde_json::json;

use super::{Page, Refused, Told, context_len, load};
use crate::calls::CallsView;
use crate::script::Script;

const BLOCKS: u64 = 4_096;
const BLOCK_LEN: u64 = 16;

pub(super) fn page(page: Page, script: &Script, calls: &CallsView) -> Option<Told> {
    match page {
        Page::Version => Some(Told::json(&json!({"version": "0.11.0"}))),
        Page::Metrics => Some(Told::text(metrics(script, calls))),
        _ => None,
    }
}

fn metrics(script: &Script, calls: &CallsView) -> String {
    let (running, waiting) = load(script, calls);
    let model = script.models.first().map_or("sim-model", String::as_str);
    let labels = format!("{{engine=\"0\",model_name=\"{model}\"}}");
    let usage = (running * context_len(script)) as f64 / (BLOCKS * BLOCK_LEN) as f64;
    let usage = usage.min(1.0);
    let finished = calls.finished;
    format!(
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
         # TYPE vllm:num_requests_running gauge\n\
         vllm:num_requests_running{labels} {running}.0\n\
         # TYPE vllm:num_requests_waiting gauge\n\
         vllm:num_requests_waiting{labels} {waiting}.0\n\
         # TYPE vllm:kv_cache_usage_perc gauge\n\
         vllm:kv_cache_usage_perc{labels} {usage}\n\
         # TYPE vllm:num_preemptions_total counter\n\
         vllm:num_preemptions_total{labels} 0.0\n\
         # TYPE vllm:prompt_tokens_total counter\n\
         vllm:prompt_tokens_total{labels} {prompt}.0\n\
         # TYPE vllm:generation_tokens_total counter\n\
         vllm:generation_tokens_total{labels} {generated}.0\n\
         # TYPE vllm:request_success_total counter\n\
         vllm:request_success_total{{engine=\"0\",finished_reason=\"stop\",model_name=\"{model}\"}} {finished}.0\n\
         # TYPE vllm:cache_config_info gauge\n\
         vllm:cache_config_info{{block_size=\"{BLOCK_LEN}\",engine=\"0\",num_gpu_blocks=\"{BLOCKS}\",num_gpu_blocks_override=\"None\"}} 1.0\n",
        prompt = finished * 100,
        generated = finished * 7,
    )
}

pub(super) fn refusal(refused: Refused<'_>) -> (u16, serde_json::Value) {
    match refused {
        Refused::UnknownModel(model) => {
            (404, error(&format!("The model `{model}` does not exist."), "NotFoundError", 404))
        }
        Refused::TooLong { prompt_tokens, context_len } => {
            let message = format!(
                "This model's maximum context length is {context_len} tokens. However, your request has {prompt_tokens} \
                 input tokens. Please reduce the length of the input messages."
            );
            (400, error(&message, "BadRequestError", 400))
        }
    }
}

fn error(message: &str, kind: &str, code: u16) -> serde_json::Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
