//! Counting the tokens of messages, by calls from which nothing is dropped.
//!
//! A `raw` prompt has one part, so Ollama can only take something out of its middle, and that shows in the count: what
//! is left is a context, or half of one with the oldest versions. A text that counts less than that was read whole; one
//! that counts more is counted in halves.

use http::Method;
use overnight_domain::fault::Fault;
use serde_json::{Value, json};

use super::Ollama;
use super::context::{Seen, read_refusal};
use super::native::Native;
use super::translate::Translated;
use crate::classify;
use crate::patience::Patience;

/// Beyond this a prompt is so much longer than the context that nobody needs to know by how much.
const CALLS_MAX: usize = 64;

impl Ollama {
    /// The tokens of each message's text; fewer numbers where Ollama does not tell, or it takes too many calls.
    pub(super) async fn count_messages(
        &self,
        sent: &Translated,
        seen: Seen<'_>,
        patience: &Patience,
    ) -> Result<Vec<u64>, Fault> {
        let asked: Value = serde_json::from_slice(&sent.body).unwrap_or_default();
        let texts: Vec<String> = match asked["messages"].as_array() {
            Some(messages) => messages.iter().map(text_of).collect(),
            None => vec![asked["prompt"].as_str().unwrap_or_default().to_owned()],
        };
        self.count_texts(&sent.model, &asked["options"], texts, seen, patience).await
    }

    pub(super) async fn count_texts(
        &self,
        model: &str,
        options: &Value,
        texts: Vec<String>,
        seen: Seen<'_>,
        patience: &Patience,
    ) -> Result<Vec<u64>, Fault> {
        let Some(context) = seen.context else { return Ok(Vec::new()) };
        let cut_to = if seen.halves { context / 2 } else { context };
        let mut options = options.clone();
        options["num_predict"] = json!(1);
        let mut counts = Vec::with_capacity(texts.len());
        let mut calls = 0;
        for text in texts {
            let mut total = 0;
            let mut pieces = vec![text];
            while let Some(piece) = pieces.pop() {
                if piece.trim().is_empty() {
                    continue;
                }
                calls += 1;
                if calls > CALLS_MAX {
                    return Ok(counts);
                }
                match self.count(model, &options, &piece, patience).await? {
                    Count::Read(count) if count + 2 < cut_to => total += count,
                    Count::Unknown => return Ok(counts),
                    Count::Read(_) | Count::TooLong => {
                        let middle = piece.floor_char_boundary(piece.len() / 2);
                        let (first, second) = piece.split_at(middle);
                        pieces.extend([first.to_owned(), second.to_owned()]);
                    }
                }
            }
            counts.push(total);
        }
        Ok(counts)
    }

    /// Has the model loaded as it is by default.
    pub(super) async fn load(&self, model: &str, patience: &Patience) -> Result<(), Fault> {
        self.count(model, &json!({"num_predict": 1}), "a", patience).await.map(|_| ())
    }

    async fn count(
        &self,
        model: &str,
        options: &Value,
        text: &str,
        patience: &Patience,
    ) -> Result<Count, Fault> {
        let body = json!({
            "model": model, "prompt": text, "raw": true, "stream": false, "options": options,
            "truncate": false, "shift": false, "keep_alive": super::translate::KEEP_ALIVE,
        });
        let mut patience = Patience::new(patience.remaining(), patience.remaining());
        let uri = self.client.address.native("/api/generate");
        let body = body.to_string().into();
        let reply = self.client.exchange(Method::POST, uri, body, &mut patience).await?;
        if reply.head.status != 200 && read_refusal(&classify::describe(&reply.body)).is_some() {
            return Ok(Count::TooLong);
        }
        let (_, body) = classify::read_success(reply, self.answer_len_max)?;
        let native = Native::read(&body).map_err(|reason| super::garbage(&reason))?;
        Ok(native.prompt_eval_count.map_or(Count::Unknown, Count::Read))
    }
}

enum Count {
    Read(u64),
    TooLong,
    /// It does not tell, as older versions where they have the text in their cache.
    Unknown,
}

fn text_of(message: &Value) -> String {
    let content = message["content"].as_str().unwrap_or_default();
    let thinking = message["thinking"].as_str().unwrap_or_default();
    if message["tool_calls"].is_null() {
        format!("{content}{thinking}")
    } else {
        format!("{content}{thinking}{}", message["tool_calls"])
    }
}
