//! The wire contract as numbered cases, over the real binary and real sockets.
//!
//! A test is named `case_NNN_` after its number in the contract and says what must come back. Cases 52, 95 and 110 to 113
//! belong to the official SDKs and stand with their tests; the other numbers that are missing here are webhooks, which
//! do not exist yet. [`limits`] holds what the limits promise beyond single cases.

mod cancel_expire;
mod creation;
mod durability;
mod files;
mod http_layer;
mod limits;
mod lists;
mod models;
mod running;
mod uploads;
mod validation;

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script};
use serde_json::{Value, json};

use crate::harness::{Answer, PATIENCE, Server, Setup, request_line};

/// "At once", on a machine that has ten times as much to do as it can.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How long an answer takes that no test waits for.
const NEVER: Duration = Duration::from_secs(3_600);

/// The object of an answer that must be a success, with what every JSON answer carries.
fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    check_headers(answer);
    answer.json()
}

/// The `error` of an answer that must be a refusal: case 10 for every refusal of this suite.
fn refused(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    check_headers(answer);
    let body = answer.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("no envelope: {body}"));
    for member in ["message", "type"] {
        assert!(error[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {body}");
    }
    for member in ["param", "code"] {
        assert!(error.get(member).is_some_and(|value| value.is_null() || value.is_string()), "{body}");
    }
    body["error"].clone()
}

fn check_headers(answer: &Answer) {
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/json"), "content-type `{kind}`");
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()));
}

fn get(server: &Server, path: &str) -> Answer {
    server.get(path).expect("the server answers")
}

fn delete(server: &Server, path: &str) -> Answer {
    server
        .call("DELETE", path, &[("Content-Type", "application/json")], b"")
        .expect("the server answers")
}

/// A `POST` without a body.
fn post_empty(server: &Server, path: &str) -> Answer {
    server.call("POST", path, &[], b"").expect("the server answers")
}

fn post_form(server: &Server, path: &str, form: Form) -> Answer {
    server.call("POST", path, &[Form::HEADER], &form.end()).expect("the server answers")
}

/// A server with such settings.
fn with_settings(settings: &str) -> Server {
    Server::with(Setup { settings: settings.to_owned(), ..Setup::default() })
}

/// A server that takes many batches.
fn roomy() -> Server {
    with_settings("[limits]\nunfinished_batches = 1000")
}

fn with_script(script: Script) -> Server {
    Server::with(Setup { script, ..Setup::default() })
}

/// An engine that takes requests and says nothing.
fn silent() -> Script {
    Script { latency: Latency::Fixed(NEVER), ..Script::default() }
}

/// What creates a batch of chat completions, with other or more members on top.
fn creation(file: &str, more: &Value) -> Value {
    let mut body = json!({
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    let members = body.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    body
}

fn create(server: &Server, file: &str, more: &Value) -> Answer {
    server.post("/v1/batches", &creation(file, more))
}

/// Uploads, creates, waits for the end.
fn run(server: &Server, input: &[u8]) -> Value {
    let id = server.create(&server.upload(input));
    server.wait_for_end_of(&id)
}

/// Looks at a batch again and again until it has ended.
fn watch(server: &Server, id: &str, mut look: impl FnMut(&Value)) -> Value {
    let started = Instant::now();
    loop {
        let batch = server.batch(id);
        look(&batch);
        if !batch["completed_at"].is_null() {
            return batch;
        }
        assert!(started.elapsed() < PATIENCE, "not completed: {batch}");
        std::thread::yield_now();
    }
}

/// One plain request.
fn one_line() -> Vec<u8> {
    request_line("row-0", "Hi").into_bytes()
}

/// A line for an endpoint with a body of the test's own.
fn line_for(custom_id: &str, url: &str, body: &Value) -> String {
    format!("{}\n", json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body}))
}

fn list(server: &Server, path: &str) -> Value {
    let page = ok(&get(server, path));
    assert_eq!(page["object"], "list");
    let ids = ids_of(&page);
    let end = |id: Option<&String>| id.map_or(Value::Null, |id| json!(id));
    assert_eq!(page["first_id"], end(ids.first()), "{page}");
    assert_eq!(page["last_id"], end(ids.last()), "{page}");
    assert!(page["has_more"].is_boolean(), "{page}");
    page
}

fn ids_of(page: &Value) -> Vec<String> {
    let data = page["data"].as_array().unwrap();
    data.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

/// All ids of a list, as an SDK walks it: page by page, each behind the last id of the one before.
fn walk(server: &Server, path: &str, pages_max: usize) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..pages_max {
        let after = ids.last().map_or(String::new(), |id| format!("&after={id}"));
        let page = list(server, &format!("{path}{after}"));
        ids.extend(ids_of(&page));
        if page["has_more"] == false {
            return ids;
        }
    }
    panic!("{path} does not end after {pages_max} pages");
}

fn seconds(object: &Value, member: &str) -> u64 {
    object[member].as_u64().unwrap_or_else(|| panic!("`{member}` is no time: {object}"))
}

fn counts(batch: &Value) -> (u64, u64, u64) {
    let counts = &batch["request_counts"];
    let count = |member: &str| counts[member].as_u64().unwrap_or_else(|| panic!("{batch}"));
    (count("total"), count("completed"), count("failed"))
}

/// An open connection, for calls that are no plain request.
fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect_timeout(&server.address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read(stream: TcpStream) -> Answer {
    Answer::read(&mut BufReader::new(stream)).expect("an answer")
}

/// A call whose body has no announced length and comes in pieces.
fn post_chunked(server: &Server, path: &str, header: (&str, &str), body: &[u8]) -> Answer {
    let mut stream = connect(server);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        server.address, header.0, header.1
    );
    stream.write_all(head.as_bytes()).unwrap();
    for piece in body.chunks(60_000) {
        write!(stream, "{:x}\r\n", piece.len()).unwrap();
        stream.write_all(piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    read(stream)
}

/// A multipart body, part by part in the order of the test.
#[derive(Default)]
struct Form(Vec<u8>);

impl Form {
    const HEADER: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=sep");

    fn new() -> Self {
        Self::default()
    }

    fn text(self, name: &str, value: &str) -> Self {
        self.part(&format!("name=\"{name}\""), value.as_bytes())
    }

    fn file(self, name: &str, filename: &str, content: &[u8]) -> Self {
        let names = format!(
            "name=\"{name}\"; filename=\"{filename}\"\r\nContent-Type: application/octet-stream"
        );
        self.part(&names, content)
    }

    fn part(mut self, names: &str, content: &[u8]) -> Self {
        let head = format!("--sep\r\nContent-Disposition: form-data; {names}\r\n\r\n");
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"--sep--\r\n");
        self.0
    }
}
