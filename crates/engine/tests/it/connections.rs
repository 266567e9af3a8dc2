//! Connections: kept, found dead, dropped, left idle.

use std::time::Duration;

use futures::future::join_all;
use overnight_engine::{Engine, OpenAi};

use crate::server::{Act, Seen, Server, call, good, is_refused, reply};

#[tokio::test]
async fn one_connection_serves_calls_that_follow_each_other() {
    let mut server = Server::start([
        good(),
        Act::Say(reply("400 No", &[], "{}")),
        Act::Say(reply("503 Busy", &[], "")),
        good(),
    ])
    .await;
    let engine = OpenAi::new(&server.config()).unwrap();
    for _ in 0..20 {
        let _ = engine.ask(call()).await.result;
        assert_eq!(server.next_request().await.0, 0);
    }
}

#[tokio::test]
async fn as_many_connections_as_calls_in_flight() {
    let mut server = Server::start([good()]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    for _ in 0..10 {
        for attempt in join_all((0..16).map(|_| engine.ask(call()))).await {
            attempt.result.unwrap();
        }
    }
    for _ in 0..160 {
        let connection = server.next_request().await.0;
        assert!(connection < 16, "connection {connection} was opened for 16 calls at a time");
    }
}

#[tokio::test]
async fn an_answer_that_closes_is_the_connections_last() {
    let close = Act::SayAndClose(reply("200 OK", &["connection: close"], crate::server::CHAT));
    let mut server = Server::start([close]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    for expected in 0..3 {
        engine.ask(call()).await.result.unwrap();
        assert_eq!(server.next_request().await.0, expected);
    }
}

/// An engine that closes a kept connection just as we write to it would otherwise look like a crash with every restart
/// and every idle timeout.
#[tokio::test]
async fn a_kept_connection_that_dies_without_a_byte_is_replaced() {
    for act in [Act::SayAndClose(Vec::new()), Act::Reset] {
        let mut server = Server::start([good(), act, good()]).await;
        let engine = OpenAi::new(&server.config()).unwrap();
        engine.ask(call()).await.result.unwrap();
        engine.ask(call()).await.result.unwrap();
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(server.next_request().await.0);
        }
        assert_eq!(connections, [0, 0, 1]);
    }
}

#[tokio::test]
async fn a_request_is_sent_again_only_once() {
    let mut server = Server::start([good(), Act::Reset, Act::Reset, good()]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    engine.ask(call()).await.result.unwrap();
    assert_eq!(engine.ask(call()).await.result.unwrap_err().kind(), "connection_lost");
    engine.ask(call()).await.result.unwrap();
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(server.next_request().await.0);
    }
    assert_eq!(connections, [0, 0, 1, 2]);
}

/// With a part of an answer on the wire the engine was at work: to send again could run a request twice.
#[tokio::test]
async fn a_kept_connection_that_dies_in_an_answer_is_not_replaced() {
    let mut server = Server::start([good(), Act::SayAndClose(b"HTTP/1.1 2".to_vec()), good()]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    engine.ask(call()).await.result.unwrap();
    assert_eq!(engine.ask(call()).await.result.unwrap_err().kind(), "connection_lost");
    engine.ask(call()).await.result.unwrap();
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(server.next_request().await.0);
    }
    assert_eq!(connections, [0, 0, 1]);
}

/// A request that kills the engine over a kept connection would never come under suspicion if that counted as `Down`:
/// the probe that finds the engine up again leaves the next kept connection behind.
#[tokio::test]
async fn an_engine_that_dies_of_a_request_over_a_kept_connection_is_not_merely_down() {
    let server = Server::start([good(), Act::Die]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    engine.ask(call()).await.result.unwrap();
    assert_eq!(engine.ask(call()).await.result.unwrap_err().kind(), "connection_lost");
    assert!(is_refused(server.port()).await);
    assert_eq!(engine.ask(call()).await.result.unwrap_err().kind(), "engine_unavailable");
}

#[tokio::test]
async fn a_dropped_call_closes_its_connection() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".to_vec();
    for said in [Vec::new(), half] {
        let mut server = Server::start([Act::SayAndHang(said), good()]).await;
        let engine = OpenAi::new(&server.config()).unwrap();
        let mut asked = engine.ask(call());
        tokio::select! {
            attempt = &mut asked => panic!("nobody answered, yet {attempt:?}"),
            request = server.next_request() => assert_eq!(request.0, 0),
        }
        drop(asked);
        assert_eq!(server.next().await, Seen::Closed { connection: 0 });
        engine.ask(call()).await.result.unwrap();
        assert_eq!(server.next_request().await.0, 1);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let mut server = Server::start([good()]).await;
    let mut config = server.config();
    config.idle_max = Duration::from_millis(30);
    let engine = OpenAi::new(&config).unwrap();
    engine.ask(call()).await.result.unwrap();
    server.next_request().await;
    assert_eq!(server.next().await, Seen::Closed { connection: 0 });
    engine.ask(call()).await.result.unwrap();
    assert_eq!(server.next_request().await.0, 1);
}

#[tokio::test]
async fn dropping_the_engine_closes_what_it_kept() {
    let mut server = Server::start([good()]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    engine.ask(call()).await.result.unwrap();
    server.next_request().await;
    drop(engine);
    assert_eq!(server.next().await, Seen::Closed { connection: 0 });
}
