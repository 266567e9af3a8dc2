//! Cases 1 to 10: what all calls have in common.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{check_headers, create, creation, get, ok, one_line, refused, with_settings};
use crate::harness::{Server, Setup};

#[test]
fn case_001_every_answer_is_json_with_a_request_id_of_its_own() {
    let server = Server::start();
    let paths = ["/v1/models", "/v1/files", "/v1/batches", "/v1/files", "/v1/nope", "/v1/files/file-x"];
    let ids: HashSet<String> = paths
        .iter()
        .map(|path| {
            let answer = get(&server, path);
            check_headers(&answer);
            answer.header("x-request-id").unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids.len(), paths.len());
}

#[test]
fn case_002_without_a_right_key_401() {
    let server = Server::with(Setup {
        settings: "[[key]]\nname = \"ci\"\nvalue = \"env:CASE_2_KEY\"".to_owned(),
        environment: vec![("CASE_2_KEY".to_owned(), "sk-0123456789abcdef".to_owned())],
        ..Setup::default()
    });
    let call = |key: &str| {
        let headers = [("Authorization", key)];
        server.call("GET", "/v1/files", &headers, b"").expect("the server answers")
    };
    assert_eq!(refused(&get(&server, "/v1/files"), 401)["code"], "invalid_api_key");
    let error = refused(&call("Bearer sk-wrong-9876543210"), 401);
    assert_eq!(error["code"], "invalid_api_key");
    assert!(!error["message"].as_str().unwrap().contains("sk-wrong-9876543210"), "{error}");
    ok(&call("Bearer sk-0123456789abcdef"));
}

#[test]
fn case_003_without_authentication_any_key_will_do() {
    let server = Server::start();
    let headers = [("Authorization", "Bearer EMPTY")];
    ok(&server.call("GET", "/v1/files", &headers, b"").unwrap());
}

#[test]
fn case_004_an_unknown_path_is_404_and_named() {
    let server = Server::start();
    let error = refused(&get(&server, "/v1/nope"), 404);
    assert_eq!(error["type"], "invalid_request_error");
    assert!(error["message"].as_str().unwrap().contains("GET /v1/nope"), "{error}");
    refused(&server.post("/v1/nope", &json!({})), 404);
}

#[test]
fn case_005_a_wrong_method_is_405() {
    let server = Server::start();
    refused(&server.call("PUT", "/v1/batches", &[], b"").unwrap(), 405);
    refused(&server.call("PATCH", "/v1/files/file-x/content", &[], b"").unwrap(), 405);
}

#[test]
fn case_006_a_body_that_is_no_json_is_400() {
    let server = Server::start();
    let headers = [("Content-Type", "application/json")];
    for body in ["{", "", "[]", "null", "\"text\"", "{\"a\":1}{"] {
        refused(&server.call("POST", "/v1/batches", &headers, body.as_bytes()).unwrap(), 400);
    }
}

#[test]
fn case_007_json_is_read_whatever_type_it_is_declared_with() {
    let server = Server::start();
    let body = creation(&server.upload(&one_line()), &json!({})).to_string();
    for kind in ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"] {
        let headers = [("Content-Type", kind)];
        let batch = ok(&server.call("POST", "/v1/batches", &headers, body.as_bytes()).unwrap());
        assert_eq!(batch["object"], "batch");
    }
    let bare = ok(&server.call("POST", "/v1/batches", &[], body.as_bytes()).unwrap());
    assert_eq!(bare["object"], "batch");
}

#[test]
fn case_008_an_unknown_member_is_ignored() {
    let server = Server::start();
    let file = server.upload(&one_line());
    let batch = ok(&create(&server, &file, &json!({"some_new_member": {"a": [1]}})));
    assert_eq!(batch["object"], "batch");
}

#[test]
fn case_009_an_unknown_query_and_a_type_without_a_body_are_ignored() {
    let server = Server::start();
    let headers = [("Content-Type", "application/json")];
    let page = ok(&server.call("GET", "/v1/files?foo=bar", &headers, b"").unwrap());
    assert_eq!(
        page,
        json!({
            "object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false
        })
    );
}

#[test]
fn case_010_every_refusal_has_the_four_members() {
    let server = with_settings("[limits]\nfile_len = \"1KB\"");
    let file = server.upload(&one_line());
    let text = |error: Value, member: &str| error[member].as_str().unwrap_or("null").to_owned();
    let param = |answer, status| text(refused(&answer, status), "param");
    assert_eq!(param(get(&server, "/v1/files/file-x"), 404), "id");
    assert_eq!(param(get(&server, "/v1/batches/batch_x"), 404), "id");
    assert_eq!(param(get(&server, "/v1/models/x"), 404), "model");
    assert_eq!(param(get(&server, "/v1/files?limit=x"), 400), "limit");
    assert_eq!(param(create(&server, &file, &json!({"endpoint": 7})), 400), "endpoint");
    assert_eq!(param(create(&server, &file, &json!({"metadata": []})), 400), "metadata");
    assert_eq!(param(server.upload_as(&[("purpose", "batch")], "x", &[b'{'; 2_000]), 400), "null");
    // Not multipart where it must be.
    refused(&server.post("/v1/files", &json!({})), 415);
    // A body of JSON that is too long for one.
    let long = json!({"metadata": {"a": "x".repeat(2 << 20)}});
    refused(&create(&server, &file, &long), 400);
}
