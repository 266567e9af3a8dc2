//! Nothing outlives the server, and nothing an engine prints fills the disk.

use std::time::Duration;

use super::engine::{self, StandIn};
use super::{marked, submit, wait_for_process, wait_until, with_engines};

/// A process that forks twice and begins a session of its own, as background services do to get away.
const GET_AWAY: &str = "((setsid sleep 1000 >/dev/null 2>&1 &) &); ";

#[test]
fn kill_9_of_the_server_leaves_no_process_of_an_engine() {
    let stand_in = StandIn::new("one").marked().after(GET_AWAY);
    let mut server = with_engines(stand_in.table(""));
    let id = submit(&server, "one", 50);
    assert_eq!(server.wait_for_end_of(&id)["request_counts"]["completed"], 50);
    // The guard, the engine, and the one that got away.
    wait_until("all three run", || marked(stand_in.marker()).len() == 3);
    server.kill();
    wait_until("no process is left", || marked(stand_in.marker()).is_empty());
}

#[test]
fn a_process_that_got_away_ends_with_its_engine() {
    let stand_in =
        StandIn::new("one").marked().after(GET_AWAY).script(&engine::slow(Duration::from_millis(1)));
    let server = with_engines(stand_in.table(""));
    let id = super::submit_prompts(&server, "one", std::iter::once("[[sim:crash]]".to_owned()));
    // It kills its engine until it is condemned; after each crash those that got away are gone before the next start.
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"]["failed"], 1, "{batch}");
    server.wait_for_end_of(&submit(&server, "one", 1));
    wait_until("one engine with its own is left", || marked(stand_in.marker()).len() == 3);
}

/// `TERM` is not heard, so that only `KILL` ends it.
#[test]
fn an_engine_that_does_not_hear_is_ended_by_force() {
    let command = "sh -c 'trap : TERM INT HUP; echo deaf; while :; do sleep 1; done'";
    let number = std::process::id();
    let settings = format!("models = [\"one\"]\nenvironment = {{ DEAF_ENGINE = \"{number}\" }}");
    let mut server = with_engines(engine::table("one", command, &settings));
    submit(&server, "one", 1);
    wait_for_process(&server, "one", |view| view["process"]["last_line"] == "deaf");
    server.kill();
    wait_until("no process is left", || marked(&format!("DEAF_ENGINE={number}")).is_empty());
}

#[test]
fn a_flood_of_output_is_bounded_on_the_disk() {
    let stand_in = StandIn::new("one")
        .after("yes a line of sixty-four bytes that nobody ever wants to read again & ");
    let server = with_engines(stand_in.table(""));
    let log = server.data().join("engines/one.log");
    let older = server.data().join("engines/one.log.1");
    let len = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let id = submit(&server, "one", 50);
    assert_eq!(server.wait_for_end_of(&id)["request_counts"]["completed"], 50);
    wait_until("the log was turned over", || older.exists());
    for _ in 0..20 {
        assert!(len(&log) <= 16 << 20 && len(&older) <= 16 << 20);
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_for_process(&server, "one", |view| view["process"]["state"] == "ready");
}

/// The kernel ends the engine with its guard, and supervision starts both anew.
#[test]
fn an_engine_whose_guard_is_killed_ends_and_is_started_again() {
    let stand_in = StandIn::new("one").marked();
    let server = with_engines(stand_in.table(""));
    server.wait_for_end_of(&submit(&server, "one", 5));
    let first = marked(stand_in.marker());
    assert_eq!(first.len(), 2, "the guard and the engine");
    let is_guard = |process: &&u32| {
        let line = std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap();
        line.contains("guard\0--log")
    };
    let guard = first.iter().find(is_guard).unwrap();
    let killed = std::process::Command::new("sh").args(["-c", &format!("kill -9 {guard}")]).status();
    assert!(killed.unwrap().success());
    let batch = server.wait_for_end_of(&submit(&server, "one", 5));
    assert_eq!(batch["request_counts"]["completed"], 5, "{batch}");
    wait_for_process(&server, "one", |view| view["process"]["restarts"] == 1);
    let second = marked(stand_in.marker());
    assert!(
        second.len() == 2 && first.iter().all(|process| !second.contains(process)),
        "{first:?} {second:?}"
    );
}
