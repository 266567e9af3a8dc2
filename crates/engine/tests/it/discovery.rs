//! Looking for engines on this machine.

use std::time::Duration;

use overnight_domain::engine_facts::Flavour;
use overnight_engine::{Found, discover};

use crate::server::{Act, Server, closed_port, reply};

#[tokio::test]
async fn finds_who_answers_with_models_and_waits_for_nobody() {
    let list = r#"{"data":[{"id":"tiny"}]}"#;
    let engine = Server::start([Act::Say(reply("200 OK", &[], list))]).await;
    let second = Server::start([Act::Say(reply("200 OK", &[], list))]).await;
    let website = Server::start([Act::Say(reply("200 OK", &[], "<html>"))]).await;
    let silent = Server::start([Act::SayAndHang(Vec::new())]).await;
    let ports = [silent.port(), closed_port().await, website.port(), engine.port(), second.port()];
    let found = discover(&ports, Duration::from_secs(3)).await;
    let told =
        |found: &Found| (found.name.clone(), found.url.clone(), found.facts.models[0].name.clone());
    let expected = |name: &str, port: u16| {
        (name.to_owned(), format!("http://127.0.0.1:{port}/v1"), "tiny".to_owned())
    };
    assert_eq!(
        found.iter().map(told).collect::<Vec<_>>(),
        [expected("engine", engine.port()), expected("engine-2", second.port())]
    );
    assert_eq!(found[0].facts.flavour, Flavour::Other);
}
