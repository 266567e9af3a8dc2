//! A machine with nothing but the binary.

use std::path::Path;

use serde_json::{Value, json};

use super::{documents, engines_at, overnight, submit, verify, words};
use crate::harness::{Server, Setup, free_address, lines};
use crate::supervise::{process, wait_for_process, wait_until};

/// Nobody listens at the port that is looked at.
fn nowhere() -> String {
    format!("[discovery]\nports = [{}]\n", free_address().port())
}

fn server() -> Server {
    Server::with(Setup { settings: nowhere(), engines: Some(String::new()), ..Setup::default() })
}

fn address_of(view: &Value) -> String {
    view["url"].as_str().unwrap().trim_start_matches("http://").trim_end_matches("/v1").to_owned()
}

#[test]
fn a_first_run_does_real_inference_and_says_that_it_is_a_toy() {
    let folder = tempfile::tempdir().unwrap();
    let [input, output, config] =
        ["in.jsonl", "out.jsonl", "overnight.toml"].map(|name| folder.path().join(name));
    std::fs::write(&input, documents(40)).unwrap();
    std::fs::write(&config, nowhere()).unwrap();
    let ended = overnight(&["run"])
        .args([&input, Path::new("-o"), &output, Path::new("--config"), &config])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", words(&ended));
    for said in ["do not use its answers", "hf:Qwen/", "Ollama", "[[engine]]"] {
        assert!(words(&ended).contains(said), "`{said}` is not in {}", words(&ended));
    }
    let answers = lines(&std::fs::read(&output).unwrap());
    assert_eq!(answers.len(), 40);
    for answer in answers {
        let text = &answer["response"]["body"]["choices"][0]["message"]["content"];
        let category: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        assert!(category["category"].is_string(), "{answer}");
    }
}

#[test]
fn a_server_without_engines_starts_its_own_for_work_and_ends_it() {
    let mut server = server();
    let resting = process(&server, "demo");
    assert_eq!(resting["process"]["state"], "stopped", "{resting}");
    assert_eq!(server.get("/health").unwrap().json()["status"], "healthy");
    assert!(server.log().contains("do not use its answers"), "{}", server.log());
    let address = address_of(&resting);
    assert_eq!(engines_at(&address), [0_u32; 0], "nothing runs without work");

    let id = submit(&server, 60);
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"], json!({"total": 60, "completed": 60, "failed": 0}), "{batch}");
    verify(&server, &id);
    // It told how many it would like to have: 8 waiting for each of its 32 slots.
    let view = wait_for_process(&server, "demo", |view| view["window"] == 288);
    assert_eq!(view["facts"]["flavour"], "overnight", "{view}");
    let url = format!("http://{}", server.address);
    let shown = overnight(&["engines", "--server", &url]).output().unwrap();
    let shown = words(&shown);
    assert!(shown.contains("0 of 288") && shown.contains("32 slots"), "{shown}");

    let other = documents(3).replace("\"model\":\"demo\"", "\"model\":\"qwen3:8b\"");
    let refused = server.wait_for_end_of(&server.create(&server.upload(other.as_bytes())));
    let error = &refused["errors"]["data"][0];
    assert_eq!(error["code"], "model_not_found", "{refused}");
    assert!(error["message"].as_str().unwrap().contains("demo"), "{refused}");

    assert_eq!(engines_at(&address).len(), 1);
    server.terminate();
    assert!(server.wait_for_end().success());
    assert_eq!(engines_at(&address), [0_u32; 0]);
}

/// A toy must not answer for an Ollama that was not started yet.
#[test]
fn who_has_used_another_engine_gets_no_toy_in_its_place() {
    let mut server = Server::with(Setup { settings: nowhere(), ..Setup::default() });
    server.kill();
    let config = server.folder.path().join("overnight.toml");
    std::fs::write(&config, nowhere()).unwrap();
    let ended = overnight(&["serve", "--listen", "127.0.0.1:0", "--config"])
        .args([&config, Path::new("--data"), &server.data()])
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(words(&ended).contains("has used the engine `sim`"), "{}", words(&ended));
}

#[test]
fn what_a_first_run_would_use_is_shown_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("overnight.toml");
    std::fs::write(&config, nowhere()).unwrap();
    let shown =
        overnight(&["engines", "--config"]).arg(&config).current_dir(folder.path()).output().unwrap();
    assert!(shown.status.success(), "{}", words(&shown));
    assert!(words(&shown).contains("stopped") && words(&shown).contains("a toy"), "{}", words(&shown));
}

#[test]
fn kill_9_of_a_server_leaves_no_engine() {
    let mut server = server();
    let address = address_of(&process(&server, "demo"));
    submit(&server, 2_000);
    wait_for_process(&server, "demo", |view| view["in_flight"].as_u64() > Some(0));
    assert_eq!(engines_at(&address).len(), 1);
    server.kill();
    wait_until("no engine is left", || engines_at(&address).is_empty());
}
