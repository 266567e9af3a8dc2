//! Answers that do what a request asks for: call a tool, keep to a schema, look at pictures, stop, be cut.
//!
//! The plain answer is taken apart and put together anew, which is slow; the plain shape, which benches use, never comes
//! here.

use serde_json::{Map, Value, json};

use crate::answer::{BadRequest, tokens};

/// Changes the plain answer to `asked` into one that does what was asked for.
pub(crate) fn shape(asked: &Value, plain: &mut Value) -> Result<(), BadRequest> {
    let is_chat = plain["object"] == "chat.completion";
    let place = if is_chat { "/choices/0/message/content" } else { "/choices/0/text" };
    let mut content = plain.pointer(place).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(call) = tool_call(asked) {
        plain["choices"][0]["message"]["content"] = Value::Null;
        plain["choices"][0]["message"]["tool_calls"] = json!([call]);
        plain["choices"][0]["finish_reason"] = json!("tool_calls");
        return Ok(());
    }
    match count_images(asked)? {
        0 => {}
        images => content = format!("{images} images: {content}"),
    }
    if let Some(text) = formatted(asked, &content)? {
        content = text;
    }
    if let Some(at) = stops(asked).iter().filter_map(|stop| content.find(stop.as_str())).min() {
        content.truncate(at);
    }
    if let Some(most) = most_tokens(asked)
        && tokens(content.len()) > most
    {
        let mut len = (most.saturating_sub(1) * 4).max(1) as usize;
        while !content.is_char_boundary(len) {
            len -= 1;
        }
        content.truncate(len);
        plain["choices"][0]["finish_reason"] = json!("length");
    }
    let count = tokens(content.len());
    plain["usage"]["completion_tokens"] = json!(count);
    plain["usage"]["total_tokens"] =
        json!(plain["usage"]["prompt_tokens"].as_u64().unwrap_or(0) + count);
    if is_chat && asked["logprobs"] == true {
        let token = |word: &str| json!({"token": word, "logprob": -0.125, "bytes": word.as_bytes(), "top_logprobs": []});
        let list: Vec<Value> = content.split_inclusive(' ').map(token).collect();
        plain["choices"][0]["logprobs"] = json!({"content": list});
    }
    if let Some(text) = plain.pointer_mut(place) {
        *text = json!(content);
    }
    Ok(())
}

/// A tool is called where one must be, and where one may be and none has answered yet.
fn tool_call(asked: &Value) -> Option<Value> {
    let tools = asked["tools"].as_array()?;
    let last = asked["messages"].as_array()?.last()?;
    let named = asked["tool_choice"]["function"]["name"].as_str();
    if asked["tool_choice"] == "none" || last["role"] == "tool" {
        return None;
    }
    let tool = tools
        .iter()
        .map(|tool| &tool["function"])
        .find(|tool| named.is_none_or(|name| tool["name"] == name))?;
    let arguments = sample(&tool["parameters"], 0).to_string();
    Some(json!({
        "id": "call_0",
        "type": "function",
        "function": {"name": tool["name"], "arguments": arguments},
    }))
}

fn count_images(asked: &Value) -> Result<usize, BadRequest> {
    let mut count = 0;
    let messages = asked["messages"].as_array().into_iter().flatten();
    for part in messages.filter_map(|message| message["content"].as_array()).flatten() {
        if part["type"] == "image_url" {
            let url = part["image_url"]["url"].as_str().unwrap_or_default();
            if !url.starts_with("data:image/") && !url.starts_with("http") {
                return Err(BadRequest("an image must be a `data:` or `http` URL".to_owned()));
            }
            count += 1;
        }
    }
    Ok(count)
}

fn formatted(asked: &Value, content: &str) -> Result<Option<String>, BadRequest> {
    let format = &asked["response_format"];
    match format["type"].as_str() {
        None | Some("text") => Ok(None),
        Some("json_object") => Ok(Some(json!({"answer": content}).to_string())),
        Some("json_schema") if format["json_schema"]["schema"].is_object() => {
            Ok(Some(sample(&format["json_schema"]["schema"], 0).to_string()))
        }
        Some(other) => Err(BadRequest(format!("`response_format` `{other}` is not understood"))),
    }
}

fn stops(asked: &Value) -> Vec<String> {
    match &asked["stop"] {
        Value::String(stop) => vec![stop.clone()],
        Value::Array(stops) => {
            stops.iter().filter_map(|stop| stop.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

fn most_tokens(asked: &Value) -> Option<u64> {
    asked["max_completion_tokens"].as_u64().or_else(|| asked["max_tokens"].as_u64())
}

/// Something that the schema allows.
fn sample(schema: &Value, depth: u32) -> Value {
    if depth > 16 {
        return Value::Null;
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let members = schema["properties"].as_object().into_iter().flatten();
            let sampled: Map<String, Value> =
                members.map(|(name, schema)| (name.clone(), sample(schema, depth + 1))).collect();
            Value::Object(sampled)
        }
        Some("array") => json!([sample(&schema["items"], depth + 1)]),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(true),
        Some("string") => json!("text"),
        _ => Value::Null,
    }
}
