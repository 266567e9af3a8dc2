//! LM Studio 0.3: its own list of models, and 200 with an error for every path that it does not know.

use serde_json::{Value, json};

use super::{Page, Told, context_len};
use crate::script::Script;

pub(super) fn page(page: Page, script: &Script) -> Told {
    if page != Page::LmStudioModels {
        return Told::json(&json!({"error": "Unexpected endpoint or method. Returning 200 anyway"}));
    }
    // The first is loaded.
    let model = |(index, id): (usize, &String)| {
        let mut model = json!({
            "id": id, "object": "model", "type": "llm", "arch": "sim", "compatibility_type": "gguf",
            "quantization": "Q4_K_M", "state": if index == 0 { "loaded" } else { "not-loaded" },
            "max_context_length": 131_072,
        });
        if index == 0 {
            model["loaded_context_length"] = json!(context_len(script));
        }
        model
    };
    let models: Vec<Value> = script.models.iter().enumerate().map(model).collect();
    Told::json(&json!({"object": "list", "data": models}))
}
