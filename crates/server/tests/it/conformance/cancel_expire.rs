//! Cases 85 to 91, 96 and 97: how batches end early, and what becomes of their files.

use std::collections::BTreeSet;

use overnight_sim::{Latency, Script};
use serde_json::{Value, json};

use super::{
    NEVER, counts, create, delete, get, ok, one_line, post_empty, refused, run, silent, with_script,
};
use crate::harness::{Server, custom_ids, input, lines};

/// Of every four requests one is answered, one refused, and two are never heard of again.
fn half_answered(count: usize) -> Vec<u8> {
    input(count, |at| match at % 4 {
        0 => format!("question {at}"),
        1 => format!("{at} [[sim:status=400]]"),
        _ => format!("{at} [[sim:delay_ms={}]]", NEVER.as_millis()),
    })
}

fn cancel(server: &Server, id: &str) -> Value {
    ok(&post_empty(server, &format!("/v1/batches/{id}/cancel")))
}

fn retrieve(server: &Server, id: &str) -> Value {
    ok(&get(server, &format!("/v1/batches/{id}")))
}

/// Case 91: every request in exactly one file, and counts that equal the lines.
fn check_files(server: &Server, batch: &Value, total: usize) -> (Vec<Value>, Vec<Value>) {
    let output = server.content(batch, "output_file_id");
    let errors = server.content(batch, "error_file_id");
    let (done, failed) = (lines(&output).len(), lines(&errors).len());
    assert_eq!(counts(batch), (total as u64, done as u64, failed as u64), "{batch}");
    assert_eq!(done + failed, total);
    let ids: BTreeSet<String> = custom_ids(&output).into_iter().chain(custom_ids(&errors)).collect();
    assert_eq!(ids, (0..total).map(|at| format!("row-{at}")).collect());
    assert!(lines(&output).iter().all(|line| line["response"]["status_code"] == 200));
    (lines(&output), lines(&errors))
}

/// Lines of requests that were dropped, among those of requests that failed.
fn check_dropped(errors: &[Value], code: &str) -> usize {
    let mut dropped = 0;
    for line in errors {
        if line["response"].is_null() {
            assert_eq!(line["error"]["code"], code, "{line}");
            assert!(line["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
            dropped += 1;
        } else {
            assert_eq!(line["response"]["status_code"], 400, "{line}");
            assert_eq!(line["error"], Value::Null);
        }
    }
    dropped
}

/// An endpoint of 8 calls at once, of which the silent ones fill the window before the end.
fn begun(server: &Server, count: usize, more: &Value) -> (String, u64) {
    let file = server.upload(&half_answered(count));
    let id = ok(&create(server, &file, more))["id"].as_str().unwrap().to_owned();
    let batch = server.wait_for(&id, |batch| {
        let (_, completed, failed) = counts(batch);
        completed > 0 && failed > 0 && server.engine.calls().in_flight == 8
    });
    let (_, completed, failed) = counts(&batch);
    (id, completed + failed)
}

#[test]
fn case_085_a_cancelled_batch_keeps_what_was_answered() {
    let server = Server::start();
    let (id, before) = begun(&server, 200, &json!({}));
    let answer = cancel(&server, &id);
    assert!(["cancelling", "cancelled"].contains(&answer["status"].as_str().unwrap()), "{answer}");
    assert!(answer["cancelling_at"].is_u64(), "{answer}");
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "cancelled");
    assert!(batch["cancelled_at"].as_u64() >= batch["cancelling_at"].as_u64(), "{batch}");
    assert_eq!(batch["cancelling_at"], answer["cancelling_at"]);
    for member in ["completed_at", "failed_at", "expired_at"] {
        assert_eq!(batch[member], Value::Null, "{member}");
    }
    let (output, errors) = check_files(&server, &batch, 200);
    assert!(!output.is_empty());
    let dropped = check_dropped(&errors, "batch_cancelled");
    assert!((200 - dropped) as u64 >= before, "{dropped} dropped, {before} were done");
}

#[test]
fn case_085_a_batch_may_be_cancelled_before_it_is_validated() {
    let server = with_script(silent());
    let id = server.create(&server.upload(&input(20_000, |at| format!("question {at}"))));
    let answer = cancel(&server, &id);
    assert!(answer["cancelling_at"].is_u64(), "{answer}");
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "cancelled");
    assert_eq!(batch["output_file_id"], Value::Null);
}

#[test]
fn case_086_a_repeated_cancel_changes_nothing() {
    let server = Server::start();
    let (id, _) = begun(&server, 40, &json!({}));
    let first = cancel(&server, &id);
    let second = cancel(&server, &id);
    assert_eq!(second["cancelling_at"], first["cancelling_at"]);
    let ended = server.wait_for_end_of(&id);
    assert_eq!(ended["status"], "cancelled");
    assert_eq!(cancel(&server, &id), ended);
    assert_eq!(retrieve(&server, &id), ended);
}

#[test]
fn case_087_what_has_ended_otherwise_cannot_be_cancelled() {
    let server = Server::start();
    let completed = run(&server, &one_line());
    let failed = run(&server, b"{}\n");
    let (expired, _) = begun(&server, 20, &json!({"overnight": {"hard_expiry": true}}));
    ok(&server.post(&format!("/v1/batches/{expired}"), &json!({"expires_at": 1})));
    let expired = server.wait_for_end_of(&expired);
    for (batch, status) in [(completed, "completed"), (failed, "failed"), (expired, "expired")] {
        assert_eq!(batch["status"], status);
        let id = batch["id"].as_str().unwrap();
        let answer = post_empty(&server, &format!("/v1/batches/{id}/cancel"));
        let error = refused(&answer, 409);
        assert!(error["message"].as_str().unwrap().contains(status), "{error}");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(retrieve(&server, id), batch);
    }
}

#[test]
fn case_088_an_unknown_batch_cannot_be_cancelled() {
    let server = Server::start();
    for id in ["batch_unknown", "batch_00000000000000000000000000000000", "x"] {
        refused(&post_empty(&server, &format!("/v1/batches/{id}/cancel")), 404);
        refused(&get(&server, &format!("/v1/batches/{id}")), 404);
    }
}

#[test]
fn case_089_a_cancel_needs_no_body() {
    let server = with_script(silent());
    let file = server.upload(&one_line());
    let json = ("Content-Type", "application/json");
    let bodies = [
        (vec![], ""),
        (vec![json], ""),
        (vec![("Content-Length", "0")], ""),
        (vec![json, ("Content-Length", "0")], ""),
        (vec![json], "{}"),
    ];
    for (headers, body) in bodies {
        let id = server.create(&file);
        let path = format!("/v1/batches/{id}/cancel");
        let batch = ok(&server.call("POST", &path, &headers, body.as_bytes()).unwrap());
        assert!(batch["cancelling_at"].is_u64(), "{batch}");
        assert_eq!(server.wait_for_end_of(&id)["status"], "cancelled");
    }
}

#[test]
fn case_090_a_hard_deadline_ends_a_batch_and_keeps_what_is_done() {
    let server = Server::start();
    let (id, before) = begun(&server, 200, &json!({"overnight": {"hard_expiry": true}}));
    let changed = ok(&server.post(&format!("/v1/batches/{id}"), &json!({"expires_at": 1_700_000_000})));
    assert_eq!(changed["expires_at"], 1_700_000_000);
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "expired");
    assert!(batch["expired_at"].is_u64(), "{batch}");
    assert_eq!(batch["completed_at"], Value::Null);
    let (output, errors) = check_files(&server, &batch, 200);
    assert!(!output.is_empty());
    let dropped = check_dropped(&errors, "batch_expired");
    assert!((200 - dropped) as u64 >= before, "{dropped} dropped, {before} were done");
}

/// Without the setting a deadline is a target: late work goes on.
#[test]
fn case_090_a_soft_deadline_ends_nothing() {
    let server = with_script(Script {
        latency: Latency::Fixed(std::time::Duration::from_secs(2)),
        ..Script::default()
    });
    let id = server.create(&server.upload(&one_line()));
    server.wait_for(&id, |_| server.engine.calls().in_flight == 1);
    ok(&server.post(&format!("/v1/batches/{id}"), &json!({"expires_at": 1_700_000_000})));
    assert_eq!(server.wait_for_end_of(&id)["status"], "completed");
}

/// The same after a cancel and after an expiry that meet a batch of several chunks.
#[test]
fn case_091_however_a_batch_ends_every_request_is_in_one_file() {
    let server = Server::start();
    let (cancelled, _) = begun(&server, 1_500, &json!({}));
    cancel(&server, &cancelled);
    let batch = server.wait_for_end_of(&cancelled);
    check_dropped(&check_files(&server, &batch, 1_500).1, "batch_cancelled");

    let (expired, _) = begun(&server, 1_500, &json!({"overnight": {"hard_expiry": true}}));
    ok(&server.post(&format!("/v1/batches/{expired}"), &json!({"expires_at": 1})));
    let batch = server.wait_for_end_of(&expired);
    check_dropped(&check_files(&server, &batch, 1_500).1, "batch_expired");
}

#[test]
fn case_096_the_input_may_be_deleted_during_the_run() {
    let server = with_script(silent());
    let file = server.upload(&input(100, |at| format!("question {at}")));
    let id = server.create(&file);
    server.wait_for(&id, |_| server.engine.calls().in_flight == 8);
    ok(&delete(&server, &format!("/v1/files/{file}")));
    refused(&get(&server, &format!("/v1/files/{file}")), 404);
    // The silent calls are lost with the engine, and all is asked again.
    server.engine.set_script(Script::default());
    server.engine.crash();
    server.engine.restart();
    let batch = server.wait_for_end_of(&id);
    assert_eq!((&batch["status"], counts(&batch)), (&json!("completed"), (100, 100, 0)));
    assert_eq!(batch["input_file_id"], json!(file));
    assert_eq!(custom_ids(&server.content(&batch, "output_file_id")).len(), 100);
}

#[test]
fn case_097_a_deleted_output_leaves_the_batch_as_it_was() {
    let server = Server::start();
    let batch = run(&server, &one_line());
    let path = format!("/v1/files/{}", batch["output_file_id"].as_str().unwrap());
    ok(&delete(&server, &path));
    refused(&get(&server, &path), 404);
    refused(&get(&server, &format!("{path}/content")), 404);
    assert_eq!(retrieve(&server, batch["id"].as_str().unwrap()), batch);
}
