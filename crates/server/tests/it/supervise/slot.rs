//! Two engines on one GPU slot.

use std::time::{Duration, Instant};

use serde_json::json;

use super::engine::{self, StandIn};
use super::{request, submit, wait_for_process, with_engines};

/// Twenty small batches, one for each model in turn, and a witness that sees whether both engines ever run at once.
#[test]
fn two_models_on_one_slot_take_turns_and_never_run_together() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("gpu0");
    let script = engine::slow(Duration::from_millis(10));
    let one = StandIn::new("one").script(&script).locked(&lock);
    let two = StandIn::new("two").script(&script).locked(&lock);
    let settings = |name| format!("gpu = 0\nmodels = [\"{name}\"]");
    let server = with_engines(one.table(&settings("one")) + &two.table(&settings("two")));
    let started = Instant::now();
    // Five unfinished batches are the limit of a desktop: the next is sent when one has ended.
    let mut open = Vec::new();
    for number in 0..20 {
        if open.len() == 5 {
            let id: String = open.remove(0);
            let batch = server.wait_for_end_of(&id);
            assert_eq!(batch["request_counts"]["completed"], 30, "{batch}");
        }
        open.push(submit(&server, if number % 2 == 0 { "one" } else { "two" }, 30));
    }
    for id in open {
        assert_eq!(server.wait_for_end_of(&id)["request_counts"]["completed"], 30);
    }
    assert!(!folder.path().join("gpu0.both").exists(), "both engines ran at once");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    for name in ["one", "two"] {
        let view = wait_for_process(&server, name, |view| view["process"]["load_seconds"].is_number());
        assert_eq!(view["process"]["gpu"], 0);
    }
}

/// The same command with another model: both listen where it always does, and only one is there at a time.
#[test]
fn two_engines_with_one_address_take_turns_on_their_slot() {
    let settings = |name| format!("gpu = 0\nmodels = [\"{name}\"]");
    let one = StandIn::new("one");
    let two = StandIn::new("two").at(one.address);
    let server = with_engines(one.table(&settings("one")) + &two.table(&settings("two")));
    for name in ["one", "two", "one"] {
        let batch = server.wait_for_end_of(&submit(&server, name, 20));
        assert_eq!(batch["request_counts"]["completed"], 20, "{batch}");
    }
    let view = wait_for_process(&server, "one", |view| view["process"]["state"] == "ready");
    assert_eq!(view["models"], json!(["one"]));
    assert_eq!(view["process"]["restarts"], 0);
}

/// One batch that names both models: each part waits for its engine, and neither holds up the other.
#[test]
fn a_batch_of_two_models_on_one_slot_is_answered_whole() {
    let settings = |name| format!("gpu = 0\nmodels = [\"{name}\"]");
    let (one, two) = (StandIn::new("one"), StandIn::new("two"));
    let server = with_engines(one.table(&settings("one")) + &two.table(&settings("two")));
    let input: String =
        (0..300).map(|at| request(at, if at % 2 == 0 { "one" } else { "two" })).collect();
    let id = server.create(&server.upload(input.as_bytes()));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"], json!({"total": 300, "completed": 300, "failed": 0}), "{batch}");
}
