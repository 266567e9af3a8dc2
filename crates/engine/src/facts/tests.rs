use overnight_domain::engine_facts::{Capacity, Load};

use super::*;
use crate::flavour::recognise;

/// The answers of a fixture that were given with 200.
fn answers(fixture: &'static str) -> Answers {
    let mut answers = Answers::default();
    for part in fixture.split("\n=== ").skip(1) {
        let (head, body) = part.split_once('\n').expect("a line of status and path");
        let (status, path) = head.split_once(' ').expect("a status and a path");
        let is_asked = |question: &Question| question.path().unwrap_or("/v1/models") == path;
        let question = Question::ALL.into_iter().find(is_asked).expect("a route that is asked");
        if status == "200" {
            answers.insert(question, Bytes::from_static(body.as_bytes()));
        }
    }
    answers
}

/// What must be read from a fixture, and what somebody sees who is told the flavour and asks its own questions only.
fn assert_read(fixture: &'static str, expected: &EngineFacts) {
    let answers = answers(fixture);
    assert_eq!(recognise(&answers), expected.flavour, "{fixture}");
    let facts = read(expected.flavour, &answers);
    assert_eq!(facts, *expected, "{fixture}");
    let own = Question::of(expected.flavour);
    let kept = answers.0.into_iter().filter(|(question, _)| own.contains(question));
    let own_answers = Answers(kept.collect());
    assert_eq!(recognise(&own_answers), expected.flavour, "by its own questions: {fixture}");
    assert_eq!(read(expected.flavour, &own_answers), facts, "by its own questions: {fixture}");
}

fn model(name: &str, context_len: Option<u64>, is_loaded: Option<bool>) -> ModelFacts {
    ModelFacts { name: name.to_owned(), digest: None, context_len, is_loaded }
}

fn facts(flavour: Flavour, version: Option<&str>, models: Vec<ModelFacts>) -> EngineFacts {
    EngineFacts { flavour, version: version.map(str::to_owned), models, ..EngineFacts::default() }
}

const LISTS: Capacity = Capacity {
    slots: None,
    permits: None,
    kv_tokens: None,
    inputs_per_call: Some(INPUTS_PER_CALL),
    tokens_per_call: None,
    input_tokens: None,
};

#[test]
fn vllm_is_read_by_old_and_new_names() {
    let old = EngineFacts {
        capacity: Capacity { kv_tokens: Some(27_898 * 16), ..LISTS },
        load: Load {
            running: Some(7),
            waiting: Some(2),
            kv_usage: Some(0.3174),
            prompt_tokens_total: Some(1_284_000),
            generated_tokens_total: Some(91_234),
            preemptions_total: Some(3),
            ..Load::default()
        },
        ..facts(
            Flavour::Vllm,
            Some("0.6.3.post1"),
            vec![model("Qwen/Qwen2.5-7B-Instruct", Some(32_768), Some(true))],
        )
    };
    assert_read(include_str!("../../tests/fixtures/vllm-0.6.txt"), &old);
    let both = EngineFacts {
        capacity: Capacity { kv_tokens: Some(2_001 * 16), ..LISTS },
        load: Load {
            running: Some(9),
            waiting: Some(6),
            kv_usage: Some(0.375),
            prompt_tokens_total: Some(250_000),
            generated_tokens_total: Some(3_000),
            preemptions_total: Some(12),
            cache_queries_total: Some(4_000),
            cache_hits_total: Some(2_500),
        },
        ..facts(
            Flavour::Vllm,
            Some("0.9.2"),
            vec![model("Qwen/Qwen3-8B", Some(40_960), Some(true)), model("sql-lora", None, Some(true))],
        )
    };
    assert_read(include_str!("../../tests/fixtures/vllm-0.9.txt"), &both);
    let new = EngineFacts {
        capacity: Capacity { kv_tokens: Some(209_523), ..LISTS },
        load: Load {
            running: Some(31),
            waiting: Some(0),
            kv_usage: Some(0.875),
            prompt_tokens_total: Some(25_000_000),
            generated_tokens_total: Some(4_100_000),
            preemptions_total: Some(1),
            cache_queries_total: Some(25_000_000),
            cache_hits_total: Some(12_500_000),
        },
        ..facts(
            Flavour::Vllm,
            Some("0.11.0"),
            vec![model("google/gemma-3-27b-it", Some(131_072), Some(true))],
        )
    };
    assert_read(include_str!("../../tests/fixtures/vllm-0.11.txt"), &new);
}

#[test]
fn sglang_is_read_by_old_and_new_names() {
    let old = EngineFacts {
        capacity: Capacity {
            slots: Some(2_048),
            kv_tokens: Some(163_642),
            input_tokens: Some(131_066),
            ..LISTS
        },
        load: Load {
            running: Some(162),
            waiting: Some(2_826),
            kv_usage: Some(0.28),
            prompt_tokens_total: Some(8_128_902),
            generated_tokens_total: Some(7_557_572),
            ..Load::default()
        },
        ..facts(
            Flavour::Sglang,
            Some("0.4.6.post5"),
            vec![model("meta-llama/Llama-3.1-8B-Instruct", Some(131_072), Some(true))],
        )
    };
    assert_read(include_str!("../../tests/fixtures/sglang-0.4.txt"), &old);
    let new = EngineFacts {
        capacity: Capacity {
            slots: Some(128),
            permits: Some(1_128),
            kv_tokens: Some(600_000),
            input_tokens: Some(40_954),
            ..LISTS
        },
        load: Load {
            running: Some(8),
            waiting: Some(1),
            kv_usage: Some(0.6),
            prompt_tokens_total: Some(10_000),
            generated_tokens_total: Some(2_000),
            preemptions_total: None,
            cache_queries_total: Some(10_000),
            cache_hits_total: Some(4_000),
        },
        ..facts(Flavour::Sglang, Some("0.5.5"), vec![model("qwen3-8b", Some(40_960), Some(true))])
    };
    assert_read(include_str!("../../tests/fixtures/sglang-0.5.txt"), &new);
    let guarded = EngineFacts {
        capacity: LISTS,
        notices: vec!["SGLang tells nothing of its load: start it with `--enable-metrics`".to_owned()],
        ..facts(Flavour::Sglang, None, vec![model("qwen3-8b", Some(40_960), Some(true))])
    };
    assert_read(include_str!("../../tests/fixtures/sglang-0.5-guarded.txt"), &guarded);
}

#[test]
fn llama_cpp_is_read_whatever_is_switched_off() {
    let old = EngineFacts {
        capacity: Capacity { slots: Some(2), ..LISTS },
        load: Load {
            running: Some(1),
            waiting: Some(4),
            kv_usage: Some(0.375),
            prompt_tokens_total: Some(81_234),
            generated_tokens_total: Some(9_912),
            ..Load::default()
        },
        ..facts(
            Flavour::LlamaCpp,
            None,
            vec![model("../models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", Some(4_096), None)],
        )
    };
    assert_read(include_str!("../../tests/fixtures/llama-cpp-b4000.txt"), &old);
    let new = EngineFacts {
        capacity: Capacity { slots: Some(4), ..LISTS },
        load: Load { running: Some(3), ..Load::default() },
        ..facts(
            Flavour::LlamaCpp,
            Some("b8681-Debian"),
            vec![model("unsloth/Qwen3.6-35B-A3B-GGUF", Some(65_536), Some(false))],
        )
    };
    assert_read(include_str!("../../tests/fixtures/llama-cpp-b8681.txt"), &new);
    let without_slots = EngineFacts {
        capacity: Capacity { slots: Some(1), ..LISTS },
        load: Load {
            running: Some(1),
            waiting: Some(7),
            prompt_tokens_total: Some(100),
            ..Load::default()
        },
        ..facts(Flavour::LlamaCpp, Some("b8681-4fea119"), vec![model("q.gguf", Some(8_192), Some(true))])
    };
    assert_read(include_str!("../../tests/fixtures/llama-cpp-b8681-no-slots.txt"), &without_slots);
}

#[test]
fn tei_is_read_from_its_info() {
    let mut embedder = model("thenlper/gte-base", Some(512), Some(true));
    embedder.digest = Some("fca14538aa9956a46526bd1d0d11d69e19b5a101".to_owned());
    let old = EngineFacts {
        capacity: Capacity {
            slots: None,
            permits: Some(512),
            kv_tokens: None,
            inputs_per_call: Some(32),
            tokens_per_call: Some(16_384),
            input_tokens: Some(512),
        },
        load: Load { waiting: Some(3), ..Load::default() },
        ..facts(Flavour::Tei, Some("1.2.3"), vec![embedder])
    };
    assert_read(include_str!("../../tests/fixtures/tei-1.2.txt"), &old);
    let fixture = include_str!("../../tests/fixtures/tei-1.8.txt");
    let new = EngineFacts {
        capacity: Capacity {
            slots: Some(4),
            permits: Some(20),
            kv_tokens: None,
            inputs_per_call: Some(64),
            tokens_per_call: Some(32_768),
            input_tokens: Some(8_192),
        },
        load: Load { waiting: Some(0), ..Load::default() },
        ..facts(
            Flavour::Tei,
            Some("1.8.2"),
            vec![model("BAAI/bge-reranker-v2-m3", Some(8_192), Some(true))],
        )
    };
    assert_read(fixture, &new);
    assert!(tei::cuts(&answers(fixture).json(Question::Info).unwrap()));
}

#[test]
fn lm_studio_ollama_and_the_unknown_are_told_apart() {
    let lm_studio = EngineFacts {
        capacity: LISTS,
        ..facts(
            Flavour::LmStudio,
            None,
            vec![
                model("qwen2-vl-7b-instruct", None, Some(false)),
                model("meta-llama-3.1-8b-instruct", Some(8_192), Some(true)),
                model("text-embedding-nomic-embed-text-v1.5", None, Some(false)),
            ],
        )
    };
    assert_read(include_str!("../../tests/fixtures/lm-studio-0.3.txt"), &lm_studio);
    let ollama = facts(Flavour::Ollama, Some("0.12.3"), vec![model("qwen3:8b", None, None)]);
    assert_read(include_str!("../../tests/fixtures/ollama-0.12.txt"), &ollama);
    let other = facts(Flavour::Other, None, vec![model("mlx-community/Qwen3-4B-4bit", None, None)]);
    assert_read(include_str!("../../tests/fixtures/other.txt"), &other);
}

#[test]
fn nonsense_is_unknown_and_never_a_panic() {
    let odd = [
        "",
        "null",
        "[]",
        "{}",
        "7",
        "\"text\"",
        "[[]]",
        "{\"data\":7}",
        "{\"data\":[7,null,{\"id\":7}]}",
        "{\"total_slots\":-1,\"default_generation_settings\":7}",
        "{\"total_slots\":1e99}",
        "{\"model_id\":7,\"max_client_batch_size\":\"x\"}",
        "{\"max_total_num_tokens\":18446744073709551615,\"dp_size\":9}",
        "{\"internal_states\":[7],\"max_total_num_tokens\":1}",
        "vllm:num_requests_running -1\nvllm:cache_config_info 1",
        "vllm:cache_config_info{num_gpu_blocks=\"18446744073709551615\",block_size=\"16\"} 1",
        "te_queue_size NaN",
        "{\"state\":{}}",
        "[{\"is_processing\":7}]",
        "<html>",
        "\u{fffd}",
    ];
    let flavours = [
        Flavour::Vllm,
        Flavour::Sglang,
        Flavour::LlamaCpp,
        Flavour::Tei,
        Flavour::LmStudio,
        Flavour::Ollama,
        Flavour::Other,
    ];
    for body in odd {
        let mut answers = Answers::default();
        for question in Question::ALL {
            answers.insert(question, Bytes::from_static(body.as_bytes()));
        }
        recognise(&answers);
        for flavour in flavours {
            let facts = read(flavour, &answers);
            assert!(facts.capacity.slots != Some(0), "no slots from `{body}`");
            assert_eq!(facts.load.running.filter(|running| *running > 10), None, "from `{body}`");
        }
    }
}

#[test]
fn the_built_in_engine_says_all_of_itself() {
    let fixture = r#"
=== 200 /v1/models
{"object":"list","data":[{"id":"demo","owned_by":"overnight-engine","max_model_len":512,"overnight_engine":{"version":"0.1.0","slots":32,"wanted":288,"permits":2080,"kv_tokens":16896,"input_tokens":512}}]}
=== 200 /metrics
overnight_engine_requests_running 3
overnight_engine_requests_waiting 40
overnight_engine_prompt_tokens_computed_total 100
overnight_engine_prompt_tokens_cached_total 300
overnight_engine_answer_tokens_total 50
"#;
    let expected = EngineFacts {
        capacity: Capacity {
            slots: Some(32),
            permits: Some(2_080),
            kv_tokens: Some(16_896),
            input_tokens: Some(512),
            ..LISTS
        },
        load: Load {
            running: Some(3),
            waiting: Some(40),
            prompt_tokens_total: Some(400),
            generated_tokens_total: Some(50),
            cache_queries_total: Some(400),
            cache_hits_total: Some(300),
            ..Load::default()
        },
        ..facts(Flavour::Overnight, Some("0.1.0"), vec![model("demo", Some(512), Some(true))])
    };
    assert_read(fixture, &expected);
}
