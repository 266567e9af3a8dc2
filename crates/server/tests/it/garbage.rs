//! Engines that answer nonsense, refuse us, or die: each failure is called by its name, and harms nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use overnight_sim::{Rule, Script, When};
use serde_json::{Value, json};

use crate::crash::is_full;
use crate::harness::{PATIENCE, Server, Setup, custom_ids, input, lines};

const MIB: u64 = 1024 * 1024;
/// What bodies and answers in memory may take, and what the rest may.
const MEMORY_MAX: u64 = (256 + 64) * MIB;
/// Of each class.
const EACH: usize = 100;

/// The directive, and the code of the error line.
type Class = (&'static str, &'static str);
const CLASSES: [Class; 13] = [
    ("hang", "request_timeout"),
    ("slow_loris", "request_timeout"),
    ("half_json", "engine_garbage"),
    ("truncated_sse", "engine_garbage"),
    ("wrong_length_long", "request_timeout"),
    ("huge", "response_too_large"),
    ("invalid_utf8", "engine_garbage"),
    ("html_200", "engine_garbage"),
    ("wrong_shape", "engine_garbage"),
    ("empty_choices", "engine_garbage"),
    // Which of two `choices` is meant is for nobody to guess.
    ("duplicate_keys", "engine_garbage"),
    ("nan", "engine_garbage"),
    ("gzip_bomb", "engine_garbage"),
];

#[test]
fn thirteen_classes_of_garbage_are_called_by_their_names() {
    let server = Server::with(Setup { engine: "concurrency = 64".to_owned(), ..Setup::default() });
    // Who says nothing is waited for a second; who answers, however slow the machine, is not taken for silent.
    let (silent, talking): (Vec<Class>, Vec<Class>) =
        CLASSES.into_iter().partition(|(_, code)| *code == "request_timeout");
    let batches = [(silent, "1s"), (talking, "10m")].map(|(classes, timeout)| {
        let content = input(classes.len() * EACH, |at| {
            format!("question {at} [[sim:garbage={}]]", classes[at % classes.len()].0)
        });
        let options = json!({"timeout": timeout, "attempts": 2});
        (classes, server.create_with(&server.upload(&content), &options))
    });

    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (classes, id) in batches {
        let batch = server.wait_within(2 * PATIENCE, &id, |batch| batch["status"] == "completed");
        for member in ["output_file_id", "error_file_id"] {
            for line in lines(&server.content(&batch, member)) {
                let at: usize = line["custom_id"].as_str().unwrap()["row-".len()..].parse().unwrap();
                let class = classes[at % classes.len()].0.to_owned();
                let code = line["error"]["code"].as_str().unwrap_or("answered").to_owned();
                *counts.entry((class, code)).or_default() += 1;
            }
        }
    }
    let expected: BTreeMap<(String, String), usize> =
        CLASSES.iter().map(|(class, code)| (((*class).to_owned(), (*code).to_owned()), EACH)).collect();
    assert_eq!(counts, expected);
    let peak = peak_memory(server.process());
    println!("peak memory {} MiB", peak / MIB);
    assert!(peak <= MEMORY_MAX, "{} MiB were used", peak / MIB);
}

#[test]
fn an_engine_that_refuses_our_key_for_a_while_costs_no_request() {
    let refusing =
        Rule { when: When::Always, model: None, probes: true, then: "status=401".parse().unwrap() };
    let script = Script { rules: vec![refusing], ..Script::default() };
    let server = Server::with(Setup { script, ..Setup::default() });
    let id = server.create(&server.upload(&input(2_000, |at| format!("question {at}"))));
    server.wait_for(&id, |batch| batch["overnight"]["waiting_reason"].is_string());
    // How often it is tried meanwhile depends on the time.
    std::thread::sleep(Duration::from_secs(if is_full() { 60 } else { 3 }));
    server.engine.set_script(Script::default());
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"], json!({"total": 2_000, "completed": 2_000, "failed": 0}));
}

#[test]
fn three_hundred_over_long_lines_at_the_front_do_not_hold_up_the_rest() {
    let script = Script { context_bytes: Some(1_000), ..Script::default() };
    let server = Server::with(Setup { script, ..Setup::default() });
    let long = "long ".repeat(300);
    let content = input(10_000, |at| match at {
        0..300 => format!("question {at} {long}"),
        _ => format!("question {at}"),
    });
    let id = server.create_with(&server.upload(&content), &json!({"order": "file"}));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "completed", "{batch}");
    let errors = server.content(&batch, "error_file_id");
    assert_eq!(custom_ids(&errors), (0..300).map(|at| format!("row-{at}")).collect::<Vec<_>>());
    for line in lines(&errors) {
        assert_eq!(line["response"]["body"]["error"]["code"], "context_length_exceeded", "{line}");
    }
    assert_eq!(batch["request_counts"]["completed"], 9_700);
}

#[test]
fn two_lines_that_crash_the_engine_fail_alone() {
    let script = Script { restart_after: Some(Duration::from_millis(100)), ..Script::default() };
    let server =
        Server::with(Setup { script, engine: "concurrency = 32".to_owned(), ..Setup::default() });
    let poison = [417, 1_503];
    let content = input(2_000, |at| {
        if poison.contains(&at) {
            format!("question {at} [[sim:crash]]")
        } else {
            format!("question {at}")
        }
    });
    let id = server.create(&server.upload(&content));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "completed", "{batch}");
    let errors = lines(&server.content(&batch, "error_file_id"));
    let failed: Vec<(&Value, &Value)> =
        errors.iter().map(|line| (&line["custom_id"], &line["error"]["code"])).collect();
    let code = json!("engine_crash");
    assert_eq!(failed, [(&json!("row-417"), &code), (&json!("row-1503"), &code)]);
    assert_eq!(batch["request_counts"]["completed"], 1_998);
}

#[test]
fn an_endpoint_that_drops_kept_connections_makes_no_suspects() {
    let script = Script {
        answers_per_connection: Some(3),
        idle_close: Some(Duration::from_millis(1)),
        ..Script::default()
    };
    let server =
        Server::with(Setup { script, engine: "concurrency = 16".to_owned(), ..Setup::default() });
    // One attempt: whoever was charged or suspected for a dropped connection would fail or be called again.
    let content = input(3_000, |at| format!("question {at}"));
    let id = server.create_with(&server.upload(&content), &json!({"attempts": 1}));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"], json!({"total": 3_000, "completed": 3_000, "failed": 0}));
    let calls = server.engine.calls();
    assert!(calls.connections > 500, "connections were dropped: {calls:?}");
    assert_eq!(calls.crashes, 0);
}

/// The most that the process ever held in memory.
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
