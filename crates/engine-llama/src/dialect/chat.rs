//! `POST /v1/chat/completions`, as it is asked.

use std::collections::BTreeMap;

use minijinja::Value;
use serde::Deserialize;

use super::fields::Fields;
use super::generation::{Asked, FormAsked, TOP_LOGPROBS_MAX, form};
use super::tools::{self, Tools};
use crate::refusal::{self, Refusal};

const MESSAGES_MAX: usize = 4_096;

#[derive(Debug)]
pub(crate) struct ChatAsked {
    pub(crate) asked: Asked,
    /// As the template sees them: content is one text.
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Tools,
    /// More names for the template.
    pub(crate) template_values: BTreeMap<String, Value>,
}

impl ChatAsked {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::read(body)?;
        let expected = "a list of messages with a role";
        let raw: Vec<Value> =
            fields.take("messages", expected)?.ok_or_else(|| refusal::missing("messages"))?;
        if raw.is_empty() || raw.len() > MESSAGES_MAX {
            return Err(refusal::out_of_range("messages", &format!("1 to {MESSAGES_MAX} messages")));
        }
        let messages =
            raw.iter().enumerate().map(|(at, raw)| message(at, raw)).collect::<Result<_, _>>()?;
        let mut asked = Asked::take(&mut fields)?;
        asked.form = form(&mut fields)?;
        asked.top_logprobs = top_logprobs(&mut fields)?;
        let template_values = fields.take("chat_template_kwargs", "an object")?.unwrap_or_default();
        let tools = Tools::take(&mut fields)?;
        if let Some(call) = &tools.call {
            if asked.form != FormAsked::Free {
                return Err(refusal::not_honoured(
                    "response_format",
                    " beside a tool that must be called",
                ));
            }
            asked.form = call.arguments.clone();
        }
        fields.only("modalities", &["[\"text\"]"])?;
        fields.end()?;
        Ok(Self { asked, messages, tools, template_values })
    }
}

fn top_logprobs(fields: &mut Fields) -> Result<Option<u8>, Refusal> {
    let logprobs: Option<bool> = fields.take("logprobs", "true or false")?;
    let top: Option<u8> = fields.take("top_logprobs", "an integer from 0 to 20")?;
    match (logprobs.unwrap_or(false), top) {
        (_, Some(top)) if top > TOP_LOGPROBS_MAX => {
            Err(refusal::out_of_range("top_logprobs", "an integer from 0 to 20"))
        }
        (false, Some(top)) if top > 0 => {
            Err(refusal::out_of_range("top_logprobs", "`logprobs` to be true with it"))
        }
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, _) => Ok(None),
    }
}

/// Content in parts becomes one text; parts that are no text are refused.
fn message(at: usize, raw: &Value) -> Result<Value, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Part {
        r#type: String,
        text: Option<String>,
    }
    let place = |name: &str| format!("messages[{at}].{name}");
    let member = |name: &str| raw.get_attr(name).unwrap_or_default();
    if member("role").as_str().is_none() {
        return Err(refusal::missing(&place("role")));
    }
    let content = member("content");
    let content = if content.as_str().is_some() {
        content
    } else if content.is_none() && !member("tool_calls").is_undefined() {
        Value::from(())
    } else {
        let expected = "a text, or parts of the type `text`";
        let parts: Vec<Part> =
            Vec::deserialize(content).map_err(|_| refusal::wrong_type(&place("content"), expected))?;
        let texts: Option<String> =
            parts.into_iter().map(|part| part.text.filter(|_| part.r#type == "text")).collect();
        Value::from(texts.ok_or_else(|| refusal::wrong_type(&place("content"), expected))?)
    };
    let calls = tools::with_arguments_read(&member("tool_calls"));
    let message = tools::with_member(raw, "content", &content);
    let message = message.and_then(|message| tools::with_member(&message, "tool_calls", &calls));
    message.ok_or_else(|| refusal::wrong_type(&place("role"), "an object"))
}
