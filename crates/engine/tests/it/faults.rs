//! The fault table, row by row.

use std::time::Duration;

use overnight_domain::fault::Fault;
use overnight_domain::route::Route;
use overnight_engine::{Attempt, Call, EndpointConfig, Engine, OpenAi};

use crate::server::{Act, CHAT, Server, call, closed_port, reply};

async fn attempt(act: Act, call: Call) -> Attempt {
    let server = Server::start([act]).await;
    OpenAi::new(&server.config()).unwrap().ask(call).await
}

async fn fault(act: Act) -> Fault {
    attempt(act, call()).await.result.unwrap_err()
}

const ENVELOPE: &str = r#"{"error":{"message":"as it is","type":"x","param":null,"code":null}}"#;

#[tokio::test]
async fn a_busy_engine_says_when_to_come_back() {
    let date = "date: Wed, 21 Oct 2015 07:28:00 GMT";
    for (status, headers, retry_after) in [
        ("429 Too Many Requests", vec!["retry-after: 2"], Some(2.0)),
        ("503 Service Unavailable", vec!["retry-after: 0.5"], Some(0.5)),
        ("529 Overloaded", vec!["retry-after: 99999"], Some(3600.0)),
        ("429 Too Many Requests", vec!["retry-after: Wed, 21 Oct 2015 07:28:09 GMT", date], Some(9.0)),
        ("429 Too Many Requests", vec!["retry-after: later"], None),
        ("429 Too Many Requests", vec![], None),
    ] {
        let found = fault(Act::Say(reply(status, &headers, ENVELOPE))).await;
        let expected = Fault::Busy {
            status: status[..3].parse().unwrap(),
            retry_after: retry_after.map(Duration::from_secs_f64),
            detail: "as it is".to_owned(),
        };
        assert_eq!(found, expected, "for {status} {headers:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_down() {
    let refused = format!("http://127.0.0.1:{}/v1", closed_port().await);
    for url in [refused.as_str(), "http://no-such-host.invalid/v1"] {
        let engine = OpenAi::new(&EndpointConfig::new("gpu0", url)).unwrap();
        let attempt = engine.ask(call()).await;
        assert_eq!(attempt.result.unwrap_err().kind(), "engine_unavailable", "for `{url}`");
        assert_eq!(attempt.first_byte_after, None);
        assert_eq!(engine.probe().await.unwrap_err().kind(), "engine_unavailable");
    }
}

#[tokio::test]
async fn trouble_of_either_side_keeps_the_engines_words() {
    for status in [
        "408 Request Timeout",
        "409 Conflict",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "504 Gateway Timeout",
    ] {
        let found = fault(Act::Say(reply(status, &[], ENVELOPE))).await;
        let expected =
            Fault::EngineError { status: status[..3].parse().unwrap(), body: ENVELOPE.into() };
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_wrong_set_up_is_not_the_requests_fault() {
    for status in ["401", "402", "403", "404", "405", "407"] {
        let found = fault(Act::Say(reply(&format!("{status} No"), &[], ENVELOPE))).await;
        let expected =
            Fault::Misconfigured { status: status.parse().unwrap(), detail: "as it is".to_owned() };
        assert_eq!(found, expected);
    }
    let found = fault(Act::Say(reply("307 Elsewhere", &["location: http://a/b"], ""))).await;
    let expected = Fault::Misconfigured { status: 307, detail: "redirects to `http://a/b`".to_owned() };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_refusal_is_kept_as_it_is() {
    for status in ["400", "406", "413", "415", "422", "451"] {
        let found = fault(Act::Say(reply(&format!("{status} No"), &[], ENVELOPE))).await;
        let expected = Fault::Refused { status: status.parse().unwrap(), body: ENVELOPE.into() };
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn long_error_bodies_are_cut() {
    let body = "z".repeat(2 * 1024 * 1024);
    let Fault::Refused { body: kept, .. } = fault(Act::Say(reply("400 No", &[], &body))).await else {
        panic!("400 is a refusal");
    };
    assert_eq!(kept.len(), 1024 * 1024);
    let Fault::EngineError { body: kept, .. } = fault(Act::Say(reply("500 No", &[], &body))).await
    else {
        panic!("500 is an engine error");
    };
    assert_eq!(kept.len(), 64 * 1024);
}

#[tokio::test]
async fn an_answer_that_is_none_is_garbage() {
    let cut = |text: &str| Act::SayAndClose(format!("HTTP/1.1 200 OK\r\n{text}").into_bytes());
    for (name, act) in [
        ("not json", Act::Say(reply("200 OK", &[], "<html>"))),
        ("empty", Act::Say(reply("200 OK", &[], ""))),
        ("array", Act::Say(reply("200 OK", &[], "[1]"))),
        ("cut json", Act::Say(reply("200 OK", &[], &CHAT[..40]))),
        ("two objects", Act::Say(reply("200 OK", &[], format!("{CHAT}{CHAT}")))),
        ("nan", Act::Say(reply("200 OK", &[], r#"{"choices":[NaN]}"#))),
        ("not utf-8", Act::Say(reply("200 OK", &[], b"{\"choices\":[\"\xff\"]}"))),
        ("no choices", Act::Say(reply("200 OK", &[], r#"{"choices":[]}"#))),
        ("compressed", Act::Say(reply("200 OK", &["content-encoding: gzip"], CHAT))),
        ("201", Act::Say(reply("201 Created", &[], CHAT))),
        ("204", Act::Say(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())),
        ("shorter than announced", cut(&format!("content-length: 900\r\n\r\n{CHAT}"))),
        ("chunk cut", cut("transfer-encoding: chunked\r\n\r\nff\r\n{\"choices\"")),
        ("no last chunk", cut("transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")),
        ("bad chunk", cut("transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n")),
        ("not http", Act::SayAndClose(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())),
    ] {
        assert_eq!(fault(act).await.kind(), "engine_garbage", "for {name}");
    }
    let no_data = Act::Say(reply("200 OK", &[], r#"{"object":"list"}"#));
    let attempt = attempt(no_data, Call { route: Route::Embeddings, ..call() }).await;
    assert_eq!(attempt.result.unwrap_err().kind(), "engine_garbage");
    assert!(attempt.first_byte_after.is_some());
}

#[tokio::test]
async fn an_answer_over_the_limit_is_dropped_with_its_connection() {
    let mut server = Server::start([Act::Say(reply("200 OK", &[], CHAT))]).await;
    let mut config = server.config();
    config.answer_len_max = CHAT.len() as u64;
    OpenAi::new(&config).unwrap().ask(call()).await.result.unwrap();
    server.next_request().await;
    config.answer_len_max -= 1;
    let engine = OpenAi::new(&config).unwrap();
    let limit = config.answer_len_max;
    for _ in 0..2 {
        assert_eq!(engine.ask(call()).await.result.unwrap_err(), Fault::TooLong { limit });
    }
    let (first, second) = (server.next_request().await.0, server.next_request().await.0);
    assert_eq!((first, second), (1, 2), "a connection with the rest of an answer was used again");
}

/// Sixty-four answers, each read up to the limit of 16 MiB at once, once took four hundred megabytes.
#[tokio::test]
async fn long_answers_are_read_a_few_at_a_time() {
    let long = format!("{{\"choices\":[1],\"text\":\"{}\"}}", "x".repeat(2_000_000));
    let mut half = reply("200 OK", &[], &long);
    half.truncate(1_500_000);
    let mut server = Server::start([Act::Say(half), Act::Say(reply("200 OK", &[], &long))]).await;
    let mut config = server.config();
    config.long_answers_max = 1;
    let engine = OpenAi::new(&config).unwrap();
    let short = Duration::from_millis(200);
    let holder = engine.ask(call());
    let others = async {
        server.next_request().await;
        // The first may still have been on its way to its turn.
        loop {
            let other = engine.ask(Call { deadline: short, stall: short, ..call() }).await;
            if other.result.is_err() {
                return other;
            }
        }
    };
    let other = tokio::select! {
        _ = holder => panic!("nobody had to wait for the first one"),
        other = others => other,
    };
    assert_eq!(other.result.unwrap_err().kind(), "request_timeout");
    // It has left, and with it its turn has come back.
    engine.ask(call()).await.result.unwrap();
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_lost_with_its_request() {
    for act in [
        Act::SayAndClose(Vec::new()),
        Act::Reset,
        Act::SayAndClose(b"HTTP/1.1 200 O".to_vec()),
        Act::Die,
    ] {
        let mut server = Server::start([act.clone()]).await;
        let attempt = OpenAi::new(&server.config()).unwrap().ask(call()).await;
        assert_eq!(attempt.result.unwrap_err().kind(), "connection_lost", "for {act:?}");
        assert_eq!(server.next_request().await.0, 0);
    }
}

#[tokio::test]
async fn patience_ends() {
    let short = Duration::from_millis(500);
    let half = format!("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{CHAT}");
    for (deadline, stall, said) in [
        (short, call().stall, ""),
        (call().deadline, short, ""),
        (short, call().stall, half.as_str()),
        (call().deadline, short, half.as_str()),
    ] {
        let act = Act::SayAndHang(said.as_bytes().to_vec());
        let mut server = Server::start([act]).await;
        let engine = OpenAi::new(&server.config()).unwrap();
        let attempt = engine.ask(Call { deadline, stall, ..call() }).await;
        assert_eq!(attempt.result.unwrap_err().kind(), "request_timeout");
        assert!(attempt.duration >= short);
        assert_eq!(attempt.first_byte_after.is_some(), !said.is_empty());
        server.next_request().await;
        assert_eq!(server.next().await, crate::server::Seen::Closed { connection: 0 });
    }
}
