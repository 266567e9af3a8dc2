//! Faults that a request asks for in its own text.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use overnight_sim::{Engine, Garbage, Script, answer_text};

use crate::SOON;
use crate::client::{Client, End, chat};

#[test]
fn a_status_comes_with_what_belongs_to_it() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    let busy = client.chat("[[sim:status=429,times=2,retry_after=1]]");
    assert_eq!(busy.status, 429);
    assert!(busy.head.contains("\r\nretry-after: 1\r\n"), "{}", busy.head);
    assert_eq!(client.chat("[[sim:status=429,times=2,retry_after=1]]").status, 429);
    assert_eq!(client.chat("[[sim:status=429,times=2,retry_after=1]]").status, 200);
    let refused = client.chat("[[sim:status=400,code=content_policy]]");
    assert_eq!((refused.status, refused.code()), (400, "content_policy".to_owned()));
    assert!(client.chat("[[sim:status=307]]").head.contains("\r\nlocation: "));
    let misspelt = client.chat("[[sim:statsu=400]]");
    assert_eq!((misspelt.status, misspelt.code()), (400, "sim_directive".to_owned()));
}

#[test]
fn a_reset_and_an_early_close_are_told_apart() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    client.send_chat("[[sim:reset]]");
    assert_eq!(client.answer().unwrap_err(), End::Reset);
    let mut client = Client::connect(engine.addr());
    client.send_chat("[[sim:early_close]]");
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
}

#[test]
fn a_delay_is_waited_for() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    let asked = Instant::now();
    client.chat("[[sim:delay_ms=60]]");
    assert!(asked.elapsed() >= Duration::from_millis(60));
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    let engine = Engine::start(Script { slots: Some(1), ..Script::default() }).unwrap();
    let mut hanging = Client::connect(engine.addr());
    hanging.send_chat("[[sim:hang]]");
    assert!(engine.wait_until(|calls| calls.in_flight == 1, SOON));
    let mut waiting = Client::connect(engine.addr());
    waiting.send_chat("next");
    assert!(engine.wait_until(|calls| calls.in_flight == 2, SOON));
    drop(hanging);
    assert_eq!(waiting.answer().unwrap().status, 200);
    assert!(engine.wait_until(|calls| calls.in_flight == 0, SOON));
    assert_eq!(engine.calls().abandoned, 1);
}

#[test]
fn a_crash_takes_all_connections_and_the_listener() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut bystander = Client::connect(engine.addr());
    bystander.send_chat("[[sim:hang]]");
    assert!(engine.wait_until(|calls| calls.in_flight == 1, SOON));
    let mut poison = Client::connect(engine.addr());
    poison.send_chat("[[sim:crash,times=1]]");
    assert_eq!(poison.rest(), (Vec::new(), End::Closed));
    assert_eq!(bystander.rest(), (Vec::new(), End::Closed));
    assert!(engine.wait_until(|calls| calls.crashes == 1 && calls.in_flight == 0, SOON));
    assert!(TcpStream::connect(engine.addr()).is_err());
    engine.restart();
    assert_eq!(Client::connect(engine.addr()).chat("[[sim:crash,times=1]]").status, 200);
}

#[test]
fn every_class_of_garbage_is_what_its_name_says() {
    let engine = Engine::start(Script::default()).unwrap();
    let good = |text: &str| answer_text(&chat(text));
    for garbage in Garbage::ALL {
        let shape = if garbage == Garbage::SlowLoris { "period_ms=1" } else { "len=300000" };
        let text = format!("[[sim:garbage={garbage},{shape}]]");
        let mut client = Client::connect(engine.addr()).with_patience(Duration::from_secs(1));
        // So that only what is silent is waited for.
        client.send("POST", "/v1/chat/completions", "connection: close\r\n", &chat(&text));
        let (bytes, end) = client.rest();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let body = head_end.map_or(&b""[..], |head_end| &bytes[head_end + 4..]);
        let declared = declared_len(&bytes);
        let is_as_named = match garbage {
            Garbage::Hang => bytes.is_empty() && end == End::Silent,
            Garbage::EarlyClose => bytes.is_empty() && end == End::Closed,
            Garbage::SlowLoris => declared == Some(body.len()),
            Garbage::Truncated => declared > Some(body.len()) && end == End::Closed,
            Garbage::WrongLengthLong => declared > Some(body.len()) && end == End::Silent,
            Garbage::WrongLengthShort => declared < Some(body.len()),
            Garbage::Huge => body.len() == 300_000 && declared == Some(300_000),
            Garbage::InvalidUtf8 => std::str::from_utf8(body).is_err(),
            Garbage::Html200 => shown.contains("text/html") && body.starts_with(b"<!DOCTYPE"),
            Garbage::WrongShape => shown.contains(r#""object":"list""#),
            Garbage::EmptyChoices => shown.contains(r#""choices":[]"#),
            Garbage::DuplicateKeys => {
                let text = String::from_utf8_lossy(body);
                text.matches(r#""choices":"#).count() == 2
            }
            Garbage::Nan => body.ends_with(b",\"score\":NaN,\"limit\":-Infinity}"),
            Garbage::GzipBomb => {
                body.starts_with(&[0x1F, 0x8B]) && shown.contains("content-encoding: gzip")
            }
            Garbage::NewlineNoise => {
                body.starts_with(b"\n\n") && serde_json::from_slice::<serde_json::Value>(body).is_ok()
            }
            Garbage::EmptyBody => declared == Some(0) && body.is_empty(),
            Garbage::NotObject => body == b"[1,2,3]",
            Garbage::DeepNesting => body.len() == 200_000,
            Garbage::BadStatusLine => !shown.starts_with("HTTP/"),
            Garbage::EndlessHeaders => bytes.len() > 290_000 && head_end.is_none(),
            Garbage::BadChunk => shown.contains("chunked") && body.starts_with(b"XYZ"),
            Garbage::TruncatedSse => shown.contains("text/event-stream") && end == End::Closed,
            Garbage::HalfJson => declared == Some(body.len()) && !body.ends_with(b"}"),
        };
        assert!(is_as_named, "{garbage}: {end:?} {shown}");
    }
    let mut client = Client::connect(engine.addr());
    assert_eq!(client.chat("well").content(), good("well"));
}

#[test]
fn a_slow_answer_is_the_right_one() {
    let engine = Engine::start(Script::default()).unwrap();
    let mut client = Client::connect(engine.addr());
    let text = "[[sim:slow_loris,period_ms=1]]";
    assert_eq!(client.chat(text).content(), answer_text(&chat(text)));
}

fn declared_len(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    text.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()
}
