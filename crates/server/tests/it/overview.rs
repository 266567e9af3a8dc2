//! What the page shows, from the real server: failures while a batch runs, after a kill, and when it has ended.

use serde_json::{Value, json};

use crate::harness::{Server, request_line};

fn overview(server: &Server) -> Value {
    let answer = server.get("/v1/overview").expect("the server answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[test]
fn failures_are_shown_while_their_batch_runs_and_when_it_has_ended() {
    let mut server = Server::start();
    let lines = [
        request_line("bad", "[[sim:status=422,code=too_odd]]"),
        request_line("good", "hello"),
        request_line("endless", "[[sim:delay_ms=600000]]"),
    ];
    let id = server.create(&server.upload(lines.concat().as_bytes()));
    server.wait_for(&id, |batch| {
        batch["request_counts"] == json!({"total": 3, "completed": 1, "failed": 1})
    });
    let running = overview(&server);
    assert_eq!(running["unfinished"]["data"][0]["id"], id);
    assert_eq!(running["unfinished"]["data"][0]["request_counts"]["failed"], 1);
    let failures = running["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{running}");
    for (member, value) in [
        ("batch", json!(id)),
        ("custom_id", json!("bad")),
        ("error_type", json!("request_refused")),
        ("error_message", json!("scripted status 422")),
        ("status_code", json!(422)),
        ("endpoint", json!("sim")),
    ] {
        assert_eq!(failures[0][member], value, "{}", failures[0]);
    }

    server.restart();
    let again = overview(&server);
    assert_eq!(again["unfinished"]["data"][0]["request_counts"]["failed"], 1);

    assert_eq!(server.post(&format!("/v1/batches/{id}/cancel"), &json!({})).status, 200);
    server.wait_for_end_of(&id);
    let ended = overview(&server);
    assert_eq!(ended["unfinished"]["data"], json!([]));
    assert_eq!(ended["ended"]["data"][0]["id"], id);
    assert_eq!(ended["ended"]["data"][0]["status"], "cancelled");
    let of = |custom_id: &str| {
        let mut failures = ended["failures"].as_array().unwrap().iter();
        failures.find(|failure| failure["custom_id"] == custom_id).cloned().unwrap_or_default()
    };
    assert_eq!(of("bad")["status_code"], 422, "{ended}");
    assert_eq!(of("endless")["error_type"], "batch_cancelled", "{ended}");
}
