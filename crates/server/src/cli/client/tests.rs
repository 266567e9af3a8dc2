use std::io::Read as _;

use serde_json::Value;

use super::super::download::Download;
use super::super::tests::scripted::{Scripted, json};
use super::*;

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let line = request.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

#[test]
fn a_busy_server_is_asked_again_when_it_says_so() {
    let busy = r#"{"error":{"message":"full","type":"t","param":null,"code":"queue_full"}}"#;
    let server = Scripted::start(vec![
        json(429, "Retry-After: 0\r\n", busy),
        json(503, "Retry-After: 0\r\n", busy),
        json(200, "", r#"{"id":"batch_1"}"#),
    ]);
    let call = Call::post("/v1/batches", Some("{}".to_owned()));
    let (raw, value): (_, Value) = server.client().json(&call).unwrap();
    assert_eq!(raw.get(), r#"{"id":"batch_1"}"#);
    assert_eq!(value["id"], "batch_1");
    let requests = server.requests();
    assert_eq!(header(&requests[0], "authorization"), Some("Bearer sk-1"));
    let key = header(&requests[0], "idempotency-key");
    assert!(key.is_some() && key == header(&requests[2], "idempotency-key"), "{requests:?}");
}

/// The connection is lost after the server may have created the batch: the second call names the same creation.
#[test]
fn a_creation_that_got_no_answer_is_repeated_under_its_name() {
    let server = Scripted::start(vec![String::new(), json(200, "", "{}")]);
    let call = Call::post("/v1/batches", Some("{}".to_owned()));
    server.client().json::<Value>(&call).unwrap();
    let requests = server.requests();
    let key = |at: usize| header(&requests[at], "idempotency-key").map(str::to_owned);
    assert!(key(0).is_some());
    assert_eq!(key(0), key(1));
}

#[test]
fn an_answer_that_breaks_off_is_read_again() {
    let cut = json(200, "", r#"{"id":1}"#).replace(":1}", "");
    let server = Scripted::start(vec![cut, json(200, "", r#"{"id":2}"#)]);
    let (_, value): (_, Value) = server.client().json(&Call::get("/v1/batches/batch_1")).unwrap();
    assert_eq!(value["id"], 2);
}

#[test]
fn a_refusal_is_one_line_that_says_what_to_do() {
    for (status, body, shown) in [
        (
            404,
            r#"{"error":{"message":"No batch found with id 'x'.","type":"t","param":"id","code":null}}"#,
            "No batch found with id 'x'; `overnight list` shows the batches",
        ),
        (
            401,
            r#"{"error":{"message":"wrong key","type":"t","param":null,"code":"invalid_api_key"}}"#,
            "wrong key; set OVERNIGHT_API_KEY to a key of this server",
        ),
        (400, "<html>nonsense", "the server answered 400 <html>nonsense"),
        (500, "", "the server answered 500; the log of the server says more"),
    ] {
        let server = Scripted::start(vec![json(status, "", body)]);
        let error = server.client().json::<Value>(&Call::get("/v1/x")).unwrap_err();
        assert_eq!(error.to_string(), shown);
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn where_no_server_is_the_command_ends_at_once() {
    let server = Scripted::start(Vec::new());
    let client = server.client();
    server.requests();
    let error = client.json::<Value>(&Call::get("/v1/batches")).unwrap_err().to_string();
    assert!(error.starts_with("no server answers at http://127.0.0.1:"), "{error}");
    assert!(error.contains("`overnight serve`"), "{error}");
}

#[test]
fn addresses_are_taken_as_people_have_them() {
    let screen = Screen::new(true);
    for server in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
        assert_eq!(Client::new(server, None, screen).unwrap().base, "http://h:1");
    }
    for server in ["h:1", "", "ftp://h", "http://"] {
        assert!(Client::new(server, None, screen).is_err(), "`{server}` was taken");
    }
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let whole = json(200, "", "0123456789");
    let server = Scripted::start(vec![
        whole.replace("456789", ""),
        json(206, "", "456789").replace("89", ""),
        // A server without ranges begins again.
        whole,
    ]);
    let mut text = String::new();
    Download::of_file(&server.client(), "file-1").read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
    let ranges: Vec<Option<String>> =
        server.requests().iter().map(|request| header(request, "range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=4-".to_owned()), Some("bytes=8-".to_owned())]);
}

/// The server restarts just when its batch has ended.
#[test]
fn only_a_patient_download_waits_for_its_beginning() {
    let client = Client::new("http://127.0.0.1:1", None, Screen::new(true)).unwrap();
    let download = Download::of_file(&client, "file-1");
    assert_eq!(download.call().patience, Patience::Brief);
    assert_eq!(download.patient().call().patience, Patience::Long);
}

#[test]
fn text_in_a_path_is_escaped() {
    assert_eq!(escape("batch_a-1.x~"), "batch_a-1.x~");
    assert_eq!(escape("a/../b c\u{e9}"), "a%2F..%2Fb%20c%C3%A9");
}
