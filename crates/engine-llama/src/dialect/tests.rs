use proptest::prelude::*;
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

/// What llama.cpp takes for no seed made such an answer another one each time.
#[test]
fn every_seed_is_one() {
    let seed = |seed: i64| chat(&json!({"seed": seed})).unwrap().asked.sampling.seed;
    let chance = u32::MAX;
    for named in [-1, i64::from(chance), (1 << 32) | 0xffff_fffe, i64::MIN, i64::MAX] {
        assert_ne!(seed(named), chance, "{named}");
    }
    assert_eq!((seed(7), seed(i64::from(chance) - 1)), (7, chance - 1));
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

/// JSON of any kind, with the names that are read in it.
fn any_value() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "role",
        "content",
        "type",
        "text",
        "function",
        "name",
        "parameters",
        "arguments",
        "tool_calls",
        "schema",
        "json_schema",
        "strict",
        "include_usage",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "user",
            "tool",
            "function",
            "text",
            "json_schema",
            "required",
            "auto",
            "",
            "\u{0}é"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|members| {
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Value>()
            }),
        ]
    })
}

fn any_body() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "messages",
        "prompt",
        "input",
        "model",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "logprobs",
        "top_logprobs",
        "n",
        "echo",
        "dimensions",
        "encoding_format",
        "chat_template_kwargs",
        "frobnicate",
    ]);
    let messages = json!([{"role": "user", "content": "x"}]);
    (prop::collection::vec((name, any_value()), 0..6), any::<bool>()).prop_map(
        move |(members, is_chat)| {
            let mut body: serde_json::Map<String, Value> =
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            if is_chat {
                body.insert("messages".to_owned(), messages.clone());
            }
            Value::Object(body)
        },
    )
}

proptest! {
    #[test]
    fn whatever_a_body_says_it_is_read_or_refused_in_words(body in any_body()) {
        let body = body.to_string();
        let read = [
            ChatAsked::read(body.as_bytes()).map(drop),
            CompletionAsked::read(body.as_bytes()).map(drop),
            EmbeddingAsked::read(body.as_bytes()).map(drop),
        ];
        for refusal in read.into_iter().filter_map(Result::err) {
            prop_assert!((400..500).contains(&refusal.status) && !refusal.message().is_empty());
            prop_assert!(refusal.body()["error"]["code"].is_string());
        }
    }

    #[test]
    fn whatever_bytes_come_they_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(ChatAsked::read(&bytes).is_err());
        prop_assert!(CompletionAsked::read(&bytes).is_err());
        prop_assert!(EmbeddingAsked::read(&bytes).is_err());
    }
}
