//! llama.cpp's server, b8681, started with `--metrics`.

use serde_json::json;

use super::{Page, Refused, Told, context_len, load, slots};
use crate::calls::CallsView;
use crate::script::Script;

pub(super) fn page(page: Page, script: &Script, calls: &CallsView) -> Option<Told> {
    let (running, waiting) = load(script, calls);
    match page {
        Page::Props => Some(Told::json(&json!({
            "default_generation_settings": {"n_ctx": context_len(script), "params": {"seed": 4_294_967_295_u32}},
            "total_slots": slots(script),
            "model_path": "/models/sim.gguf",
            "modalities": {"vision": true, "audio": false},
            "chat_template": "...",
            "build_info": "b8681-sim",
            "is_sleeping": false,
        }))),
        Page::Slots => {
            let slot = |id: usize| json!({"id": id, "n_ctx": context_len(script), "is_processing": (id as u64) < running});
            Some(Told::json(&(0..slots(script)).map(slot).collect()))
        }
        Page::Metrics => Some(Told::text(format!(
            "# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.\n\
             # TYPE llamacpp:prompt_tokens_total counter\n\
             llamacpp:prompt_tokens_total {prompt}\n\
             # TYPE llamacpp:tokens_predicted_total counter\n\
             llamacpp:tokens_predicted_total {generated}\n\
             # TYPE llamacpp:requests_processing gauge\n\
             llamacpp:requests_processing {running}\n\
             # TYPE llamacpp:requests_deferred gauge\n\
             llamacpp:requests_deferred {waiting}\n",
            prompt = calls.finished * 100,
            generated = calls.finished * 7,
        ))),
        _ => None,
    }
}

/// Any model's name is taken: it serves one.
pub(super) fn refusal(refused: Refused<'_>) -> Option<(u16, serde_json::Value)> {
    match refused {
        Refused::UnknownModel(_) => None,
        Refused::TooLong { prompt_tokens, context_len } => Some((
            400,
            json!({"error": {
                "code": 400,
                "message": format!("request ({prompt_tokens} tokens) exceeds the available context size ({context_len} tokens), try increasing it"),
                "type": "exceed_context_size_error",
                "n_prompt_tokens": prompt_tokens,
                "n_ctx": context_len,
            }}),
        )),
    }
}
