//! What a command writes takes the place of nothing else, and what it says of an output is of that input.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::harness::{Server, overnight, request_line};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Three requests of which one is refused.
fn three() -> String {
    let refused = request_line("bad", "[[sim:status=400]]");
    format!("{}{refused}{}", request_line("one", "hello"), request_line("two", "hello"))
}

fn count(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn a_run_writes_its_errors_over_nothing_else() {
    let server = Server::start();
    let folder = server.folder.path();
    let engine = format!("{}/v1", server.engine.url());
    fs::write(folder.join("in.jsonl"), three()).unwrap();
    fs::write(folder.join("mine.txt"), "mine").unwrap();
    let run = |output: &str, errors: &str| {
        overnight(folder, &["run", "in.jsonl", "-o", output, "--errors", errors, "--engine", &engine])
    };
    for (errors, why) in [
        ("./out.jsonl", "is the output; name another file with --errors"),
        ("in.jsonl", "is the input; name another file with --errors"),
        ("mine.txt", "exists and is not of an unfinished run"),
    ] {
        let refused = run("out.jsonl", errors);
        assert_eq!(refused.status.code(), Some(1), "{errors}");
        assert!(said(&refused).contains(why), "{errors}: {}", said(&refused));
    }
    assert!(!folder.join("out.jsonl").exists() && count(&folder.join("in.jsonl")) == 3);
    assert_eq!(fs::read_to_string(folder.join("mine.txt")).unwrap(), "mine");
    let done = run("out.jsonl", "err.jsonl");
    assert_eq!(done.status.code(), Some(3), "{}", said(&done));
    assert_eq!((count(&folder.join("out.jsonl")), count(&folder.join("err.jsonl"))), (2, 1));
    // Its own files are in nobody's place when it begins anew.
    fs::remove_file(folder.join("out.jsonl")).unwrap();
    assert_eq!(run("out.jsonl", "err.jsonl").status.code(), Some(3));
}

#[test]
fn a_setting_that_was_typed_wrong_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    for typed in [["--listen", "abc"], ["--set", "foo=1"], ["--engine", "foo"], ["--profile", "x"]] {
        let ended = overnight(folder.path(), &[&["serve"], &typed[..]].concat());
        assert_eq!(ended.status.code(), Some(2), "{typed:?}: {}", said(&ended));
    }
    fs::write(folder.path().join("overnight.toml"), "[server]\nlisten = \"abc\"\n").unwrap();
    assert_eq!(overnight(folder.path(), &["serve"]).status.code(), Some(1));
}

#[test]
fn a_run_is_done_for_its_own_input_only() {
    let server = Server::start();
    let folder = server.folder.path();
    let engine = format!("{}/v1", server.engine.url());
    fs::write(folder.join("in.jsonl"), request_line("one", "hello")).unwrap();
    fs::write(folder.join("other.jsonl"), three()).unwrap();
    let run = |input: &str| overnight(folder, &["run", input, "-o", "out.jsonl", "--engine", &engine]);
    assert_eq!(run("in.jsonl").status.code(), Some(0));
    let again = run("in.jsonl");
    assert!(again.status.success() && said(&again).contains("is done already"), "{}", said(&again));
    let other = run("other.jsonl");
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("is not what this run was begun with"), "{}", said(&other));
    assert_eq!(run("nowhere.jsonl").status.code(), Some(1));
}

#[test]
fn results_say_what_is_not_answered_and_keep_apart_what_is() {
    let server = Server::start();
    let folder = server.folder.path();
    let url = format!("http://{}", server.address);
    let results =
        |arguments: &[&str]| overnight(folder, &[&["results", "--server", &url], arguments].concat());
    let id = server.create(&server.upload(three().as_bytes()));
    server.wait_for_end_of(&id);
    let refused = results(&[&id, "-o", "out.jsonl", "--errors", "out.jsonl"]);
    assert!(said(&refused).contains("is the output; name another file"), "{}", said(&refused));
    let child = server.post(&format!("/v1/batches/{id}/retry"), &json!({})).json();
    server.wait_for_end_of(child["id"].as_str().unwrap());
    let merged = results(&[&id, "--with-retries", "-o", "all.jsonl"]);
    assert_eq!(merged.status.code(), Some(3), "{}", said(&merged));
    assert!(said(&merged).contains("1 requests have failed"), "{}", said(&merged));
    assert_eq!(count(&folder.join("all.jsonl")), 3);

    let unread = server.create(&server.upload(b"{}\n"));
    server.wait_for_end_of(&unread);
    let nothing = results(&[&unread]);
    assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(1), 0));
    assert!(said(&nothing).contains("failed before any request was run"), "{}", said(&nothing));
}
