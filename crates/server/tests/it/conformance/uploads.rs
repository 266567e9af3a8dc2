//! Cases 42 to 50: files that arrive in parts.

use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use super::{Form, get, list, ok, post_empty, post_form, refused, seconds};
use crate::harness::{Answer, Server, files_below, input};

fn begin(server: &Server, len: usize) -> String {
    let body = json!({
        "bytes": len, "filename": "in.jsonl", "mime_type": "text/jsonl", "purpose": "batch"
    });
    let upload = ok(&server.post("/v1/uploads", &body));
    upload["id"].as_str().unwrap().to_owned()
}

fn send_part(server: &Server, upload: &str, content: &[u8]) -> Answer {
    let form = Form::new().file("data", "upload", content);
    post_form(server, &format!("/v1/uploads/{upload}/parts"), form)
}

fn part(server: &Server, upload: &str, content: &[u8]) -> String {
    let part = ok(&send_part(server, upload, content));
    part["id"].as_str().unwrap().to_owned()
}

fn complete(server: &Server, upload: &str, body: &Value) -> Answer {
    server.post(&format!("/v1/uploads/{upload}/complete"), body)
}

fn status(server: &Server, upload: &str) -> Value {
    ok(&get(server, &format!("/v1/uploads/{upload}")))["status"].clone()
}

fn md5_of(content: &[u8]) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(content).into()))
}

#[test]
fn case_042_an_upload_begins_as_curl_sends_it() {
    let server = Server::start();
    let body = json!({
        "purpose": "fine-tune", "filename": "training.jsonl", "bytes": 3_000, "mime_type": "text/jsonl",
        "expires_after": {"anchor": "created_at", "seconds": 3_600}
    });
    // curl's type for `-d`, whatever the data are.
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let sent = server.call("POST", "/v1/uploads", &headers, body.to_string().as_bytes()).unwrap();
    let upload = ok(&sent);
    assert!(upload["id"].as_str().unwrap().starts_with("upload_"), "{upload}");
    assert_eq!(upload["object"], "upload");
    assert_eq!(upload["status"], "pending");
    assert_eq!(upload["bytes"], 3_000);
    assert_eq!(upload["filename"], "training.jsonl");
    assert_eq!(upload["purpose"], "fine-tune");
    assert_eq!(upload["file"], Value::Null);
    assert_eq!(seconds(&upload, "expires_at"), seconds(&upload, "created_at") + 3_600);
    for member in ["bytes", "filename", "mime_type", "purpose"] {
        let mut without = body.clone();
        without.as_object_mut().unwrap().remove(member);
        assert_eq!(refused(&server.post("/v1/uploads", &without), 400)["param"], member);
    }
}

#[test]
fn case_043_parts_in_any_order_make_the_file_in_the_order_of_the_list() {
    let server = Server::start();
    let content = input(300, |at| format!("question {at}"));
    let (first, rest) = content.split_at(1_000);
    let (second, third) = rest.split_at(20_000);
    let upload = begin(&server, content.len());
    let c = part(&server, &upload, third);
    let a = part(&server, &upload, first);
    let b = part(&server, &upload, second);
    let body = json!({"part_ids": [a, b, c], "md5": md5_of(&content)});
    let done = ok(&complete(&server, &upload, &body));
    assert_eq!(done["status"], "completed");
    let file = &done["file"];
    assert_eq!(file["bytes"], content.len());
    assert_eq!(file["purpose"], "batch");
    assert_eq!(file["status"], "processed");
    assert_eq!(file["filename"], "in.jsonl");
    let id = file["id"].as_str().unwrap();
    assert_eq!(ok(&get(&server, &format!("/v1/files/{id}"))), *file);
    assert!(get(&server, &format!("/v1/files/{id}/content")).body == content, "other bytes");
    let batch = server.wait_for_end_of(&server.create(id));
    assert_eq!(batch["request_counts"], json!({"total": 300, "completed": 300, "failed": 0}));
}

#[test]
fn case_044_a_part_may_have_64_mib_and_no_byte_more() {
    const PART_LEN: usize = 67_108_864;
    let server = Server::start();
    let upload = begin(&server, PART_LEN);
    part(&server, &upload, &vec![b'x'; PART_LEN]);
    refused(&send_part(&server, &upload, &vec![b'x'; PART_LEN + 1]), 400);
    assert_eq!(status(&server, &upload), "pending");
}

#[test]
fn case_045_a_part_needs_no_filename() {
    let server = Server::start();
    let upload = begin(&server, 5);
    let form = Form::new().text("data", "{\"a\"}");
    let part = ok(&post_form(&server, &format!("/v1/uploads/{upload}/parts"), form));
    assert_eq!(part["object"], "upload.part");
    assert_eq!(part["upload_id"], upload);
    assert!(part["id"].as_str().unwrap().starts_with("part_"), "{part}");
    assert!(part["created_at"].is_u64(), "{part}");
    let missing = Form::new().text("other", "x");
    let answer = post_form(&server, &format!("/v1/uploads/{upload}/parts"), missing);
    assert_eq!(refused(&answer, 400)["param"], "data");
}

#[test]
fn case_046_a_completion_that_is_wrong_leaves_the_upload_pending() {
    let server = Server::start();
    let content = input(10, |at| format!("question {at}"));
    let upload = begin(&server, content.len());
    let (head, tail) = content.split_at(100);
    let (a, b) = (part(&server, &upload, head), part(&server, &upload, tail));
    let foreign = part(&server, &begin(&server, 10), b"0123456789");
    for (body, param) in [
        (json!({"part_ids": [a]}), "part_ids"),
        (json!({"part_ids": []}), "part_ids"),
        (json!({"part_ids": [a, b], "md5": "0".repeat(32)}), "md5"),
        (json!({"part_ids": [a, b, "part_unknown"]}), "part_ids"),
        (json!({"part_ids": [a, b, foreign]}), "part_ids"),
        (json!({"part_ids": [a, b, b]}), "part_ids"),
        (json!({"part_ids": "part_1"}), "part_ids"),
        (json!({}), "part_ids"),
    ] {
        assert_eq!(refused(&complete(&server, &upload, &body), 400)["param"], param, "{body}");
        assert_eq!(status(&server, &upload), "pending");
    }
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
    // Bytes that are no JSONL make no input either: the parts in the wrong order.
    refused(&complete(&server, &upload, &json!({"part_ids": [b, a]})), 400);
    assert_eq!(status(&server, &upload), "pending");
    ok(&complete(&server, &upload, &json!({"part_ids": [a, b], "md5": md5_of(&content)})));
}

#[test]
fn case_047_no_part_after_the_end() {
    let server = Server::start();
    let content = input(1, |at| format!("question {at}"));
    let completed = begin(&server, content.len());
    let id = part(&server, &completed, &content);
    ok(&complete(&server, &completed, &json!({"part_ids": [id]})));
    let cancelled = begin(&server, content.len());
    ok(&post_empty(&server, &format!("/v1/uploads/{cancelled}/cancel")));
    for upload in [&completed, &cancelled] {
        // SDKs would repeat a 409.
        refused(&send_part(&server, upload, &content), 400);
    }
    refused(&send_part(&server, "upload_unknown", &content), 404);
}

#[test]
fn case_048_a_completion_may_be_repeated() {
    let server = Server::start();
    let content = input(1, |at| format!("question {at}"));
    let upload = begin(&server, content.len());
    let body = json!({"part_ids": [part(&server, &upload, &content)]});
    let first = ok(&complete(&server, &upload, &body));
    assert_eq!(ok(&complete(&server, &upload, &body)), first);
    assert_eq!(list(&server, "/v1/files")["data"].as_array().unwrap().len(), 1);
    refused(&complete(&server, &upload, &json!({"part_ids": []})), 400);
}

#[test]
fn case_049_a_cancelled_upload_stays_so() {
    let server = Server::start();
    let content = input(1, |at| format!("question {at}"));
    let upload = begin(&server, content.len());
    let id = part(&server, &upload, &content);
    let cancel = format!("/v1/uploads/{upload}/cancel");
    let cancelled = ok(&post_empty(&server, &cancel));
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(cancelled["file"], Value::Null);
    assert_eq!(ok(&post_empty(&server, &cancel)), cancelled);
    refused(&complete(&server, &upload, &json!({"part_ids": [id]})), 400);
    refused(&post_empty(&server, "/v1/uploads/upload_unknown/cancel"), 404);
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
}

/// What `upload_file_chunked` of the Python SDK sends, with small parts; the SDK itself runs with the SDK tests.
#[test]
fn case_050_a_file_cut_into_many_parts_arrives_whole() {
    let server = Server::start();
    let content = input(500, |at| format!("question {at}"));
    let upload = begin(&server, content.len());
    let ids: Vec<String> = content.chunks(4_096).map(|piece| part(&server, &upload, piece)).collect();
    assert!(ids.len() > 10);
    let done = ok(&complete(&server, &upload, &json!({"part_ids": ids})));
    let id = done["file"]["id"].as_str().unwrap();
    assert!(get(&server, &format!("/v1/files/{id}/content")).body == content, "other bytes");
    let batch = server.wait_for_end_of(&server.create(id));
    assert_eq!(batch["request_counts"]["completed"], 500);
    // The parts are not kept beside the file for ever: at the latest the next start sweeps them.
    let mut server = server;
    server.restart();
    let started = std::time::Instant::now();
    while !files_below(&server.data().join("blobs/parts")).is_empty() {
        assert!(started.elapsed() < crate::harness::PATIENCE, "the parts stay");
        std::thread::yield_now();
    }
}
