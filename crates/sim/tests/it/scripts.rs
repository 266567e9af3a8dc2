//! How the engine as a whole behaves.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use overnight_sim::{Engine, Latency, Permits, Script, When};

use crate::SOON;
use crate::client::{Client, End, chat};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn slots_bound_what_is_served_at_once() {
    let script = Script { slots: Some(2), latency: Latency::Fixed(ms(40)), ..Script::default() };
    let engine = Engine::start(script).unwrap();
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(engine.addr())).collect();
    let asked = Instant::now();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send_chat(&index.to_string());
    }
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    assert!(asked.elapsed() >= ms(120), "six in two slots take three rounds");
}

#[test]
fn permits_refuse_what_is_too_much() {
    let permits = Some(Permits { max: 1, status: 529, retry_after: Some("7".to_owned()) });
    let engine = Engine::start(Script { permits, ..Script::default() }).unwrap();
    let mut first = Client::connect(engine.addr());
    first.send_chat("[[sim:hang]]");
    assert!(engine.wait_until(|calls| calls.in_flight == 1, SOON));
    let mut second = Client::connect(engine.addr());
    let refused = second.chat("x");
    assert_eq!(refused.status, 529);
    assert!(refused.head.contains("retry-after: 7"));
    drop(first);
    assert!(engine.wait_until(|calls| calls.in_flight == 0, SOON));
    assert_eq!(second.chat("x").status, 200);
    assert_eq!(engine.calls().refused, 1);
}

#[test]
fn a_script_may_change_while_connections_are_kept() {
    let rule = "status=401".parse().unwrap();
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    assert_eq!(client.chat("x").status, 200);
    engine.set_script(Script::default().with_rule(When::Next(2), rule));
    assert_eq!(
        [client.chat("x").status, client.chat("x").status, client.chat("x").status],
        [401, 401, 200]
    );
    let script = br#"{"models": ["other"], "rules": [{"when": "always", "probes": true, "do": "status=503,retry_after=soon"}]}"#;
    assert_eq!(client.ask("POST", "/sim/script", script).status, 200);
    let busy = client.chat("x");
    assert_eq!(busy.status, 503);
    assert!(busy.head.contains("retry-after: soon"));
    assert_eq!(client.ask("GET", "/health", b"").status, 503);
    assert_eq!(engine.script().models, ["other"]);
    assert_eq!(client.ask("POST", "/sim/script", b"{\"slotz\": 1}").status, 400);
    assert_eq!(client.ask("GET", "/sim/script", b"").json()["models"][0], "other");
    assert_eq!(client.ask("POST", "/sim/script", b"{}").status, 200);
    assert_eq!(client.chat("x").status, 200);
}

#[test]
fn a_crash_at_the_nth_request_and_back_on_the_same_port() {
    let script = Script { restart_after: Some(ms(50)), ..Script::default() };
    let engine = Engine::start(script.with_rule(When::At(3), "crash".parse().unwrap())).unwrap();
    let mut client = Client::connect(engine.addr());
    assert_eq!([client.chat("a").status, client.chat("b").status], [200, 200]);
    client.send_chat("c");
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
    assert!(engine.wait_until(|calls| calls.crashes == 1 && calls.is_listening, SOON));
    assert_eq!(Client::connect(engine.addr()).chat("c").status, 200);
}

#[test]
fn a_crash_from_outside_lasts_until_the_restart() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    client.chat("a");
    engine.crash();
    assert_eq!(client.rest().1, End::Closed);
    engine.set_script(Script::default());
    assert!(TcpStream::connect(engine.addr()).is_err(), "a script does not bring it back");
    engine.restart();
    assert_eq!(Client::connect(engine.addr()).chat("a").status, 200);
}

#[test]
fn connections_are_refused_as_long_as_the_script_says() {
    let away = Script { refuse: Some(Duration::MAX), ..Script::default() };
    let engine = Engine::start(away.clone()).unwrap();
    assert!(TcpStream::connect(engine.addr()).is_err());
    engine.set_script(Script::default());
    let mut kept = Client::connect(engine.addr());
    assert_eq!(kept.chat("a").status, 200);
    engine.set_script(away);
    assert!(TcpStream::connect(engine.addr()).is_err());
    assert_eq!(kept.chat("b").status, 200);
    engine.set_script(Script { refuse: Some(ms(20)), ..Script::default() });
    assert!(engine.wait_until(|calls| calls.is_listening, SOON));
    assert_eq!(Client::connect(engine.addr()).chat("c").status, 200);
}

#[test]
fn kept_connections_die_as_the_script_says() {
    let engine = Engine::start(Script { answers_per_connection: Some(1), ..Script::default() }).unwrap();
    let mut client = Client::connect(engine.addr());
    assert_eq!(client.chat("a").status, 200);
    client.send_chat("b");
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
    assert_eq!(engine.calls_of_body(&chat("b")), 0);
    engine.set_script(Script { idle_close: Some(ms(20)), ..Script::default() });
    let mut client = Client::connect(engine.addr());
    assert_eq!(client.chat("a").status, 200);
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
}

#[test]
fn limits_of_the_engine_are_refusals_in_its_own_words() {
    let script = Script {
        strict_models: true,
        context_bytes: Some(2000),
        api_key: Some("secret".to_owned()),
        check_json: true,
        ..Script::default()
    };
    let engine = Engine::start(script).unwrap();
    let mut client = Client::connect(engine.addr());
    assert_eq!(client.chat("x").code(), "invalid_api_key");
    assert_eq!(client.ask("GET", "/v1/models", b"").status, 401);
    let mut refused = |body: &[u8]| {
        client.send("POST", "/v1/chat/completions", "Authorization: Bearer secret\r\n", body);
        let answer = client.answer().unwrap();
        (answer.status, answer.code())
    };
    assert_eq!(refused(&chat(&"x".repeat(3000))), (400, "context_length_exceeded".to_owned()));
    assert_eq!(refused(br#"{"model":"nobody"}"#), (404, "model_not_found".to_owned()));
    assert_eq!(refused(br#"{"model":"sim-model""#), (400, "invalid_json".to_owned()));
    assert_eq!(refused(&chat("x")).0, 200);
}

#[test]
fn several_threads_answer_the_same() {
    let setup = overnight_sim::Setup { threads: 2, ..overnight_sim::Setup::default() };
    let engine = Engine::start_with(setup).unwrap();
    let body = Client::connect(engine.addr()).chat("x").body;
    for _ in 0..20 {
        assert_eq!(Client::connect(engine.addr()).chat("x").body, body);
    }
    let addr = engine.addr();
    engine.stop();
    assert!(TcpStream::connect(addr).is_err());
}

#[tokio::test]
async fn it_serves_a_test_that_has_a_runtime_of_its_own() {
    let engine = Engine::start(Script::default()).unwrap();
    let addr = engine.addr();
    let asking = tokio::task::spawn_blocking(move || Client::connect(addr).chat("x").status);
    assert!(engine.reaches(|calls| calls.finished == 1, SOON).await);
    assert_eq!(asking.await.unwrap(), 200);
    engine.crash();
    engine.restart();
}
