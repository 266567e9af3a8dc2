use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::document;
use crate::api::harness::{Field, Harness};
use crate::api::{open_routes, routes};

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let table = [routes().table, open_routes().table].concat();
    let routed: BTreeSet<(String, String)> = table
        .into_iter()
        .map(|(method, path)| (method.as_str().to_ascii_lowercase(), path.replace("{*", "{")))
        .collect();
    let document = document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()))
        })
        .collect();
    assert_eq!(routed, described);
}

#[test]
fn operations_have_names_of_their_own_and_references_lead_somewhere() {
    let document = document();
    let mut ids = BTreeSet::new();
    for methods in document["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "`{pointer}` leads nowhere");
    }
}

/// Holds a value to its schema: the same members, and types as they are described.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        return check(document, document.pointer(&reference[1..]).unwrap(), value, place);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        if !value.is_null() {
            check(document, &any[0], value, place);
        }
        return;
    }
    let is_right = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        other => panic!("{place}: type {other:?}"),
    };
    assert!(is_right, "{place}: {value} is no {}", schema["type"]);
    if let Some(choices) = schema["enum"].as_array() {
        assert!(choices.contains(value), "{place}: {value} is not in {choices:?}");
    }
    if let Some(members) = schema["properties"].as_object() {
        let described: BTreeSet<&String> = members.keys().collect();
        let there: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(described, there, "{place}");
        for (name, schema) in members {
            check(document, schema, &value[name], &format!("{place}.{name}"));
        }
    }
    if schema["items"].is_object() {
        for item in value.as_array().unwrap() {
            check(document, &schema["items"], item, &format!("{place}[]"));
        }
    }
}

#[tokio::test]
async fn answers_are_as_described() {
    let harness = Harness::new();
    let document = harness.get("/openapi.json").await.ok();
    let check = |name: &str, value: &Value| {
        check(&document, &document["components"]["schemas"][name], value, name);
    };
    let input = harness.input("{}\n").await;
    let body = json!({
        "input_file_id": input, "endpoint": "/v1/embeddings", "completion_window": "24h",
        "metadata": {"a": "b"},
    });
    let batch = harness.post("/v1/batches", &body).await.ok();
    check("Batch", &batch);
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    check("ResultList", &harness.get(&format!("{path}/results")).await.ok());
    check("FailedList", &harness.get(&format!("{path}/failed")).await.ok());
    check("BatchList", &harness.get("/v1/batches").await.ok());
    check("FileList", &harness.get("/v1/files").await.ok());
    check("ModelList", &harness.get("/v1/models").await.ok());
    check("Health", &harness.get("/health").await.ok());
    check("Overview", &harness.get("/v1/overview").await.ok());
    check("WorkerHealth", &harness.get("/health/worker").await.ok());
    check("Liveness", &harness.get("/health/live").await.ok());
    check("Readiness", &harness.get("/health/ready").await.ok());
    check("Error", &harness.get("/v1/nope").await.json());
    check("Deletion", &harness.delete(&format!("/v1/files/{input}")).await.ok());

    let body = json!({"bytes": 3, "filename": "a", "mime_type": "b", "purpose": "batch"});
    let upload = harness.post("/v1/uploads", &body).await.ok();
    check("Upload", &upload);
    let path = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
    let part = harness.form(&format!("{path}/parts"), &[Field::text("data", "{}\n")]).await.ok();
    check("Part", &part);
    let complete = json!({"part_ids": [part["id"]]});
    check("Upload", &harness.post(&format!("{path}/complete"), &complete).await.ok());
}
