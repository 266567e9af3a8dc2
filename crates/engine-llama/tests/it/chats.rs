//! Chats and completions.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::harness::{Engine, chat};

const GREEDY: f64 = 0.0;

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_answered_whole_and_as_a_stream_alike() {
    let engine = Engine::start(512, 4).await;
    let asked = json!({"max_tokens": 24, "temperature": GREEDY, "seed": 1});
    let whole = engine.chat("hello", asked.clone()).await.ok();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["usage"]["prompt_tokens"], 24);
    let said = content(&whole);
    let mut streamed = asked;
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let events = engine.chat("hello", streamed).await.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let deltas: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(deltas, said);
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    let reason = &events[events.len() - 2]["choices"][0]["finish_reason"];
    assert_eq!(*reason, whole["choices"][0]["finish_reason"]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_the_answer_and_is_not_part_of_it() {
    let engine = Engine::start(512, 4).await;
    let free = engine.chat("x", json!({"max_tokens": 40, "temperature": GREEDY})).await.ok();
    let said = content(&free);
    // Two bytes, and so two tokens of this vocabulary.
    let pairs = said.as_bytes().windows(2).skip(4);
    let stop = pairs.filter(|pair| pair.is_ascii()).find_map(|pair| std::str::from_utf8(pair).ok());
    let stop = stop.expect("the model says two letters in a row").to_owned();
    let asked = json!({"max_tokens": 40, "temperature": GREEDY, "stop": stop});
    let stopped = engine.chat("x", asked).await.ok();
    assert_eq!(content(&stopped), said[..said.find(&stop).unwrap()]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_no_and_of_one_token_are_known_apart() {
    let engine = Engine::start(256, 2).await;
    let ask = |prompt: Value| json!({"prompt": prompt, "max_tokens": 3, "temperature": 0});
    let (status, code, _) = engine.post("/v1/completions", &ask(json!(""))).await.refusal();
    assert_eq!((status, code.as_str()), (400, "invalid_value"));
    let one = engine.post("/v1/completions", &ask(json!("a"))).await.ok();
    assert_eq!(one["usage"]["prompt_tokens"], 1);
    let tokens = engine.post("/v1/completions", &ask(json!([64]))).await.ok();
    assert_eq!(tokens["usage"]["prompt_tokens"], 1);
    let (status, _, message) = engine.post("/v1/completions", &ask(json!([9_999]))).await.refusal();
    assert_eq!((status, message.contains("9999")), (400, true));
    engine.stop().await;
}

fn ten_thousand_tokens() -> Value {
    json!({"prompt": "a".repeat(10_000), "max_tokens": 2, "temperature": 0})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_of_ten_thousand_tokens_is_answered_where_the_context_is_for_it() {
    let engine = Engine::start(12_288, 1).await;
    let answer = engine.post("/v1/completions", &ten_thousand_tokens()).await.ok();
    assert_eq!(answer["usage"]["prompt_tokens"], 10_000);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_beyond_the_context_is_refused_with_both_lengths() {
    let engine = Engine::start(8_192, 1).await;
    let (status, code, message) = engine.post("/v1/completions", &ten_thousand_tokens()).await.refusal();
    assert_eq!((status, code.as_str()), (400, "context_length_exceeded"));
    assert!(message.contains("10000") && message.contains("8192"), "{message}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_the_answer_has_what_is_left_of_the_context() {
    let engine = Engine::start(64, 1).await;
    // The end of a turn is never the likeliest beside a bias; this model's greedy answers loop.
    let answer = engine.chat("x", json!({"temperature": GREEDY})).await.ok();
    let total = answer["usage"]["total_tokens"].as_u64().unwrap();
    match answer["choices"][0]["finish_reason"].as_str().unwrap() {
        "length" => assert_eq!(total, 64),
        reason => assert!(reason == "stop" && total < 64, "{answer}"),
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_honoured_is_refused_by_name() {
    let engine = Engine::start(128, 1).await;
    for (name, value) in [
        ("n", json!(2)),
        ("logit_bias", json!({"5": 1})),
        ("temprature", json!(1)),
        ("temperature", json!("warm")),
        ("top_p", json!(1.5)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("max_tokens", json!(0)),
        ("top_logprobs", json!(3)),
        ("response_format", json!({"type": "xml"})),
    ] {
        let answer = engine.chat("x", json!({name: value})).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"], name);
    }
    let answer = engine.chat("x", json!({"model": "other"})).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (404, json!("model_not_found")));
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]);
    let answer = engine.chat("x", json!({"messages": image})).await;
    assert_eq!(answer.json()["error"]["param"], "messages[0].content");
    let harmless = json!({"user": "me", "metadata": {"a": "b"}, "n": 1, "logit_bias": {}, "max_tokens": 1, "seed": null});
    engine.chat("x", harmless).await.ok();
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sampled_answers_repeat_with_their_seed_and_differ_without() {
    let engine = Engine::start(256, 4).await;
    let with = |seed: Value| json!({"max_tokens": 24, "temperature": 1.5, "seed": seed});
    let first = content(&engine.chat("x", with(json!(7))).await.ok());
    assert_eq!(content(&engine.chat("x", with(json!(7))).await.ok()), first);
    assert_ne!(content(&engine.chat("x", with(json!(8))).await.ok()), first);
    let free = content(&engine.chat("x", with(Value::Null)).await.ok());
    assert_ne!(content(&engine.chat("x", with(Value::Null)).await.ok()), free);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_are_of_the_tokens_that_were_said() {
    let engine = Engine::start(256, 4).await;
    let asked = json!({"max_tokens": 6, "temperature": GREEDY, "logprobs": true, "top_logprobs": 3});
    let answer = engine.chat("x", asked).await.ok();
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap())
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), content(&answer));
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(top[0]["logprob"], token["logprob"], "greedy takes the likeliest");
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_kept_to_and_a_bad_one_is_refused_each_time() {
    let engine = Engine::start(1_024, 4).await;
    let format = |schema: Value| {
        json!({"max_tokens": 400, "temperature": 1.0, "seed": 3,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}})
    };
    let closed = json!({"type": "object", "required": ["kind"],
        "properties": {"kind": {"type": "string", "enum": ["invoice", "contract", "other"]}}});
    let answer = engine.chat("x", format(closed.clone())).await.ok();
    let kind: Value = serde_json::from_str(&content(&answer)).unwrap();
    assert!(["invoice", "contract", "other"].contains(&kind["kind"].as_str().unwrap()));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // With other sampling the same schema is a grammar.
    let mut by_grammar = format(closed);
    by_grammar["top_k"] = json!(5);
    let answer = engine.chat("x", by_grammar).await.ok();
    let kind: Value = serde_json::from_str(&content(&answer)).unwrap();
    assert!(["invoice", "contract", "other"].contains(&kind["kind"].as_str().unwrap()));
    let open = json!({"type": "object", "required": ["n", "tags"], "additionalProperties": false,
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9},
            "tags": {"type": "array", "maxItems": 2, "items": {"enum": ["a", "b"]}}}});
    let answer = engine.chat("x", format(open)).await.ok();
    let said: Value = serde_json::from_str(&content(&answer)).unwrap();
    assert!(said["n"].as_u64().unwrap() <= 9 && said["tags"].as_array().unwrap().len() <= 2, "{said}");
    for _ in 0..2 {
        let bad = format(json!({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}));
        let (status, code, _) = engine.chat("x", bad).await.refusal();
        assert_eq!((status, code.as_str()), (400, "invalid_schema"));
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_common_beginning_is_computed_once_and_changes_no_greedy_answer() {
    let engine = Engine::start(512, 8).await;
    let beginning = "the same long beginning of many questions, over and over. ".repeat(3);
    let ask = json!({"max_tokens": 12, "temperature": GREEDY});
    let mut alone = Vec::new();
    for number in 0..8 {
        alone.push(content(&engine.chat(&format!("{beginning}{number}"), ask.clone()).await.ok()));
    }
    let messages: Vec<String> = (0..8).map(|number| format!("{beginning}{number}")).collect();
    let together =
        futures::future::join_all(messages.iter().map(|text| engine.chat(text, ask.clone()))).await;
    let together: Vec<Value> = together.iter().map(crate::harness::Answer::ok).collect();
    assert_eq!(together.iter().map(content).collect::<Vec<_>>(), alone);
    engine.stop().await;
}

/// Each of them reads the beginning of its answer and hangs up.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_frees_their_place() {
    let engine = Engine::start(4_096, 4).await;
    let body = chat("x", json!({"stream": true, "temperature": 1.9, "max_tokens": 4_000})).to_string();
    let hang_up = async || {
        let mut stream = engine.connect("POST", "/v1/chat/completions", &body).await;
        let mut byte = [0];
        // Those behind the first four wait for their place, and hang up waiting.
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut byte)).await;
    };
    futures::future::join_all((0..64).map(|_| hang_up())).await;
    let freed = async {
        while engine.metric("requests_running").await + engine.metric("requests_waiting").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), freed).await.expect("all are forgotten");
    engine.chat("still there", json!({"max_tokens": 1})).await.ok();
    engine.stop().await;
}
