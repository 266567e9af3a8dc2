use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RANGE};
use http::{HeaderValue, Method};
use serde_json::Value;

use crate::api::harness::{Field, Harness, form_body, request};

const LINES: &str = "{\"custom_id\":\"a\"}\nnot json\n";

fn ids(page: &Value) -> Vec<String> {
    let data = page["data"].as_array().unwrap();
    data.iter().map(|file| file["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_file_is_read_back_as_it_was_sent() {
    let harness = Harness::new();
    for fields in [
        [Field::text("purpose", "batch"), Field::file("in.jsonl", LINES.as_bytes())],
        [Field::file("in.jsonl", LINES.as_bytes()), Field::text("purpose", "batch")],
    ] {
        let file = harness.form("/v1/files", &fields).await.ok();
        let id = file["id"].as_str().unwrap();
        assert!(id.starts_with("file-"));
        assert_eq!(file["object"], "file");
        assert_eq!(file["bytes"], LINES.len());
        assert_eq!(file["purpose"], "batch");
        assert_eq!(file["status"], "processed");
        assert_eq!(file["filename"], "in.jsonl");
        assert_eq!(file["overnight"]["lines"], 2);
        assert!(file["created_at"].is_u64());
        assert_eq!(file["expires_at"], Value::Null);
        assert_eq!(harness.get(&format!("/v1/files/{id}")).await.ok(), file);
        let content = harness.get(&format!("/v1/files/{id}/content")).await;
        assert_eq!(content.body, LINES.as_bytes());
        assert_eq!(content.headers[CONTENT_TYPE], "application/octet-stream");
        assert_eq!(content.headers[CONTENT_DISPOSITION], "attachment; filename=\"in.jsonl\"");
        assert_eq!(content.headers[CONTENT_LENGTH], LINES.len().to_string().as_str());
    }
}

#[tokio::test]
async fn content_in_ranges_and_heads() {
    let harness = Harness::new();
    let id = harness.input(LINES).await;
    let path = format!("/v1/files/{id}/content");
    let mut part = request(Method::GET, &path, Body::empty());
    part.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=2-10"));
    let part = harness.call(part).await;
    assert_eq!(part.status, 206);
    assert_eq!(part.body, &LINES.as_bytes()[2..11]);
    assert_eq!(part.headers["content-range"], format!("bytes 2-10/{}", LINES.len()).as_str());
    let mut beyond = request(Method::GET, &path, Body::empty());
    beyond.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=500-"));
    assert_eq!(harness.call(beyond).await.status, 416);
    let head = harness.call(request(Method::HEAD, &path, Body::empty())).await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers[CONTENT_LENGTH], LINES.len().to_string().as_str());
    assert!(head.body.is_empty());
    let mut known = request(Method::GET, &path, Body::empty());
    known.headers_mut().insert("if-none-match", head.headers[ETAG].clone());
    assert_eq!(harness.call(known).await.status, 304);
}

#[tokio::test]
async fn expiry_is_asked_for_in_front_of_the_file_or_behind_it() {
    let harness = Harness::new();
    let life = [
        Field::text("expires_after[anchor]", "created_at"),
        Field::text("expires_after[seconds]", "3600"),
    ];
    let file = [Field::text("purpose", "batch"), Field::file("in.jsonl", LINES.as_bytes())];
    for fields in [[life, file].concat(), [file, life].concat()] {
        let file = harness.form("/v1/files", &fields).await.ok();
        let (created, expires) = (file["created_at"].as_u64(), file["expires_at"].as_u64());
        assert_eq!(expires, created.map(|created| created + 3_600));
    }
}

#[tokio::test]
async fn a_refused_upload_leaves_nothing() {
    let harness = Harness::with(|config| config.limits.file_len = 100_000);
    let purpose = Field::text("purpose", "batch");
    let file = Field::file("in.jsonl", LINES.as_bytes());
    let anchor = Field::text("expires_after[anchor]", "created_at");
    let large = vec![b' '; 300_000];
    let cases: Vec<(Vec<Field<'_>>, Option<&str>)> = vec![
        (vec![file], Some("purpose")),
        (vec![purpose], Some("file")),
        (vec![Field::text("purpose", "banana"), file], Some("purpose")),
        (vec![file, Field::text("purpose", "banana")], Some("purpose")),
        (vec![file, Field::text("purpose", "batch_output")], Some("purpose")),
        (vec![purpose, Field::file("in", b"")], None),
        (vec![Field::file("in", b"\n \n"), purpose], None),
        (vec![purpose, Field::file("in", b"hello\n{}\n")], None),
        (vec![Field::file("in", b"hello\n{}\n"), purpose], None),
        (vec![purpose, Field::file("in", &large)], None),
        (vec![Field::file("in", &large), purpose], None),
        (vec![purpose, file, file], None),
        (vec![purpose, file, anchor], Some("expires_after[seconds]")),
        (
            vec![purpose, file, Field::text("expires_after[seconds]", "3600")],
            Some("expires_after[anchor]"),
        ),
        (
            vec![purpose, file, anchor, Field::text("expires_after[seconds]", "3599")],
            Some("expires_after[seconds]"),
        ),
        (
            vec![anchor, Field::text("expires_after[seconds]", "2592001"), purpose, file],
            Some("expires_after[seconds]"),
        ),
        (vec![Field::text("expires_after[seconds]", "abc"), file], Some("expires_after[seconds]")),
        (vec![Field::text("expires_after[anchor]", "now"), file], Some("expires_after[anchor]")),
    ];
    for (fields, param) in cases {
        let error = harness.form("/v1/files", &fields).await.refused(400);
        assert_eq!(error["param"].as_str(), param, "{error}");
        assert_eq!(harness.blobs("files"), Vec::<String>::new(), "{error}");
    }
    assert_eq!(harness.get("/v1/files").await.ok()["data"], serde_json::json!([]));
}

#[tokio::test]
async fn a_form_that_breaks_off_leaves_nothing() {
    let harness = Harness::new();
    let content = vec![b' '; 3_000_000];
    let whole = form_body(&[Field::text("purpose", "user_data"), Field::file("in", &content)]);
    for end in [whole.len() / 2, whole.len() - 8] {
        let pieces = [Ok(Bytes::copy_from_slice(&whole[..end])), Err(std::io::Error::other("gone"))];
        for body in [Body::from_stream(futures::stream::iter(pieces)), Body::from(whole[..end].to_vec())]
        {
            let mut call = request(Method::POST, "/v1/files", body);
            let declared = HeaderValue::from_static("multipart/form-data; boundary=XX");
            call.headers_mut().insert(CONTENT_TYPE, declared);
            assert_eq!(harness.call(call).await.refused(400)["code"], "body_incomplete");
            assert_eq!(harness.blobs("files"), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn any_size_is_for_the_owner_who_says_so_first() {
    let harness = Harness::with(|config| config.limits.file_len = 1_000);
    let content = format!("{{}}{}\n", " ".repeat(200_000));
    let fields = [
        Field::text("purpose", "batch"),
        Field::text("overnight[large]", "true"),
        Field::file("in.jsonl", content.as_bytes()),
    ];
    let file = harness.form("/v1/files", &fields).await.ok();
    assert_eq!(file["overnight"]["large"], true);
    let guest = Harness::with(|config| {
        config.server.keys = vec![crate::config::KeyConfig {
            name: "guest".to_owned(),
            tenant: overnight_domain::ids::TenantId::new("guest"),
            value: crate::config::Secret::new("sk-guest"),
            admin: false,
        }];
    });
    let mut call = request(Method::POST, "/v1/files", Body::from(form_body(&fields)));
    let headers = call.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=XX"));
    headers.insert("authorization", HeaderValue::from_static("Bearer sk-guest"));
    assert_eq!(guest.call(call).await.refused(403)["code"], "admin_required");
}

#[tokio::test]
async fn names_are_for_people_only() {
    let harness = Harness::new();
    let name = "../../gr\u{fc}n%22.jsonl";
    let fields = [Field::text("purpose", "batch"), Field::file(name, LINES.as_bytes())];
    let file = harness.form("/v1/files", &fields).await.ok();
    assert_eq!(file["filename"], "gr\u{fc}n\".jsonl");
    let path = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
    assert_eq!(
        harness.get(&path).await.headers[CONTENT_DISPOSITION],
        "attachment; filename=\"gr_n_.jsonl\"; filename*=UTF-8''gr%C3%BCn%22.jsonl"
    );
    assert_eq!(harness.blobs("files"), [file["id"].as_str().unwrap()]);
}

#[tokio::test]
async fn a_deleted_file_is_gone() {
    let harness = Harness::new();
    let id = harness.input(LINES).await;
    let path = format!("/v1/files/{id}");
    let deleted = harness.delete(&path).await.ok();
    assert_eq!(deleted, serde_json::json!({"id": id, "object": "file", "deleted": true}));
    for answer in [
        harness.delete(&path).await,
        harness.get(&path).await,
        harness.get(&format!("{path}/content")).await,
        harness.get("/v1/files/file-unknown").await,
        harness.get("/v1/files/..%2f..%2fetc").await,
    ] {
        assert_eq!(answer.refused(404)["param"], "id");
    }
}

#[tokio::test]
async fn pages_meet_without_gap_or_overlap() {
    let harness = Harness::new();
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(harness.input(LINES).await);
    }
    for (order, expected) in
        [("asc", made.clone()), ("desc", made.iter().rev().cloned().collect::<Vec<_>>())]
    {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let after = seen.last().map(|id| format!("&after={id}")).unwrap_or_default();
            let path = format!("/v1/files?limit=3&order={order}&foo=bar{after}");
            let page = harness.get(&path).await.ok();
            let ids = ids(&page);
            assert_eq!(page["first_id"].as_str(), ids.first().map(String::as_str));
            assert_eq!(page["last_id"].as_str(), ids.last().map(String::as_str));
            seen.extend(ids);
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(seen, expected);
        let last = format!("/v1/files?order={order}&after={}", expected[6]);
        let end = harness.get(&last).await.ok();
        assert_eq!(ids(&end), Vec::<String>::new());
        assert_eq!(end["first_id"], Value::Null);
    }
    let outputs = harness.get("/v1/files?purpose=batch_output").await.ok();
    assert_eq!(ids(&outputs), Vec::<String>::new());
    for query in ["limit=0", "limit=10001", "order=up", "after=file-unknown", "purpose=banana"] {
        let error = harness.get(&format!("/v1/files?{query}")).await.refused(400);
        assert_eq!(error["param"].as_str(), query.split('=').next());
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_have_an_envelope() {
    let harness = Harness::new();
    let error = harness.post_empty("/v1/nope").await.refused(404);
    assert_eq!(error["message"], "Invalid URL (POST /v1/nope)");
    // What an SDK asks first, until somebody is told better.
    let error = harness.post_empty("/v1/chat/completions").await.refused(404);
    assert!(error["message"].as_str().unwrap().contains("batches only"), "{error}");
    harness.call(request(Method::PUT, "/v1/files", Body::empty())).await.refused(405);
    harness.post_empty("/v1/files").await.refused(415);
    let first = harness.get("/v1/files").await.headers["x-request-id"].clone();
    assert_ne!(first, harness.get("/v1/files").await.headers["x-request-id"]);
    assert!(first.to_str().is_ok_and(|id| id.len() == 36 && id.starts_with("req_")));
}

#[tokio::test]
async fn a_full_disk_and_a_stop_refuse_for_a_while() {
    let harness = Harness::new();
    harness.ctx.disk.note_full();
    let fields = [Field::text("purpose", "batch"), Field::file("in.jsonl", LINES.as_bytes())];
    let full = harness.form("/v1/files", &fields).await;
    assert_eq!(full.refused(503)["code"], "disk_full");
    assert!(full.headers.contains_key("retry-after"));
    harness.ctx.stop.cancel();
    let stopping = harness.get("/v1/files").await;
    assert_eq!(stopping.refused(503)["code"], "shutting_down");
    assert_eq!(stopping.headers["retry-after"], "5");
}
