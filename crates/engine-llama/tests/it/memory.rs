//! What the engine takes, held against what it said that it would.

use std::process::Command;

use serde_json::json;

use crate::gguf::{self, Sketch};
use crate::harness::{Engine, options};

/// The measured test in a process of its own, where nothing else takes memory.
fn alone(test: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let measured =
        command.args(["--exact", &format!("memory::measured::{test}"), "--ignored", "--nocapture"]);
    let output = measured.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

#[test]
fn a_stream_for_each_request_takes_what_was_planned() {
    alone("streams");
}

#[test]
fn one_pool_for_all_takes_what_was_planned() {
    alone("one_pool");
}

#[test]
fn exact_embeddings_take_what_was_planned() {
    alone("exact_embeddings");
}

#[test]
fn an_encoder_takes_what_was_planned() {
    alone("encoder");
}

mod measured {
    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;
    /// Nobody may be told twice what it takes.
    const MORE_MAX: f64 = 1.6;

    /// The most that this process has ever taken.
    fn peak() -> f64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() * 1024.0
    }

    /// Uses the engine as hard as it can be used, and compares.
    async fn measure(sketch: Sketch<'_>, slots: u32) {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), sketch.context_len, slots);
        gguf::write_sketch(&options.model, &sketch);
        let engine = Engine::serve(folder, options).await;
        let is_for_embeddings = sketch.pooling.is_some();
        let long = vec![97; if is_for_embeddings { sketch.context_len } else { 2_048 } as usize];
        if !is_for_embeddings {
            let common = "common ".repeat(8);
            let texts: Vec<String> = (0..slots).map(|at| format!("{common}{at}")).collect();
            let asked = texts.iter().map(|text| engine.chat(text, json!({"max_tokens": 4})));
            for answer in futures::future::join_all(asked).await {
                answer.ok();
            }
            let prompt = &long[..long.len() - 1];
            engine.post("/v1/completions", &json!({"prompt": prompt, "max_tokens": 1})).await.ok();
        }
        engine.post("/v1/embeddings", &json!({"input": [long]})).await.ok();
        engine.post("/v1/embeddings", &json!({"input": vec!["short"; 100]})).await.ok();
        let (planned, peak) = (engine.metric("memory_planned_bytes").await, peak());
        eprintln!("planned {:.0} MiB, took {:.0} MiB: {:.2}", planned / MIB, peak / MIB, planned / peak);
        assert!(planned >= peak && planned < peak * MORE_MAX, "planned {planned}, took {peak}");
        engine.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "measures its own process"]
    async fn streams() {
        measure(Sketch { is_q8: true, layers: 12, ..Sketch::llama(2_048) }, 40).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "measures its own process"]
    async fn one_pool() {
        measure(Sketch { is_q8: true, layers: 12, ..Sketch::llama(2_048) }, 24).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "measures its own process"]
    async fn exact_embeddings() {
        measure(Sketch { pooling: Some(3), ..Sketch::llama(2_048) }, 2).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "measures its own process"]
    async fn encoder() {
        measure(Sketch { is_q8: true, ..Sketch::encoder(4_096) }, 2).await;
    }
}
