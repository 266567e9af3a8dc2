//! What the limits of the profile `desktop` promise, and who goes first within them.

use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script};
use serde_json::{Value, json};

use super::{NEVER, create, ids_of, list, ok, one_line, refused, silent, with_script};
use crate::harness::{Answer, Server, Setup, input};

/// A refusal of a queue that is full: later it may be taken.
fn check_full(answer: &Answer, setting: &str) {
    let error = refused(answer, 429);
    assert_eq!(error["type"], "rate_limit_exceeded");
    assert!(error["message"].as_str().unwrap().contains(setting), "{error}");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

fn batch_ids(server: &Server) -> Vec<String> {
    ids_of(&list(server, "/v1/batches?limit=100"))
}

/// Requests that tell the engine which batch they belong to.
fn marked(name: &str, count: usize) -> Vec<u8> {
    input(count, |at| format!("[[sim:id={name}{at}]]"))
}

fn create_marked(server: &Server, name: &str, count: usize, priority: i32) -> String {
    server.create_with(&server.upload(&marked(name, count)), &json!({"priority": priority}))
}

#[test]
fn more_lines_than_a_batch_may_have_are_refused() {
    let server = Server::start();
    let file = server.upload(&input(50_001, |at| at.to_string()));
    let error = refused(&create(&server, &file, &json!({})), 400);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("50001") && message.contains("50000"), "{message}");
    assert!(message.contains("limits.requests_per_batch"), "{message}");
    assert!(batch_ids(&server).is_empty());
}

#[test]
fn a_sixth_unfinished_batch_is_refused_until_one_has_ended() {
    let server = with_script(silent());
    let file = server.upload(&one_line());
    let five: Vec<String> = (0..5).map(|_| server.create(&file)).collect();
    check_full(&create(&server, &file, &json!({})), "limits.unfinished_batches");
    assert_eq!(batch_ids(&server).len(), 5);
    ok(&super::post_empty(&server, &format!("/v1/batches/{}/cancel", five[2])));
    server.wait_for_end_of(&five[2]);
    server.create(&file);
    check_full(&create(&server, &file, &json!({})), "limits.unfinished_batches");
    assert_eq!(batch_ids(&server).len(), 6);
}

#[test]
fn requests_beyond_the_queue_are_refused() {
    let server = Server::with(Setup {
        script: silent(),
        settings: "[limits]\nqueued_requests = 25".to_owned(),
        ..Setup::default()
    });
    let file = server.upload(&input(10, |at| at.to_string()));
    server.create(&file);
    let second = server.create(&file);
    check_full(&create(&server, &file, &json!({})), "limits.queued_requests");
    assert_eq!(batch_ids(&server).len(), 2);
    // Five more still fit.
    server.create(&server.upload(&input(5, |at| at.to_string())));
    check_full(&create(&server, &server.upload(&one_line()), &json!({})), "limits.queued_requests");
    ok(&super::post_empty(&server, &format!("/v1/batches/{second}/cancel")));
    server.wait_for_end_of(&second);
    server.create(&file);
}

/// The same when batch and file come in one call: neither is kept.
#[test]
fn what_is_refused_leaves_no_file_behind() {
    let server = Server::with(Setup {
        script: silent(),
        settings: "[limits]\nunfinished_batches = 1".to_owned(),
        ..Setup::default()
    });
    let send = || {
        let form = super::Form::new().text("purpose", "batch").file("file", "in.jsonl", &one_line());
        super::post_form(&server, "/v1/batches", form)
    };
    ok(&send());
    check_full(&send(), "limits.unfinished_batches");
    assert_eq!(batch_ids(&server).len(), 1);
    assert_eq!(ids_of(&list(&server, "/v1/files")).len(), 1);
}

#[test]
fn batches_run_by_priority_and_then_by_age() {
    let server = Server::with(Setup { engine: "concurrency = 1".to_owned(), ..Setup::default() });
    // The only slot is taken until all three are there; the engine that dies with it lets go of it.
    let never = NEVER.as_millis();
    let block = format!("[[sim:id=block,delay_ms={never},times=1]]");
    let block =
        server.create_with(&server.upload(&input(1, |_| block.clone())), &json!({"priority": 9}));
    server.wait_for(&block, |_| server.engine.calls().in_flight == 1);
    let old = create_marked(&server, "old", 20, 0);
    let new = create_marked(&server, "new", 20, 0);
    let high = create_marked(&server, "high", 20, 5);
    for id in [&old, &new] {
        server.wait_for(id, |batch| batch["status"] == "in_progress");
    }
    server.wait_for(&high, |batch| batch["overnight"]["open_chunks"] == 1);
    server.engine.crash();
    server.engine.restart();
    for id in [&block, &high, &old, &new] {
        assert_eq!(server.wait_for_end_of(id)["status"], "completed");
    }
    let order: Vec<String> = server
        .engine
        .order()
        .iter()
        .map(|marker| marker.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned())
        .filter(|name| name != "block")
        .collect();
    let expected: Vec<&str> =
        ["high", "old", "new"].into_iter().flat_map(|name| std::iter::repeat_n(name, 20)).collect();
    assert_eq!(order, expected);
}

/// Nothing was claimed while no endpoint was up, so an urgent batch that came meanwhile found the engine busy with the
/// one that was there before.
#[test]
fn an_urgent_batch_that_came_while_the_engine_was_down_is_first_when_it_is_back() {
    let server = Server::with(Setup { engine: "concurrency = 1".to_owned(), ..Setup::default() });
    let prompt = |at| format!("[[sim:id=old{at},delay_ms={},times=1]]", NEVER.as_millis());
    let old = server.create(&server.upload(&input(20, prompt)));
    server.wait_for(&old, |_| server.engine.calls().in_flight == 1);
    server.engine.crash();
    server.wait_for(&old, |batch| batch["overnight"]["waiting_reason"].is_string());
    let urgent = create_marked(&server, "urgent", 20, 5);
    server.wait_for(&urgent, |batch| batch["overnight"]["open_chunks"] == 1);
    server.engine.restart();
    server.wait_for_end_of(&urgent);
    let order = server.engine.order();
    let urgent: Vec<&String> = order[1..21].iter().collect();
    assert!(urgent.iter().all(|marker| marker.starts_with("urgent")), "{order:?}");
}

#[test]
fn an_urgent_batch_has_its_first_answer_within_two_latencies() {
    // Of the two latencies one is room for a busy machine.
    const LATENCY: Duration = Duration::from_secs(5);
    let latency = Latency::Range(LATENCY / 4, LATENCY);
    let server = with_script(Script { latency, ..Script::default() });
    // Chunks of 5,000, the largest there are.
    let slow = create_marked(&server, "slow", 40_000, 0);
    server.wait_for(&slow, |_| server.engine.calls().finished >= 8);
    let urgent = server.upload(&marked("urgent", 10));
    let asked = Instant::now();
    let id = server.create_with(&urgent, &json!({"priority": 100}));
    server.wait_for(&id, |batch| batch["request_counts"]["completed"].as_u64() > Some(0));
    assert!(asked.elapsed() < 2 * LATENCY, "{:?}", asked.elapsed());
    // Every slot that became free went to it: nothing slow began once it had begun.
    let order = server.engine.order();
    let first = order.iter().position(|marker| marker.starts_with("urgent")).unwrap();
    let last = order.iter().rposition(|marker| marker.starts_with("urgent")).unwrap();
    let between: Vec<&String> =
        order[first..=last].iter().filter(|marker| marker.starts_with("slow")).collect();
    assert!(between.is_empty(), "{between:?}");
}

#[test]
fn a_large_batch_is_held_to_no_limit_of_count() {
    let limits = "[limits]\nrequests_per_batch = 10\nunfinished_batches = 1\nqueued_requests = 15\n\
                  file_len = \"4KB\"";
    let server =
        Server::with(Setup { script: silent(), settings: limits.to_owned(), ..Setup::default() });
    let small = server.upload(&input(10, |at| at.to_string()));
    server.create(&small);
    check_full(&create(&server, &small, &json!({})), "limits.unfinished_batches");

    let content = input(100, |at| at.to_string());
    assert!(content.len() > 4_000);
    refused(&server.upload_as(&[("purpose", "batch")], "in.jsonl", &content), 400);
    let fields = [("purpose", "batch"), ("overnight[large]", "true")];
    let file = ok(&server.upload_as(&fields, "in.jsonl", &content));
    let file = file["id"].as_str().unwrap();
    refused(&create(&server, file, &json!({})), 400);
    let large = server.create_with(file, &json!({"large": true}));
    let batch = server.wait_for(&large, |batch| batch["status"] == "in_progress");
    assert_eq!(batch["request_counts"]["total"], 100);

    // Nor does it count against the others.
    let first = batch_ids(&server).last().unwrap().clone();
    ok(&super::post_empty(&server, &format!("/v1/batches/{first}/cancel")));
    server.wait_for_end_of(&first);
    server.create(&small);
}

/// With keys, only those with admin scope may do so.
#[test]
fn a_large_batch_is_for_the_owner_alone() {
    let server = Server::with(Setup {
        settings: "[[key]]\nname = \"guest\"\nvalue = \"env:GUEST_KEY\"\n\
                   [[key]]\nname = \"owner\"\nvalue = \"env:OWNER_KEY\"\nadmin = true"
            .to_owned(),
        environment: vec![
            ("GUEST_KEY".to_owned(), "guest-0123456789".to_owned()),
            ("OWNER_KEY".to_owned(), "owner-0123456789".to_owned()),
        ],
        ..Setup::default()
    });
    let call = |key: &str, path: &str, kind: (&str, &str), body: &[u8]| -> Answer {
        let key = format!("Bearer {key}");
        server.call("POST", path, &[kind, ("Authorization", &key)], body).unwrap()
    };
    let form = || {
        let form = super::Form::new().text("purpose", "batch").text("overnight[large]", "true");
        form.file("file", "in.jsonl", &one_line()).end()
    };
    let large = |file: &Value| {
        let more = json!({"overnight": {"large": true}});
        super::creation(file["id"].as_str().unwrap(), &more).to_string()
    };
    let kind = super::Form::HEADER;
    refused(&call("guest-0123456789", "/v1/files", kind, &form()), 403);
    let file = ok(&call("owner-0123456789", "/v1/files", kind, &form()));
    let json = ("Content-Type", "application/json");
    refused(&call("guest-0123456789", "/v1/batches", json, large(&file).as_bytes()), 403);
    ok(&call("owner-0123456789", "/v1/batches", json, large(&file).as_bytes()));
}
