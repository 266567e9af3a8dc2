//! Many callers at once, those who leave, and those who are slow.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::harness::{Engine, chat, content};

/// Waits until the engine has nothing to do.
async fn idle(engine: &Engine) {
    let freed = async {
        while engine.metric("requests_running").await + engine.metric("requests_waiting").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), freed).await.expect("all are forgotten");
}

/// Each of them reads the beginning of its answer and hangs up, or hangs up waiting.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_frees_their_place() {
    let engine = Engine::start(4_096, 4).await;
    let greedy = json!({"max_tokens": 16, "temperature": 0});
    let before = content(&engine.chat("still there", greedy.clone()).await.ok());
    let body = |streams: bool| {
        chat("x", json!({"stream": streams, "temperature": 1.9, "max_tokens": 4_000})).to_string()
    };
    let hang_up = async |number: usize| {
        let streams = !number.is_multiple_of(4);
        let mut stream = engine.connect("POST", "/v1/chat/completions", &body(streams)).await;
        let mut byte = [0];
        // Those behind the first four wait for their place, and so do those who want their answer whole.
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut byte)).await;
    };
    futures::future::join_all((0..64).map(hang_up)).await;
    idle(&engine).await;
    let after = engine.chat("still there", greedy).await.ok();
    assert_eq!((content(&after), &after["usage"]["prompt_tokens"]), (before, &json!(29)));
    engine.stop().await;
}

/// One slot, and so 65 places: 1,000 at once are answered, or told to come again.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_queue_holds_are_told_to_come_again() {
    let engine = Engine::start(256, 1).await;
    let ask = json!({"max_tokens": 100, "temperature": 1.9});
    let answers = futures::future::join_all((0..1_000).map(|_| engine.chat("x", ask.clone()))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(taken.len() >= 65, "{} were taken", taken.len());
    assert!(!refused.is_empty(), "all were taken: there was no crowd");
    for answer in refused {
        let (status, code, message) = answer.refusal();
        assert_eq!(
            (status, code.as_str(), answer.header("retry-after")),
            (429, "queue_full", Some("1"))
        );
        assert!(message.contains("65"), "{message}");
    }
    idle(&engine).await;
    engine.chat("x", json!({"max_tokens": 1})).await.ok();
    engine.stop().await;
}

/// Its answer is longer than a socket holds. Others are answered meanwhile, and it misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_keeps_nobody_waiting_and_misses_nothing() {
    let engine = Engine::start(8_192, 2).await;
    let schema =
        json!({"type": "string", "minLength": 2_000, "maxLength": 2_000, "pattern": "^[a-z]*$"});
    let asked = json!({"stream": true, "max_tokens": 3_000, "temperature": 1.5, "seed": 2,
        "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 20,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
    let slow = engine.connect("POST", "/v1/chat/completions", &chat("x", asked).to_string()).await;
    let begun = async {
        while engine.metric("answer_tokens_total").await < 100.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begun).await.expect("the answer begins");
    for _ in 0..4 {
        engine.chat("quick", json!({"max_tokens": 4})).await.ok();
    }
    // All is said, though nobody has read it.
    idle(&engine).await;
    let events = engine.read(slow).await.events();
    let deltas: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    let said: String = serde_json::from_str(&deltas).unwrap();
    assert_eq!(said.len(), 2_000);
    let shown = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
    let shown: usize = shown.map(Vec::len).sum();
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], shown);
    engine.stop().await;
}

/// They were answered 500, which costs an attempt.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_when_it_stops_is_told_to_come_again() {
    let mut engine = Engine::start(8_192, 1).await;
    let schema = json!({"type": "string", "minLength": 2_000, "pattern": "^[a-z]*$"});
    let long = json!({"max_tokens": 8_000,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
    let mut asked = Vec::new();
    for _ in 0..16 {
        let body = chat("x", long.clone()).to_string();
        asked.push(engine.connect("POST", "/v1/chat/completions", &body).await);
    }
    let texts = json!({"model": "random", "input": vec!["a"; 500]}).to_string();
    asked.push(engine.connect("POST", "/v1/embeddings", &texts).await);
    let taken = async {
        while engine.metric("embedded_tokens_total").await < 1.0
            || engine.metric("requests_waiting").await < 4.0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), taken).await.expect("they are there");
    engine.begin_stop();
    let mut refused = 0;
    for stream in asked {
        let answer = engine.read(stream).await;
        // Who comes to an end before is up to the machine.
        if answer.status != 200 {
            let (status, code, _) = answer.refusal();
            let told = (status, code.as_str(), answer.header("retry-after"));
            assert_eq!(told, (503, "stopping", Some("1")), "{}", answer.text);
            refused += 1;
        }
    }
    assert!(refused > 0, "all were answered: nobody was there when it stopped");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_is_answered_in_the_dialect() {
    let engine = Engine::start(256, 1).await;
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "7",
        "null",
        "[]",
        "{",
        "{\"messages\": \"\u{0}\"}",
        "{}",
        "{\"prompt\": 1e999}",
        "{\"input\": {}}",
        "{\"input\": [[[]]]}",
        "{\"prompt\": [-1]}",
        "{\"prompt\": [2147483648]}",
        "{\"prompt\": [\"a\", 1]}",
        "{\"messages\": [[]]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": [7]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"tool_calls\": 7}], \"max_tokens\": 0}",
        deep.as_str(),
    ] {
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] {
            let answer = engine.post_text(path, body).await;
            let error = &answer.json()["error"];
            assert!((400..500).contains(&answer.status), "{path} {body}: {}", answer.text);
            assert!(
                error["message"].is_string() && error["type"].is_string(),
                "{path} {body}: {}",
                answer.text
            );
        }
    }
    engine.chat("x", json!({"max_tokens": 1})).await.ok();
    engine.stop().await;
}
