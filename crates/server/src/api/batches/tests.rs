use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use overnight_domain::batch::BatchError;
use overnight_domain::chunk::ChunkRange;
use overnight_domain::ids::{BatchId, BlobKey, ChunkNumber, LeaseToken, TenantId};
use overnight_domain::tally::{Tally, Usage};
use overnight_store::{ClaimQuery, Closing, Planned};
use serde_json::{Value, json};

use crate::api::harness::{Field, Harness, form_body, request};
use crate::clock;
use crate::endpoints::{EndpointState, EndpointView};

const LINE: &str =
    "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{}}\n";

fn creation(input: &str) -> Value {
    json!({
        "input_file_id": input, "endpoint": "/v1/chat/completions", "completion_window": "24h",
    })
}

async fn batch(harness: &Harness) -> Value {
    let input = harness.input(LINE).await;
    harness.post("/v1/batches", &creation(&input)).await.ok()
}

fn id_of(batch: &Value) -> BatchId {
    BatchId::parse(batch["id"].as_str().unwrap()).unwrap()
}

fn path_of(batch: &Value) -> String {
    format!("/v1/batches/{}", batch["id"].as_str().unwrap())
}

async fn plan(harness: &Harness, batch: &Value, total: u32) {
    let chunk = ChunkRange { first_entry: 0, entry_count: total, len: 100 };
    let planned = Planned {
        total: u64::from(total),
        model: Some("m".to_owned()),
        plan_blob: BlobKey::new("plans/a"),
        chunks: vec![chunk],
        reserved_len: 1,
    };
    harness.ctx.store.plan_batch(&id_of(batch), planned, clock::now()).await.unwrap();
}

/// Runs the only chunk of a planned batch to its end and closes the batch.
async fn finish(harness: &Harness, batch: &Value, tally: Tally) {
    let store = &harness.ctx.store;
    let claim = ClaimQuery {
        worker: harness.ctx.worker.clone(),
        token: LeaseToken(1),
        ttl: std::time::Duration::from_secs(60),
        active_batches_max: 10,
        except: Vec::new(),
        unserved_models: Vec::new(),
        before: None,
        now: clock::now(),
    };
    let claimed = store.claim(claim).await.unwrap().unwrap();
    store.complete(&claimed.lease, tally, clock::now()).await.unwrap();
    let closing = Closing { output: None, error: None, tally };
    store.close_batch(&id_of(batch), closing, clock::now()).await.unwrap();
}

#[tokio::test]
async fn a_new_batch_has_every_key() {
    let harness = Harness::new();
    let input = harness.input(LINE).await;
    let mut body = creation(&input);
    body["metadata"] = json!({"job": "nightly"});
    body["unknown"] = json!(1);
    body["overnight"] =
        json!({"priority": 7, "order": "file", "attempts": 2, "timeout": "30s", "model": "m"});
    let mut call = request(Method::POST, "/v1/batches", Body::from(body.to_string()));
    let declared = HeaderValue::from_static("application/x-www-form-urlencoded");
    call.headers_mut().insert(CONTENT_TYPE, declared);
    let batch = harness.call(call).await.ok();
    let created = batch["created_at"].as_u64().unwrap();
    assert_eq!(batch["expires_at"], created + 86_400);
    assert!(batch["id"].as_str().is_some_and(|id| id.starts_with("batch_") && id.len() == 38));
    let mut rest = batch.clone();
    for member in ["id", "created_at", "expires_at", "overnight"] {
        rest.as_object_mut().unwrap().remove(member);
    }
    assert_eq!(
        rest,
        json!({
            "object": "batch", "endpoint": "/v1/chat/completions", "model": null, "errors": null,
            "input_file_id": input, "completion_window": "24h", "status": "validating",
            "output_file_id": null, "error_file_id": null, "in_progress_at": null,
            "finalizing_at": null, "completed_at": null, "failed_at": null, "expired_at": null,
            "cancelling_at": null, "cancelled_at": null,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "usage": null, "metadata": {"job": "nightly"},
        })
    );
    let ours = &batch["overnight"];
    assert_eq!(ours["priority"], 7);
    assert_eq!(ours["order"], "file");
    assert_eq!(ours["attempts"], 2);
    assert_eq!(ours["timeout_seconds"], 30);
    assert_eq!(harness.get(&path_of(&batch)).await.ok(), batch);
}

#[tokio::test]
async fn a_bad_creation_names_what_is_wrong() {
    let harness = Harness::new();
    let input = harness.input(LINE).await;
    let fields = [Field::text("purpose", "user_data"), Field::file("a", b"x")];
    let other = harness.form("/v1/files", &fields).await.ok()["id"].clone();
    let long: serde_json::Map<String, Value> =
        (0..17).map(|at| (format!("k{at}"), json!("v"))).collect();
    let cases = [
        ("input_file_id", json!(null), "input_file_id"),
        ("input_file_id", json!("file-unknown"), "file_id"),
        ("input_file_id", json!("../../etc"), "file_id"),
        ("input_file_id", other, "file_id"),
        ("endpoint", json!(null), "endpoint"),
        ("endpoint", json!("/v1/invalid"), "endpoint"),
        ("endpoint", json!(7), "endpoint"),
        ("completion_window", json!(null), "completion_window"),
        ("completion_window", json!(""), "completion_window"),
        ("completion_window", json!("invalid"), "completion_window"),
        ("metadata", json!(long), "metadata"),
        ("metadata", json!({"k".repeat(65): "v"}), "metadata"),
        ("metadata", json!({"k": "v".repeat(513)}), "metadata.k"),
        ("metadata", json!({"tags": ["a"]}), "metadata.tags"),
        ("metadata", json!([1]), "metadata"),
        (
            "output_expires_after",
            json!({"anchor": "created_at", "seconds": 10}),
            "output_expires_after.seconds",
        ),
        (
            "output_expires_after",
            json!({"anchor": "now", "seconds": 3600}),
            "output_expires_after.anchor",
        ),
        ("overnight", json!({"priority": 101}), "overnight.priority"),
        ("overnight", json!({"order": "random"}), "overnight.order"),
        ("overnight", json!({"attempts": 0}), "overnight.attempts"),
        ("overnight", json!({"timeout": "soon"}), "overnight.timeout"),
        ("overnight", json!({"timeout": 0}), "overnight.timeout"),
        ("overnight", json!({"large": "yes"}), "overnight.large"),
        ("overnight", json!({"colour": "blue"}), "overnight.colour"),
    ];
    for (member, value, param) in cases {
        let mut body = creation(&input);
        body[member] = value;
        let error = harness.post("/v1/batches", &body).await.refused(400);
        assert_eq!(error["param"], param, "{error}");
    }
    let broken = request(Method::POST, "/v1/batches", Body::from("{"));
    harness.call(broken).await.refused(400);
    let endpoint = json!({"input_file_id": input, "endpoint": "/v1/x", "completion_window": "1h"});
    let error = harness.post("/v1/batches", &endpoint).await.refused(400);
    assert_eq!(error["code"], "invalid_value");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("'/v1/embeddings'")));
    assert_eq!(harness.get("/v1/batches").await.ok()["data"], json!([]));
}

#[tokio::test]
async fn the_limits_say_what_they_are() {
    let harness = Harness::with(|config| {
        config.limits.requests_per_batch = 3;
        config.limits.queued_requests = 5;
        config.limits.unfinished_batches = 3;
    });
    let four = harness.input(&LINE.repeat(4)).await;
    let error = harness.post("/v1/batches", &creation(&four)).await.refused(400);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("limits.requests_per_batch")));
    let three = harness.input(&LINE.repeat(3)).await;
    harness.post("/v1/batches", &creation(&three)).await.ok();
    let full = harness.post("/v1/batches", &creation(&three)).await;
    assert_eq!(full.refused(429)["code"], "queue_full");
    assert_eq!(full.headers["retry-after"], "30");
    let mut large = creation(&four);
    large["overnight"] = json!({"large": true});
    harness.post("/v1/batches", &large).await.ok();
    let one = harness.input(LINE).await;
    harness.post("/v1/batches", &creation(&one)).await.ok();
    harness.post("/v1/batches", &creation(&one)).await.ok();
    let error = harness.post("/v1/batches", &creation(&one)).await.refused(429);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("limits.unfinished_batches")));
    assert_eq!(harness.get("/v1/batches").await.ok()["data"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn a_creation_that_is_repeated_is_the_first_one() {
    let harness = Harness::new();
    let input = harness.input(LINE).await;
    let create = |name: &'static str, value: &'static str| {
        let mut call = request(Method::POST, "/v1/batches", Body::from(creation(&input).to_string()));
        call.headers_mut().insert(name, HeaderValue::from_static(value));
        harness.call(call)
    };
    let first = create("x-stainless-retry-count", "0").await.ok();
    let again = create("x-stainless-retry-count", "1").await.ok();
    assert_eq!(first["id"], again["id"]);
    let meant = create("x-stainless-retry-count", "0").await.ok();
    assert_ne!(first["id"], meant["id"], "two equal batches may be meant");
    let named = create("idempotency-key", "k").await.ok();
    assert_eq!(named["id"], create("idempotency-key", "k").await.ok()["id"]);
    assert_ne!(named["id"], create("idempotency-key", "other").await.ok()["id"]);
}

#[tokio::test]
async fn one_call_can_bring_the_file() {
    let harness = Harness::new();
    let fields = [
        Field::file("in.jsonl", LINE.as_bytes()),
        Field::text("model", "m"),
        Field::text("metadata", "{\"a\":\"1\"}"),
        Field::text("metadata[b]", "2"),
        Field::text("overnight[priority]", "5"),
        Field::text("completion_window", "7d"),
    ];
    let batch = harness.form("/v1/batches", &fields).await.ok();
    assert_eq!(batch["endpoint"], "/v1/chat/completions");
    assert_eq!(batch["completion_window"], "7d");
    assert_eq!(batch["metadata"], json!({"a": "1", "b": "2"}));
    assert_eq!(batch["overnight"]["priority"], 5);
    assert_eq!(batch["overnight"]["model"], "m");
    let file = harness.get(&format!("/v1/files/{}", batch["input_file_id"].as_str().unwrap())).await;
    assert_eq!(file.ok()["purpose"], "batch");

    let mut again = request(Method::POST, "/v1/batches", Body::from(form_body(&fields)));
    let headers = again.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=XX"));
    headers.insert("x-stainless-retry-count", HeaderValue::from_static("1"));
    assert_eq!(harness.call(again).await.ok()["id"], batch["id"]);
    for bad in [Field::text("endpoint", "/v1/x"), Field::text("metadata", "{")] {
        harness.form("/v1/batches", &[fields[0], bad]).await.refused(400);
    }
    harness.form("/v1/batches", &[fields[1]]).await.refused(400);
    harness.form("/v1/batches", &[Field::file("in", b"no json\n")]).await.refused(400);
    assert_eq!(harness.get("/v1/files").await.ok()["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn live_counts_are_added_until_they_are_committed() {
    let harness = Harness::new();
    let batch = batch(&harness).await;
    plan(&harness, &batch, 10).await;
    let (id, path) = (id_of(&batch), path_of(&batch));
    let usage = Usage { input_tokens: 5, output_tokens: 2, ..Usage::default() };
    let tally = Tally { completed: 3, failed: 1, usage };
    harness.ctx.live.set(&id, ChunkNumber(0), tally);
    let before = harness.get(&path).await.ok();
    assert_eq!(before["status"], "in_progress");
    assert_eq!(before["request_counts"], json!({"total": 10, "completed": 0, "failed": 0}), "not begun");
    let claim = ClaimQuery {
        worker: harness.ctx.worker.clone(),
        token: LeaseToken(1),
        ttl: std::time::Duration::from_secs(60),
        active_batches_max: 1,
        except: Vec::new(),
        unserved_models: Vec::new(),
        before: None,
        now: clock::now(),
    };
    let lease = harness.ctx.store.claim(claim).await.unwrap().unwrap().lease;
    let start = overnight_domain::chunk::LogPosition::START;
    harness.ctx.store.begin(&lease, start).await.unwrap();
    let during = harness.get(&path).await.ok();
    assert_eq!(during["request_counts"], json!({"total": 10, "completed": 3, "failed": 1}));
    assert_eq!(
        during["usage"],
        json!({
            "input_tokens": 5, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 7
        })
    );
    harness
        .ctx
        .store
        .complete(&lease, Tally { completed: 9, failed: 1, usage }, clock::now())
        .await
        .unwrap();
    let after = harness.get(&path).await.ok();
    assert_eq!(after["request_counts"], json!({"total": 10, "completed": 9, "failed": 1}));
    assert_eq!(after["status"], "finalizing");
}

#[tokio::test]
async fn a_waiting_batch_says_why() {
    let harness = Harness::new();
    let batch = batch(&harness).await;
    plan(&harness, &batch, 1).await;
    let path = path_of(&batch);
    let reason = async || harness.get(&path).await.ok()["overnight"]["waiting_reason"].clone();
    assert_eq!(reason().await, "no endpoint serves `m`");
    let mut endpoint = EndpointView {
        reason: Some("connection refused".to_owned()),
        ..EndpointView::sample(EndpointState::Down)
    };
    harness.ctx.endpoints.publish(vec![endpoint.clone()]);
    assert_eq!(reason().await, "no endpoint is up; `gpu0`: connection refused");
    endpoint.state = EndpointState::Up;
    harness.ctx.endpoints.publish(vec![endpoint]);
    assert_eq!(reason().await, Value::Null);
    harness.post_empty(&format!("{path}/pause")).await.ok();
    assert_eq!(reason().await, "the batch is paused: a caller asked for it");
}

#[tokio::test]
async fn pausing_and_changing_leave_the_status_alone() {
    let harness = Harness::new();
    let batch = batch(&harness).await;
    let path = path_of(&batch);
    let paused = harness.post_empty(&format!("{path}/pause")).await.ok();
    assert_eq!(paused["status"], "validating");
    assert_eq!(paused["overnight"]["paused"], true);
    let resumed = harness.post_empty(&format!("{path}/resume")).await.ok();
    assert_eq!(resumed["overnight"]["paused"], false);

    let body = json!({"overnight": {"priority": -3}, "completion_window": "48h"});
    let changed = harness.post(&path, &body).await.ok();
    assert_eq!(changed["overnight"]["priority"], -3);
    assert_eq!(changed["expires_at"], batch["created_at"].as_u64().unwrap() + 172_800);
    let at = harness.post(&path, &json!({"expires_at": 4_000_000_000_u64})).await.ok();
    assert_eq!(at["expires_at"], 4_000_000_000_u64);
    for body in [
        json!({}),
        json!({"overnight": {"order": "file"}}),
        json!({"overnight": {"priority": 1000}}),
        json!({"completion_window": "x"}),
        json!({"expires_at": -1}),
    ] {
        harness.post(&path, &body).await.refused(400);
    }
    harness.post_empty("/v1/batches/batch_unknown/pause").await.refused(404);
}

#[tokio::test]
async fn cancelling_twice_changes_nothing() {
    let harness = Harness::new();
    let batch = batch(&harness).await;
    let cancel = format!("{}/cancel", path_of(&batch));
    let mut call = request(Method::POST, &cancel, Body::empty());
    call.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let first = harness.call(call).await.ok();
    assert_eq!(first["status"], "cancelling");
    assert!(first["cancelling_at"].is_u64());
    assert_eq!(first["in_progress_at"], Value::Null);
    assert_eq!(harness.post_empty(&cancel).await.ok(), first);
    harness.post_empty("/v1/batches/batch_unknown/cancel").await.refused(404);
    harness.post_empty("/v1/batches/nonsense/cancel").await.refused(404);
}

#[tokio::test]
async fn a_terminal_batch_can_only_be_deleted() {
    let harness = Harness::new();
    let done = batch(&harness).await;
    plan(&harness, &done, 1).await;
    finish(&harness, &done, Tally { completed: 1, ..Tally::default() }).await;
    let failed = batch(&harness).await;
    let problem = BatchError {
        code: "invalid_json_line".to_owned(),
        message: "no".to_owned(),
        param: None,
        line: Some(2),
    };
    let store = &harness.ctx.store;
    store.reject_batch(&id_of(&failed), vec![problem], clock::now()).await.unwrap();
    let shown = harness.get(&path_of(&failed)).await.ok();
    assert_eq!(shown["errors"]["object"], "list");
    assert_eq!(
        shown["errors"]["data"],
        json!([{"code": "invalid_json_line", "message": "no", "param": null, "line": 2}])
    );
    for (batch, status) in [(&done, "completed"), (&failed, "failed")] {
        let path = path_of(batch);
        for (verb, what) in [("/cancel", "cancel"), ("/pause", "pause"), ("/resume", "resume")] {
            let refused = harness.post_empty(&format!("{path}{verb}")).await;
            let message = format!("Cannot {what} a batch with status '{status}'.");
            assert_eq!(refused.refused(409)["message"], message);
            assert_eq!(refused.headers["x-should-retry"], "false");
        }
        let deleted = harness.delete(&path).await.ok();
        assert_eq!(deleted, json!({"id": batch["id"], "object": "batch", "deleted": true}));
        harness.get(&path).await.refused(404);
        harness.delete(&path).await.refused(404);
    }
    let running = batch(&harness).await;
    harness.delete(&path_of(&running)).await.refused(409);
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered_by_status() {
    let harness = Harness::with(|config| config.limits.unfinished_batches = 100);
    let input = harness.input(LINE).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(harness.post("/v1/batches", &creation(&input)).await.ok());
    }
    made.reverse();
    let page = harness.get("/v1/batches?limit=2").await.ok();
    assert_eq!(page["data"], json!(made[..2]));
    assert_eq!(page["has_more"], true);
    let rest = harness.get(&format!("/v1/batches?after={}", made[1]["id"].as_str().unwrap())).await;
    assert_eq!(rest.ok()["data"], json!(made[2..]));
    let end = harness.get(&format!("/v1/batches?after={}", made[4]["id"].as_str().unwrap())).await.ok();
    assert_eq!(
        end,
        json!({"object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false})
    );
    harness.post_empty(&format!("{}/cancel", path_of(&made[3]))).await.ok();
    let ids = async |query: &str| {
        let page = harness.get(&format!("/v1/batches?{query}")).await.ok();
        page["data"].as_array().unwrap().len()
    };
    assert_eq!(ids("status=cancelling").await, 1);
    assert_eq!(ids("status=cancelling,validating").await, 5);
    assert_eq!(ids("status=cancelling&status=completed").await, 1);
    assert_eq!(ids("status=completed").await, 0);
    for query in ["status=paused", "limit=101", "limit=0", "after=batch_unknown"] {
        harness.get(&format!("/v1/batches?{query}")).await.refused(400);
    }
}

#[tokio::test]
async fn what_belongs_to_another_tenant_is_not_found() {
    let key = |name: &str| crate::config::KeyConfig {
        name: name.to_owned(),
        tenant: TenantId::new(name),
        value: crate::config::Secret::new(format!("sk-{name}")),
        admin: false,
    };
    let harness = Harness::with(|config| config.server.keys = vec![key("red"), key("blue")]);
    let call = async |key: &'static str, method: Method, path: &str, body: Vec<u8>| {
        let mut call = request(method, path, Body::from(body));
        let headers = call.headers_mut();
        headers.insert("authorization", HeaderValue::from_static(key));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=XX"));
        harness.call(call).await
    };
    let form = form_body(&[Field::file("in.jsonl", LINE.as_bytes())]);
    let batch = call("Bearer sk-red", Method::POST, "/v1/batches", form).await.ok();
    let (path, input) = (path_of(&batch), batch["input_file_id"].as_str().unwrap());
    call("Bearer sk-red", Method::GET, &path, Vec::new()).await.ok();
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/cancel")),
        (Method::GET, format!("/v1/files/{input}")),
        (Method::GET, format!("/v1/files/{input}/content")),
        (Method::DELETE, format!("/v1/files/{input}")),
    ] {
        call("Bearer sk-blue", method, &path, Vec::new()).await.refused(404);
    }
    let list = call("Bearer sk-blue", Method::GET, "/v1/batches", Vec::new()).await.ok();
    assert_eq!(list["data"], json!([]));
    harness.get("/v1/batches").await.refused(401);
}
