//! Answers in OpenAI's words, whole or as a stream's deltas.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::question::{EndReason, Ending, Piece, TokenLogprob};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
}

/// What all parts of an answer carry.
#[derive(Debug, Clone)]
pub(crate) struct Heading {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: Arc<str>,
    pub(crate) has_logprobs: bool,
    /// The function whose arguments the answer is.
    pub(crate) called: Option<Box<str>>,
}

impl Heading {
    fn object(&self, object: &str, choice: &Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": &*self.model,
            "choices": [choice],
        })
    }

    pub(crate) fn whole(&self, said: &Piece, ending: &Ending) -> Value {
        let reason = self.finish_reason(ending.reason);
        let logprobs = self.logprobs(&said.logprobs);
        let mut body = match self.kind {
            Kind::Chat => {
                let message = match self.call(&said.text) {
                    Some(call) => json!({"role": "assistant", "content": null, "tool_calls": [call]}),
                    None => json!({"role": "assistant", "content": said.text, "refusal": null}),
                };
                let choice = json!({
                    "index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason
                });
                self.object("chat.completion", &choice)
            }
            Kind::Completion => {
                let choice = json!({"index": 0, "text": said.text, "logprobs": logprobs, "finish_reason": reason});
                self.object("text_completion", &choice)
            }
        };
        body["usage"] = usage(ending);
        body
    }

    /// The first delta of a chat names the role, and the function that is called.
    pub(crate) fn opening(&self) -> Option<Value> {
        (self.kind == Kind::Chat).then(|| {
            let delta = match self.call("") {
                Some(mut call) => {
                    call["index"] = json!(0);
                    json!({"role": "assistant", "content": null, "tool_calls": [call]})
                }
                None => json!({"role": "assistant", "content": ""}),
            };
            self.delta(&delta, &Value::Null, None)
        })
    }

    pub(crate) fn piece(&self, piece: &Piece) -> Value {
        let delta = if self.called.is_some() {
            json!({"tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]})
        } else {
            json!({"content": piece.text})
        };
        self.delta(&delta, &self.logprobs(&piece.logprobs), None)
    }

    pub(crate) fn closing(&self, ending: &Ending) -> Value {
        self.delta(&json!({}), &Value::Null, Some(self.finish_reason(ending.reason)))
    }

    fn call(&self, arguments: &str) -> Option<Value> {
        let name = self.called.as_ref()?;
        let id = format!("call_{}", self.id.rsplit('-').next().unwrap_or(&self.id));
        Some(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
    }

    const fn finish_reason(&self, reason: EndReason) -> &'static str {
        match reason {
            EndReason::Stop if self.called.is_some() => "tool_calls",
            EndReason::Stop => "stop",
            EndReason::Length => "length",
        }
    }

    pub(crate) fn usage(&self, ending: &Ending) -> Value {
        let mut body = self.object(self.delta_object(), &Value::Null);
        body["choices"] = json!([]);
        body["usage"] = usage(ending);
        body
    }

    const fn delta_object(&self) -> &'static str {
        match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        }
    }

    fn delta(&self, delta: &Value, logprobs: &Value, reason: Option<&str>) -> Value {
        let choice = match self.kind {
            Kind::Chat => {
                json!({"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason})
            }
            Kind::Completion => {
                let text = delta["content"].as_str().unwrap_or("");
                json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason})
            }
        };
        self.object(self.delta_object(), &choice)
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Value {
        match self.kind {
            _ if !self.has_logprobs => Value::Null,
            Kind::Chat => json!({"content": tokens.iter().map(chat_logprob).collect::<Vec<_>>()}),
            Kind::Completion => completion_logprobs(tokens),
        }
    }
}

fn usage(ending: &Ending) -> Value {
    json!({
        "prompt_tokens": ending.prompt_tokens,
        "completion_tokens": ending.answer_tokens,
        "total_tokens": ending.prompt_tokens + ending.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": ending.cached_tokens},
    })
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn chat_logprob(token: &TokenLogprob) -> Value {
    let one =
        |bytes: &[u8], logprob: f32| json!({"token": text(bytes), "logprob": logprob, "bytes": bytes});
    let mut shown = one(&token.bytes, token.logprob);
    let top: Vec<Value> = token.top.iter().map(|(bytes, logprob)| one(bytes, *logprob)).collect();
    shown["top_logprobs"] = json!(top);
    shown
}

fn completion_logprobs(tokens: &[TokenLogprob]) -> Value {
    let texts: Vec<_> = tokens.iter().map(|token| text(&token.bytes)).collect();
    let logprobs: Vec<f32> = tokens.iter().map(|token| token.logprob).collect();
    let top: Vec<Map<String, Value>> = tokens
        .iter()
        .map(|token| {
            let top = token.top.iter();
            top.map(|(bytes, logprob)| (text(bytes).into_owned(), json!(logprob))).collect()
        })
        .collect();
    json!({"tokens": texts, "token_logprobs": logprobs, "top_logprobs": top})
}
