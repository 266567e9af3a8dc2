//! Engines that are killed, stopped or cannot even load their model.

use std::path::Path;
use std::time::{Duration, Instant};

use overnight_engine_llama::DemoModel;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Builtin, documents, overnight, submit, verify, words};
use crate::harness::{Server, custom_ids};
use crate::supervise::{process, wait_for_process};

/// Ten restarts and two thousand answers, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn ten_kills_of_the_engine_cost_a_batch_nothing() {
    const REQUESTS: usize = 2_000;
    const KILLS: u64 = 10;
    let builtin = Builtin::new("demo");
    let server = builtin.server("");
    let id = submit(&server, REQUESTS);
    let (mut last, mut before) = (None, 0);
    for kill in 0..KILLS {
        // Within the first two thirds: in the last one all that is left may be in flight already, and over too soon. Where
        // exactly is different each time, as the engine goes on meanwhile. Two kills without an answer between them could
        // condemn a request that was alone at both, and rightly so.
        let from = (kill * 130 + (kill * 7_919) % 100).max(before + 1);
        server.wait_within(PATIENCE, &id, |batch| done(batch) >= from);
        last = Some(kill_next(&server, &builtin, &id, last));
        before = done(&server.batch(&id));
    }
    let batch = server.wait_within(PATIENCE, &id, |batch| batch["status"] == "completed");
    assert_eq!(
        batch["request_counts"],
        json!({"total": REQUESTS, "completed": REQUESTS, "failed": 0}),
        "{batch}"
    );
    let expected: Vec<String> = (0..REQUESTS).map(|at| format!("row-{at}")).collect();
    assert_eq!(custom_ids(&server.content(&batch, "output_file_id")), expected);
    verify(&server, &id);
    assert!(process(&server, "one")["process"]["restarts"].as_u64() >= Some(KILLS - 1));
}

fn done(batch: &Value) -> u64 {
    let counts = &batch["request_counts"];
    counts["completed"].as_u64().unwrap() + counts["failed"].as_u64().unwrap()
}

/// Kills an engine that is not the one killed before, and has something to do.
fn kill_next(server: &Server, builtin: &Builtin, id: &str, last: Option<u32>) -> u32 {
    let started = Instant::now();
    loop {
        let is_busy = process(server, "one")["in_flight"].as_u64() > Some(0);
        let batch = server.batch(id);
        assert_ne!(batch["status"], "completed", "it was over before the engine was killed: {batch}");
        if is_busy
            && builtin.processes().first() != last.as_ref()
            && let Some(process) = builtin.send(Signal::KILL)
        {
            return process;
        }
        assert!(started.elapsed() < PATIENCE, "no engine to kill: {batch}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Its own watch over its steps is stopped with it: supervision has to see it.
#[test]
fn an_engine_that_is_stopped_as_a_whole_is_replaced() {
    let builtin = Builtin::new("demo");
    let server = builtin.server("");
    let id = submit(&server, 2_000);
    server.wait_within(PATIENCE, &id, |batch| done(batch) > 50);
    let stopped = builtin.send(Signal::STOP).unwrap();
    let view = wait_for_process(&server, "one", |view| view["process"]["restarts"] == 1);
    assert!(!builtin.processes().contains(&stopped), "{view}");
    assert!(server.log().contains("it runs and has not answered for 12 s"), "{}", server.log());
    let batch = server.wait_within(PATIENCE, &id, |batch| batch["status"] == "completed");
    assert_eq!(batch["request_counts"]["completed"], 2_000, "{batch}");
    verify(&server, &id);
}

/// What a person sees who types it, and what is seen when the server starts it.
#[test]
fn a_model_file_that_is_damaged_is_said_by_the_command_and_by_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(DemoModel::open().unwrap().path()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let mut flipped = whole.clone();
    flipped[4] ^= 0x40;
    for (model, memory, expected) in [
        (write("cut.gguf", &whole[..whole.len() / 2]), "", "it is not whole"),
        (write("zip.gguf", b"PK\x03\x04 and so on"), "", "a zip archive"),
        (write("flipped.gguf", &flipped), "", "GGUF version"),
        (write("whole.gguf", &whole), " --memory 2", "take a smaller model"),
    ] {
        let builtin = Builtin::new(format!("{model}{memory}"));
        let arguments: Vec<&str> = builtin.model.split(' ').collect();
        let ended = overnight(&["engine", "--listen", "127.0.0.1:0", "--model"])
            .args(&arguments)
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(1), "{model}: {}", words(&ended));
        assert!(words(&ended).contains(expected), "{model}: {}", words(&ended));

        let server = builtin.server("models = [\"demo\"]");
        let id = submit(&server, 1);
        let has_failed =
            |view: &Value| view["reason"].as_str().is_some_and(|reason| reason.contains(expected));
        wait_for_process(&server, "one", has_failed);
        let waiting = server.batch(&id)["overnight"]["waiting_reason"].to_string();
        assert!(waiting.contains("it exited with 1"), "{waiting}");
    }
}

/// Whatever one bit says, it is an answer or a sentence: the engine is not taken down by it.
#[test]
fn flipped_bits_end_no_engine_otherwise_than_by_words() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(DemoModel::open().unwrap().path()).unwrap();
    let input = documents(1);
    for at in [9, 30, 100, 1_000, 20_000, 40_000, whole.len() / 2, whole.len() - 5] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let model = folder.path().join(format!("{at}.gguf"));
        std::fs::write(&model, bytes).unwrap();
        ends_in_words(&model, &input, at);
    }
}

fn ends_in_words(model: &Path, input: &str, at: usize) {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let mut child = overnight(&["engine", "--listen", "127.0.0.1:0", "--name", "demo", "--model"])
        .arg(model)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let (mut said, mut address) = (String::new(), None);
    while log.read_line(&mut said).unwrap() > 0 && !said.contains("ready model") {
        let place =
            said.split_once("listening on http://").and_then(|(_, at)| at.split_whitespace().next());
        address = place.map(str::to_owned);
    }
    if said.contains("ready model") {
        let line: Value = serde_json::from_str(input.trim()).unwrap();
        let body = line["body"].to_string();
        let mut stream = std::net::TcpStream::connect(address.unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "POST {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            line["url"].as_str().unwrap(),
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "bit in byte {at}: {answer:?}");
        assert!(super::send(child.id(), Signal::TERM));
    }
    log.read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 1)), "bit in byte {at}: {code:?} {said}");
}
