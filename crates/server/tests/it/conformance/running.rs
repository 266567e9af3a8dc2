//! Cases 75 to 84, 92 and 93: from the engine's answers to the files.

use std::collections::HashSet;
use std::time::Duration;

use overnight_sim::{Latency, Script, Text, UNICODE_TEXT};
use serde_json::{Value, json};

use super::{counts, create, get, line_for, ok, run, seconds, watch, with_script};
use crate::harness::{Server, custom_ids, input, lines};

/// Where Python's `str.splitlines` cuts.
const PYTHON_LINE_ENDS: [char; 10] =
    ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];

const PATH: [&str; 4] = ["validating", "in_progress", "finalizing", "completed"];

fn rows(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("row-{at}")).collect()
}

/// The texts of chat answers by their lines.
fn texts(output: &[Value]) -> Vec<&str> {
    let text = |line: &Value| line.pointer("/response/body/choices/0/message/content").is_some();
    assert!(output.iter().all(text), "a line without an answer");
    output
        .iter()
        .filter_map(|line| line.pointer("/response/body/choices/0/message/content")?.as_str())
        .collect()
}

#[test]
fn case_075_a_batch_goes_straight_from_state_to_state() {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(20));
    let server = with_script(Script { latency, ..Script::default() });
    let id = server.create(&server.upload(&input(100, |at| format!("question {at}"))));
    let mut place = 0;
    let batch = watch(&server, &id, |batch| {
        let status = batch["status"].as_str().unwrap();
        let now = PATH.iter().position(|known| *known == status);
        let now = now.unwrap_or_else(|| panic!("{status} is not on the way"));
        assert!(now >= place, "{} after {}", PATH[now], PATH[place]);
        place = now;
    });
    let times = ["created_at", "in_progress_at", "finalizing_at", "completed_at"];
    assert!(times.map(|member| seconds(&batch, member)).is_sorted(), "{batch}");
    for member in ["failed_at", "expired_at", "cancelling_at", "cancelled_at", "errors"] {
        assert_eq!(batch[member], Value::Null, "{member}");
    }
    assert_eq!(counts(&batch), (100, 100, 0));
    assert_eq!(batch["error_file_id"], Value::Null);
    assert_eq!(batch["model"], "sim-model");
    assert_eq!(server.engine.calls().total, 100);
}

#[test]
fn case_076_the_output_has_one_whole_line_for_each_request() {
    let server = Server::start();
    let batch = run(&server, &input(100, |at| format!("question {at}")));
    let content = server.content(&batch, "output_file_id");
    assert!(content.ends_with(b"\n"));
    assert_eq!(custom_ids(&content), rows(100));
    let mut ids = HashSet::new();
    for line in lines(&content) {
        assert_eq!(line["response"]["status_code"], 200);
        assert!(line["response"]["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
        assert_eq!(line["response"]["body"]["object"], "chat.completion");
        assert!(line["response"]["body"]["usage"]["total_tokens"].is_u64(), "{line}");
        assert_eq!(line.as_object().unwrap().get("error"), Some(&Value::Null));
        let id = line["id"].as_str().unwrap();
        assert!(id.strip_prefix("batch_req_").is_some_and(|hex| hex.len() == 32), "{id}");
        assert!(ids.insert(id.to_owned()), "{id} twice");
    }
    assert!(server.content(&batch, "output_file_id") == content, "another download, other bytes");
}

#[test]
fn case_077_outputs_are_named_after_their_batch() {
    let server = Server::start();
    let prompt = |at| if at == 3 { "[[sim:status=400]]".to_owned() } else { format!("question {at}") };
    let batch = run(&server, &input(10, prompt));
    let id = batch["id"].as_str().unwrap();
    for (member, kind) in [("output_file_id", "output"), ("error_file_id", "error")] {
        let path = format!("/v1/files/{}", batch[member].as_str().unwrap());
        let file = ok(&get(&server, &path));
        assert_eq!(file["purpose"], "batch_output");
        assert_eq!(file["status"], "processed");
        assert_eq!(file["filename"], format!("{id}_{kind}.jsonl"));
        let content = get(&server, &format!("{path}/content"));
        assert_eq!(file["bytes"], content.body.len());
        let disposition = content.header("content-disposition").unwrap();
        assert!(disposition.starts_with("attachment"), "{disposition}");
        assert!(disposition.contains(&format!("filename=\"{id}_{kind}.jsonl\"")), "{disposition}");
        assert_eq!(content.header("content-type"), Some("application/octet-stream"));
    }
}

#[test]
fn case_078_no_answer_breaks_a_line() {
    let server = with_script(Script { text: Text::Unicode, ..Script::default() });
    // Such characters may stand in ids too.
    let id = |at| format!("row\u{2028}\u{85}-{at}");
    let content: String = (0..100).map(|at| crate::harness::request_line(&id(at), "x")).collect();
    let batch = run(&server, content.as_bytes());
    let content = String::from_utf8(server.content(&batch, "output_file_id")).unwrap();
    let cut: Vec<&str> = content.strip_suffix('\n').unwrap().split(PYTHON_LINE_ENDS).collect();
    assert_eq!(cut.len(), 100);
    let output: Vec<Value> = cut.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(texts(&output), [UNICODE_TEXT; 100]);
    let ids: Vec<&str> = output.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, (0..100).map(id).collect::<Vec<_>>());
}

#[test]
fn case_079_a_refused_request_stands_in_the_error_file_alone() {
    let server = Server::start();
    let prompt = |at| if at == 7 { "[[sim:status=400]]".to_owned() } else { format!("question {at}") };
    let batch = run(&server, &input(20, prompt));
    assert_eq!(batch["status"], "completed");
    assert_eq!(counts(&batch), (20, 19, 1));
    let errors = lines(&server.content(&batch, "error_file_id"));
    assert_eq!(errors.len(), 1);
    let line = &errors[0];
    assert_eq!(line["custom_id"], "row-7");
    assert!(line["id"].as_str().unwrap().starts_with("batch_req_"), "{line}");
    assert_eq!(line["response"]["status_code"], 400);
    assert!(line["response"]["request_id"].is_string(), "{line}");
    assert!(line["response"]["body"]["error"]["message"].is_string(), "{line}");
    assert_eq!(line.as_object().unwrap().get("error"), Some(&Value::Null));
    let expected: Vec<String> = rows(20).into_iter().filter(|id| id != "row-7").collect();
    assert_eq!(custom_ids(&server.content(&batch, "output_file_id")), expected);
    assert_eq!(server.engine.calls().total, 20, "what the engine refuses is not asked again");
}

#[test]
fn case_080_a_batch_of_refused_requests_is_completed() {
    let server = Server::start();
    let batch = run(&server, &input(20, |at| format!("{at} [[sim:status=400]]")));
    assert_eq!(batch["status"], "completed");
    assert_eq!(batch["output_file_id"], Value::Null);
    assert_eq!(counts(&batch), (20, 0, 20));
    assert_eq!(custom_ids(&server.content(&batch, "error_file_id")), rows(20));
}

#[test]
fn case_081_a_busy_engine_is_asked_again() {
    let server = Server::start();
    let directives = ["status=429,times=2,id=a,retry_after=0", "status=503,times=2,id=b,retry_after=0"];
    let batch = run(&server, &input(2, |at| format!("[[sim:{}]]", directives[at])));
    assert_eq!(counts(&batch), (2, 2, 0), "{batch}");
    assert_eq!(batch["error_file_id"], Value::Null);
    assert_eq!(custom_ids(&server.content(&batch, "output_file_id")), rows(2));
    for marker in ["a", "b"] {
        assert_eq!(server.engine.calls_of_marker(marker), 3);
    }
}

#[test]
fn case_082_a_batch_waits_for_an_engine_that_is_down() {
    let server = Server::start();
    server.engine.crash();
    let id = server.create(&server.upload(&input(20, |at| format!("question {at}"))));
    let waiting = server.wait_for(&id, |batch| batch["overnight"]["waiting_reason"].is_string());
    assert_eq!(waiting["status"], "in_progress");
    assert_eq!(counts(&waiting), (20, 0, 0));
    server.engine.restart();
    let batch = server.wait_for_end_of(&id);
    assert_eq!((&batch["status"], counts(&batch)), (&json!("completed"), (20, 20, 0)));
}

#[test]
fn case_083_embeddings_keep_all_vectors() {
    let server = Server::start();
    let content: String = (0..10)
        .map(|at| {
            let inputs: Vec<String> = (0..=at).map(|part| format!("text {at} {part}")).collect();
            let body = json!({"model": "sim-model", "input": inputs});
            line_for(&format!("row-{at}"), "/v1/embeddings", &body)
        })
        .collect();
    let made =
        create(&server, &server.upload(content.as_bytes()), &json!({"endpoint": "/v1/embeddings"}));
    let batch = server.wait_for_end_of(ok(&made)["id"].as_str().unwrap());
    assert_eq!(counts(&batch), (10, 10, 0), "{batch}");
    let output = lines(&server.content(&batch, "output_file_id"));
    for (at, line) in output.iter().enumerate() {
        let vectors = line["response"]["body"]["data"].as_array().unwrap();
        assert_eq!(vectors.len(), at + 1);
        assert!(vectors.iter().all(|vector| vector["embedding"].as_array().unwrap().len() == 8));
    }
    let usage = &batch["usage"];
    assert_eq!(usage["output_tokens"], 0);
    let sum: u64 = output
        .iter()
        .map(|line| line["response"]["body"]["usage"]["prompt_tokens"].as_u64().unwrap())
        .sum();
    assert_eq!(usage["input_tokens"], sum);
    assert_eq!(usage["total_tokens"], sum);
}

#[test]
fn case_084_usage_is_the_sum_of_the_lines() {
    let server = Server::start();
    let prompt = |at| if at == 5 { "[[sim:status=400]]".to_owned() } else { "x".repeat(at * 10) };
    let batch = run(&server, &input(50, prompt));
    let output = lines(&server.content(&batch, "output_file_id"));
    let sum = |place: &str| -> u64 {
        let place = format!("/response/body/usage/{place}");
        output.iter().map(|line| line.pointer(&place).unwrap().as_u64().unwrap()).sum()
    };
    let (input, output) = (sum("prompt_tokens"), sum("completion_tokens"));
    assert!(input > 0 && output > 0);
    let expected = json!({
        "input_tokens": input,
        "input_tokens_details": {"cached_tokens": sum("prompt_tokens_details/cached_tokens")},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + output,
    });
    assert_eq!(batch["usage"], expected);

    let refused = run(&server, &input_refused());
    let zeros = &refused["usage"];
    assert!(zeros.is_null() || zeros["total_tokens"] == 0, "{refused}");
}

fn input_refused() -> Vec<u8> {
    input(3, |at| format!("{at} [[sim:status=422]]"))
}

#[test]
fn case_092_counts_only_grow_while_a_batch_runs() {
    let latency = Latency::Range(Duration::from_millis(10), Duration::from_millis(80));
    let server = with_script(Script { latency, ..Script::default() });
    let prompt = |at: usize| {
        if at.is_multiple_of(7) { format!("{at} [[sim:status=400]]") } else { at.to_string() }
    };
    let id = server.create(&server.upload(&input(300, prompt)));
    let mut last = (0, 0, 0);
    let mut seen = HashSet::new();
    let batch = watch(&server, &id, |batch| {
        let (total, completed, failed) = counts(batch);
        let is_planned = batch["status"] != "validating";
        assert_eq!(total, if is_planned { 300 } else { 0 }, "{batch}");
        assert!(completed >= last.1 && failed >= last.2, "{batch} after {last:?}");
        assert!(completed + failed <= 300, "{batch}");
        last = (total, completed, failed);
        seen.insert(completed + failed);
    });
    assert_eq!(counts(&batch), (300, 257, 43));
    assert!(seen.len() > 5, "progress was seen {} times", seen.len());
}

#[test]
fn case_093_a_file_that_is_named_is_whole() {
    let latency = Latency::Fixed(Duration::from_millis(1));
    let server = with_script(Script { latency, ..Script::default() });
    let prompt = |at: usize| {
        if at.is_multiple_of(10) { format!("{at} [[sim:status=400]]") } else { at.to_string() }
    };
    let id = server.create(&server.upload(&input(1_000, prompt)));
    watch(&server, &id, |batch| {
        let is_named = !batch["output_file_id"].is_null() || !batch["error_file_id"].is_null();
        assert_eq!(is_named, batch["status"] == "completed", "{batch}");
        if is_named {
            assert_eq!(lines(&server.content(batch, "output_file_id")).len(), 900);
            assert_eq!(lines(&server.content(batch, "error_file_id")).len(), 100);
        }
    });
}
