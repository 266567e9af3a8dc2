//! What goes over the wire, and what comes back when all is well.

use std::time::Duration;

use bytes::Bytes;
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;
use overnight_engine::{Call, Engine, OpenAi, Secret};

use crate::server::{Act, CHAT, Server, call, good, header, reply};

#[tokio::test]
async fn an_answer_is_passed_on_as_it_came() {
    let server = Server::start([good()]).await;
    let attempt = OpenAi::new(&server.config()).unwrap().ask(call()).await;
    let answer = attempt.result.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, CHAT);
    assert_eq!(answer.model.as_deref(), Some("tiny"));
    assert_eq!(answer.request_id.as_deref(), Some("req_7"));
    assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (9, 2));
    assert!(attempt.first_byte_after.unwrap() <= attempt.duration);
}

#[tokio::test]
async fn a_body_goes_out_byte_for_byte() {
    let mut server = Server::start([good()]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    let odd: &[u8] = b"{ \"model\" : \"a\\u0062\",\t\"n\":1.00,\"n\":2,\"x\":\"\xe2\x80\xa8\" }";
    let long = format!("{{\"messages\":\"{}\"}}", "x".repeat(3_000_000));
    for body in [Bytes::from_static(odd), Bytes::from(long)] {
        engine.ask(Call { body: body.clone(), ..call() }).await.result.unwrap();
        assert!(server.next_request().await.2 == body, "the body was changed");
    }
}

#[tokio::test]
async fn every_route_is_joined_and_headers_are_sent() {
    let object = r#"{"choices":[1],"data":[1]}"#;
    let mut server = Server::start([Act::Say(reply("200 OK", &[], object))]).await;
    let mut config = server.config();
    config.api_key = Some(Secret::new("sk-1"));
    config.headers = vec![header("x-team", "night"), header("user-agent", "mine/1")];
    let engine = OpenAi::new(&config).unwrap();
    for route in Route::ALL {
        engine.ask(Call { route, ..call() }).await.result.unwrap();
        let (_, mut head, _) = server.next_request().await;
        // For some routes it must be known first which engine this is.
        while head.starts_with("GET ") {
            head = server.next_request().await.1;
        }
        assert!(head.starts_with(&format!("POST {} HTTP/1.1\r\n", route.path())), "{head}");
        for line in [
            format!("host: 127.0.0.1:{}", server.port()),
            "authorization: Bearer sk-1".to_owned(),
            "content-type: application/json".to_owned(),
            "accept: application/json".to_owned(),
            "x-team: night".to_owned(),
            "user-agent: mine/1".to_owned(),
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "no `{line}` in {head}");
        }
        assert!(!head.contains("overnight/"), "{head}");
    }
}

#[tokio::test]
async fn chunked_answers_in_many_pieces_are_put_together() {
    let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in CHAT.as_bytes().chunks(7) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let long = format!(r#"{{"choices":["{}"]}}"#, "y".repeat(5_000_000));
    let server = Server::start([Act::Say(bytes), Act::Say(reply("200 OK", &[], &long))]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    assert_eq!(engine.ask(call()).await.result.unwrap().body, CHAT);
    assert!(engine.ask(call()).await.result.unwrap().body == long, "the long answer was changed");
}

#[tokio::test]
async fn models_are_listed_and_a_probe_knocks() {
    let list = r#"{"object":"list","data":[{"id":"tiny"},{"id":"org/big:7b"}]}"#;
    let mut server = Server::start([Act::Say(reply("200 OK", &[], list))]).await;
    let engine = OpenAi::new(&server.config()).unwrap();
    assert_eq!(engine.models().await.unwrap(), ["tiny", "org/big:7b"]);
    engine.probe().await.unwrap();
    for _ in 0..2 {
        let (connection, head, body) = server.next_request().await;
        assert!(head.starts_with("GET /v1/models HTTP/1.1\r\n"), "{head}");
        assert_eq!((connection, body.len()), (0, 0));
    }
}

#[tokio::test]
async fn a_probe_asks_only_whether_somebody_would_let_us_in() {
    for (status, expected) in [
        ("404 Not Found", None),
        ("429 Too Many Requests", None),
        ("401 Unauthorized", Some("endpoint_misconfigured")),
        ("403 Forbidden", Some("endpoint_misconfigured")),
        ("503 Service Unavailable", Some("engine_busy")),
        ("500 Internal Server Error", Some("engine_error")),
    ] {
        let server = Server::start([Act::Say(reply(status, &[], "{}"))]).await;
        let result = OpenAi::new(&server.config()).unwrap().probe().await;
        assert_eq!(result.as_ref().err().map(Fault::kind), expected, "for {status}");
    }
}

#[tokio::test]
async fn a_probe_of_a_silent_engine_ends() {
    let server = Server::start([Act::SayAndHang(Vec::new())]).await;
    let mut config = server.config();
    config.probe_timeout = Duration::from_millis(500);
    let fault = OpenAi::new(&config).unwrap().probe().await.unwrap_err();
    assert_eq!(fault.kind(), "request_timeout");
}

#[tokio::test]
async fn a_key_that_the_engine_repeats_is_hidden() {
    let body = r#"{"error":{"message":"wrong key sk-hidden, sorry"}}"#;
    let server = Server::start([Act::Say(reply("401 Unauthorized", &[], body))]).await;
    let mut config = server.config();
    config.api_key = Some(Secret::new("sk-hidden"));
    let engine = OpenAi::new(&config).unwrap();
    let fault = engine.ask(call()).await.result.unwrap_err();
    let detail = "wrong key [secret], sorry".to_owned();
    assert_eq!(fault, Fault::Misconfigured { status: 401, detail });
    assert!(!format!("{engine:?}").contains("hidden"));
}
