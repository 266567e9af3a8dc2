//! Answers: a function of the request and of nothing else.

use std::io::Write;

use overnight_domain::route::Route;
use serde::Deserialize;
use serde_json::Value;

use crate::calls::body_key;
use crate::directive::Text;
use crate::lists;
use crate::shape::Shape;
use crate::shapes;

/// What the text of an answer must survive: characters that careless readers take for the end of a line, an escape,
/// a character outside the basic plane, the smallest control character.
pub const UNICODE_TEXT: &str =
    "a\u{2028}b\u{2029}c\u{85}d\n e\r\n\t\"f\" \\ \u{0} \u{1F980} \u{FEFF}\u{10FFFF}";

/// The text of the plain answer to a body. Tests compare with it to prove which bytes the engine was sent.
pub fn answer_text(body: &[u8]) -> String {
    format!("answer {:016x}", body_key(body))
}

/// A request as the answer needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) route: Route,
    pub(crate) body: &'a [u8],
    pub(crate) hash: u64,
    /// As it stands between the quotation marks of the body.
    pub(crate) model: &'a str,
    pub(crate) text: Text,
    /// How long the text shall be, in bytes.
    pub(crate) len: Option<u64>,
    pub(crate) embedding_len: usize,
    pub(crate) shape: Shape,
}

/// The request cannot be answered as it is: 400.
#[derive(Debug)]
pub(crate) struct BadRequest(pub(crate) String);

/// Writes the body of the answer.
pub(crate) fn write_answer(question: &Question<'_>, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    match question.route {
        Route::ChatCompletions | Route::Completions
            if !matches!(question.shape, Shape::OpenAi | Shape::Ollama | Shape::Tei) =>
        {
            return write_shaped(question, out);
        }
        Route::ChatCompletions => write_chat(question, out),
        Route::Completions => write_completion(question, out),
        Route::Responses => write_response(question, out),
        Route::Embeddings => return lists::write_embeddings(question, out),
        Route::Moderations => return lists::write_moderations(question, out),
        Route::Rerank => return lists::write_rerank(question, out),
        Route::Score => return lists::write_score(question, out),
    }
    Ok(())
}

/// An answer that does what the request asks for, as an engine of that shape would.
fn write_shaped(question: &Question<'_>, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    let asked: Value =
        serde_json::from_slice(question.body).map_err(|error| BadRequest(error.to_string()))?;
    let mut plain = Vec::new();
    write_answer(&Question { shape: Shape::OpenAi, ..*question }, &mut plain)?;
    let mut answer: Value = serde_json::from_slice(&plain).expect("our own words");
    shapes::chat::shape(&asked, &mut answer)?;
    push_json(out, &answer);
    Ok(())
}

/// The route's answer with nothing in it.
pub(crate) const fn empty_answer(route: Route) -> &'static str {
    match route {
        Route::ChatCompletions => {
            r#"{"id":"chatcmpl-0","object":"chat.completion","created":1700000000,"model":"sim-model","choices":[]}"#
        }
        Route::Completions => {
            r#"{"id":"cmpl-0","object":"text_completion","created":1700000000,"model":"sim-model","choices":[]}"#
        }
        Route::Responses => r#"{"id":"resp_0","object":"response","created_at":1700000000,"output":[]}"#,
        Route::Embeddings => r#"{"object":"list","data":[],"model":"sim-model"}"#,
        Route::Moderations | Route::Rerank => r#"{"id":"sim-0","model":"sim-model","results":[]}"#,
        Route::Score => r#"{"id":"score-0","object":"list","model":"sim-model","data":[]}"#,
    }
}

/// Tokens that a text of so many bytes counts as.
pub(crate) const fn tokens(len: usize) -> u64 {
    len as u64 / 4 + 1
}

pub(crate) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(crate) fn push_hash(out: &mut Vec<u8>, hash: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for nibble in (0..16).rev() {
        out.push(DIGITS[(hash >> (nibble * 4)) as usize & 15]);
    }
}

pub(crate) fn push_json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("plain data into memory");
}

fn write_chat(question: &Question<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"chatcmpl-");
    push_hash(out, question.hash);
    out.extend_from_slice(b"\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"");
    out.extend_from_slice(question.model.as_bytes());
    out.extend_from_slice(
        b"\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":",
    );
    let text_len = push_text(question, out);
    out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":\"stop\"}],");
    push_usage(question, text_len, out);
}

fn write_completion(question: &Question<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"cmpl-");
    push_hash(out, question.hash);
    out.extend_from_slice(b"\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"");
    out.extend_from_slice(question.model.as_bytes());
    out.extend_from_slice(b"\",\"choices\":[{\"index\":0,\"text\":");
    let text_len = push_text(question, out);
    out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":\"stop\"}],");
    push_usage(question, text_len, out);
}

fn write_response(question: &Question<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"resp_");
    push_hash(out, question.hash);
    out.extend_from_slice(
        b"\",\"object\":\"response\",\"created_at\":1700000000,\"status\":\"completed\",",
    );
    out.extend_from_slice(b"\"error\":null,\"incomplete_details\":null,\"model\":\"");
    out.extend_from_slice(question.model.as_bytes());
    out.extend_from_slice(b"\",\"output\":[{\"type\":\"message\",\"id\":\"msg_");
    push_hash(out, question.hash);
    out.extend_from_slice(b"\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":[{");
    out.extend_from_slice(b"\"type\":\"output_text\",\"annotations\":[],\"text\":");
    let text_len = push_text(question, out);
    let (input, output) = (tokens(question.body.len()), tokens(text_len));
    out.extend_from_slice(b"}]}],\"usage\":{\"input_tokens\":");
    push_number(out, input);
    out.extend_from_slice(b",\"input_tokens_details\":{\"cached_tokens\":");
    push_number(out, input / 2);
    out.extend_from_slice(b"},\"output_tokens\":");
    push_number(out, output);
    out.extend_from_slice(b",\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":");
    push_number(out, input + output);
    out.extend_from_slice(b"}}");
}

/// The `usage` of chat and completions, and the end of the object.
fn push_usage(question: &Question<'_>, text_len: usize, out: &mut Vec<u8>) {
    let (prompt, completion) = (tokens(question.body.len()), tokens(text_len));
    out.extend_from_slice(b"\"usage\":{\"prompt_tokens\":");
    push_number(out, prompt);
    out.extend_from_slice(b",\"completion_tokens\":");
    push_number(out, completion);
    out.extend_from_slice(b",\"total_tokens\":");
    push_number(out, prompt + completion);
    out.extend_from_slice(b",\"prompt_tokens_details\":{\"cached_tokens\":");
    push_number(out, prompt / 2);
    out.extend_from_slice(b"}}}");
}

/// Writes the text as a JSON string and returns its length without escapes.
fn push_text(question: &Question<'_>, out: &mut Vec<u8>) -> usize {
    match (question.len, question.text) {
        (Some(len), _) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(TEXT_LEN_MAX);
            out.push(b'"');
            let text_start = out.len();
            push_hash(out, question.hash);
            out.resize(text_start + len.max(16), b'x');
            out.truncate(text_start + len);
            out.push(b'"');
            len
        }
        (None, Text::Hash) => {
            out.extend_from_slice(b"\"answer ");
            push_hash(out, question.hash);
            out.push(b'"');
            ANSWER_TEXT_LEN
        }
        (None, Text::Unicode) => {
            push_json(out, UNICODE_TEXT);
            UNICODE_TEXT.len()
        }
        (None, Text::Echo) => {
            let text = last_text(question.body);
            push_json(out, &text);
            text.len()
        }
    }
}

/// The text that a request ends with: of its last message, or its prompt, or its input.
fn last_text(body: &[u8]) -> String {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Asked {
        messages: Vec<Value>,
        prompt: Value,
        input: Value,
    }
    let asked: Asked = serde_json::from_slice(body).unwrap_or_default();
    let mut place = asked.messages.last().unwrap_or(&asked.prompt);
    if place.is_null() {
        place = &asked.input;
    }
    loop {
        place = match place {
            Value::String(text) => return text.clone(),
            Value::Array(parts) => match parts.last() {
                Some(part) => part,
                None => return String::new(),
            },
            Value::Object(members) => match members.get("content").or_else(|| members.get("text")) {
                Some(member) => member,
                None => return String::new(),
            },
            _ => return String::new(),
        };
    }
}

/// Writes an error as OpenAI does.
pub(crate) fn write_error(out: &mut Vec<u8>, message: &str, kind: &str, code: Option<&str>) {
    out.extend_from_slice(b"{\"error\":{\"message\":");
    push_json(out, message);
    write!(out, ",\"type\":\"{kind}\",\"param\":null,\"code\":").expect("writing into memory");
    push_json(out, &code);
    out.extend_from_slice(b"}}");
}

const ANSWER_TEXT_LEN: usize = "answer 0123456789abcdef".len();

/// A longer text is asked for with `garbage=huge`, which streams it.
const TEXT_LEN_MAX: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(route: Route, body: &str, text: Text, len: Option<u64>) -> Value {
        let question = Question {
            route,
            body: body.as_bytes(),
            hash: body_key(body.as_bytes()),
            model: "m",
            text,
            len,
            embedding_len: 4,
            shape: Shape::OpenAi,
        };
        let mut out = Vec::new();
        write_answer(&question, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn the_text_is_what_was_asked_for() {
        let body = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"héllo\n"}]}]}"#;
        let content = |text, len| {
            let value = answer(Route::ChatCompletions, body, text, len);
            value["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
        };
        assert_eq!(content(Text::Hash, None), answer_text(body.as_bytes()));
        assert_eq!(content(Text::Echo, None), "héllo\n");
        assert_eq!(content(Text::Unicode, None), UNICODE_TEXT);
        for len in [0, 3, 16, 1000] {
            assert_eq!(content(Text::Hash, Some(len)).len() as u64, len);
        }
    }

    #[test]
    fn text_routes_have_their_shapes_and_add_up() {
        for (route, pointer) in [
            (Route::ChatCompletions, "/choices/0/message/content"),
            (Route::Completions, "/choices/0/text"),
            (Route::Responses, "/output/0/content/0/text"),
        ] {
            let value = answer(route, r#"{"prompt":"p"}"#, Text::Hash, None);
            assert_eq!(value.pointer(pointer).unwrap(), &answer_text(br#"{"prompt":"p"}"#));
            let usage = &value["usage"];
            let sum = ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"]
                .map(|name| usage[name].as_u64().unwrap_or(0))
                .iter()
                .sum::<u64>();
            assert_eq!(usage["total_tokens"], sum);
        }
    }

    #[test]
    fn empty_answers_are_json() {
        for route in Route::ALL {
            assert!(serde_json::from_str::<Value>(empty_answer(route)).unwrap().is_object());
        }
    }
}
