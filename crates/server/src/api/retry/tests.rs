use overnight_domain::chunk::ChunkRange;
use overnight_domain::fault::kind_name;
use overnight_domain::file::{File, Purpose};
use overnight_domain::ids::{BatchId, BlobKey, FileId, LeaseToken};
use overnight_domain::tally::Tally;
use overnight_store::{ClaimQuery, Closing, Planned};
use serde_json::{Value, json};

use crate::api::harness::Harness;
use crate::clock;
use crate::results::index::{FailedEntry, IndexHeader, LinePlace};
use crate::results::index_blob;

const TIMEOUT: &str = "request_timeout";
const REFUSED: &str = "request_refused";

/// How a request ends: answered, or with a fault of this kind.
type End = Option<&'static str>;

fn fault_number(kind: &str) -> u8 {
    (0..=u8::MAX).find(|number| kind_name(*number) == kind).unwrap()
}

fn input_line(custom_id: &str) -> String {
    let line = json!({
        "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": {"n": custom_id}
    });
    format!("{line}\n")
}

async fn create(harness: &Harness, input: &str) -> Value {
    let file = harness.input(input).await;
    let body = json!({
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": {"a": "b"}, "overnight": {"priority": 3}
    });
    harness.post("/v1/batches", &body).await.ok()
}

async fn store_file(harness: &Harness, bytes: &[u8]) -> Option<File> {
    if bytes.is_empty() {
        return None;
    }
    let id = FileId::from_uuid(clock::new_id());
    let blob = BlobKey::new(format!("outputs/{id}"));
    let mut writer = harness.ctx.blobs.write(&blob).await.unwrap();
    writer.push(bytes).await.unwrap();
    let written = writer.finish().await.unwrap();
    Some(File {
        id,
        tenant: overnight_domain::ids::TenantId::default(),
        filename: "out.jsonl".to_owned(),
        purpose: Purpose::BatchOutput,
        len: written.len,
        lines: 0,
        sha256: written.sha256,
        blob,
        created_at: clock::now(),
        expires_at: None,
        large: false,
    })
}

/// Ends a batch as the finalizer does: its files in input order, and the index. `run` marks the answers.
async fn end(harness: &Harness, batch: &Value, requests: &[(&str, u32, End)], run: &str) {
    let id = BatchId::parse(batch["id"].as_str().unwrap()).unwrap();
    let (mut output, mut errors, mut places, mut failed) = (vec![], vec![], vec![], vec![]);
    for (index, (custom_id, line, end)) in requests.iter().enumerate() {
        let (file, is_error) = if end.is_some() { (&mut errors, true) } else { (&mut output, false) };
        let text = format!("{}\n", json!({"custom_id": custom_id, "run": run, "failed": end}));
        let place = LinePlace { is_error, offset: file.len() as u64, len: text.len() as u32 };
        file.extend_from_slice(text.as_bytes());
        places.extend_from_slice(&place.to_bytes());
        if let Some(kind) = end {
            let entry = FailedEntry {
                index: index as u32,
                line: *line,
                offset: place.offset,
                len: place.len,
                attempts: 5,
                status: 0,
                fault: fault_number(kind),
                endpoint: u16::MAX,
                last_at: clock::now(),
            };
            failed.extend_from_slice(&entry.to_bytes());
        }
    }
    let count = requests.iter().filter(|(.., end)| end.is_some()).count() as u64;
    let header = IndexHeader { lines: requests.len() as u64, failed: count };
    let mut index = harness.ctx.blobs.write(&index_blob(&id)).await.unwrap();
    index.push(&[header.to_bytes(), places, failed].concat()).await.unwrap();
    index.finish().await.unwrap();

    let store = &harness.ctx.store;
    let total = requests.len() as u64;
    let planned = Planned {
        total,
        model: None,
        plan_blob: BlobKey::new(format!("plans/{id}")),
        chunks: vec![ChunkRange { first_entry: 0, entry_count: total as u32, len: 1 }],
        reserved_len: 1,
    };
    store.plan_batch(&id, planned, clock::now()).await.unwrap();
    let claim = ClaimQuery {
        worker: harness.ctx.worker.clone(),
        token: LeaseToken(7),
        ttl: std::time::Duration::from_secs(60),
        active_batches_max: 10,
        except: Vec::new(),
        unserved_models: Vec::new(),
        before: None,
        now: clock::now(),
    };
    let claimed = store.claim(claim).await.unwrap().unwrap();
    assert_eq!(claimed.batch.id, id);
    let tally = Tally { completed: total - count, failed: count, ..Tally::default() };
    store.complete(&claimed.lease, tally, clock::now()).await.unwrap();
    let (output, error) = (store_file(harness, &output).await, store_file(harness, &errors).await);
    store.close_batch(&id, Closing { output, error, tally }, clock::now()).await.unwrap();
}

fn path_of(batch: &Value) -> String {
    format!("/v1/batches/{}", batch["id"].as_str().unwrap())
}

async fn content(harness: &Harness, batch: &Value) -> String {
    let file = batch["input_file_id"].as_str().unwrap();
    let bytes = harness.get(&format!("/v1/files/{file}/content")).await.body;
    String::from_utf8(bytes).unwrap()
}

/// The lines of the merged view, as `custom_id:run`, with a `!` where it failed.
async fn merged(harness: &Harness, batch: &Value) -> Vec<String> {
    let answer = harness.get(&format!("{}/merged", path_of(batch))).await;
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body).unwrap();
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let mark = if line["failed"].is_null() { "" } else { "!" };
            format!("{}:{}{mark}", line["custom_id"].as_str().unwrap(), line["run"].as_str().unwrap())
        })
        .collect()
}

/// Five requests, the second line blank: `b` and `e` timed out, `d` was refused.
async fn five(harness: &Harness) -> Value {
    let input = format!(
        "{}\n{}{}{}{}",
        input_line("a"),
        input_line("b"),
        input_line("c"),
        input_line("d"),
        input_line("e").trim_end()
    );
    let batch = create(harness, &input).await;
    let requests = [
        ("a", 1, None),
        ("b", 3, Some(TIMEOUT)),
        ("c", 4, None),
        ("d", 5, Some(REFUSED)),
        ("e", 6, Some(TIMEOUT)),
    ];
    end(harness, &batch, &requests, "0").await;
    batch
}

#[tokio::test]
async fn a_retry_is_a_batch_of_the_failed_lines() {
    let harness = Harness::new();
    let parent = five(&harness).await;
    let path = format!("{}/retry", path_of(&parent));
    let all = harness.post_empty(&path).await.ok();
    assert_eq!(content(&harness, &all).await, ["b", "d", "e"].map(input_line).concat());
    assert_eq!(all["overnight"]["parent"], parent["id"]);
    assert_eq!(all["overnight"]["priority"], 3);
    assert_eq!(all["metadata"], json!({"a": "b"}));
    assert_eq!(all["status"], "validating");
    let input = all["input_file_id"].as_str().unwrap();
    let file = harness.get(&format!("/v1/files/{input}")).await.ok();
    assert_eq!(file["purpose"], "batch");
    assert_eq!(file["overnight"]["lines"], 3);

    let late = json!({"error_type": TIMEOUT, "overnight": {"priority": -1, "timeout": "5m"}});
    let late = harness.post(&path, &late).await.ok();
    assert_eq!(content(&harness, &late).await, ["b", "e"].map(input_line).concat());
    let failed = harness.get(&format!("{}/failed", path_of(&parent))).await.ok();
    let retried: Vec<&Value> = (0..3).map(|at| &failed["data"][at]["retried_by"]).collect();
    assert_eq!(retried, [&late["id"], &all["id"], &late["id"]]);
    assert_eq!(late["overnight"]["priority"], -1);
    assert_eq!(late["overnight"]["timeout_seconds"], 300);

    let one = harness.post(&path, &json!({"custom_ids": ["e"]})).await.ok();
    assert_eq!(content(&harness, &one).await, input_line("e"));
}

#[tokio::test]
async fn a_retry_of_nothing_makes_nothing() {
    let harness = Harness::new();
    let parent = five(&harness).await;
    let path = format!("{}/retry", path_of(&parent));
    for (body, status) in [
        (json!({"error_type": "engine_crash"}), 400),
        (json!({"custom_ids": ["a"]}), 400),
        (json!({"custom_ids": ["b", "zzz"]}), 400),
        (json!({"custom_ids": ["d"], "error_type": TIMEOUT}), 400),
        (json!({"custom_ids": []}), 400),
        (json!({"custom_ids": "b"}), 400),
        (json!({"overnight": {"nonsense": 1}}), 400),
    ] {
        harness.post(&path, &body).await.refused(status);
    }
    let running = create(&harness, &input_line("x")).await;
    harness.post_empty(&format!("{}/retry", path_of(&running))).await.refused(409);
    harness.get(&format!("{}/merged", path_of(&running))).await.refused(409);
    assert_eq!(harness.blobs("files").len(), 2, "the two inputs");
    let listed = harness.get("/v1/batches").await.ok();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_hot_gpu_refuses_every_way_to_make_a_batch() {
    let harness = Harness::new();
    let parent = five(&harness).await;
    harness.ctx.gpus.publish_refusal(Some("GPU 0 got to 86 °C"));
    let creation = json!({
        "input_file_id": parent["input_file_id"], "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    });
    let retry = format!("{}/retry", path_of(&parent));
    for answer in [harness.post("/v1/batches", &creation).await, harness.post_empty(&retry).await] {
        let error = answer.refused(503);
        assert_eq!(error["code"], "gpu_unhealthy");
        assert!(error["message"].as_str().unwrap().contains("86 °C"), "{error}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(harness.get("/v1/batches").await.ok()["data"].as_array().map(Vec::len), Some(1));
    harness.ctx.gpus.publish_refusal(None);
    harness.post("/v1/batches", &creation).await.ok();
    harness.post_empty(&retry).await.ok();
}

#[tokio::test]
async fn retried_lines_stand_in_the_place_of_the_failed_ones() {
    let harness = Harness::new();
    let parent = five(&harness).await;
    assert_eq!(merged(&harness, &parent).await, ["a:0", "b:0!", "c:0", "d:0!", "e:0!"]);

    let retry = format!("{}/retry", path_of(&parent));
    let first = harness.post_empty(&retry).await.ok();
    assert_eq!(merged(&harness, &parent).await[1], "b:0!", "the retry has not ended");
    let ends = [("b", 1, None), ("d", 2, Some(REFUSED)), ("e", 3, Some(TIMEOUT))];
    end(&harness, &first, &ends, "1").await;
    assert_eq!(merged(&harness, &parent).await, ["a:0", "b:1", "c:0", "d:1!", "e:1!"]);

    // A newer failure does not hide an older answer, and is shown in the place of an older failure.
    let second = harness.post(&retry, &json!({"custom_ids": ["b", "e"]})).await.ok();
    end(&harness, &second, &[("b", 1, Some(TIMEOUT)), ("e", 2, Some(TIMEOUT))], "2").await;
    assert_eq!(merged(&harness, &parent).await, ["a:0", "b:1", "c:0", "d:1!", "e:2!"]);

    // The retry of a retry counts for the first one, too.
    let third = harness.post_empty(&format!("{}/retry", path_of(&first))).await.ok();
    end(&harness, &third, &[("d", 1, None), ("e", 2, None)], "3").await;
    assert_eq!(merged(&harness, &parent).await, ["a:0", "b:1", "c:0", "d:3", "e:3"]);
    assert_eq!(merged(&harness, &first).await, ["b:1", "d:3", "e:3"]);

    // Without its files a retry has nothing to give; without its own the batch has no lines.
    let shown = harness.get(&path_of(&third)).await.ok();
    harness.delete(&format!("/v1/files/{}", shown["output_file_id"].as_str().unwrap())).await.ok();
    assert_eq!(merged(&harness, &parent).await, ["a:0", "b:1", "c:0", "d:1!", "e:2!"]);
    let shown = harness.get(&path_of(&parent)).await.ok();
    harness.delete(&format!("/v1/files/{}", shown["error_file_id"].as_str().unwrap())).await.ok();
    let gone = harness.get(&format!("{}/merged", path_of(&parent))).await.refused(404);
    assert_eq!(gone["code"], "results_gone");
    harness.post_empty(&retry).await.refused(404);
}

#[tokio::test]
async fn pages_of_results_and_failed_requests() {
    let harness = Harness::new();
    let parent = five(&harness).await;
    let path = path_of(&parent);
    let first = harness.get(&format!("{path}/results?limit=3")).await.ok();
    assert_eq!(first["data"].as_array().map(Vec::len), Some(3));
    assert_eq!((first["has_more"].clone(), first["is_final"].clone()), (json!(true), json!(false)));
    let next = first["next"].as_str().unwrap();
    let rest = harness.get(&format!("{path}/results?after={next}")).await.ok();
    assert_eq!(rest["data"].as_array().map(Vec::len), Some(2));
    assert_eq!((rest["has_more"].clone(), rest["is_final"].clone()), (json!(false), json!(true)));

    let failed = harness.get(&format!("{path}/failed?limit=2")).await.ok();
    assert_eq!(failed["data"][0]["custom_id"], "b");
    assert_eq!(failed["data"][0]["line"], 3);
    assert_eq!(failed["data"][0]["request_index"], 1);
    assert_eq!(failed["data"][0]["error_type"], TIMEOUT);
    assert_eq!(failed["data"][0]["retry_count"], 4);
    assert_eq!(failed["has_more"], true);
    let after = failed["next"].as_str().unwrap();
    let last = harness.get(&format!("{path}/failed?after={after}")).await.ok();
    assert_eq!(last["data"][0]["custom_id"], "e");
    assert_eq!(last["next"], Value::Null);
    let refused = harness.get(&format!("{path}/failed?error_type={REFUSED}")).await.ok();
    assert_eq!(refused["data"].as_array().map(Vec::len), Some(1));
    for query in ["results?after=x", "results?limit=0", "failed?after=x", "failed?limit=10001"] {
        harness.get(&format!("{path}/{query}")).await.refused(400);
    }
    harness.get("/v1/batches/batch_unknown/results").await.refused(404);
}
