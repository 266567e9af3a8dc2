//! Many embedding lines in one call of the engine: what comes out is what single calls would have brought.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use overnight_sim::{Embeddings, Latency, Script};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, Setup, lines};

fn server(inputs_per_call: u32, script: Script) -> Server {
    let engine = format!("concurrency = 8\ninputs_per_call = {inputs_per_call}");
    Server::with(Setup { script, engine, ..Setup::default() })
}

fn line(custom_id: &str, body: &Value) -> String {
    let line = json!({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body});
    format!("{line}\n")
}

fn texts(count: usize) -> String {
    let body = |at: usize| json!({"model": "sim-model", "input": format!("passage {at} {}", "of text ".repeat(at % 7))});
    (0..count).map(|at| line(&format!("row-{at}"), &body(at))).collect()
}

fn create(server: &Server, content: &str) -> String {
    let file = server.upload(content.as_bytes());
    let body = json!({"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"});
    let answer = server.post("/v1/batches", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// What a batch brought: by request its answer's bytes without the usage, and its input tokens.
#[derive(Debug, PartialEq)]
struct Brought {
    answers: BTreeMap<String, (String, String)>,
    /// By request; packed ones are estimates.
    tokens: BTreeMap<String, u64>,
    estimates: usize,
}

impl Brought {
    fn tokens(&self) -> u64 {
        self.tokens.values().sum()
    }
}

fn brought(server: &Server, batch: &Value) -> Brought {
    #[derive(Deserialize)]
    struct Line<'a> {
        custom_id: String,
        #[serde(borrow)]
        response: Response<'a>,
    }
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        body: Body<'a>,
    }
    #[derive(Deserialize)]
    struct Body<'a> {
        model: String,
        #[serde(borrow)]
        data: &'a RawValue,
        usage: Value,
    }
    let content = server.content(batch, "output_file_id");
    let mut brought = Brought { answers: BTreeMap::new(), tokens: BTreeMap::new(), estimates: 0 };
    for text in String::from_utf8(content).unwrap().lines() {
        let line: Line<'_> = serde_json::from_str(text).unwrap();
        let Body { model, data, usage } = line.response.body;
        assert_eq!(usage["prompt_tokens"], usage["total_tokens"]);
        brought.tokens.insert(line.custom_id.clone(), usage["prompt_tokens"].as_u64().unwrap());
        brought.estimates += usize::from(usage["estimated"] == true);
        let doubled = brought.answers.insert(line.custom_id, (model, data.get().to_owned()));
        assert_eq!(doubled, None, "answered twice");
    }
    brought
}

fn run(server: &Server, content: &str) -> (Value, Brought) {
    let batch = server.wait_for_end_of(&create(server, content));
    let brought = brought(server, &batch);
    (batch, brought)
}

#[test]
fn the_number_of_inputs_in_a_call_changes_no_answer() {
    const LINES: usize = 10_000;
    let content = texts(LINES);
    let single = server(1, Script::default());
    let (_, expected) = run(&single, &content);
    assert_eq!((expected.answers.len(), expected.estimates), (LINES, 0));
    assert_eq!(single.engine.calls().total, LINES as u64);
    for inputs in [8, 32] {
        let server = server(inputs, Script::default());
        let (batch, packed) = run(&server, &content);
        assert_eq!(batch["request_counts"], json!({"total": LINES, "completed": LINES, "failed": 0}));
        assert!(packed.answers == expected.answers, "answers differ at {inputs} inputs a call");
        assert_eq!(packed.tokens(), expected.tokens(), "the sums stay exact");
        assert_eq!(batch["usage"]["input_tokens"], expected.tokens());
        // The last call of each of the eight chunks is not full.
        let calls = server.engine.calls().total;
        assert!(calls <= (LINES as u64).div_ceil(u64::from(inputs)) + 8, "{calls} calls");
        assert!(packed.estimates >= LINES - 8);
    }
}

#[test]
fn every_form_of_input_comes_back_in_its_own_shape() {
    let forms: Vec<Value> = (0..400)
        .map(|at| match at % 8 {
            0 => json!({"model": "sim-model", "input": format!("text {at}")}),
            1 => json!({"model": "sim-model", "input": [format!("one of one {at}")]}),
            2 => json!({"model": "sim-model", "input": ["same", format!("two {at}"), "same"]}),
            3 => json!({"model": "sim-model", "input": [at, 2, 3]}),
            4 => json!({"model": "sim-model", "input": [[at, 2], [3]]}),
            5 => json!({"model": "sim-model", "input": format!("short {at}"), "dimensions": 3}),
            6 => json!({"model": "sim-model", "input": format!("coded {at}"), "encoding_format": "base64"}),
            _ => json!({"model": "sim-model", "input": format!("text \u{2028} {at}"), "user": format!("u{}", at % 3)}),
        })
        .collect();
    let content: String =
        forms.iter().enumerate().map(|(at, body)| line(&format!("row-{at}"), body)).collect();
    let (_, expected) = run(&server(1, Script::default()), &content);
    let packing = server(32, Script::default());
    let (batch, packed) = run(&packing, &content);
    assert_eq!(batch["request_counts"]["completed"], 400);
    assert_eq!(packed.answers, expected.answers);
    assert_eq!(packed.tokens(), expected.tokens());
    assert!(packing.engine.calls().total < 200, "{:?}", packing.engine.calls());
}

#[test]
fn a_poisoned_line_of_a_pack_fails_alone() {
    let poisoned =
        line("poison", &json!({"model": "sim-model", "input": "no [[sim:status=400,code=bad]]"}));
    let content = [&texts(20), poisoned.as_str(), &texts(31).replace("row-", "tail-")].concat();
    let server = server(32, Script::default());
    let (batch, packed) = run(&server, &content);
    assert_eq!(batch["request_counts"], json!({"total": 52, "completed": 51, "failed": 1}));
    assert_eq!(packed.answers.len(), 51);
    let errors = lines(&server.content(&batch, "error_file_id"));
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["custom_id"], "poison");
    assert_eq!(errors[0]["response"]["status_code"], 400);
    assert_eq!(errors[0]["response"]["body"]["error"]["code"], "bad");
    let failed = server.get(&format!("/v1/batches/{}/failed", batch["id"].as_str().unwrap())).unwrap();
    assert_eq!(failed.json()["data"][0]["retry_count"], 0, "{}", failed.text());
}

#[test]
fn a_limit_that_nobody_knew_of_is_met_by_halves() {
    let script = Script {
        embeddings: Embeddings { inputs_max: Some(10), ..Embeddings::default() },
        ..Script::default()
    };
    let server = server(32, script);
    let (batch, packed) = run(&server, &texts(200));
    assert_eq!(batch["request_counts"], json!({"total": 200, "completed": 200, "failed": 0}));
    assert_eq!(packed.answers.len(), 200);
    let started = Instant::now();
    let is_told =
        || server.get("/health").is_some_and(|health| health.text().contains("set `inputs_per_call = "));
    while !is_told() {
        assert!(started.elapsed() < PATIENCE, "{}", server.get("/health").unwrap().text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_alias_and_a_default_model_reach_the_engine_by_its_own_name() {
    let setup = Setup {
        script: Script { strict_models: true, ..Script::default() },
        engine: "inputs_per_call = 16\naliases = { \"text-embedding-3-small\" = \"sim-model\" }"
            .to_owned(),
        ..Setup::default()
    };
    let server = Server::with(setup);
    let body = |at: usize| json!({"input": format!("text {at}"), "model": "text-embedding-3-small"});
    let content: String = (0..64).map(|at| line(&format!("row-{at}"), &body(at))).collect();
    let (batch, packed) = run(&server, &content);
    assert_eq!(batch["request_counts"]["completed"], 64, "{batch}");
    assert!(packed.answers.values().all(|(model, _)| model == "sim-model"));
    assert!(packed.estimates > 32);
}

#[test]
fn kills_with_packs_in_flight_lose_and_double_nothing() {
    const LINES: usize = 6_000;
    let content = texts(LINES);
    let (_, expected) = run(&server(1, Script::default()), &content);
    let script = Script { latency: Latency::Fixed(Duration::from_millis(5)), ..Script::default() };
    let mut server = server(32, script);
    let id = create(&server, &content);
    for moment in [10, 60, 110, 150] {
        assert!(server.engine.wait_until(|calls| calls.total >= moment, PATIENCE), "{}", server.log());
        server.kill();
        server.up();
    }
    let batch = server.wait_for_end_of(&id);
    let packed = brought(&server, &batch);
    assert_eq!(batch["request_counts"], json!({"total": LINES, "completed": LINES, "failed": 0}));
    assert!(packed.answers == expected.answers, "answers differ after the kills");
}
