//! A GPU that gets hot, full or silent, through the real loading path: a small library in place of NVIDIA's, which the
//! tests build (`tests/gpu/nvml.c`) and change while the server runs.

mod client;
mod stand_in;

use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script, Shape};
use serde_json::{Value, json};
use stand_in::{Build, Gpu};

use crate::harness::{PATIENCE, Server, input};

/// Longer than the server may take for anything while a driver hangs, though the machine be busy; far below the minute
/// for which the stand-in blocks.
const PROMPT: Duration = Duration::from_secs(15);

fn health(server: &Server) -> Value {
    server.get("/health").expect("the server answers").json()
}

/// Polls until the health is as asked.
fn wait_for(server: &Server, is_there: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let health = health(server);
        if is_there(&health) {
            return health;
        }
        assert!(started.elapsed() < PATIENCE, "not reached: {health}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn wait_for_degrees(server: &Server, degrees: u32) -> Value {
    wait_for(server, |health| health["gpu"]["temperature_c"] == degrees)
}

fn slow() -> Script {
    Script { latency: Latency::Fixed(Duration::from_millis(40)), ..Script::default() }
}

#[test]
fn a_gpu_at_86_degrees_takes_no_batch_and_no_request_until_it_is_at_80() {
    let gpu = Gpu::new(Build::Current);
    let server = gpu.server(slow(), "concurrency = 4", "");
    let well = wait_for_degrees(&server, 50);
    assert_eq!(well["gpu"]["healthy"], true, "{well}");
    // More than are answered before it is seen to be hot.
    let file = server.upload(&input(3_000, |at| format!("prompt {at}")));
    let id = server.create(&file);
    server.wait_for(&id, |batch| batch["request_counts"]["completed"].as_u64() > Some(20));

    gpu.set("temperature 86");
    let ill = wait_for(&server, |health| health["gpu"]["healthy"] == false);
    assert_eq!(ill["gpu"]["temperature_c"], 86, "{ill}");
    let refused = server.try_create(&file, &json!({}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "gpu_unhealthy");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("86 °C"));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(server.get("/health/ready").unwrap().status, 503);

    let idle = |health: &Value| {
        health["engines"][0]["state"] == "withheld" && health["engines"][0]["in_flight"] == 0
    };
    wait_for(&server, idle);
    let calls = server.engine.calls().requests;
    assert!(calls < 3_000, "the batch ended before the GPU was hot");
    let waiting = server.wait_for(&id, |batch| batch["overnight"]["waiting_reason"].is_string());
    let reason = waiting["overnight"]["waiting_reason"].as_str().unwrap();
    assert!(reason.contains("86 °C") && reason.contains("cooled to 80 °C"), "{reason}");
    let status = gpu.overnight(&server, &["status", &id]);
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(shown.contains("86 °C"), "{shown}");

    gpu.set("temperature 81");
    wait_for_degrees(&server, 81);
    assert_eq!(server.try_create(&file, &json!({})).status, 503, "not yet cool enough");
    assert_eq!(server.engine.calls().requests, calls, "nothing was sent meanwhile");

    server.engine.set_script(Script::default());
    gpu.set("temperature 80");
    wait_for_degrees(&server, 80);
    assert_eq!(server.wait_for_end_of(&id)["request_counts"]["completed"], 3_000);
    assert_eq!(server.try_create(&file, &json!({})).status, 200);
}

#[test]
fn full_memory_narrows_the_window_only_where_it_is_asked_to() {
    let gpu = Gpu::new(Build::Current);
    gpu.set("memory 92");
    let ruled = gpu.server(slow(), "concurrency = 20\nmemory_rule = true", "");
    wait_for(&ruled, |health| health["engines"][0]["window"] == 2);
    let plain = gpu.server(slow(), "concurrency = 20", "");
    let health = wait_for(&plain, |health| health["gpu"]["memory_percent"] == 92.0);
    assert_eq!((&health["gpu"]["healthy"], &health["engines"][0]["window"]), (&json!(true), &json!(20)));

    gpu.set("memory 97");
    wait_for(&ruled, |health| health["gpu"]["healthy"] == false);
    let health = wait_for(&plain, |health| health["gpu"]["memory_percent"] == 97.0);
    assert_eq!(
        (&health["gpu"]["healthy"], &health["engines"][0]["state"]),
        (&json!(true), &json!("up"))
    );
    let file = ruled.upload(&input(3, |at| format!("prompt {at}")));
    let refused = ruled.try_create(&file, &json!({}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("engine.memory_rule"), "{}", refused.text());

    gpu.set("memory 40");
    wait_for(&ruled, |health| health["engines"][0]["window"] == 20);
    let id = ruled.create(&file);
    assert_eq!(ruled.wait_for_end_of(&id)["request_counts"]["completed"], 3);
}

/// The ceiling was once a share of 8, whatever window followed from what the engine tells.
#[test]
fn full_memory_narrows_a_window_that_nobody_set() {
    let gpu = Gpu::new(Build::Current);
    gpu.set("memory 72");
    let script = Script { shape: Shape::LlamaCpp, slots: Some(64), ..slow() };
    let server = gpu.server(script, "memory_rule = true", "");
    wait_for(&server, |health| health["engines"][0]["window"] == 48);
    gpu.set("memory 40");
    wait_for(&server, |health| health["engines"][0]["window"] == 80);
}

#[test]
fn everything_that_a_gpu_tells_is_shown() {
    let gpu = Gpu::new(Build::Current);
    gpu.set("count 2\ntemperature 82\nmemory 50");
    // A settings file beside the limits of the issue: other limits, and a GPU of its own for the engine.
    let server = gpu.server(Script::default(), "gpu = 1", "warn_at = 60\nunhealthy_at = 90");
    let health = wait_for_degrees(&server, 82);
    assert_eq!(health["gpu"]["healthy"], true);
    let devices = health["gpu"]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    let total = 16_u64 << 30;
    let expected = json!({
        "index": 1, "name": "Stand-in 2", "uuid": "GPU-2", "temperature_c": 82, "heat": "warm",
        "memory_used_bytes": total / 1_000 * 500, "memory_total_bytes": total, "memory_percent": 50.0,
        "power_watts": 123.0, "utilization_percent": 97,
        "processes": [{"pid": 4242, "memory_bytes": 6_u64 << 30}], "trouble": null,
    });
    assert_eq!(devices[1], expected);
    let metrics = server.get("/metrics").unwrap().text();
    for line in [
        "overnight_gpu_temperature_celsius{gpu=\"1\"} 82",
        "overnight_gpu_memory_bytes{gpu=\"0\"} 17179869184",
        "overnight_gpu_power_watts{gpu=\"0\"} 123",
        "overnight_gpu_utilization_ratio{gpu=\"1\"} 0.97",
        "overnight_gpu_healthy{gpu=\"1\"} 1",
    ] {
        assert!(metrics.lines().any(|known| known == line), "no `{line}` in\n{metrics}");
    }
}

#[test]
fn a_hot_gpu_here_refuses_nothing_while_an_engine_elsewhere_is_left() {
    let gpu = Gpu::new(Build::Current);
    let elsewhere = "[[engine]]\nname = \"far\"\nkind = \"openai\"\nurl = \"http://far.invalid:8000/v1\"\n\
                     models = [\"sim-model\"]";
    let server = gpu.server(Script::default(), "", elsewhere);
    gpu.set("temperature 86");
    wait_for(&server, |health| health["gpu"]["healthy"] == false);
    let health = wait_for(&server, |health| health["engines"][1]["state"] == "withheld");
    assert_ne!(health["engines"][0]["state"], "withheld", "{health}");
    let file = server.upload(&input(3, |at| format!("prompt {at}")));
    let id = server.create(&file);
    let waiting = server.wait_for(&id, |batch| batch["overnight"]["waiting_reason"].is_string());
    assert!(waiting["overnight"]["waiting_reason"].as_str().unwrap().contains("86 °C"), "{waiting}");
    gpu.set("temperature 40");
    assert_eq!(server.wait_for_end_of(&id)["request_counts"]["completed"], 3);
}

#[test]
fn an_engine_on_a_gpu_that_is_not_there_is_said() {
    let gpu = Gpu::new(Build::Current);
    let server = gpu.server(Script::default(), "gpu = 3", "");
    works_unwatched(&server, "`sim` is on GPU 3 (engine.gpu), and there is only GPU 0 (Stand-in 1)");
}

/// A server that cannot watch its GPU says so once, and works.
fn works_unwatched(server: &Server, said: &str) {
    let health = wait_for(server, |health| health["gpu"]["reason"].is_string());
    let reason = health["gpu"]["reason"].as_str().unwrap();
    assert!(reason.contains(said), "{reason}");
    let file = server.upload(&input(20, |at| format!("prompt {at}")));
    let id = server.create(&file);
    assert_eq!(server.wait_for_end_of(&id)["request_counts"]["completed"], 20);
    let log = server.log();
    assert_eq!(log.lines().filter(|line| line.contains(said)).count(), 1, "{log}");
}

#[test]
fn a_library_that_is_missing_or_no_library_is_said_and_not_fatal() {
    let mut gpu = Gpu::new(Build::Current);
    gpu.library = gpu.folder.path().join("libnvidia-ml.so.1");
    let server = gpu.server(Script::default(), "", "");
    works_unwatched(&server, "cannot be loaded (gpu.library)");
    assert_eq!(health(&server)["gpu"]["healthy"], Value::Null);

    std::fs::write(&gpu.library, b"not a library").unwrap();
    let server = gpu.server(Script::default(), "", "");
    works_unwatched(&server, "cannot be loaded (gpu.library)");
}

#[test]
fn a_library_that_is_too_old_is_said_and_not_fatal() {
    let gpu = Gpu::new(Build::Ancient);
    works_unwatched(&gpu.server(Script::default(), "", ""), "is too old to tell all about the GPU");

    let gpu = Gpu::new(Build::Old);
    let server = gpu.server(Script::default(), "", "");
    works_unwatched(&server, "is too old to tell all about the GPU");
    let health = wait_for_degrees(&server, 50);
    assert_eq!(health["gpu"]["memory_percent"], Value::Null, "{health}");
    gpu.set("temperature 86");
    wait_for(&server, |health| health["gpu"]["healthy"] == false);
}

#[test]
fn a_driver_that_answers_errors_is_said_and_not_fatal() {
    const DRIVER_NOT_LOADED: u32 = 9;
    const GPU_IS_LOST: u32 = 15;
    const LIB_RM_VERSION_MISMATCH: u32 = 18;
    let gpu = Gpu::new(Build::Current);
    gpu.set(&format!("init_error {LIB_RM_VERSION_MISMATCH}"));
    works_unwatched(&gpu.server(Script::default(), "", ""), "not of the version of the NVIDIA driver");
    gpu.set(&format!("init_error {DRIVER_NOT_LOADED}"));
    works_unwatched(&gpu.server(Script::default(), "", ""), "installed but not loaded");
    gpu.set("temperature 50");
    let server = gpu.server(Script::default(), "", "");
    wait_for_degrees(&server, 50);
    gpu.set(&format!("error {GPU_IS_LOST}"));
    works_unwatched(&server, "device fell off the bus");
}

#[test]
fn a_driver_that_blocks_hangs_neither_the_api_nor_a_batch_nor_the_end() {
    let gpu = Gpu::new(Build::Current);
    gpu.set("block 1");
    let mut server = gpu.server(Script::default(), "", "");
    let started = Instant::now();
    health(&server);
    assert!(started.elapsed() < PROMPT, "/health waited for the driver");
    works_unwatched(&server, "does not answer");

    gpu.set("temperature 55");
    wait_for_degrees(&server, 55);
    assert_eq!(health(&server)["gpu"]["reason"], Value::Null, "it is taken up again");

    gpu.set("block 1");
    wait_for(&server, |health| health["gpu"]["reason"].is_string());
    let started = Instant::now();
    server.terminate();
    assert!(server.wait_for_end().success(), "{}", server.log());
    assert!(started.elapsed() < PROMPT, "the end waited for the driver");
}
