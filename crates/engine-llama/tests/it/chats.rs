//! Chats and completions.

use serde_json::{Value, json};

use crate::gguf::Sketch;
use crate::harness::{Engine, content};

const GREEDY: f64 = 0.0;

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

/// With the vocabularies of Mistral and GPT-4o a line of ten thousand letters ended the process: it was cut by an
/// expression that calls itself for each of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_ends_no_process_whatever_cuts_it() {
    for pre in ["tekken", "gpt-4o"] {
        let engine = Engine::sketch(&Sketch { pre, ..Sketch::llama(256) }).await;
        let line = "a".repeat(64 * 1024);
        let asked = json!({"prompt": line, "max_tokens": 1});
        let (_, code, message) = engine.post("/v1/completions", &asked).await.refusal();
        assert_eq!(code, "context_length_exceeded", "{message}");
        assert!(message.contains("6553"), "{message}");
        let (_, code, message) = engine.chat(&line, json!({"max_tokens": 1})).await.refusal();
        assert_eq!(code, "context_length_exceeded", "{message}");
        let asked = json!({"input": line});
        let (_, code, message) = engine.post("/v1/embeddings", &asked).await.refusal();
        assert_eq!(code, "context_length_exceeded", "{message}");
        let asked = json!({"prompt": line.repeat(5), "max_tokens": 1});
        let (status, code, message) = engine.post("/v1/completions", &asked).await.refusal();
        assert_eq!((status, code.as_str()), (400, "line_too_long"), "{message}");
        // What has to be answered is cut, too.
        let schema = json!({"type": "string", "const": line});
        let format = json!({"type": "json_schema", "json_schema": {"name": "long", "schema": schema}});
        engine.chat("x", json!({"max_tokens": 4, "response_format": format})).await.ok();
        engine.stop().await;
    }
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
    let digits = json!({"type": "string", "pattern": "^[0-9a-f]{16}$"});
    let by_schema = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": digits}});
    for form in [json!({"type": "text"}), by_schema] {
        let ask = async |seed: Value| {
            let asked =
                json!({"max_tokens": 24, "temperature": 1.5, "seed": seed, "response_format": form});
            content(&engine.chat("x", asked).await.ok())
        };
        let first = ask(json!(7)).await;
        assert_eq!(ask(json!(7)).await, first);
        assert_ne!(ask(json!(8)).await, first);
        assert_ne!(ask(Value::Null).await, ask(Value::Null).await);
    }
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

/// Characters of four bytes, and so of four tokens of this vocabulary, and one of two.
#[tokio::test(flavor = "multi_thread")]
async fn a_character_of_several_tokens_is_streamed_whole() {
    let engine = Engine::start(512, 2).await;
    let schema = json!({"type": "string", "pattern": "^[\u{1F980}-\u{1F98F}\u{e0}-\u{ef}]{6}$"});
    let asked = json!({"stream": true, "max_tokens": 60, "temperature": 1.5, "seed": 5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
    let events = engine.chat("x", asked).await.events();
    let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    let deltas: Vec<&str> = deltas.filter(|delta| !delta.is_empty()).collect();
    assert!(deltas.iter().all(|delta| !delta.contains('\u{fffd}')), "{deltas:?}");
    let said: String = serde_json::from_str(&deltas.concat()).unwrap();
    assert_eq!(said.chars().count(), 6, "{said}");
    engine.stop().await;
}
