//! The Responses route, which Ollama has below `/v1` alone: sent as it is, and held to the same rule about its prompt.

use http::Method;
use overnight_domain::fault::Fault;
use serde_json::{Value, json};

use super::context::{Seen, Verdict, judge, settle};
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
        let asked: Value = serde_json::from_str(body).unwrap_or_default();
        let model = asked["model"].as_str().unwrap_or_default();
        let uri = self.client.address.route(call.route);
        let reply = self.client.exchange(Method::POST, uri, call.body.clone(), patience).await?;
        let body = self.read_success(reply, model, None)?;
        let answer = classify::read_answer_body(call.route, &body)?;
        self.ask_loaded(patience.remaining()).await?;
        if self.known().context_of(model).is_none() {
            // It was unloaded since. One token brings it back, with the context that it had.
            self.load(model, patience).await?;
            self.ask_loaded(patience.remaining()).await?;
        }
        let (sizes, texts) = prompt_of(&asked);
        let seen = Seen {
            prompt: Some(answer.usage.input_tokens).filter(|count| *count > 0),
            answer: answer.usage.output_tokens,
            context: self.known().context_of(model),
            // This route passes neither `truncate` nor `shift` on.
            obeys: false,
            // Since it runs `llama-server` (0.30), Ollama leaves half a context of what it cuts.
            halves: version.halves() || version.obeys_flags(),
            sizes: &sizes,
        };
        let mut verdict = judge(seen);
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
