use serde_json::{Value, json};

use super::chat::ChatAsked;
use super::completion::{CompletionAsked, Prompt};
use super::embedding::{EmbeddingAsked, Input};
use super::generation::FormAsked;
use crate::refusal::Refusal;

fn chat(more: &Value) -> Result<ChatAsked, Refusal> {
    let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ChatAsked::read(body.to_string().as_bytes())
}

fn message_of(more: &Value) -> String {
    chat(more).expect_err("it is refused").message().to_owned()
}

#[test]
fn what_is_honoured_is_read() {
    let more = json!({"temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "seed": 5, "stop": "a",
        "max_tokens": 9, "max_completion_tokens": 7, "logprobs": true, "top_logprobs": 2, "stream": true,
        "stream_options": {"include_usage": true}, "frequency_penalty": -1, "user": "me"});
    let asked = chat(&more).unwrap().asked;
    assert_eq!((asked.sampling.temperature, asked.sampling.top_k, asked.sampling.seed), (0.5, 0, 5));
    assert_eq!((asked.answer_len_max, asked.top_logprobs), (Some(7), Some(2)));
    assert_eq!((asked.stop, asked.streams, asked.shows_usage), (vec!["a".to_owned()], true, true));
    let absent = chat(&json!({"temperature": null})).unwrap().asked.sampling;
    assert!((absent.temperature - 1.0).abs() < f32::EPSILON, "null is absent");
}

#[test]
fn what_would_be_ignored_is_refused_by_name() {
    assert!(message_of(&json!({"n": 2})).starts_with("`n` is not honoured"));
    assert!(message_of(&json!({"frobnicate": 1})).contains("`frobnicate`"));
    assert!(message_of(&json!({"stream_options": {"more": 1}})).contains("stream_options"));
    assert!(message_of(&json!({"temperature": 3})).contains("from 0 to 2"));
    assert!(message_of(&json!({"messages": []})).contains("messages"));
    assert!(message_of(&json!({"messages": [{"content": "x"}]})).contains("messages[0].role"));
    assert!(message_of(&json!({"messages": [{"role": "user"}]})).contains("messages[0].content"));
    assert!(ChatAsked::read(b"[]").is_err());
    assert!(ChatAsked::read(b"{\"messages\": [").is_err());
}

#[test]
fn a_schema_keeps_the_order_of_its_members() {
    let body = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"z": 1, "a": 2}}}}"#;
    let chat = ChatAsked::read(body.as_bytes()).unwrap();
    assert_eq!(chat.asked.form, FormAsked::Schema(r#"{"z": 1, "a": 2}"#.into()));
    assert_eq!(chat.messages[0].get_attr("content").unwrap().as_str(), Some("ab"));
}

#[test]
fn prompts_and_inputs_are_texts_or_tokens() {
    let prompt = |body: &str| CompletionAsked::read(body.as_bytes()).map(|asked| asked.prompt);
    assert_eq!(prompt(r#"{"prompt": "a"}"#), Ok(Prompt::Text("a".to_owned())));
    assert_eq!(prompt(r#"{"prompt": ["a"]}"#), Ok(Prompt::Texts(["a".to_owned()])));
    assert_eq!(prompt(r#"{"prompt": [1, 2]}"#), Ok(Prompt::Tokens(vec![1, 2])));
    assert!(prompt(r#"{"prompt": ["a", "b"]}"#).is_err());
    let inputs = |body: &str| EmbeddingAsked::read(body.as_bytes()).map(|asked| asked.inputs);
    assert_eq!(inputs(r#"{"input": [1, 2]}"#), Ok(vec![Input::Tokens(vec![1, 2])]));
    let two = vec![Input::Text("a".to_owned()), Input::Tokens(vec![1])];
    assert_eq!(inputs(r#"{"input": ["a", [1]]}"#), Ok(two));
    assert!(inputs(r#"{"input": []}"#).is_err());
}
