//! An Ollama by its own routes: requests and answers mapped there and back, names, options, and what it tells.

use std::time::Duration;

use overnight_sim::{Engine, Latency, Ollama, Script, Shape};
use serde_json::{Value, json};

use crate::harness::{Server, Setup, lines, request_line};

const MODEL: &str = "sim-model";

fn script() -> Script {
    Script { shape: Shape::Ollama, strict_models: false, ..Script::default() }
}

fn server(script: Script) -> Server {
    Server::with(Setup { script, ..Setup::default() })
}

/// Request lines `0`, `1`, ... of these bodies.
fn input(route: &str, bodies: &[Value]) -> String {
    let lines = bodies.iter().enumerate().map(|(at, body)| {
        let line = json!({"custom_id": at.to_string(), "method": "POST", "url": route, "body": body});
        format!("{line}\n")
    });
    lines.collect::<Vec<_>>().concat()
}

/// The result lines of a batch of these bodies, by custom id `0`, `1`, ...
fn run(server: &Server, route: &str, bodies: &[Value]) -> Vec<Value> {
    let file = server.upload(input(route, bodies).as_bytes());
    let created = server.post(
        "/v1/batches",
        &json!({"input_file_id": file, "endpoint": route, "completion_window": "24h"}),
    );
    assert_eq!(created.status, 200, "{}", created.text());
    let batch = server.wait_for_end_of(created.json()["id"].as_str().unwrap());
    assert_eq!(batch["status"], "completed", "{batch}");
    let mut results = lines(&server.content(&batch, "output_file_id"));
    results.extend(lines(&server.content(&batch, "error_file_id")));
    results.sort_by_key(|line| line["custom_id"].as_str().unwrap().parse::<usize>().unwrap());
    assert_eq!(results.len(), bodies.len());
    results
}

fn chat(more: &Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn chats_come_back_in_openai_s_shape() {
    let server = server(script());
    let tool = json!({"type": "function", "function": {"name": "look", "parameters": {
        "type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}}});
    let schema = json!({"type": "object", "properties": {"answer": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let png = "data:image/png;base64,iVBORw0KGgo=";
    let call = json!({"name": "look", "arguments": "{\"z\":\"1\",\"a\":\"2\"}"});
    let bodies = [
        chat(&json!({"temperature": 0, "max_tokens": 3})),
        chat(&json!({"tools": [tool]})),
        chat(&json!({"response_format": format})),
        chat(&json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": png}}]}]})),
        chat(&json!({"reasoning_effort": "low"})),
        chat(&json!({"logprobs": true, "top_logprobs": 1})),
        chat(&json!({"tools": [tool], "tool_choice": "none", "user": "me", "n": 1, "messages": [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
        ]})),
    ];
    let results = run(&server, "/v1/chat/completions", &bodies);
    let body = |at: usize| &results[at]["response"]["body"];
    let choice = |at: usize| &body(at)["choices"][0];

    assert_eq!(body(0)["object"], "chat.completion");
    assert_eq!(body(0)["model"], MODEL);
    assert_eq!(body(0)["created"], 1_795_248_930);
    assert_eq!(choice(0)["finish_reason"], "length");
    assert_eq!(body(0)["usage"]["completion_tokens"], 3);
    let total = body(0)["usage"]["prompt_tokens"].as_u64().unwrap() + 3;
    assert_eq!(body(0)["usage"]["total_tokens"], total);

    let call = &choice(1)["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "look");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"a": "x", "b": 1}));
    assert_eq!((&call["id"], &call["type"]), (&json!("call_sim"), &json!("function")));
    assert_eq!(choice(1)["finish_reason"], "tool_calls");

    let content: Value =
        serde_json::from_str(choice(2)["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(content, json!({"format": schema}));
    assert_eq!(choice(3)["message"]["content"], "1 images");
    assert_eq!(choice(4)["message"]["reasoning"], "hm");
    assert_eq!(choice(5)["logprobs"]["content"][0]["logprob"], -0.25);
    assert_eq!(choice(6)["finish_reason"], "stop", "without tools there is no call: {}", results[6]);
}

#[test]
fn what_ollama_has_nothing_for_is_refused_by_name_and_never_sent() {
    let server = server(script());
    let cat = json!({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}});
    let cases = [
        (json!({"n": 2}), "n"),
        (json!({"logit_bias": {"50256": -100}}), "logit_bias"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"guided_json": {}}), "guided_json"),
        (json!({"truncate": true}), "truncate"),
        (json!({"messages": [{"role": "user", "content": [cat]}]}), "messages[0].content[0]"),
        (json!({"messages": [{"role": "user", "name": "bob", "content": "hi"}]}), "messages[0].name"),
    ];
    let bodies: Vec<Value> = cases.iter().map(|(more, _)| chat(more)).collect();
    let mut input = input("/v1/chat/completions", &bodies);
    input.extend((0..40).map(|at| request_line(&format!("good-{at}"), "hello")));
    let id = server.create(&server.upload(input.as_bytes()));
    let batch = server.wait_for_end_of(&id);
    let errors = lines(&server.content(&batch, "error_file_id"));
    assert_eq!(errors.len(), cases.len(), "{batch}");
    for (at, (_, param)) in cases.iter().enumerate() {
        let error = &errors[at]["response"]["body"]["error"];
        assert_eq!(errors[at]["response"]["status_code"], 400);
        assert_eq!(error["param"], *param, "{error}");
        assert!(error["message"].as_str().unwrap().contains(param), "{error}");
    }
    assert_eq!(server.engine.calls().total, 40, "only what can be mapped was sent");
}

#[test]
fn completions_and_embeddings_come_back_in_openai_s_shape() {
    let server = server(script());
    let bodies = [
        json!({"model": MODEL, "prompt": "once", "max_tokens": 2, "logprobs": 1}),
        json!({"model": MODEL, "prompt": ["once"]}),
        json!({"model": MODEL, "prompt": [1, 2]}),
    ];
    let results = run(&server, "/v1/completions", &bodies);
    let choice = &results[0]["response"]["body"]["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["tokens"], json!(["answer"]));
    assert_eq!(choice["logprobs"]["top_logprobs"], json!([{"answer": -0.25}]));
    assert!(
        results[1]["response"]["body"]["choices"][0]["text"].as_str().unwrap().starts_with("answer")
    );
    assert_eq!(results[2]["response"]["body"]["error"]["param"], "prompt");

    let bodies = [
        json!({"model": MODEL, "input": ["a", "b"]}),
        json!({"model": MODEL, "input": "b", "encoding_format": "base64"}),
        json!({"model": MODEL, "input": "b", "dimensions": 4}),
        json!({"model": MODEL, "input": [1, 2, 3]}),
    ];
    let results = run(&server, "/v1/embeddings", &bodies);
    let data = |at: usize| &results[at]["response"]["body"]["data"];
    assert_eq!(data(0).as_array().unwrap().len(), 2);
    let plain: Vec<f32> = serde_json::from_value(data(0)[1]["embedding"].clone()).unwrap();
    let packed = data(1)[0]["embedding"].as_str().unwrap();
    let expected: Vec<u8> = plain.iter().flat_map(|number| number.to_le_bytes()).collect();
    assert_eq!(base64_of(packed), expected);
    assert_eq!(data(2)[0]["embedding"].as_array().unwrap().len(), 4);
    assert_eq!(results[3]["response"]["body"]["error"]["param"], "input");
}

fn base64_of(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0_u32;
    let mut count = 0;
    let mut out = Vec::new();
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        bits = bits << 6 | LETTERS.iter().position(|known| *known == letter).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    out
}

#[test]
fn a_name_without_a_tag_means_latest() {
    let script = Script { models: vec!["qwen3:latest".to_owned(), "qwen3:4b".to_owned()], ..script() };
    let server = server(script);
    let models = server.get("/v1/models").unwrap().json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["qwen3", "qwen3:4b", "qwen3:latest"]);
    let bodies = ["qwen3", "qwen3:latest", "qwen3:4b"].map(|name| chat(&json!({"model": name})));
    for result in run(&server, "/v1/chat/completions", &bodies) {
        assert_eq!(result["response"]["status_code"], 200, "{result}");
    }
}

/// Interleaved in the file, sent by what the model is loaded with: one load for each, whatever else differs.
#[test]
fn requests_are_grouped_by_the_options_that_force_a_load() {
    let server = server(script());
    let bodies: Vec<Value> = (0..120)
        .map(|at| {
            let num_ctx = [2048, 4096, 8192][at % 3];
            let options = if at % 2 == 0 {
                json!({"num_ctx": num_ctx, "seed": at})
            } else {
                json!({"temperature": 0.5, "top_k": at, "num_ctx": num_ctx})
            };
            chat(&json!({"options": options}))
        })
        .collect();
    let results = run(&server, "/v1/chat/completions", &bodies);
    assert!(results.iter().all(|result| result["response"]["status_code"] == 200));
    // A window of calls spans two groups at each border.
    assert!(server.engine.loads() <= 3 + 2 * 2, "loaded {} times", server.engine.loads());
}

#[test]
fn health_tells_version_models_and_that_calls_are_served_one_by_one() {
    let script = Script { latency: Latency::Fixed(Duration::from_millis(20)), ..script() };
    let server = server(script);
    let bodies: Vec<Value> = (0..60).map(|at| chat(&json!({"seed": at}))).collect();
    run(&server, "/v1/chat/completions", &bodies);
    let started = std::time::Instant::now();
    let facts = loop {
        let health = server.get("/health").unwrap().json();
        let facts = health["engines"][0]["facts"].clone();
        if facts["notices"].as_array().is_some_and(|notices| !notices.is_empty()) {
            break facts;
        }
        assert!(started.elapsed() < crate::harness::PATIENCE, "{health}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(facts["version"], "0.32.9");
    assert_eq!(facts["flavour"], "ollama");
    assert_eq!(facts["capacity"]["slots"], 1);
    let model = &facts["models"][0];
    assert_eq!(model["name"], "sim-model:latest");
    assert_eq!((&model["is_loaded"], &model["context_len"]), (&json!(true), &json!(4096)));
    assert_eq!(model["digest"].as_str().unwrap().len(), 32);
    assert!(facts["notices"][0].as_str().unwrap().contains("OLLAMA_NUM_PARALLEL"), "{facts}");
}

#[test]
fn an_ollama_that_is_configured_as_another_engine_has_a_notice_and_one_warning() {
    let engine = Engine::start(script()).unwrap();
    let table =
        format!("[[engine]]\nname = \"other\"\nkind = \"openai\"\nurl = \"{}/v1\"\n", engine.url());
    let server = Server::with(Setup { engines: Some(table), ..Setup::default() });
    let health = server.get("/health").unwrap().json();
    let notice = health["engines"][0]["facts"]["notices"][0].as_str().unwrap_or_default();
    assert!(notice.contains("`kind = \"ollama\"`"), "{health}");
    run(&server, "/v1/chat/completions", &[chat(&json!({}))]);
    let log = server.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("spoken to through")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("WARN"), "{log}");
}

/// The route takes no context, so that of the settings would be another than the one that lines get.
#[test]
fn responses_are_refused_where_the_context_is_set() {
    let server = Server::with(Setup {
        script: script(),
        engine: "num_ctx = 8192\n".to_owned(),
        ..Setup::default()
    });
    let bodies = [json!({"model": MODEL, "input": "hello"})];
    let results = run(&server, "/v1/responses", &bodies);
    let error = &results[0]["response"]["body"]["error"];
    assert_eq!(results[0]["response"]["status_code"], 400);
    assert!(error["message"].as_str().unwrap().contains("`engine.num_ctx`"), "{error}");
    assert_eq!(server.engine.calls().total, 0);
}

/// The queue before a load is full: busy, and nothing is lost by it.
#[test]
fn a_full_queue_before_a_load_is_waited_out() {
    let ollama = Ollama { max_queue: 2, load_ms: 300, ..Ollama::default() };
    let server = server(Script { ollama, ..script() });
    let bodies: Vec<Value> = (0..20).map(|at| chat(&json!({"seed": at}))).collect();
    let results = run(&server, "/v1/chat/completions", &bodies);
    assert!(results.iter().all(|result| result["response"]["status_code"] == 200));
    assert_eq!(server.engine.loads(), 1);
}

#[test]
fn responses_go_through_v1_and_what_ollama_has_no_route_for_is_refused() {
    let server = server(script());
    let bodies = [json!({"model": MODEL, "input": "hello", "instructions": "be brief"})];
    let results = run(&server, "/v1/responses", &bodies);
    assert_eq!(results[0]["response"]["body"]["object"], "response", "{}", results[0]);
    let bodies = [json!({"model": MODEL, "query": "q", "documents": ["a"]})];
    let results = run(&server, "/v1/rerank", &bodies);
    let error = &results[0]["response"]["body"]["error"];
    assert!(error["message"].as_str().unwrap().contains("/v1/rerank"), "{error}");
}
