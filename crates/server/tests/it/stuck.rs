//! A part of the server that is stuck ends the process with its name; what only looks like it does not.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script};

use crate::crash::failpoint::{Fault, arm, begin_hang, disarm, fired};
use crate::harness::{PATIENCE, Server, Setup, input};

/// The shortest that can be set.
const STUCK_AFTER: Duration = Duration::from_secs(5);
const EXIT_STUCK: i32 = 70;
const REQUESTS: usize = 20;

fn setup() -> Setup {
    Setup { settings: "[server]\nstuck_after = \"5s\"".to_owned(), ..Setup::default() }
}

/// A server of which a sync hangs, with a batch that runs into it; how it ended and after how long.
fn hang(path: &'static str, server: &mut Server) -> (Option<i32>, Duration) {
    arm(server, Fault::Hang { path });
    server.up();
    let file = server.upload(&input(REQUESTS, |at| format!("question {at}")));
    begin_hang(server);
    let started = Instant::now();
    std::thread::scope(|scope| {
        // Not answered when it is the database that hangs: the connection breaks when the process ends.
        let creating = scope.spawn(|| {
            let body = serde_json::json!({
                "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
            });
            server.call(
                "POST",
                "/v1/batches",
                &[("Content-Type", "application/json")],
                body.to_string().as_bytes(),
            );
        });
        creating.join().unwrap();
    });
    let status = server.wait_for_end();
    assert!(fired(server).is_some(), "no sync has hung:\n{}", server.log());
    (status.code(), started.elapsed())
}

#[test]
fn results_that_are_never_synced_end_the_process_and_the_next_start_goes_on() {
    let mut server = Server::idle(setup());
    let (code, took) = hang("/segments/", &mut server);
    assert_eq!(code, Some(EXIT_STUCK), "{}", server.log());
    let log = server.log();
    assert!(log.contains("a part of the server is stuck") && log.contains("results"), "{log}");
    assert!(took >= STUCK_AFTER && took < STUCK_AFTER * 6, "{took:?}");
    disarm(&mut server);
    server.up();
    let list = server.get("/v1/batches").unwrap().json();
    let batch = server.wait_for_end_of(list["data"][0]["id"].as_str().unwrap());
    assert_eq!(batch["request_counts"]["completed"], REQUESTS);
}

#[test]
fn a_database_that_never_answers_ends_the_process() {
    let mut server = Server::idle(setup());
    let (code, _) = hang("overnight.db-wal", &mut server);
    assert_eq!(code, Some(EXIT_STUCK), "{}", server.log());
    assert!(server.log().contains("a part of the server is stuck"), "{}", server.log());
}

#[test]
fn a_process_that_was_stopped_for_longer_is_not_taken_for_stuck() {
    let slow = Script { latency: Latency::Fixed(Duration::from_millis(500)), ..Script::default() };
    let server = Server::with(Setup { script: slow, ..setup() });
    let file = server.upload(&input(REQUESTS, |at| format!("question {at}")));
    let id = server.create(&file);
    assert!(server.engine.wait_until(|calls| calls.total > 0, PATIENCE));
    signal(&server, "STOP");
    // The time itself is what is tested.
    std::thread::sleep(STUCK_AFTER + STUCK_AFTER / 2);
    signal(&server, "CONT");
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"]["completed"], REQUESTS);
    assert!(!server.log().contains("stuck"), "{}", server.log());
}

#[test]
fn the_service_manager_hears_of_start_life_and_end() {
    let mut server = Server::idle(setup());
    let path = server.folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    server.change_environment(vec![
        pair("NOTIFY_SOCKET", path.to_str().unwrap()),
        pair("WATCHDOG_USEC", "1000000"),
    ]);
    server.up();
    let hear = |what: &str| {
        let started = Instant::now();
        let mut message = [0; 1_024];
        loop {
            let len = manager.recv(&mut message).unwrap();
            let heard = String::from_utf8_lossy(&message[..len]).into_owned();
            if heard.starts_with(what) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "heard `{heard}` while waiting for `{what}`");
        }
    };
    hear("READY=1");
    for _ in 0..3 {
        hear("WATCHDOG=1");
    }
    server.terminate();
    hear("STOPPING=1");
    assert!(server.wait_for_end().success());
}

fn signal(server: &Server, name: &str) {
    let killed = Command::new("sh").args(["-c", &format!("kill -{name} {}", server.process())]).status();
    assert!(killed.unwrap().success());
}
