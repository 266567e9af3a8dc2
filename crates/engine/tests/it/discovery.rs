//! Looking for engines on this machine.

use std::time::Duration;

use overnight_engine::{Candidate, Found, discover};

use crate::server::{Act, Server, closed_port, reply};

#[tokio::test]
async fn finds_who_answers_with_models_and_waits_for_nobody() {
    let list = r#"{"data":[{"id":"tiny"}]}"#;
    let engine = Server::start([Act::Say(reply("200 OK", &[], list))]).await;
    let website = Server::start([Act::Say(reply("200 OK", &[], "<html>"))]).await;
    let silent = Server::start([Act::SayAndHang(Vec::new())]).await;
    let candidates = [
        Candidate { kind: "sglang", port: silent.port() },
        Candidate { kind: "vllm", port: closed_port().await },
        Candidate { kind: "llama.cpp", port: website.port() },
        Candidate { kind: "ollama", port: engine.port() },
    ];
    let found = discover(&candidates, Duration::from_millis(500)).await;
    let url = format!("http://127.0.0.1:{}/v1", engine.port());
    assert_eq!(found, [Found { kind: "ollama", url, models: vec!["tiny".to_owned()] }]);
}
