//! The program: its first line, its death, its tools.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::client::{Client, End};

/// Kills the program when the test ends early.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_overnight-sim"))
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn first_line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_prints_its_address_and_dies_when_it_crashes() {
    let mut program = Running::start(&["--model", "a", "--model", "b", "--latency-ms", "1", "--count"]);
    let mut client = Client::connect(program.first_line().parse().unwrap());
    let models = client.ask("GET", "/v1/models", b"").json();
    assert_eq!(models["data"][1]["id"], "b");
    assert_eq!(client.chat("x").status, 200);
    assert_eq!(client.ask("GET", "/sim/calls", b"").json()["requests"], 1);
    client.send_chat("[[sim:crash]]");
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
    assert_eq!(program.child.wait().unwrap().code(), Some(134));
}

#[test]
fn a_script_from_a_file_may_bring_it_back() {
    let path = std::env::temp_dir().join(format!("overnight-sim-{}.json", std::process::id()));
    std::fs::write(&path, r#"{"restart_after_ms": 30, "rules": [{"when": {"at": 1}, "do": "crash"}]}"#)
        .unwrap();
    let mut program = Running::start(&["--script", path.to_str().unwrap()]);
    let addr = program.first_line().parse().unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut client = Client::connect(addr);
    client.send_chat("x");
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
    let until = std::time::Instant::now() + crate::SOON;
    while std::net::TcpStream::connect(addr).is_err() {
        assert!(std::time::Instant::now() < until, "it did not come back");
        std::thread::yield_now();
    }
    assert_eq!(Client::connect(addr).chat("x").status, 200);
}

#[test]
fn it_makes_inputs_and_load() {
    let mut program = Running::start(&["make", "--requests", "100", "--len", "500", "--models", "a,b"]);
    let mut text = String::new();
    program.out.read_to_string(&mut text).unwrap();
    assert_eq!((text.len(), text.lines().count()), (50_000, 100));
    let mut engine = Running::start(&[]);
    let addr = engine.first_line();
    let mut load = Running::start(&["load", "--addr", &addr, "--seconds", "0", "--connections", "2"]);
    assert!(load.first_line().ends_with(" answers a second"));
}
