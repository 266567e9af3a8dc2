//! What is not work: `/health`, `/v1/models`, what an Ollama tells of itself, and the engine's own `/sim/` routes.

use serde_json::{Value, json};

use crate::answer::tokens;
use crate::conduct::Active;
use crate::engine::Shared;
use crate::ollama;
use crate::request::Target;
use crate::script::Script;
use crate::shape::Shape;
use crate::shapes;
use crate::steps::push_status;
use crate::wire::{push_error_answer, push_head, push_json_answer};

pub(crate) fn answer(
    target: Target,
    body: &[u8],
    is_authorized: bool,
    active: &Active,
    shared: &Shared,
    out: &mut Vec<u8>,
) {
    match target {
        Target::Models | Target::Page(_) if !is_authorized => {
            push_error_answer(out, 401, "", "wrong API key", Some("invalid_api_key"));
        }
        Target::Models if !shapes::has_models(active.script.shape) => {
            push_error_answer(out, 404, "", "there is no such route", None);
        }
        Target::Models => probe(active, shared, &models(&active.script), out),
        Target::Health => probe(active, shared, &json!({"status": "ok"}), out),
        Target::ReadScript => {
            push_json_answer(out, 200, "", json!(active.script).to_string().as_bytes());
        }
        Target::WriteScript => match serde_json::from_slice::<Script>(body) {
            Ok(script) => {
                shared.set_script(script);
                shared.announce_script();
                push_json_answer(out, 200, "", b"{}");
            }
            Err(error) => {
                push_error_answer(out, 400, "", &format!("the script cannot be read: {error}"), None);
            }
        },
        Target::ReadCalls => {
            let mut view = json!(shared.ledger.view());
            view["order"] = json!(shared.ledger.order());
            push_json_answer(out, 200, "", view.to_string().as_bytes());
        }
        Target::ClearCalls => {
            shared.ledger.clear();
            push_json_answer(out, 200, "", b"{}");
        }
        Target::OllamaTells(tell) if active.script.shape == Shape::Ollama => {
            shared.ledger.probed();
            match active.meet_probe() {
                Some((status, directive)) => push_status(out, status, &directive, b"{}"),
                None => ollama::tell(tell, body, active).push(out),
            }
        }
        Target::WrongMethod => push_error_answer(out, 405, "", "the method is not allowed here", None),
        Target::Page(page) => match shapes::page(page, &active.script, &shared.ledger.view()) {
            Some(told) => {
                shared.ledger.probed();
                let headers = format!("content-type: {}\r\n", told.content_type);
                push_head(out, told.status, &headers, told.body.len() as u64);
                out.extend_from_slice(told.body.as_bytes());
            }
            None => push_error_answer(out, 404, "", "there is no such route", None),
        },
        Target::Work(_)
        | Target::Tei(_)
        | Target::Ollama(_)
        | Target::OllamaTells(_)
        | Target::Unknown => {
            push_error_answer(out, 404, "", "there is no such route", None);
        }
    }
}

fn probe(active: &Active, shared: &Shared, well: &Value, out: &mut Vec<u8>) {
    shared.ledger.probed();
    let well = well.to_string();
    match active.meet_probe() {
        Some((status, directive)) => push_status(out, status, &directive, well.as_bytes()),
        None => push_json_answer(out, 200, "", well.as_bytes()),
    }
}

fn models(script: &Script) -> Value {
    let owner = shapes::owner(script.shape);
    let context_len = script.context_bytes.map_or(32_768, tokens);
    let mut models: Vec<Value> = script
        .models
        .iter()
        .map(|id| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": owner}))
        .collect();
    if matches!(script.shape, Shape::Vllm | Shape::Sglang) {
        for model in &mut models {
            model["max_model_len"] = json!(context_len);
        }
    }
    json!({"object": "list", "data": models})
}
