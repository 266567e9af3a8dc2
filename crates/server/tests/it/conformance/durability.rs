//! Cases 98 to 101: crashes, calls that are sent twice, and an orderly end.

use std::process::Command;
use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script};
use serde_json::{Value, json};

use super::{counts, create, creation, get, ids_of, list, ok, one_line, refused, silent, with_script};
use crate::harness::{Answer, PATIENCE, Server, custom_ids, input};

fn create_with_headers(server: &Server, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let text = body.to_string();
    server.call("POST", "/v1/batches", headers, text.as_bytes()).expect("the server answers")
}

#[test]
fn case_098_a_killed_server_goes_on_where_it_was() {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(10));
    let mut server = with_script(Script { latency, ..Script::default() });
    let prompt = |at: usize| {
        if at.is_multiple_of(10) { format!("{at} [[sim:status=400]]") } else { at.to_string() }
    };
    let file = server.upload(&input(2_000, prompt));
    let id = server.create(&file);
    let mut seen = (0, 0, 0);
    for _ in 0..3 {
        seen = counts(&server.wait_for(&id, |batch| {
            let (_, completed, failed) = counts(batch);
            completed + failed >= seen.1 + seen.2 + 100
        }));
        server.restart();
        let now = counts(&server.batch(&id));
        assert!(now.0 == 2_000 && now.1 >= seen.1 && now.2 >= seen.2, "{now:?} after {seen:?}");
    }
    let batch = server.wait_for_end_of(&id);
    assert_eq!((&batch["status"], counts(&batch)), (&json!("completed"), (2_000, 1_800, 200)));
    assert_eq!(batch["input_file_id"], json!(file));
    let rows = |refused: bool| -> Vec<String> {
        (0..2_000).filter(|at| (at % 10 == 0) == refused).map(|at| format!("row-{at}")).collect()
    };
    assert_eq!(custom_ids(&server.content(&batch, "output_file_id")), rows(false));
    assert_eq!(custom_ids(&server.content(&batch, "error_file_id")), rows(true));
}

#[test]
fn case_099_what_was_acknowledged_is_there_after_a_kill() {
    let mut server = with_script(silent());
    for _ in 0..3 {
        let file = ok(&server.upload_as(&[("purpose", "batch")], "in.jsonl", &one_line()));
        server.restart();
        let id = file["id"].as_str().unwrap();
        assert_eq!(ok(&get(&server, &format!("/v1/files/{id}"))), file);
        assert_eq!(get(&server, &format!("/v1/files/{id}/content")).body, one_line());
        let batch = ok(&create(&server, id, &json!({"metadata": {"a": "b"}})));
        server.restart();
        let found = server.batch(batch["id"].as_str().unwrap());
        for member in ["id", "created_at", "expires_at", "input_file_id", "metadata", "endpoint"] {
            assert_eq!(found[member], batch[member], "{member}");
        }
    }
    assert_eq!(ids_of(&list(&server, "/v1/batches")).len(), 3);
}

#[test]
fn case_100_a_creation_that_is_sent_again_is_the_first_one() {
    let mut server = with_script(silent());
    let body = creation(&server.upload(&one_line()), &json!({}));
    let id = |answer: &Answer| ok(answer)["id"].as_str().unwrap().to_owned();
    let key = [("Idempotency-Key", "night-1")];
    let named = id(&create_with_headers(&server, &body, &key));
    assert_eq!(id(&create_with_headers(&server, &body, &key)), named);

    let first = id(&create_with_headers(&server, &body, &[("X-Stainless-Retry-Count", "0")]));
    assert_ne!(first, named);
    for retry in ["1", "2"] {
        let headers = [("X-Stainless-Retry-Count", retry)];
        assert_eq!(id(&create_with_headers(&server, &body, &headers)), first);
    }
    // The answer that was lost may have been lost with the server.
    server.restart();
    let headers = [("X-Stainless-Retry-Count", "1")];
    assert_eq!(id(&create_with_headers(&server, &body, &headers)), first);
    assert_eq!(id(&create_with_headers(&server, &body, &key)), named);

    // Another body is another batch, and so is the same one that nobody calls a repetition.
    let mut other = body.clone();
    other["metadata"] = json!({"a": "b"});
    let third = id(&create_with_headers(&server, &other, &[("X-Stainless-Retry-Count", "1")]));
    let fourth = id(&create_with_headers(&server, &body, &[("X-Stainless-Retry-Count", "0")]));
    assert_eq!(ids_of(&list(&server, "/v1/batches")), [fourth, third, first, named]);
}

#[test]
fn case_101_a_server_that_stops_sends_callers_away_until_it_is_back() {
    let mut server = with_script(silent());
    let file = server.upload(&one_line());
    let id = server.create(&file);
    server.wait_for(&id, |_| server.engine.calls().in_flight == 1);
    let stopped = Command::new("kill").arg(server.process().to_string()).status().unwrap();
    assert!(stopped.success());
    let started = Instant::now();
    let answer = loop {
        let answer = create(&server, &file, &json!({}));
        if answer.status == 503 {
            break answer;
        }
        // Until it has seen the signal it takes batches, up to its limit.
        assert!([200, 429].contains(&answer.status), "{}", answer.text());
        assert!(started.elapsed() < PATIENCE, "it does not stop");
    };
    refused(&answer, 503);
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");

    // What an SDK does after its wait.
    server.kill();
    server.engine.set_script(Script::default());
    server.up();
    ok(&create(&server, &file, &json!({})));
    assert_eq!(server.wait_for_end_of(&id)["status"], "completed");
}
