//! Engines that the server starts, as real processes: they crash, hang, flood, get away, share a GPU, and outlive
//! nobody.

mod engine;
mod guard;
mod slot;

use std::path::Path;
use std::time::{Duration, Instant};

use overnight_sim::Script;
use serde_json::{Value, json};

use super::harness::{PATIENCE, Server, Setup, lines};
use engine::StandIn;

/// Sends `count` requests for a model; returns the batch.
fn submit(server: &Server, model: &str, count: usize) -> String {
    submit_prompts(server, model, (0..count).map(|at| format!("prompt {at}")))
}

fn submit_prompts(server: &Server, model: &str, prompts: impl Iterator<Item = String>) -> String {
    let line = |(at, prompt): (usize, String)| request_with(at, model, &prompt);
    let input: String = prompts.enumerate().map(line).collect();
    server.create(&server.upload(input.as_bytes()))
}

fn request(number: usize, model: &str) -> String {
    request_with(number, model, &format!("prompt {number}"))
}

fn request_with(number: usize, model: &str, prompt: &str) -> String {
    let line = json!({
        "custom_id": format!("row-{number}"), "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [{"role": "user", "content": prompt}]},
    });
    format!("{line}\n")
}

fn with_engines(tables: String) -> Server {
    Server::with(Setup { engines: Some(tables), ..Setup::default() })
}

pub(crate) fn process(server: &Server, name: &str) -> Value {
    let health = server.get("/health").expect("the server answers").json();
    let engines = health["engines"].as_array().unwrap().iter();
    let found = engines.into_iter().find(|engine| engine["name"] == name);
    found.unwrap_or_else(|| panic!("no `{name}` in {health}")).clone()
}

/// Polls an engine's view until it is as asked.
pub(crate) fn wait_for_process(server: &Server, name: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let view = process(server, name);
        if is_there(&view) {
            return view;
        }
        assert!(started.elapsed() < PATIENCE, "not reached: {view}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn wait_until(what: &str, is_there: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(started.elapsed() < PATIENCE, "not reached: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes whose environment or command line holds the marker.
fn marked(marker: &str) -> Vec<u32> {
    let holds = |path: std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| holds(Path::new("/proc").join(format!("{process}/environ"))))
        .collect()
}

#[test]
fn an_engine_is_started_for_work_and_stopped_with_the_server() {
    let stand_in = StandIn::new("one").marked();
    let mut server = with_engines(stand_in.table("idle_after = \"1h\""));
    let resting = process(&server, "one");
    assert_eq!(
        (&resting["state"], &resting["process"]["state"]),
        (&json!("withheld"), &json!("stopped"))
    );
    assert_eq!(server.get("/health").unwrap().json()["status"], "healthy", "resting is no trouble");
    assert_eq!(marked(stand_in.marker()), [0_u32; 0], "nothing runs without work");

    let batch = server.wait_for_end_of(&submit(&server, "one", 200));
    assert_eq!(batch["request_counts"], json!({"total": 200, "completed": 200, "failed": 0}), "{batch}");
    let ready = wait_for_process(&server, "one", |view| view["process"]["state"] == "ready");
    assert_eq!(ready["state"], "up", "{ready}");
    assert_eq!(ready["process"]["restarts"], 0);
    assert!(ready["process"]["load_seconds"].is_number(), "{ready}");
    // The engine, and the guard before it.
    assert_eq!(marked(stand_in.marker()).len(), 2);

    server.terminate();
    assert!(server.wait_for_end().success());
    assert_eq!(marked(stand_in.marker()), [0_u32; 0]);
}

#[test]
fn what_an_engine_serves_is_known_before_it_runs_again() {
    let stand_in = StandIn::new("one");
    let mut server = with_engines(stand_in.table(""));
    server.wait_for_end_of(&submit(&server, "one", 5));
    server.restart();
    let view = process(&server, "one");
    assert_eq!(view["models"], json!(["one"]));
    assert!(view["process"]["load_seconds"].is_number(), "{view}");
    let refused = server.wait_for_end_of(&submit(&server, "other", 5));
    assert_eq!(refused["errors"]["data"][0]["code"], "model_not_found", "{refused}");
}

#[test]
fn an_engine_that_crashes_is_started_again_and_nothing_is_lost() {
    let script = Script { rules: vec![engine::crash_at(40)], ..engine::slow(Duration::from_millis(5)) };
    let stand_in = StandIn::new("one").script(&script);
    let server = with_engines(stand_in.table(""));
    // Each process crashes at its fortieth request: three times and more in this batch.
    let batch = server.wait_for_end_of(&submit(&server, "one", 120));
    assert_eq!(batch["request_counts"]["completed"], 120, "{batch}");
    wait_for_process(&server, "one", |view| view["process"]["restarts"].as_u64() >= Some(2));
}

#[test]
fn a_request_that_kills_its_engine_is_condemned_and_the_engine_goes_on() {
    let stand_in = StandIn::new("one").script(&engine::slow(Duration::from_millis(5)));
    let server = with_engines(stand_in.table("concurrency = 4"));
    let prompt = |at| if at == 7 { "[[sim:crash]]".to_owned() } else { format!("prompt {at}") };
    let id = submit_prompts(&server, "one", (0..30).map(prompt));
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["request_counts"], json!({"total": 30, "completed": 29, "failed": 1}), "{batch}");
    let errors = lines(&server.content(&batch, "error_file_id"));
    assert_eq!(
        (&errors[0]["custom_id"], &errors[0]["error"]["code"]),
        (&json!("row-7"), &json!("engine_crash"))
    );
    let after = server.wait_for_end_of(&submit(&server, "one", 10));
    assert_eq!(after["request_counts"]["completed"], 10);
}

#[test]
fn an_engine_that_stalls_is_killed_and_started_again() {
    // The first process takes its first request and never answers; the second is well.
    let stand_in = StandIn::new("one").hanging_first_time();
    let server = with_engines(stand_in.table("stall_after = \"2s\""));
    let batch = server.wait_for_end_of(&submit(&server, "one", 20));
    assert_eq!(batch["request_counts"]["completed"], 20, "{batch}");
    assert!(server.log().contains("stall_after"), "{}", server.log());
    wait_for_process(&server, "one", |view| view["process"]["restarts"].as_u64() >= Some(1));
}

#[test]
fn an_engine_that_never_gets_ready_is_given_up_with_its_last_lines() {
    let server = with_engines(engine::table(
        "one",
        "sh -c 'echo loading weights; echo out of memory: tried 3 GB >&2; exit 3'",
        "models = [\"one\"]",
    ));
    let id = submit(&server, "one", 3);
    let view = wait_for_process(&server, "one", |view| view["process"]["state"] == "given_up");
    assert_eq!(view["process"]["failures"], 5);
    let reason = view["reason"].as_str().unwrap();
    for words in
        ["given up after 5 starts", "exited with 3", "out of memory: tried 3 GB", "tried once more"]
    {
        assert!(reason.contains(words), "`{words}` is not in `{reason}`");
    }
    let waiting = server.batch(&id)["overnight"]["waiting_reason"].as_str().unwrap().to_owned();
    assert!(waiting.contains("out of memory"), "{waiting}");
}

#[test]
fn a_start_that_takes_too_long_is_ended() {
    let settings = "models = [\"one\"]\nready_within = \"3s\"";
    let server = with_engines(engine::table("one", "sh -c 'echo 10 percent; sleep 1000'", settings));
    submit(&server, "one", 3);
    let starting = wait_for_process(&server, "one", |view| view["process"]["last_line"] == "10 percent");
    assert!(starting["reason"].as_str().unwrap().contains("10 percent"), "{starting}");
    let view = wait_for_process(&server, "one", |view| view["process"]["failures"].as_u64() >= Some(1));
    assert!(view["process"]["failure"].as_str().unwrap().contains("ready_within"), "{view}");
}

#[test]
fn a_command_that_does_not_exist_is_said() {
    let server = with_engines(engine::table("one", "no-such-engine --port 1", "models = [\"one\"]"));
    submit(&server, "one", 3);
    let failed =
        |view: &Value| view["reason"].as_str().is_some_and(|reason| reason.contains("no-such-engine"));
    let view = wait_for_process(&server, "one", failed);
    assert!(view["reason"].as_str().unwrap().contains("No such file"), "{view}");
}

#[test]
fn an_engine_that_leaks_is_started_again() {
    let stand_in = StandIn::new("one").script(&engine::slow(PATIENCE * 10));
    let server = with_engines(stand_in.table("memory_max = \"1KB\""));
    submit(&server, "one", 3);
    let leaked = |view: &Value| {
        view["process"]["failure"].as_str().is_some_and(|failure| failure.contains("memory_max"))
    };
    wait_for_process(&server, "one", leaked);
    wait_until("the dispatcher knows", || server.log().contains("in_flight=3 ended_for=Memory"));
    let again = |view: &Value| view["in_flight"] == 3 && view["process"]["restarts"] == 1;
    wait_for_process(&server, "one", again);
}

#[test]
fn an_address_in_use_is_said_and_not_fought_over() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", taken.local_addr().unwrap());
    let marker = "OVERNIGHT_TEST_NEVER_STARTED";
    let server = with_engines(format!(
        "[[engine]]\nname = \"one\"\nkind = \"openai\"\nurl = \"{url}\"\nmodels = [\"one\"]\n\
         command = \"sleep 1000\"\nenvironment = {{ {marker} = \"1\" }}\n"
    ));
    submit(&server, "one", 3);
    let blocked = |view: &Value| {
        view["reason"].as_str().is_some_and(|reason| reason.contains("in use by another"))
    };
    let view = wait_for_process(&server, "one", blocked);
    assert!(view["reason"].as_str().unwrap().contains(&url), "{view}");
    assert_eq!(view["process"]["failures"], 0);
    assert_eq!(marked(marker), [0_u32; 0]);
}

#[test]
fn an_engine_that_runs_already_is_used_and_left_alone() {
    let engine = overnight_sim::Engine::start(Script::default()).unwrap();
    let mut server = with_engines(format!(
        "[[engine]]\nname = \"one\"\nkind = \"openai\"\nurl = \"{}/v1\"\ncommand = \"sleep 1000\"\n",
        engine.url()
    ));
    let batch = server.wait_for_end_of(&submit(&server, "sim-model", 20));
    assert_eq!(batch["request_counts"]["completed"], 20, "{batch}");
    wait_for_process(&server, "one", |view| view["process"]["state"] == "found");
    server.terminate();
    assert!(server.wait_for_end().success());
}

/// It had no time for questions, was taken for gone, and then for a stranger at its own address.
#[test]
fn an_engine_that_runs_already_and_is_busy_is_not_taken_for_gone() {
    let busy = overnight_sim::Rule {
        when: overnight_sim::When::Always,
        // Questions alone: no request names this model.
        model: Some("none".to_owned()),
        probes: true,
        then: "status=503".parse().unwrap(),
    };
    let engine = overnight_sim::Engine::start(Script::default()).unwrap();
    let server = with_engines(format!(
        "[[engine]]\nname = \"one\"\nkind = \"openai\"\nurl = \"{}/v1\"\ncommand = \"sleep 1000\"\n\
         concurrency = 2\n",
        engine.url()
    ));
    server.wait_for_end_of(&submit(&server, "sim-model", 1));
    // Each takes longer than all the looks that an engine may miss.
    engine.set_script(engine::slow(Duration::from_secs(3)));
    let id = submit(&server, "sim-model", 4);
    assert!(engine.wait_until(|calls| calls.in_flight == 2, PATIENCE));
    engine.set_script(Script { rules: vec![busy], ..engine::slow(Duration::from_secs(3)) });
    assert_eq!(server.wait_for_end_of(&id)["request_counts"]["completed"], 4);
    assert!(!server.log().contains("in use by another"), "{}", server.log());
}

/// Without a server: the engine lives as long as the run.
#[test]
fn a_run_starts_its_engine_and_ends_it() {
    let stand_in = StandIn::new("one").marked();
    let folder = tempfile::tempdir().unwrap();
    let [input, output, config] =
        ["in.jsonl", "out.jsonl", "overnight.toml"].map(|name| folder.path().join(name));
    std::fs::write(&input, (0..50).map(|at| request(at, "one")).collect::<String>()).unwrap();
    std::fs::write(&config, stand_in.table("")).unwrap();
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_overnight"))
        .arg("run")
        .args([&input, Path::new("-o"), &output, Path::new("--config"), &config])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(lines(&std::fs::read(&output).unwrap()).len(), 50);
    assert_eq!(marked(stand_in.marker()), [0_u32; 0]);
}
