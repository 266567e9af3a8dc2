//! `overnight engine` as people type it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Stdio};

use rustix::process::Signal;

use super::{overnight, send, words};
use crate::harness::{Answer, PATIENCE};

/// An engine and what it says.
struct Started {
    child: Child,
    log: BufReader<ChildStderr>,
    place: String,
}

impl Started {
    fn new(arguments: &[&str]) -> Self {
        let mut command = overnight(&["engine", "--model", "demo"]);
        let mut child = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut started = Self { child, log, place: String::new() };
        loop {
            let mut line = String::new();
            assert!(started.log.read_line(&mut line).unwrap() > 0, "it ended before it was ready");
            if let Some((_, at)) = line.trim().split_once("listening on ") {
                at.clone_into(&mut started.place);
            }
            if line.contains("ready") {
                return started;
            }
        }
    }

    /// The code that it ends with, and the rest of what it said.
    fn ended_by(mut self, signal: Signal) -> (Option<i32>, String) {
        assert!(send(self.child.id(), signal));
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(stream: &mut (impl std::io::Read + std::io::Write), path: &str, body: &str) -> Answer {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let len = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{body}")
        .unwrap();
    Answer::read(&mut BufReader::new(stream)).unwrap()
}

const CHAT: &str = r#"{"model": "demo", "temperature": 0, "messages": [{"role": "user", "content":
    "Invoice 17. Two chairs, 80.00. Total due 80.00, payable within 30 days."}]}"#;

#[test]
fn port_0_is_a_free_one_and_is_printed() {
    let engine = Started::new(&["--listen", "127.0.0.1:0"]);
    let address = engine.place.strip_prefix("http://").unwrap().to_owned();
    let connect = || {
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    assert_eq!(ask(&mut connect(), "/health", "").status, 200);
    let answer = ask(&mut connect(), "/v1/chat/completions", CHAT).json();
    assert_eq!(answer["choices"][0]["message"]["content"], r#"{"category":"invoice"}"#, "{answer}");
    let models = ask(&mut connect(), "/v1/models", "").json();
    assert_eq!(models["data"][0]["id"], "demo");
    assert_eq!(models["data"][0]["overnight_engine"]["wanted"], 288, "{models}");
    let wrong = ask(&mut connect(), "/v1/chat/completions", "");
    assert_eq!(
        (wrong.status, wrong.json()["error"]["type"].as_str()),
        (405, Some("invalid_request_error"))
    );
    assert_eq!(engine.ended_by(Signal::TERM), (Some(0), String::new()));
}

#[test]
fn a_socket_is_there_as_long_as_its_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine.sock");
    let arguments = ["--socket", path.to_str().unwrap()];
    let engine = Started::new(&arguments);
    let mut stream = UnixStream::connect(&path).unwrap();
    assert_eq!(ask(&mut stream, "/health", "").status, 200);
    let second = overnight(&["engine", "--model", "demo"]).args(arguments).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(words(&second).contains("somebody already listens"), "{}", words(&second));
    assert_eq!(engine.ended_by(Signal::INT).0, Some(0));
    assert!(!path.exists());
    // What a kill leaves is stale, and in nobody's way.
    let killed = Started::new(&arguments);
    assert_eq!(killed.ended_by(Signal::KILL).0, None);
    assert!(path.exists());
    Started::new(&arguments).ended_by(Signal::TERM);
}

/// llama.cpp's statics were taken down while the computing thread still used them: one stop of eight was a SIGSEGV.
#[test]
fn a_stop_in_the_midst_of_work_is_an_orderly_end() {
    for _ in 0..5 {
        let engine = Started::new(&["--listen", "127.0.0.1:0"]);
        let address = engine.place.strip_prefix("http://").unwrap().to_owned();
        let streams: Vec<TcpStream> = (0..40)
            .map(|_| {
                let mut stream = TcpStream::connect(&address).unwrap();
                let body = CHAT.replace("\"temperature\"", "\"max_tokens\": 500, \"temperature\"");
                let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length:";
                write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
                stream
            })
            .collect();
        // The first answer: the others are being computed.
        (&streams[0]).read_exact(&mut [0]).unwrap();
        let (code, said) = engine.ended_by(Signal::TERM);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn a_model_that_cannot_be_had_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let error = |model: &str| {
        let ended = overnight(&["engine", "--model", model, "--listen", "127.0.0.1:0"])
            .env("HF_HUB_CACHE", folder.path())
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", words(&ended));
        words(&ended)
    };
    assert!(error("none.gguf").contains("failed to read the model `none.gguf`"));
    assert!(error("hf:org/repo").contains("hf:org/repo/file.gguf"));
    assert!(error("hf:org/repo/file.gguf").contains("HF_HUB_OFFLINE"));
    let page = folder.path().join("page.gguf");
    std::fs::write(&page, "<!doctype html>").unwrap();
    assert!(error(page.to_str().unwrap()).contains("a web page"));
}
