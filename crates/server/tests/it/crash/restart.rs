//! How soon a server works again that was killed in a batch of a million.

use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script};
use serde_json::json;

use super::is_full;
use crate::harness::{Server, Setup, input};

/// Promised of a release build that has the machine for itself.
const PROMISED: Duration = Duration::from_secs(2);
/// A debug build beside the other tests of a busy machine.
const BUSY_FACTOR: u32 = 5;
const HOURS: Duration = Duration::from_secs(3_600);

#[test]
fn a_killed_server_dispatches_again_within_two_seconds() {
    let requests: usize = if is_full() { 1_000_000 } else { 20_000 };
    let setup = Setup { engine: "concurrency = 256".to_owned(), ..Setup::default() };
    let mut server = Server::with(setup);
    let content = input(requests, |at| format!("question {at}"));
    let uploaded =
        server.upload_as(&[("purpose", "batch"), ("overnight[large]", "true")], "in.jsonl", &content);
    drop(content);
    assert_eq!(uploaded.status, 200, "{}", uploaded.text());
    let file = uploaded.json()["id"].as_str().unwrap().to_owned();
    let id = server.create_with(&file, &json!({"large": true}));
    for percent in [50, 95] {
        let called = (requests * percent / 100) as u64;
        assert!(server.engine.wait_until(|calls| calls.total >= called, HOURS), "{}", server.log());
        // Slow answers from here on, so that the batch does not end between the kill and the look.
        let slow = Script { latency: Latency::Fixed(Duration::from_millis(200)), ..Script::default() };
        server.engine.set_script(slow);
        server.kill();
        let called = server.engine.calls().total;
        let started = Instant::now();
        server.spawn();
        assert!(server.engine.wait_until(|calls| calls.total > called, HOURS), "{}", server.log());
        let took = started.elapsed();
        println!("{requests} requests, killed at {percent} %: dispatches again after {took:?}");
        let longest = if is_full() { PROMISED } else { PROMISED * BUSY_FACTOR };
        assert!(took <= longest, "killed at {percent} %, it took {took:?}");
        assert_eq!(server.wait_until_ready(), None, "{}", server.log());
        server.engine.set_script(Script::default());
    }
    assert!(server.engine.wait_until(|calls| calls.finished >= requests as u64, HOURS));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"]["completed"], requests);
}
