//! The Responses route, which Ollama has below `/v1` alone: sent as it is, and held to the same rule about its prompt.
//!
//! It takes no context of its own, and tells none: what the model is loaded with is asked before and after.

use http::Method;
use overnight_domain::fault::Fault;
use serde_json::{Value, json};

use super::context::{Seen, Verdict, judge_between, settle};
use super::refusal::Refusal;
use super::sizes::{Part, Sizes};
use super::version::Version;
use super::{Ollama, too_long};
use crate::classify;
use crate::engine::{Answer, Call};
use crate::patience::Patience;

impl Ollama {
    pub(super) async fn through_v1(
        &self,
        call: &Call,
        body: &str,
        version: Version,
        patience: &mut Patience,
    ) -> Result<Answer, Fault> {
        if self.num_ctx.is_some() {
            let message = "Ollama takes no context with `/v1/responses`, and `engine.num_ctx` is set: send the line to \
                           `/v1/chat/completions`, or leave `engine.num_ctx` out and give the model its context with \
                           `PARAMETER num_ctx` or OLLAMA_CONTEXT_LENGTH";
            return Err(Refusal::new("url", message).into_fault());
        }
        let asked: Value = serde_json::from_str(body).unwrap_or_default();
        let model = asked["model"].as_str().unwrap_or_default();
        let before = self.context_now(model, patience).await?;
        let uri = self.client.address.route(call.route);
        let reply = self.client.exchange(Method::POST, uri, call.body.clone(), patience).await?;
        let body = self.read_success(reply, model, None)?;
        let answer = classify::read_answer_body(call.route, &body)?;
        let after = self.context_now(model, patience).await?;
        let (sizes, texts) = prompt_of(&asked);
        let seen = Seen {
            prompt: Some(answer.usage.input_tokens).filter(|count| *count > 0),
            answer: answer.usage.output_tokens,
            context: after,
            // This route passes neither `truncate` nor `shift` on.
            obeys: false,
            // Since it runs `llama-server` (0.30), Ollama leaves half a context of what it cuts.
            halves: version.halves() || version.obeys_flags(),
            sizes: &sizes,
        };
        let mut verdict = judge_between(before, seen);
        if verdict == Verdict::Cut && before != after {
            return Err(loaded_anew(seen, before));
        }
        let mut counted = None;
        if verdict == Verdict::Doubt {
            // Counting is by a route that obeys, and with the context that the model has.
            let own = Seen { halves: version.halves(), ..seen };
            let options = seen.context.map_or(json!({}), |context| json!({"num_ctx": context}));
            let counts = self.count_texts(model, &options, texts, own, patience).await?;
            verdict = settle(seen, &counts);
            counted = (counts.len() == sizes.parts.len()).then(|| counts.iter().sum());
        }
        if verdict == Verdict::Whole { Ok(answer) } else { Err(too_long(seen, counted)) }
    }

    /// What the model is loaded with. One that is not is loaded by a call for one token, as the next one would.
    async fn context_now(&self, model: &str, patience: &Patience) -> Result<Option<u64>, Fault> {
        self.ask_loaded(patience.remaining()).await?;
        if self.known().context_of(model).is_none() {
            self.load(model, patience).await?;
            self.ask_loaded(patience.remaining()).await?;
        }
        Ok(self.known().context_of(model))
    }
}

fn loaded_anew(seen: Seen<'_>, before: Option<u64>) -> Fault {
    let shown = |context: Option<u64>| {
        context
            .map_or_else(|| "an unknown context".to_owned(), |context| format!("a context of {context}"))
    };
    let detail = format!(
        "the model was loaded anew during the call, with {} after {}: whether the prompt was read whole cannot be told; \
         requests with other contexts must not reach the same Ollama meanwhile",
        shown(seen.context),
        shown(before)
    );
    let context_len = before.min(seen.context);
    Fault::TooLongPrompt { prompt_tokens: None, context_len, detail }
}

/// The parts of a prompt, and their texts.
fn prompt_of(asked: &Value) -> (Sizes, Vec<String>) {
    let mut sizes = Sizes { parts: Vec::new(), frame_len: 0 };
    let mut texts = Vec::new();
    let mut add = |value: &Value, is_system: bool| {
        let mut text = String::new();
        let images = collect(value, &mut text);
        sizes.parts.push(Part { is_system, len: text.len(), images });
        texts.push(text);
    };
    if !asked["instructions"].is_null() {
        add(&asked["instructions"], true);
    }
    match &asked["input"] {
        Value::Array(items) => {
            for item in items {
                add(item, matches!(item["role"].as_str(), Some("system" | "developer")));
            }
        }
        other => add(other, false),
    }
    sizes.frame_len = if asked["tools"].is_null() { 0 } else { asked["tools"].to_string().len() };
    (sizes, texts)
}

/// All texts in a value, and the number of images.
fn collect(value: &Value, text: &mut String) -> usize {
    match value {
        Value::String(one) => {
            text.push_str(one);
            0
        }
        Value::Array(list) => list.iter().map(|one| collect(one, text)).sum(),
        Value::Object(members) => {
            if members.get("type").is_some_and(|kind| kind == "input_image") {
                return 1;
            }
            let spoken = ["content", "text", "output", "arguments", "summary"];
            spoken.iter().filter_map(|name| members.get(*name)).map(|one| collect(one, text)).sum()
        }
        _ => 0,
    }
}
