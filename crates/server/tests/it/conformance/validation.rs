//! Cases 63 to 74: what makes an input invalid, and what does not.

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    AT_ONCE, create, get, ids_of, line_for, list, ok, one_line, refused, run, silent, with_settings,
};
use crate::harness::{Server, Setup, custom_ids, input, request_line};

/// Runs an input that must be rejected; returns the problems as `(line, code, param)`.
fn problems(server: &Server, content: &[u8]) -> Vec<(Value, String, Value)> {
    let batch = run(server, content);
    check_rejected(server, &batch);
    batch["errors"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
            (error["line"].clone(), error["code"].as_str().unwrap().to_owned(), error["param"].clone())
        })
        .collect()
}

/// A rejected batch ran nothing and has no files.
fn check_rejected(server: &Server, batch: &Value) {
    assert_eq!(batch["status"], "failed", "{batch}");
    assert!(batch["failed_at"].is_u64(), "{batch}");
    for member in ["output_file_id", "error_file_id", "in_progress_at", "completed_at"] {
        assert_eq!(batch[member], Value::Null, "{member}");
    }
    assert_eq!(batch["request_counts"], json!({"total": 0, "completed": 0, "failed": 0}));
    assert_eq!(batch["errors"]["object"], "list");
    assert_eq!(server.engine.calls().total, 0, "the engine was asked");
}

fn problem(line: u64, code: &str, param: &str) -> (Value, String, Value) {
    let param = if param.is_empty() { Value::Null } else { json!(param) };
    (json!(line), code.to_owned(), param)
}

fn chat(custom_id: &str, body: &Value) -> String {
    line_for(custom_id, "/v1/chat/completions", body)
}

fn messages() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

#[test]
fn case_063_a_line_that_is_no_json_fails_the_batch() {
    let server = Server::start();
    let content =
        [one_line().as_slice(), b"{\"custom_id\": \n", request_line("c", "x").as_bytes()].concat();
    assert_eq!(problems(&server, &content), [problem(2, "invalid_json_line", "")]);
}

#[test]
fn case_064_missing_members_are_named_line_by_line() {
    let server = Server::start();
    let members = ["custom_id", "method", "url", "body"];
    let content: Vec<u8> = (0..4)
        .flat_map(|at| {
            let mut line: Value =
                serde_json::from_str(&request_line(&format!("row-{at}"), "x")).unwrap();
            line.as_object_mut().unwrap().remove(members[at]);
            format!("{line}\n").into_bytes()
        })
        .collect();
    let expected: Vec<_> = (1..=4)
        .map(|line| problem(line, "missing_required_parameter", members[line as usize - 1]))
        .collect();
    assert_eq!(problems(&server, &content), expected);
}

#[test]
fn case_065_a_url_of_another_endpoint_is_wrong() {
    let server = Server::start();
    let body = json!({"model": "sim-model", "input": "x"});
    let content = request_line("a", "x") + &line_for("b", "/v1/embeddings", &body);
    let found = problems(&server, content.as_bytes());
    assert_eq!(found[0], problem(2, "invalid_url", "url"), "{found:?}");
}

#[test]
fn case_066_a_repeated_custom_id_is_told_at_its_second_line() {
    let server = Server::start();
    let content = request_line("a", "1") + &request_line("b", "2") + &request_line("a", "3");
    assert_eq!(problems(&server, content.as_bytes()), [problem(3, "duplicate_custom_id", "custom_id")]);
    // An escape makes no other id.
    let same = request_line("a", "1") + &request_line("a", "2").replacen("\"a\"", "\"\\u0061\"", 1);
    assert_eq!(problems(&server, same.as_bytes()), [problem(2, "duplicate_custom_id", "custom_id")]);
}

#[test]
fn case_067_streams_are_not_batched() {
    let server = Server::start();
    let body = json!({"model": "sim-model", "messages": messages(), "stream": true});
    let content = request_line("a", "x") + &chat("b", &body);
    assert_eq!(
        problems(&server, content.as_bytes()),
        [problem(2, "streaming_unsupported", "body.stream")]
    );
    let plain = json!({"model": "sim-model", "messages": messages(), "stream": false});
    assert_eq!(run(&server, chat("a", &plain).as_bytes())["status"], "completed");
}

#[test]
fn case_068_a_model_that_nothing_serves_fails_the_batch() {
    let server = Server::start();
    let body = json!({"model": "sim-mode", "messages": messages()});
    let batch = run(&server, chat("a", &body).as_bytes());
    check_rejected(&server, &batch);
    let error = &batch["errors"]["data"][0];
    assert_eq!(
        (&error["code"], &error["line"], &error["param"]),
        (&json!("model_not_found"), &json!(1), &json!("body.model"))
    );
    // What is served is named.
    assert!(error["message"].as_str().unwrap().contains("`sim-model`"), "{error}");
}

#[test]
fn case_069_a_body_needs_a_model_and_its_messages() {
    let server = Server::start();
    let content =
        chat("a", &json!({"messages": messages()})) + &chat("b", &json!({"model": "sim-model"}));
    assert_eq!(
        problems(&server, content.as_bytes()),
        [problem(1, "invalid_request", "body.model"), problem(2, "invalid_request", "body.messages")]
    );
}

#[test]
fn case_070_lines_of_another_shape_are_no_requests() {
    let server = Server::start();
    let with = |member: &str, value: Value| {
        let mut line: Value = serde_json::from_str(&request_line("x", "x")).unwrap();
        line[member] = value;
        format!("{line}\n")
    };
    let content = [
        "[1, 2]\n".to_owned(),
        "\"text\"\n".to_owned(),
        with("body", json!("text")),
        with("custom_id", json!(7)),
        with("custom_id", json!("")),
        with("url", json!(["/v1/chat/completions"])),
    ]
    .concat();
    let found = problems(&server, content.as_bytes());
    let lines: Vec<u64> = found.iter().map(|(line, _, _)| line.as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6], "{found:?}");
    assert!(found.iter().all(|(_, code, _)| code == "invalid_request"), "{found:?}");
}

#[test]
fn case_071_more_than_the_limit_is_refused_with_its_name() {
    let server = with_settings("[limits]\nrequests_per_batch = 10");
    let file = server.upload(&input(11, |at| at.to_string()));
    let error = refused(&create(&server, &file, &json!({})), 400);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("11") && message.contains("limits.requests_per_batch"), "{message}");
    assert_eq!(list(&server, "/v1/batches")["data"], json!([]));

    // Each element of an embedding's `input` counts, which only the content tells.
    let embedding = |count: usize| {
        let inputs: Vec<String> = (0..count).map(|at| at.to_string()).collect();
        let body = json!({"model": "sim-model", "input": inputs});
        let file = server.upload(line_for(&count.to_string(), "/v1/embeddings", &body).as_bytes());
        let made = create(&server, &file, &json!({"endpoint": "/v1/embeddings"}));
        server.wait_for_end_of(ok(&made)["id"].as_str().unwrap())
    };
    let batch = embedding(11);
    check_rejected(&server, &batch);
    let error = &batch["errors"]["data"][0];
    assert!(error["message"].as_str().unwrap().contains("limits.requests_per_batch"), "{error}");
    assert_eq!(embedding(10)["status"], "completed");
    assert_eq!(run(&server, &input(10, |at| at.to_string()))["status"], "completed");
}

#[test]
fn case_072_many_bad_lines_make_no_large_answer() {
    let server = Server::start();
    let batch = run(&server, &b"{\"custom_id\": \"a\"}\n".repeat(50_000));
    check_rejected(&server, &batch);
    let errors = batch["errors"]["data"].as_array().unwrap();
    assert!((1..=1_000).contains(&errors.len()), "{} problems", errors.len());
    let last = errors.last().unwrap()["message"].as_str().unwrap();
    assert!(last.contains("more problems"), "{last}");
    let lines: Vec<u64> = errors.iter().filter_map(|error| error["line"].as_u64()).collect();
    assert!(lines.is_sorted(), "{lines:?}");
    let asked = Instant::now();
    let answer = get(&server, &format!("/v1/batches/{}", batch["id"].as_str().unwrap()));
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert!(answer.body.len() < 100_000, "{} bytes", answer.body.len());
}

#[test]
fn case_073_line_ends_of_all_kinds_are_taken() {
    let server = Server::start();
    let line = |id: &str| request_line(id, id).trim_end().to_owned();
    let content =
        format!("\u{feff}{}\r\n\r\n{}\n\n   \n{}\r\n\n{}", line("a"), line("b"), line("c"), line("d"));
    let batch = run(&server, content.as_bytes());
    assert_eq!(batch["request_counts"], json!({"total": 4, "completed": 4, "failed": 0}), "{batch}");
    assert_eq!(custom_ids(&server.content(&batch, "output_file_id")), ["a", "b", "c", "d"]);
    // Lines are counted as they stand in the file.
    let wrong = format!("{}\r\n\r\n\n{{\n", line("a"));
    let batch = run(&server, wrong.as_bytes());
    assert_eq!(batch["errors"]["data"][0]["line"], 4, "{batch}");
}

#[test]
fn case_074_a_full_queue_says_when_to_come_back() {
    let server = Server::with(Setup {
        script: silent(),
        settings: "[limits]\nunfinished_batches = 1".to_owned(),
        ..Setup::default()
    });
    let file = server.upload(&one_line());
    let first = server.create(&file);
    let answer = create(&server, &file, &json!({}));
    let error = refused(&answer, 429);
    assert_eq!(error["type"], "rate_limit_exceeded");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(ids_of(&list(&server, "/v1/batches")), [first]);
}
