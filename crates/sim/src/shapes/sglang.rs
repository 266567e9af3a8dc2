//! SGLang 0.5.5, started with `--enable-metrics`.

use serde_json::json;

use super::{Page, Refused, Told, context_len, load, slots};
use crate::calls::CallsView;
use crate::script::Script;

const KV_TOKENS: u64 = 100_000;

pub(super) fn page(page: Page, script: &Script, calls: &CallsView) -> Option<Told> {
    match page {
        Page::ServerInfo => Some(Told::json(&json!({
            "model_path": script.models.first(),
            "context_length": null,
            "dp_size": 1,
            "max_running_requests": null,
            "enable_metrics": true,
            "status": "ready",
            "max_total_num_tokens": KV_TOKENS,
            "max_req_input_len": context_len(script).saturating_sub(6),
            "internal_states": [{"effective_max_running_requests_per_dp": slots(script)}],
            "version": "0.5.5",
        }))),
        Page::Metrics => Some(Told::text(metrics(script, calls))),
        _ => None,
    }
}

fn metrics(script: &Script, calls: &CallsView) -> String {
    let (running, waiting) = load(script, calls);
    let model = script.models.first().map_or("sim-model", String::as_str);
    let ranks =
        format!("{{engine_type=\"unified\",model_name=\"{model}\",pp_rank=\"0\",tp_rank=\"0\"}}");
    let usage = ((running * context_len(script)) as f64 / KV_TOKENS as f64).min(1.0);
    format!(
        "# TYPE sglang:num_running_reqs gauge\n\
         sglang:num_running_reqs{ranks} {running}.0\n\
         # TYPE sglang:num_queue_reqs gauge\n\
         sglang:num_queue_reqs{ranks} {waiting}.0\n\
         # TYPE sglang:token_usage gauge\n\
         sglang:token_usage{ranks} {usage}\n\
         # TYPE sglang:prompt_tokens_total counter\n\
         sglang:prompt_tokens_total{{model_name=\"{model}\"}} {prompt}.0\n\
         # TYPE sglang:generation_tokens_total counter\n\
         sglang:generation_tokens_total{{model_name=\"{model}\"}} {generated}.0\n",
        prompt = calls.finished * 100,
        generated = calls.finished * 7,
    )
}

/// Any model's name is taken: it serves one.
pub(super) fn refusal(refused: Refused<'_>) -> Option<(u16, serde_json::Value)> {
    match refused {
        Refused::UnknownModel(_) => None,
        Refused::TooLong { prompt_tokens, context_len } => {
            let message = format!(
                "The input ({prompt_tokens} tokens) is longer than the model's context length ({context_len} tokens)."
            );
            Some((
                400,
                json!({"object": "error", "message": message, "type": "BadRequestError", "param": null, "code": 400}),
            ))
        }
    }
}
