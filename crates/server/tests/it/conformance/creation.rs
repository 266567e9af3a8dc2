//! Cases 51 and 53 to 62: creating a batch.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{
    AT_ONCE, create, creation, get, ids_of, list, ok, one_line, refused, roomy, seconds, with_settings,
};
use crate::harness::{Server, input};

/// Every key of the batch object, whatever its state.
const KEYS: [&str; 21] = [
    "id",
    "object",
    "endpoint",
    "model",
    "errors",
    "input_file_id",
    "completion_window",
    "status",
    "output_file_id",
    "error_file_id",
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "request_counts",
    "usage",
];

/// The shape that strict clients parse, in every state.
fn check_shape(batch: &Value) {
    for key in KEYS.into_iter().chain(["metadata"]) {
        assert!(batch.get(key).is_some(), "no `{key}`: {batch}");
    }
    assert!(batch["id"].as_str().unwrap().starts_with("batch_"), "{batch}");
    assert_eq!(batch["object"], "batch");
    for key in KEYS.into_iter().filter(|key| key.ends_with("_at")) {
        assert!(batch[key].is_u64() || batch[key].is_null(), "{key}: {batch}");
    }
    for key in ["total", "completed", "failed"] {
        assert!(batch["request_counts"][key].is_u64(), "{key}: {batch}");
    }
    if !batch["usage"].is_null() {
        let usage = &batch["usage"];
        for place in [
            &usage["input_tokens"],
            &usage["input_tokens_details"]["cached_tokens"],
            &usage["output_tokens"],
            &usage["output_tokens_details"]["reasoning_tokens"],
            &usage["total_tokens"],
        ] {
            assert!(place.is_u64(), "{usage}");
        }
    }
    if !batch["errors"].is_null() {
        assert_eq!(batch["errors"]["object"], "list");
        assert!(batch["errors"]["data"].as_array().is_some_and(|data| !data.is_empty()), "{batch}");
    }
}

fn pairs(count: usize) -> Value {
    Value::Object((0..count).map(|at| (format!("name{at}"), json!("value"))).collect::<Map<_, _>>())
}

#[test]
fn case_051_a_batch_is_made_at_once_however_long_its_input() {
    let server = Server::start();
    let file = server.upload(&input(50_000, |at| format!("question {at}")));
    let asked = Instant::now();
    let batch = ok(&create(&server, &file, &json!({})));
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    check_shape(&batch);
    assert_eq!(batch["status"], "validating");
    assert_eq!(batch["input_file_id"], json!(file));
    assert_eq!(batch["endpoint"], "/v1/chat/completions");
    assert_eq!(batch["completion_window"], "24h");
    assert_eq!(batch["request_counts"], json!({"total": 0, "completed": 0, "failed": 0}));
    for key in ["errors", "output_file_id", "error_file_id", "in_progress_at", "usage", "metadata"] {
        assert_eq!(batch[key], Value::Null, "{key}");
    }
}

/// The key shape of case 52 in the states that pass by; that the SDK itself parses it is tested with the SDKs.
#[test]
fn case_052_every_state_has_every_key() {
    let server = roomy();
    let done = server.wait_for_end_of(&server.create(&server.upload(&one_line())));
    assert_eq!(done["status"], "completed");
    check_shape(&done);
    let failed = server.wait_for_end_of(&server.create(&server.upload(b"{}\n")));
    assert_eq!(failed["status"], "failed");
    check_shape(&failed);
    for batch in list(&server, "/v1/batches")["data"].as_array().unwrap() {
        check_shape(batch);
    }
    let file = server.upload(&input(5_000, |at| format!("question {at}")));
    let id = server.create(&file);
    let cancelling = ok(&super::post_empty(&server, &format!("/v1/batches/{id}/cancel")));
    check_shape(&cancelling);
    check_shape(&server.wait_for_end_of(&id));
}

#[test]
fn case_053_the_batch_expires_after_its_window() {
    let server = roomy();
    let file = server.upload(&one_line());
    for (window, span) in [("24h", 86_400), ("7d", 604_800), ("90m", 5_400)] {
        let batch = ok(&create(&server, &file, &json!({"completion_window": window})));
        assert_eq!(seconds(&batch, "expires_at"), seconds(&batch, "created_at") + span);
    }
}

#[test]
fn case_054_metadata_is_echoed_and_held_to_its_limits() {
    let server = roomy();
    let file = server.upload(&one_line());
    let longest = json!({"n".repeat(64): "v".repeat(512), "größe": "🦀", "empty": ""});
    for good in [longest, pairs(16), json!({})] {
        let batch = ok(&create(&server, &file, &json!({"metadata": good})));
        assert_eq!(batch["metadata"], good);
        let id = batch["id"].as_str().unwrap();
        assert_eq!(server.wait_for_end_of(id)["metadata"], good);
    }
    let before = list(&server, "/v1/batches")["data"].as_array().unwrap().len();
    for wrong in [
        pairs(17),
        json!({"n".repeat(65): "v"}),
        json!({"name": "v".repeat(513)}),
        json!({"name": ["v"]}),
        json!({"name": 1}),
        json!({"name": null}),
        json!(["name"]),
        json!("name"),
    ] {
        let error = refused(&create(&server, &file, &json!({"metadata": wrong})), 400);
        assert!(error["param"].as_str().unwrap().starts_with("metadata"), "{error}");
    }
    assert_eq!(list(&server, "/v1/batches")["data"].as_array().unwrap().len(), before);
}

#[test]
fn case_055_no_metadata_is_null() {
    let server = Server::start();
    let file = server.upload(&one_line());
    assert_eq!(ok(&create(&server, &file, &json!({"metadata": null})))["metadata"], Value::Null);
    assert_eq!(ok(&create(&server, &file, &json!({})))["metadata"], Value::Null);
}

#[test]
fn case_056_an_unknown_endpoint_is_refused_with_the_known_ones() {
    let server = Server::start();
    let file = server.upload(&one_line());
    for endpoint in ["/v1/invalid", "", "/v1/chat/completions/"] {
        let error = refused(&create(&server, &file, &json!({"endpoint": endpoint})), 400);
        assert_eq!((&error["param"], &error["code"]), (&json!("endpoint"), &json!("invalid_value")));
        for known in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] {
            assert!(error["message"].as_str().unwrap().contains(known), "{error}");
        }
    }
    let mut without = creation(&file, &json!({}));
    without.as_object_mut().unwrap().remove("endpoint");
    let error = refused(&server.post("/v1/batches", &without), 400);
    assert_eq!(error["code"], "missing_required_parameter");
    assert_eq!(error["param"], "endpoint");
}

#[test]
fn case_057_a_window_that_is_none_is_refused() {
    let server = Server::start();
    let file = server.upload(&one_line());
    for window in [json!(""), json!("invalid"), json!(24), json!("-1h"), json!("24"), json!(null)] {
        let error = refused(&create(&server, &file, &json!({"completion_window": window})), 400);
        assert_eq!(error["param"], "completion_window", "{window}");
    }
    let mut without = creation(&file, &json!({}));
    without.as_object_mut().unwrap().remove("completion_window");
    assert_eq!(refused(&server.post("/v1/batches", &without), 400)["param"], "completion_window");
    assert_eq!(list(&server, "/v1/batches")["data"], json!([]));
}

#[test]
fn case_058_another_window_is_taken_and_echoed() {
    let server = Server::start();
    let file = server.upload(&one_line());
    let batch = ok(&create(&server, &file, &json!({"completion_window": "48h"})));
    assert_eq!(batch["completion_window"], "48h");
}

#[test]
fn case_059_an_unknown_input_is_refused_at_once() {
    let server = Server::start();
    for id in ["file-unknown", "file-00000000000000000000000000000000", "", "batch_1", "../x"] {
        let error = refused(&create(&server, id, &json!({})), 400);
        assert_eq!(error["param"], "file_id", "{id}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    assert_eq!(refused(&server.post("/v1/batches", &json!({})), 400)["param"], "input_file_id");
    assert_eq!(list(&server, "/v1/batches")["data"], json!([]));
}

#[test]
fn case_060_an_input_with_another_purpose_is_refused() {
    let server = Server::start();
    let file = ok(&server.upload_as(&[("purpose", "user_data")], "in.jsonl", &one_line()));
    let error = refused(&create(&server, file["id"].as_str().unwrap(), &json!({})), 400);
    assert_eq!(error["param"], "file_id");
    // An output is no input either.
    let done = server.wait_for_end_of(&server.create(&server.upload(&one_line())));
    refused(&create(&server, done["output_file_id"].as_str().unwrap(), &json!({})), 400);
}

#[test]
fn case_061_outputs_live_as_long_as_was_asked() {
    let server = Server::start();
    let content = input(4, |at| if at == 0 { "[[sim:status=400]]".to_owned() } else { at.to_string() });
    let life = json!({"output_expires_after": {"anchor": "created_at", "seconds": 3_600}});
    let batch = ok(&create(&server, &server.upload(&content), &life));
    let batch = server.wait_for_end_of(batch["id"].as_str().unwrap());
    for member in ["output_file_id", "error_file_id"] {
        let file = ok(&get(&server, &format!("/v1/files/{}", batch[member].as_str().unwrap())));
        assert_eq!(seconds(&file, "expires_at"), seconds(&file, "created_at") + 3_600);
    }

    let month = with_settings("[retention]\noutputs = \"30d\"");
    let batch = month.wait_for_end_of(&month.create(&month.upload(&one_line())));
    let file = ok(&get(&month, &format!("/v1/files/{}", batch["output_file_id"].as_str().unwrap())));
    assert_eq!(seconds(&file, "expires_at"), seconds(&file, "created_at") + 2_592_000);
}

#[test]
fn case_062_a_life_of_outputs_that_cannot_be_is_refused() {
    let server = Server::start();
    let file = server.upload(&one_line());
    for life in [
        json!({"anchor": "created_at", "seconds": 10}),
        json!({"anchor": "created_at", "seconds": 2_592_001}),
        json!({"anchor": "created_at", "seconds": "3600"}),
        json!({"anchor": "now", "seconds": 3_600}),
        json!({"seconds": 3_600}),
        json!({"anchor": "created_at"}),
        json!(3_600),
    ] {
        let error = refused(&create(&server, &file, &json!({"output_expires_after": life})), 400);
        assert!(error["param"].as_str().unwrap().starts_with("output_expires_after"), "{error}");
    }
    assert!(ids_of(&list(&server, "/v1/batches")).is_empty());
}
