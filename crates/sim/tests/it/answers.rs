//! Plain answers: each route, deterministic, over kept connections.

use overnight_domain::route::Route;
use overnight_sim::{Engine, Script, UNICODE_TEXT, answer_text};
use serde_json::json;

use crate::client::{Client, chat};

#[test]
fn equal_requests_get_equal_bytes_on_any_connection_in_any_order() {
    let engine = Engine::start(Script::default()).unwrap();
    let texts = ["one", "two", "three"];
    let forth = texts.map(|text| Client::connect(engine.addr()).chat(text).body);
    let mut kept = Client::connect(engine.addr());
    let mut back: Vec<Vec<u8>> = texts.iter().rev().map(|text| kept.chat(text).body).collect();
    back.reverse();
    assert_eq!(forth.as_slice(), back.as_slice());
    assert_ne!(forth[0], forth[1]);
    let answer = kept.chat("one");
    assert_eq!(answer.content(), answer_text(&chat("one")));
    assert_eq!(answer.json()["model"], "sim-model");
    assert!(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].is_u64());
}

#[test]
fn every_route_answers() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    let body = json!({"model": "m", "messages": [], "prompt": "p", "input": ["a", "b"], "query": "q",
        "documents": ["d"], "text_1": "a", "text_2": ["b"]});
    for route in Route::ALL {
        let answer = client.ask("POST", route.path(), body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", route.path());
        assert_eq!(answer.json()["model"], "m", "{}", route.path());
        let refused = client.ask("GET", route.path(), b"");
        assert_eq!(refused.status, 405);
    }
    assert_eq!(client.ask("GET", "/health", b"").json()["status"], "ok");
    let models = client.ask("GET", "/v1/models", b"").json();
    assert_eq!(models["data"][0]["id"], "sim-model");
    assert_eq!(client.ask("POST", "/v1/nothing", b"{}").status, 404);
    let bad = client.ask("POST", "/v1/embeddings", b"{}");
    assert_eq!((bad.status, bad.json()["error"]["type"].as_str()), (400, Some("invalid_request_error")));
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    for text in ["a", "b [[sim:delay_ms=20]]", "c"] {
        client.send_chat(text);
    }
    for text in ["a", "b [[sim:delay_ms=20]]", "c"] {
        assert_eq!(client.answer().unwrap().content(), answer_text(&chat(text)));
    }
}

#[test]
fn a_request_may_come_in_pieces_and_be_large() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    let body = chat(&"x".repeat(5_000_000));
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    for piece in head.as_bytes().chunks(7) {
        client.send_raw(piece);
    }
    for piece in body.chunks(1 << 20) {
        client.send_raw(piece);
    }
    assert_eq!(client.answer().unwrap().content(), answer_text(&body));
    assert_eq!(engine.calls_of_body(&body), 1);
}

#[test]
fn what_is_no_proper_request_is_told_so() {
    let engine = Engine::start(Script::default()).unwrap();
    for (request, status) in [
        ("NONSENSE\r\n\r\n".to_owned(), 400),
        ("POST /v1/responses HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), 411),
        ("POST /v1/responses HTTP/1.1\r\ncontent-length: 999999999999\r\n\r\n".to_owned(), 413),
    ] {
        let mut client = Client::connect(engine.addr());
        client.send_raw(request.as_bytes());
        assert_eq!(client.answer().unwrap().status, status);
    }
}

#[test]
fn the_client_decides_whether_the_connection_is_kept() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    client.send("POST", "/v1/chat/completions", "connection: close\r\n", &chat("last"));
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.rest(), (Vec::new(), crate::client::End::Closed));
    let mut careful = Client::connect(engine.addr());
    let body = chat("careful");
    careful.send_raw(
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    careful.expect_raw(b"HTTP/1.1 100 Continue\r\n\r\n");
    careful.send_raw(&body);
    assert_eq!(careful.answer().unwrap().content(), answer_text(&body));
}

#[test]
fn the_text_may_be_shaped() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    assert_eq!(client.chat("x [[sim:echo]]").content(), "x [[sim:echo]]");
    assert_eq!(client.chat("[[sim:unicode]]").content(), UNICODE_TEXT);
    assert_eq!(client.chat("[[sim:len=1048576]]").content().len(), 1_048_576);
    // The characters stand in the bytes as they are; only then do they part a careless reader's lines.
    let raw = client.chat("[[sim:unicode]]").body;
    assert!(String::from_utf8(raw).unwrap().contains('\u{2028}'));
}

#[test]
fn calls_are_counted_and_can_be_read() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    for text in ["a [[sim:id=first]]", "b [[sim:id=second]]", "b [[sim:id=second]]", "c"] {
        client.chat(text);
    }
    assert_eq!((engine.calls_of_marker("first"), engine.calls_of_marker("second")), (1, 2));
    assert_eq!(engine.calls_of_body(&chat("c")), 1);
    assert_eq!(engine.calls_of_body(&chat("never")), 0);
    assert_eq!(engine.order(), ["first", "second", "second"]);
    let calls = engine.calls();
    assert_eq!((calls.total, calls.requests, calls.finished, calls.in_flight), (4, 3, 4, 0));
    let read = client.ask("GET", "/sim/calls", b"").json();
    assert_eq!(read["histogram"], json!({"1": 2, "2": 1}));
    assert_eq!(read["order"].as_array().map(Vec::len), Some(3));
    client.ask("DELETE", "/sim/calls", b"");
    assert_eq!(engine.calls().total, 0);
    assert_eq!(engine.order(), Vec::<String>::new());
    assert_eq!(read["total"], 4);
}
