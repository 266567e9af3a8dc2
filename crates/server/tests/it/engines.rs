//! Engines that are found, understood and used right: five shapes on five ports.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use overnight_domain::engine_facts::Flavour;
use overnight_engine::{EndpointConfig, Engine as _, OpenAi};
use overnight_sim::{Engine, Latency, Permits, Script, Shape, Tei};
use serde_json::{Value, json};

use crate::harness::{Server, Setup, lines, overnight};

const SHAPES: [(Shape, &str, &str); 5] = [
    (Shape::Vllm, "vllm", "vLLM"),
    (Shape::LlamaCpp, "llama.cpp", "llama.cpp"),
    (Shape::Sglang, "sglang", "SGLang"),
    (Shape::LmStudio, "lmstudio", "LM Studio"),
    (Shape::Tei, "tei", "TEI"),
];

/// Programs that take a connection and never say a word.
const MUTES: u64 = 20;

fn shaped(shape: Shape, model: &str) -> Script {
    Script { shape, models: vec![model.to_owned()], ..Script::default() }
}

fn json_lines(output: &Output) -> Vec<Value> {
    lines(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A port that nobody listens on while the socket is held.
fn silent_port() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

#[test]
fn five_engines_on_five_ports_are_found_within_a_second_for_what_they_are() {
    let engines: Vec<Engine> =
        SHAPES.iter().map(|(shape, ..)| Engine::start(shaped(*shape, "some/model")).unwrap()).collect();
    let second = Engine::start(shaped(Shape::Vllm, "other/model")).unwrap();
    // Neither programs that never answer nor a closed port hold up the others.
    let mutes: Vec<TcpListener> = (0..MUTES).map(|_| silent_port()).collect();
    let mut ports: Vec<String> = engines.iter().map(|engine| engine.addr().port().to_string()).collect();
    ports.extend(mutes.iter().map(|mute| mute.local_addr().unwrap().port().to_string()));
    ports.push(second.addr().port().to_string());
    ports.push("1".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let setting = format!("discovery.ports={}", ports.join(","));
    let expected: Vec<&str> = SHAPES.iter().map(|(_, name, _)| *name).chain(["vllm-2"]).collect();
    let look = || {
        let began = Instant::now();
        let output = overnight(folder.path(), &["engines", "--json", "--set", &setting]);
        let took = began.elapsed();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (json_lines(&output), took)
    };
    let names = |found: &[Value]| -> Vec<String> {
        found.iter().map(|engine| engine["name"].as_str().unwrap().to_owned()).collect()
    };
    let (mut found, mut took) = look();
    // On a machine that is busy enough an engine takes longer than its second for once.
    for _ in 0..2 {
        if names(&found) != expected {
            (found, took) = look();
        }
    }
    assert_eq!(names(&found), expected);
    for (engine, (_, name, _)) in found.iter().zip(SHAPES) {
        assert_eq!(engine["facts"]["models"][0]["name"], "some/model", "{name}");
    }
    assert_eq!(found[1]["facts"]["capacity"]["slots"], 4, "llama.cpp tells its slots");
    assert_eq!(found[1]["window"], 6);
    assert_eq!(found[4]["facts"]["capacity"]["inputs_per_call"], 32, "TEI tells its limits");
    // Each mute one is waited for its whole second, and all of them at once; the rest is for the process.
    assert!(took < Duration::from_secs(MUTES / 2), "{took:?}");
    let output =
        overnight(folder.path(), &["engines", "--set", &setting, "--server", "http://127.0.0.1:1"]);
    assert!(
        text(&output.stderr).contains("leaves the engines to the server"),
        "{}",
        text(&output.stderr)
    );
    let output = overnight(folder.path(), &["engines", "--set", &setting]);
    let table = text(&output.stdout);
    for (_, name, flavour) in SHAPES {
        assert!(table.lines().any(|line| line.starts_with(name) && line.contains(flavour)), "{table}");
    }
}

#[test]
fn a_server_without_configuration_uses_what_it_finds_and_shows_it() {
    let engine = Engine::start(shaped(Shape::LlamaCpp, "m.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = crate::harness::free_address().to_string();
    let setting = format!("discovery.ports={}", engine.addr().port());
    let mut server = Command::new(env!("CARGO_BIN_EXE_overnight"))
        .args(["serve", "--listen", &address, "--set", &setting])
        .current_dir(folder.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let url = format!("http://{address}");
    let shown = loop {
        let output = overnight(folder.path(), &["engines", "--json", "--server", &url]);
        if output.status.success() {
            break json_lines(&output);
        }
        assert!(began.elapsed() < crate::harness::PATIENCE, "{}", text(&output.stderr));
    };
    assert_eq!(shown[0]["name"], "llama.cpp");
    assert_eq!(shown[0]["state"], "up");
    assert_eq!(shown[0]["window"], 6, "four slots and two more");
    assert_eq!(shown[0]["in_flight"], 0);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn none_running_says_what_to_do() {
    let closed = silent_port().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let setting = format!("discovery.ports={closed}");
    for args in
        [&["engines", "--set", &setting][..], &["serve", "--listen", "127.0.0.1:0", "--set", &setting]]
    {
        let output = overnight(folder.path(), args);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        for part in [
            &closed.to_string(),
            "start Ollama, vLLM, llama.cpp",
            "--engine http://HOST:PORT/v1",
            "[[engine]]",
        ] {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
    }
}

#[test]
fn a_check_says_what_each_engine_can_do() {
    let folder = tempfile::tempdir().unwrap();
    for (shape, name, _) in SHAPES {
        let script =
            Script { strict_models: true, context_bytes: Some(40_000), ..shaped(shape, "some/model") };
        let engine = Engine::start(script).unwrap();
        let output =
            overnight(folder.path(), &["engines", "check", &format!("{}/v1", engine.url()), "--json"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        let cases = json_lines(&output);
        let outcome = |case: &str| {
            let found = cases.iter().find(|line| line["case"] == case);
            found.unwrap_or_else(|| panic!("{name}: no case `{case}`"))["outcome"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let chats = if shape == Shape::Tei { "cannot" } else { "can" };
        for case in [
            "chat",
            "usage",
            "system role",
            "tools",
            "image input",
            "JSON mode",
            "JSON schema",
            "logprobs",
            "same answer by seed",
            "stop",
            "max_tokens",
            "completions",
        ] {
            assert_eq!(outcome(case), chats, "{name}: {case}: {cases:#?}");
        }
        for case in
            ["embeddings", "embeddings of a list", "embeddings in base64", "models", "kept connections"]
        {
            assert_eq!(outcome(case), "can", "{name}: {case}");
        }
        let reranks = if shape == Shape::LmStudio { "cannot" } else { "can" };
        assert_eq!(outcome("rerank"), reranks, "{name}");
        if matches!(shape, Shape::Vllm | Shape::Sglang | Shape::LlamaCpp) {
            assert_eq!(outcome("a long prompt is refused"), "can", "{name}");
        }
        let chat = cases.iter().find(|line| line["case"] == "chat").unwrap();
        assert_eq!(chat["sent"]["messages"][0]["role"], "user", "what was sent is shown");
    }
}

#[test]
fn a_check_of_what_is_no_engine_fails_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let closed = silent_port().local_addr().unwrap().port();
    let output = overnight(folder.path(), &["engines", "check", &format!("http://127.0.0.1:{closed}")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot be asked"), "{}", text(&output.stderr));
    let output = overnight(folder.path(), &["engines", "check", "gpu7"]);
    assert!(text(&output.stderr).contains("no engine is called `gpu7`"));
    let vllm = Engine::start(shaped(Shape::Vllm, "some/model")).unwrap();
    let found = format!("discovery.ports={}", vllm.addr().port());
    let check = ["engines", "check", "vllm", "--set", &found, "--model"];
    let output = overnight(folder.path(), &[&check[..], &["other/model"]].concat());
    let said = text(&output.stderr);
    assert!(said.contains("does not serve `other/model`; it serves: some/model"), "{said}");
    let refuses =
        Engine::start(Script { api_key: Some("sk-1".to_owned()), ..Script::default() }).unwrap();
    let output = overnight(folder.path(), &["engines", "check", &refuses.url()]);
    assert!(text(&output.stderr).contains("401"), "{}", text(&output.stderr));
    // With the key of the configuration it is let in.
    let config = format!(
        "[[engine]]\nname = \"gpu0\"\nkind = \"openai\"\nurl = \"{}\"\napi_key = \"file:key\"\n",
        refuses.url()
    );
    std::fs::write(folder.path().join("overnight.toml"), config).unwrap();
    std::fs::write(folder.path().join("key"), "sk-1\n").unwrap();
    let output = overnight(folder.path(), &["engines", "check", "gpu0"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("the basics work"));
}

/// Creates a batch of these bodies for a route, and waits for its end.
fn done(server: &Server, route: &str, bodies: &[Value]) -> Value {
    let line = |(at, body): (usize, &Value)| {
        format!(
            "{}\n",
            json!({"custom_id": format!("r{at}"), "method": "POST", "url": route, "body": body})
        )
    };
    let content: String = bodies.iter().enumerate().map(line).collect();
    let file = server.upload(content.as_bytes());
    let body = json!({"input_file_id": file, "endpoint": route, "completion_window": "24h"});
    let created = server.post("/v1/batches", &body);
    assert_eq!(created.status, 200, "{}", created.text());
    server.wait_for_end_of(created.json()["id"].as_str().unwrap())
}

#[test]
fn tei_reranks_by_its_own_route() {
    let server =
        Server::with(Setup { script: shaped(Shape::Tei, "BAAI/bge-reranker"), ..Setup::default() });
    let bodies: Vec<Value> = (0..20)
        .map(|at| json!({"model": "BAAI/bge-reranker", "query": format!("q{at}"), "documents": ["a", {"text": "b"}, "c"], "top_n": 2}))
        .collect();
    let batch = done(&server, "/v1/rerank", &bodies);
    assert_eq!(batch["request_counts"]["completed"], 20, "{batch}");
    for line in lines(&server.content(&batch, "output_file_id")) {
        let results = line["response"]["body"]["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        assert!(results[0]["relevance_score"].as_f64() >= results[1]["relevance_score"].as_f64());
        assert!(results[0]["document"]["text"].is_string());
        assert!(line["response"]["body"]["usage"]["total_tokens"].as_u64() > Some(0));
    }
}

#[test]
fn tei_never_cuts_an_input_unseen() {
    // Started so that it cuts inputs, TEI says nothing of it: a vector of half a document would pass for one of the whole.
    let tei = Tei { max_input_length: 100, auto_truncate: true };
    let server =
        Server::with(Setup { script: Script { tei, ..shaped(Shape::Tei, "gte") }, ..Setup::default() });
    let fits = json!({"model": "gte", "input": "short"});
    let long = json!({"model": "gte", "input": "word ".repeat(150)});
    let cut = json!({"model": "gte", "input": "word ".repeat(150), "truncate": true});
    let batch = done(&server, "/v1/embeddings", &[fits, long, cut]);
    let answered = lines(&server.content(&batch, "output_file_id"));
    let ids: Vec<&str> = answered.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["r0", "r2"], "who wants his input cut says so");
    let failed = lines(&server.content(&batch, "error_file_id"));
    assert_eq!(failed.len(), 1);
    assert!(failed[0].to_string().contains("context_length_exceeded"), "{}", failed[0]);
}

#[test]
fn a_model_has_one_name_at_the_engines_that_have_it() {
    let other = Engine::start(shaped(Shape::Vllm, "else")).unwrap();
    let settings = format!(
        "[[engine]]\nname = \"other\"\nkind = \"openai\"\nurl = \"{}/v1\"\n[[model]]\nname = \"gpt-4o-mini\"\nserves = \"qwen3\"\n",
        other.url()
    );
    let script = Script { strict_models: true, ..shaped(Shape::Vllm, "qwen3") };
    let server = Server::with(Setup { script, settings, ..Setup::default() });
    let bodies: Vec<Value> = (0..10)
        .map(|at| json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": format!("{at}")}]}))
        .collect();
    let batch = done(&server, "/v1/chat/completions", &bodies);
    assert_eq!(batch["request_counts"]["completed"], 10, "{batch}");
    assert_eq!(other.calls().total, 0, "it does not have the model");
}

#[test]
fn an_engine_that_took_the_place_of_another_is_recognised() {
    let engine = Engine::start(shaped(Shape::Vllm, "m")).unwrap();
    let driver = OpenAi::new(&EndpointConfig::new("gpu0", engine.url())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let flavour = || runtime.block_on(driver.facts()).map(|facts| facts.flavour);
    assert_eq!(flavour(), Ok(Flavour::Vllm));
    engine.set_script(shaped(Shape::Sglang, "m"));
    assert_eq!(flavour(), Ok(Flavour::Sglang), "without having been down");
    engine.crash();
    flavour().expect_err("nobody is there");
    engine.set_script(shaped(Shape::LlamaCpp, "m"));
    engine.restart();
    assert_eq!(flavour(), Ok(Flavour::LlamaCpp));
    engine.set_script(Script::default());
    assert_eq!(flavour(), Ok(Flavour::Other));
}

#[test]
fn an_engine_of_any_flavour_that_is_busy_fails_nobody() {
    for ((shape, name, _), status) in SHAPES.into_iter().zip([429, 503, 529, 503, 429]) {
        let permits = Some(Permits { max: 2, status, retry_after: Some("0.01".to_owned()) });
        // Long enough that a window of more than two is seen to be too wide.
        let latency = Latency::Fixed(Duration::from_millis(5));
        let script = Script { permits, latency, ..shaped(shape, "m") };
        let server = Server::with(Setup {
            script,
            engine: "concurrency = 8\ninputs_per_call = 1".to_owned(),
            ..Setup::default()
        });
        let bodies: Vec<Value> =
            (0..40).map(|at| json!({"model": "m", "input": format!("{at}")})).collect();
        let batch = done(&server, "/v1/embeddings", &bodies);
        assert_eq!(batch["request_counts"]["completed"], 40, "{name}: {batch}");
        assert!(server.engine.calls().refused > 0, "{name}: it was never busy");
    }
}
