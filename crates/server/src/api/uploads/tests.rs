use axum::body::Body;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::api::harness::{Field, Harness, request};

async fn begin(harness: &Harness, len: usize) -> String {
    let body = json!({
        "bytes": len, "filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": "batch"
    });
    // As the documented command does it.
    let mut call = request(Method::POST, "/v1/uploads", Body::from(body.to_string()));
    let declared = HeaderValue::from_static("application/x-www-form-urlencoded");
    call.headers_mut().insert("content-type", declared);
    let upload = harness.call(call).await.ok();
    assert_eq!(upload["object"], "upload");
    assert_eq!(upload["status"], "pending");
    assert_eq!(upload["file"], Value::Null);
    let (created, expires) = (upload["created_at"].as_u64(), upload["expires_at"].as_u64());
    assert_eq!(expires, created.map(|created| created + 3_600));
    let id = upload["id"].as_str().unwrap();
    assert!(id.starts_with("upload_"));
    id.to_owned()
}

async fn part(harness: &Harness, upload: &str, content: &[u8]) -> String {
    let fields = [Field::named("data", "blob", content)];
    let part = harness.form(&format!("/v1/uploads/{upload}/parts"), &fields).await.ok();
    assert_eq!(part["object"], "upload.part");
    assert_eq!(part["upload_id"], upload);
    part["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn parts_become_a_file_in_the_order_of_the_list() {
    let harness = Harness::new();
    let content = "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n";
    let upload = begin(&harness, content.len()).await;
    let third = part(&harness, &upload, &content.as_bytes()[16..]).await;
    let first = part(&harness, &upload, &content.as_bytes()[..8]).await;
    let text = [Field::text("data", &content[8..16])];
    let path = format!("/v1/uploads/{upload}");
    let second = harness.form(&format!("{path}/parts"), &text).await.ok();
    let second = second["id"].as_str().unwrap().to_owned();
    // Sent again because its answer was lost, and not listed.
    part(&harness, &upload, &content.as_bytes()[16..]).await;
    // As `md5sum` says.
    let md5 = "6742c0eb1f51acc880af8cfda6aa422a";
    let list = json!({"part_ids": [first, second, third], "md5": md5});
    let done = harness.post(&format!("{path}/complete"), &list).await.ok();
    assert_eq!(done["status"], "completed");
    assert_eq!(done["file"]["bytes"], content.len());
    assert_eq!(done["file"]["overnight"]["lines"], 3);
    let file = done["file"]["id"].as_str().unwrap();
    let stored = harness.get(&format!("/v1/files/{file}/content")).await;
    assert_eq!(stored.body, content.as_bytes());

    let again = harness.post(&format!("{path}/complete"), &list).await.ok();
    assert_eq!(again["file"]["id"], file);
    assert_eq!(harness.get(&path).await.ok(), again);
    let other = json!({"part_ids": [first]});
    harness.post(&format!("{path}/complete"), &other).await.refused(400);
    let late = harness.form(&format!("{path}/parts"), &text).await;
    assert_eq!(late.refused(400)["code"], "upload_not_pending");
    harness.post_empty(&format!("{path}/cancel")).await.refused(400);
    assert_eq!(harness.blobs("files"), [file]);
}

#[tokio::test]
async fn a_refused_completion_leaves_the_upload_pending() {
    let harness = Harness::new();
    let upload = begin(&harness, 6).await;
    let good = part(&harness, &upload, b"{\"a\":").await;
    let end = part(&harness, &upload, b"1").await;
    let other = begin(&harness, 6).await;
    let foreign = part(&harness, &other, b"}").await;
    let path = format!("/v1/uploads/{upload}/complete");
    for (body, param) in [
        (json!({"part_ids": [good]}), "part_ids"),
        (json!({"part_ids": []}), "part_ids"),
        (json!({"part_ids": [good, foreign]}), "part_ids"),
        (json!({"part_ids": [good, "part_unknown"]}), "part_ids"),
        (json!({"part_ids": [good, good]}), "part_ids"),
        (json!({"part_ids": [good, end], "md5": "0".repeat(32)}), "md5"),
        (json!({"part_ids": [1]}), "part_ids"),
        (json!({}), "part_ids"),
    ] {
        let error = harness.post(&path, &body).await.refused(400);
        assert_eq!(error["param"], param, "{body}");
    }
    // Not JSON.
    harness.post(&path, &json!({"part_ids": [good, end]})).await.refused(400);
    assert_eq!(harness.get(&format!("/v1/uploads/{upload}")).await.ok()["status"], "pending");
    assert_eq!(harness.blobs("files"), Vec::<String>::new());
}

#[tokio::test]
async fn a_cancelled_upload_takes_nothing_more() {
    let harness = Harness::new();
    let upload = begin(&harness, 3).await;
    let id = part(&harness, &upload, b"{}\n").await;
    let path = format!("/v1/uploads/{upload}");
    assert_eq!(harness.post_empty(&format!("{path}/cancel")).await.ok()["status"], "cancelled");
    assert_eq!(harness.post_empty(&format!("{path}/cancel")).await.ok()["status"], "cancelled");
    harness.post(&format!("{path}/complete"), &json!({"part_ids": [id]})).await.refused(400);
    harness.form(&format!("{path}/parts"), &[Field::text("data", "x")]).await.refused(400);
    harness.post_empty("/v1/uploads/upload_unknown/cancel").await.refused(404);
}

#[tokio::test]
async fn an_upload_says_what_it_lacks() {
    let harness = Harness::new();
    let whole = json!({
        "bytes": 3, "filename": "in.jsonl", "mime_type": "text/plain", "purpose": "batch",
        "expires_after": {"anchor": "created_at", "seconds": 3_600}
    });
    harness.post("/v1/uploads", &whole).await.ok();
    for (param, member, value) in [
        ("bytes", "bytes", Value::Null),
        ("bytes", "bytes", json!(-1)),
        ("filename", "filename", Value::Null),
        ("mime_type", "mime_type", Value::Null),
        ("purpose", "purpose", json!("banana")),
        ("expires_after.seconds", "expires_after", json!({"anchor": "created_at", "seconds": 10})),
        ("expires_after.anchor", "expires_after", json!({"seconds": 3_600})),
        ("overnight.huge", "overnight", json!({"huge": true})),
    ] {
        let mut body = whole.clone();
        body[member] = value;
        assert_eq!(harness.post("/v1/uploads", &body).await.refused(400)["param"], param);
    }
    let mut huge = whole;
    huge["bytes"] = json!(200_000_001);
    harness.post("/v1/uploads", &huge).await.refused(400);
}
