//! From Ollama's answer to the one that OpenAI's route gives.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use base64::Engine as _;
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::garbage;
use super::object::{Members, Object, elements};
use super::refusal::Refusal;
use super::translate::Back;

/// An answer of Ollama, as far as it is read. What it says is kept as it stands.
#[derive(Debug, Deserialize)]
pub(super) struct Native<'a> {
    #[serde(default, borrow)]
    model: Option<&'a RawValue>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    done: Option<bool>,
    #[serde(default)]
    done_reason: Option<String>,
    #[serde(default, borrow)]
    message: Option<Message<'a>>,
    #[serde(default, borrow)]
    response: Option<&'a RawValue>,
    #[serde(default, borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(default, borrow)]
    logprobs: Option<&'a RawValue>,
    #[serde(default, borrow)]
    embeddings: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    pub(super) prompt_eval_count: Option<u64>,
    #[serde(default)]
    pub(super) eval_count: Option<u64>,
    #[serde(default)]
    load_duration: u64,
    #[serde(default)]
    prompt_eval_duration: u64,
    #[serde(default)]
    eval_duration: u64,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(default, borrow)]
    content: Option<&'a RawValue>,
    #[serde(default, borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(default, borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Debug, Deserialize)]
struct ToolCall<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Debug, Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(default, borrow)]
    arguments: Option<&'a RawValue>,
}

impl<'a> Native<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, String> {
        let native: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if native.done == Some(false) {
            return Err("it is not done".to_owned());
        }
        Ok(native)
    }

    pub(super) fn load(&self) -> Duration {
        Duration::from_nanos(self.load_duration)
    }

    /// What it was worked on. The rest of a call is waiting: Ollama's `total_duration` counts the queue in.
    pub(super) fn busy(&self) -> Duration {
        Duration::from_nanos(self.prompt_eval_duration.saturating_add(self.eval_duration))
    }

    pub(super) fn into_openai(self, route: Route, body: &[u8], back: Back) -> Result<Vec<u8>, Fault> {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let id = format!("{:016x}", hasher.finish());
        match route {
            Route::Embeddings => self.embeddings(back),
            Route::Completions => self.completion(&id, back),
            _ => self.chat(&id, back),
        }
    }

    fn chat(self, id: &str, back: Back) -> Result<Vec<u8>, Fault> {
        let finish = self.finish_reason()?;
        let message = self.message.as_ref().ok_or_else(|| garbage("it has no `message`"))?;
        let mut said = Object::new();
        said.put("role", "assistant");
        said.raw("content", message.content.map_or("\"\"", RawValue::get));
        if let Some(thinking) = message.thinking.map(RawValue::get).filter(|text| *text != "\"\"") {
            // The name of Ollama's own /v1, and the one of the other engines.
            said.raw("reasoning", thinking).raw("reasoning_content", thinking);
        }
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        if !calls.is_empty() {
            let calls: Vec<String> =
                calls.iter().enumerate().map(|(at, call)| call.to_openai(id, at)).collect();
            said.raw("tool_calls", &format!("[{}]", calls.join(",")));
        }
        let mut choice = Object::new();
        choice.put("index", &0).raw("message", &said.end_text());
        match self.logprobs(back)? {
            Some(list) => choice.raw("logprobs", &format!("{{\"content\":{list}}}")),
            None => choice.raw("logprobs", "null"),
        };
        choice.put("finish_reason", if calls.is_empty() { finish } else { "tool_calls" });
        Ok(self.whole("chat.completion", &format!("chatcmpl-{id}"), &choice.end_text()))
    }

    fn completion(self, id: &str, back: Back) -> Result<Vec<u8>, Fault> {
        let finish = self.finish_reason()?;
        let text = self.response.ok_or_else(|| garbage("it has no `response`"))?.get();
        let mut choice = Object::new();
        choice.put("index", &0).raw("text", text);
        if let Some(thinking) = self.thinking.map(RawValue::get).filter(|text| *text != "\"\"") {
            choice.raw("reasoning", thinking);
        }
        match self.logprobs(back)? {
            Some(list) => choice.raw("logprobs", &old_logprobs(list)?),
            None => choice.raw("logprobs", "null"),
        };
        choice.put("finish_reason", finish);
        Ok(self.whole("text_completion", &format!("cmpl-{id}"), &choice.end_text()))
    }

    fn whole(&self, object: &str, id: &str, choice: &str) -> Vec<u8> {
        let created = self.created_at.as_deref().and_then(unix_seconds).unwrap_or(0);
        let (prompt, said) = (self.prompt_eval_count.unwrap_or(0), self.eval_count.unwrap_or(0));
        let mut usage = Object::new();
        usage.put("prompt_tokens", &prompt);
        usage.put("completion_tokens", &said);
        usage.put("total_tokens", &prompt.saturating_add(said));
        let mut whole = Object::new();
        whole.put("id", id).put("object", object).put("created", &created);
        whole.raw("model", self.model.map_or("null", RawValue::get));
        whole.put("system_fingerprint", "fp_ollama");
        whole.raw("choices", &format!("[{choice}]")).raw("usage", &usage.end_text());
        whole.end()
    }

    fn embeddings(self, back: Back) -> Result<Vec<u8>, Fault> {
        let vectors = self.embeddings.as_deref().ok_or_else(|| garbage("it has no `embeddings`"))?;
        let mut data = String::from("[");
        for (at, vector) in vectors.iter().enumerate() {
            if at > 0 {
                data.push(',');
            }
            if let Some(wanted) = back.dimensions {
                let len = elements(vector.get()).map_or(0, |numbers| numbers.len());
                if len != wanted {
                    let message = format!(
                        "the embedding has {len} numbers, not {wanted}: the model, or this version of Ollama, does not know \
                         `dimensions`"
                    );
                    return Err(Refusal::new("dimensions", message).into_fault());
                }
            }
            let mut one = Object::new();
            one.put("object", "embedding").put("index", &at);
            if back.in_base64 {
                let numbers: Vec<f32> = serde_json::from_str(vector.get())
                    .map_err(|error| garbage(&format!("an embedding: {error}")))?;
                let bytes: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
                one.put("embedding", &base64::engine::general_purpose::STANDARD.encode(bytes));
            } else {
                one.raw("embedding", vector.get());
            }
            data.push_str(&one.end_text());
        }
        data.push(']');
        let read = self.prompt_eval_count.unwrap_or(0);
        let mut usage = Object::new();
        usage.put("prompt_tokens", &read).put("total_tokens", &read);
        let mut whole = Object::new();
        whole.put("object", "list").raw("data", &data);
        whole.raw("model", self.model.map_or("null", RawValue::get));
        whole.raw("usage", &usage.end_text());
        Ok(whole.end())
    }

    fn finish_reason(&self) -> Result<&'static str, Fault> {
        match self.done_reason.as_deref() {
            // Versions before 0.1.40 say nothing.
            None | Some("" | "stop") => Ok("stop"),
            Some("length") => Ok("length"),
            Some(other) => Err(garbage(&format!("it ended for the reason `{other}`"))),
        }
    }

    fn logprobs(&self, back: Back) -> Result<Option<&'a str>, Fault> {
        match self.logprobs {
            Some(list) if back.wants_logprobs => Ok(Some(list.get())),
            None if back.wants_logprobs => {
                let message = "this Ollama tells no `logprobs`; versions since 0.12.11 do";
                Err(Refusal::new("logprobs", message).into_fault())
            }
            _ => Ok(None),
        }
    }
}

impl ToolCall<'_> {
    fn to_openai(&self, answer: &str, at: usize) -> String {
        let arguments = self.function.arguments.map_or("{}", RawValue::get);
        let mut function = Object::new();
        function.raw("name", self.function.name.get()).put("arguments", arguments);
        let mut call = Object::new();
        match &self.id {
            Some(id) if !id.is_empty() => call.put("id", id),
            // Versions before 0.12.10 give none, and the caller needs one to answer it.
            _ => call.put("id", &format!("call_{answer}_{at}")),
        };
        call.put("type", "function").raw("function", &function.end_text());
        call.end_text()
    }
}

/// The `logprobs` of a text completion: lists side by side.
fn old_logprobs(list: &str) -> Result<String, Fault> {
    let wrong = || garbage("its `logprobs` are no list of tokens");
    let (mut tokens, mut logprobs, mut tops, mut offsets) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut offset = 0;
    for one in elements(list).ok_or_else(wrong)? {
        let mut one = Members::of(one).ok_or_else(wrong)?;
        let raw = one.take("token").ok_or_else(wrong)?;
        offsets.push(offset);
        offset += super::object::text(raw).ok_or_else(wrong)?.chars().count();
        tokens.push(raw);
        logprobs.push(one.take("logprob").unwrap_or("null"));
        let mut top = Object::new();
        for other in one.take("top_logprobs").and_then(elements).unwrap_or_default() {
            let mut other = Members::of(other).ok_or_else(wrong)?;
            let token = other.take("token").and_then(super::object::text);
            if let (Some(token), Some(logprob)) = (token, other.take("logprob")) {
                top.raw(&token, logprob);
            }
        }
        tops.push(top.end_text());
    }
    let mut out = Object::new();
    out.raw("tokens", &format!("[{}]", tokens.join(",")));
    out.raw("token_logprobs", &format!("[{}]", logprobs.join(",")));
    out.raw("top_logprobs", &format!("[{}]", tops.join(",")));
    out.put("text_offset", &offsets);
    Ok(out.end_text())
}

/// Of a moment as RFC 3339 writes it; fractions are dropped.
fn unix_seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Days since 1970 by the civil calendar, counted from March so that the leap day is the last one of a year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let zone =
        text.get(19..)?.trim_start_matches(|letter: char| letter == '.' || letter.is_ascii_digit());
    let shift = match zone.get(..1) {
        None | Some("Z" | "z") => 0,
        Some(sign) => {
            let shift =
                zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            if sign == "-" { -shift } else { shift }
        }
    };
    Some(days * 86_400 + (hour * 60 + minute - shift) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_seconds_since_1970() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T23:59:59.123456789Z", 1_709_251_199),
            ("2026-11-21T09:15:30.5+01:00", 1_795_248_930),
            ("2026-11-21T08:15:30Z", 1_795_248_930),
        ] {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
        }
        assert_eq!(unix_seconds("yesterday"), None);
    }
}
