//! Prompts that do not fit the context: error lines for them, and no answer to a prompt that was cut among the results.

use overnight_sim::{Engine, Ollama, Script, Shape};
use serde_json::{Value, json};

use crate::harness::{Server, Setup, lines};

const NUM_CTX: u64 = 2_048;
/// What the stand-in says when it has not read all of a prompt.
const CUT: &str = "an answer to a prompt that was cut";
/// The stand-in's count for the messages of [`chat`] beside the words: the frame, and the marks of three messages.
const AROUND: u64 = 3 + 3 * 4;

fn start(version: &str) -> Server {
    let ollama = Ollama {
        version: version.to_owned(),
        num_ctx: NUM_CTX,
        parallel: 4,
        answer_tokens: 1,
        ..Ollama::default()
    };
    let script = Script { shape: Shape::Ollama, ollama, ..Script::default() };
    Server::with(Setup { script, ..Setup::default() })
}

/// A conversation that counts exactly so many tokens: one a word for the stand-in, which a byte count cannot know.
/// The oldest message is large, so that dropping it leaves a prompt that fits.
fn chat(at: usize, tokens: u64) -> Value {
    let words = tokens - AROUND;
    let system = words / 10;
    let first = words * 6 / 10;
    let last = words - system - first;
    let text = |count: u64, word: &str| format!("{word} ").repeat(count as usize);
    json!({
        "custom_id": format!("row-{at}"), "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "sim-model", "messages": [
            {"role": "system", "content": text(system, "sys")},
            {"role": "user", "content": text(first, "some")},
            {"role": "user", "content": text(last, if at.is_multiple_of(2) { "a" } else { "words" })},
        ]},
    })
}

/// One message: cut by the runner alone.
fn question(at: usize, tokens: u64) -> Value {
    let words = tokens - 3 - 4;
    json!({
        "custom_id": format!("row-{at}"), "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "sim-model", "messages": [
            {"role": "user", "content": "word ".repeat(words as usize)},
        ]},
    })
}

/// The lines of the output and of the error file.
fn run(server: &Server, requests: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let input = requests.iter().map(|request| format!("{request}\n")).collect::<Vec<_>>().concat();
    let id = server.create(&server.upload(input.as_bytes()));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "completed", "{batch}");
    let output = lines(&server.content(&batch, "output_file_id"));
    let errors = lines(&server.content(&batch, "error_file_id"));
    assert_eq!(output.len() + errors.len(), requests.len());
    (output, errors)
}

fn assert_none_is_cut(output: &[Value]) {
    let cut: Vec<&Value> = output.iter().filter(|line| line.to_string().contains(CUT)).collect();
    assert!(cut.is_empty(), "{} answers to prompts that were cut, such as {}", cut.len(), cut[0]);
}

fn ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["custom_id"].as_str().unwrap()).collect()
}

fn fifty_among_a_thousand(version: &str) {
    let server = start(version);
    let is_long = |at: usize| at % 20 == 7;
    let requests: Vec<Value> = (0..1_000)
        .map(|at| {
            let tokens = if is_long(at) { NUM_CTX * 3 / 2 } else { 100 + at as u64 % 500 };
            if at % 40 < 20 { chat(at, tokens) } else { question(at, tokens) }
        })
        .collect();
    let (output, errors) = run(&server, &requests);
    assert_none_is_cut(&output);
    let long: Vec<String> = (0..1_000).filter(|at| is_long(*at)).map(|at| format!("row-{at}")).collect();
    assert_eq!(long.len(), 50);
    assert_eq!(ids(&errors), long);
    for line in &errors {
        assert_eq!(line["error"]["code"], "context_length_exceeded", "{line}");
        assert!(
            line["error"]["message"].as_str().unwrap().contains("2048"),
            "the context is told: {line}"
        );
    }
}

#[test]
fn fifty_long_prompts_among_a_thousand_with_a_version_that_refuses() {
    fifty_among_a_thousand("0.32.9");
}

#[test]
fn fifty_long_prompts_among_a_thousand_with_a_version_that_cuts() {
    fifty_among_a_thousand("0.9.6");
}

/// From 0.98 to 1.02 of the context, every token: what fits and leaves room for an answer is answered, the rest is not.
fn series(version: &str, request: fn(usize, u64) -> Value) {
    let server = start(version);
    let from = NUM_CTX * 98 / 100;
    let lengths: Vec<u64> = (from..=NUM_CTX * 102 / 100).collect();
    let requests: Vec<Value> =
        lengths.iter().enumerate().map(|(at, tokens)| request(at, *tokens)).collect();
    let (output, errors) = run(&server, &requests);
    assert_none_is_cut(&output);
    let is_answered = |tokens: u64| tokens < NUM_CTX;
    let expected: Vec<String> = lengths
        .iter()
        .enumerate()
        .filter(|(_, tokens)| !is_answered(**tokens))
        .map(|(at, _)| format!("row-{at}"))
        .collect();
    assert_eq!(ids(&errors), expected);
    for line in &errors {
        assert_eq!(line["error"]["code"], "context_length_exceeded", "{line}");
    }
}

#[test]
fn the_border_of_the_context_token_by_token_with_a_version_that_refuses() {
    series("0.32.9", chat);
    series("0.32.9", question);
}

#[test]
fn the_border_of_the_context_token_by_token_with_a_version_that_cuts() {
    series("0.9.6", chat);
    series("0.9.6", question);
}

/// An older Ollama takes no more than the model was trained for, whatever it is asked for. With `num_ctx` set above that,
/// its model was never asked about, and what was cut to the smaller context counted as whole.
#[test]
fn a_context_that_is_asked_for_is_no_larger_than_the_model_s_own() {
    let ollama = Ollama {
        version: "0.9.6".to_owned(),
        trained_ctx: NUM_CTX,
        parallel: 4,
        answer_tokens: 1,
        ..Ollama::default()
    };
    let script = Script { shape: Shape::Ollama, ollama, ..Script::default() };
    let engine = format!("num_ctx = {}\n", NUM_CTX * 4);
    let server = Server::with(Setup { script, engine, ..Setup::default() });
    let is_long = |at: usize| at % 4 == 1;
    let requests: Vec<Value> = (0..40)
        .map(|at| {
            let tokens = if is_long(at) { NUM_CTX * 3 / 2 } else { 400 };
            let mut request = if at % 8 < 4 { chat(at, tokens) } else { question(at, tokens) };
            if at % 3 == 0 {
                request["body"]["options"] = json!({"num_ctx": NUM_CTX * 2});
            }
            request
        })
        .collect();
    let (output, errors) = run(&server, &requests);
    assert_none_is_cut(&output);
    let long: Vec<String> = (0..40).filter(|at| is_long(*at)).map(|at| format!("row-{at}")).collect();
    assert_eq!(ids(&errors), long);
}

/// Given by its address alone it was spoken to through `/v1`, where the answers to prompts that it cut were successes.
#[test]
fn an_ollama_that_is_given_by_its_address_alone_cuts_nothing_unseen() {
    let ollama = Ollama { num_ctx: NUM_CTX, answer_tokens: 1, ..Ollama::default() };
    let script = Script { shape: Shape::Ollama, ollama, ..Script::default() };
    let engine = Engine::start(script).unwrap();
    for path in ["", "/v1"] {
        let environment = vec![("OVERNIGHT_ENGINE".to_owned(), format!("{}{path}", engine.url()))];
        let server = Server::with(Setup { environment, ..Setup::default() });
        let (output, errors) = run(&server, &[question(0, 400), question(1, NUM_CTX * 3 / 2)]);
        assert_none_is_cut(&output);
        assert_eq!(ids(&errors), ["row-1"]);
        assert_eq!(errors[0]["error"]["code"], "context_length_exceeded", "{}", errors[0]);
    }
}

/// Answers that end at their limit are whole answers to whole prompts, and people want to know how many there are.
#[test]
fn answers_that_end_at_their_limit_are_counted() {
    let server = start("0.32.9");
    let request = |at: usize| {
        let mut request = question(at, 100);
        request["body"]["max_tokens"] = json!(if at < 7 { 0 } else { 100 });
        request
    };
    let input = (0..50).map(|at| format!("{}\n", request(at))).collect::<Vec<_>>().concat();
    let id = server.create(&server.upload(input.as_bytes()));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"]["completed"], 50, "{batch}");
    assert_eq!(batch["overnight"]["cut_short"], 7, "{batch}");
}

/// `overnight status` has always said so, and `overnight run` did not.
#[test]
fn a_run_says_how_many_answers_ended_at_their_limit() {
    let server = Server::idle(Setup::default());
    let folder = server.folder.path();
    let request = |at: usize| {
        let mut request = question(at, 20);
        request["body"]["max_tokens"] = json!(if at < 2 { 0 } else { 100 });
        request
    };
    let content = (0..5).map(|at| format!("{}\n", request(at))).collect::<Vec<_>>().concat();
    std::fs::write(folder.join("in.jsonl"), content).unwrap();
    let ollama = Ollama { num_ctx: NUM_CTX, answer_tokens: 1, ..Ollama::default() };
    let engine = Engine::start(Script { shape: Shape::Ollama, ollama, ..Script::default() }).unwrap();
    let run = |more: &[&str]| {
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_overnight"))
            .args(["run", "in.jsonl", "-o", "out.jsonl", "--engine", &engine.url()])
            .args(more)
            .current_dir(folder)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ended.status.code(), text(ended.stdout), text(ended.stderr))
    };
    let (code, _, said) = run(&[]);
    assert!(code == Some(0) && said.contains("2 answers ended at their limit of length"), "{said}");
    // What is done is only told again.
    let (_, told, _) = run(&["--json"]);
    let record: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(record["cut_short"], 2, "{record}");
}

/// An engine of the OpenAI dialect refuses by itself, in its own words.
#[test]
fn an_engine_that_refuses_long_prompts_is_taken_at_its_word() {
    let script = Script { context_bytes: Some(8_000), ..Script::default() };
    let server = Server::with(Setup { script, ..Setup::default() });
    let requests: Vec<Value> =
        (0..1_000).map(|at| question(at, if at % 20 == 7 { 3_000 } else { 500 })).collect();
    let (_, errors) = run(&server, &requests);
    assert_eq!(errors.len(), 50);
    for line in &errors {
        assert_eq!(line["response"]["body"]["error"]["code"], "context_length_exceeded", "{line}");
    }
}
