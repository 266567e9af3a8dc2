//! Embeddings: whatever else is computed with an input, its vector is the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::gguf::Sketch;
use crate::harness::Engine;

fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let vector = |entry: &Value| {
        entry["embedding"].as_array().unwrap().iter().map(|part| part.as_f64().unwrap()).collect()
    };
    answer["data"].as_array().unwrap().iter().map(vector).collect()
}

/// Longer than a step of several inputs.
const CONTEXT_LEN: u32 = 320;
/// With weights of 32 bits.
const DISTANCE_MAX: f64 = 1e-5;

fn distance(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

/// Of vectors of length 1.
fn cosine(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// 64 texts of one letter to the longest that fits, most of them short.
fn texts(context_len: usize) -> Vec<String> {
    let letter = |at: usize| char::from(b'a' + (at * at % 26) as u8);
    let text = |n: usize| {
        (0..=n.pow(3) * (context_len - 1) / 63_usize.pow(3)).map(|at| letter(at + n)).collect()
    };
    (0..64).map(text).collect()
}

/// A walk over all numbers below 64 that jumps.
fn shuffled(step: usize) -> Vec<usize> {
    (0..64).map(|at| at * step % 64).collect()
}

async fn ask(engine: &Engine, texts: &[&str]) -> Vec<Vec<f64>> {
    vectors(&engine.post("/v1/embeddings", &json!({"input": texts})).await.ok())
}

/// Calls `compare` with the vector of each text alone and with its vector in company, in several sizes and orders.
async fn compare_companies(engine: &Engine, mut compare: impl FnMut(&[f64], &[f64])) {
    let texts = texts(CONTEXT_LEN as usize);
    let mut alone = Vec::new();
    for text in &texts {
        alone.extend(ask(engine, &[text]).await);
    }
    for (size, step) in [(1, 1), (3, 27), (16, 11), (33, 39), (64, 63)] {
        for part in shuffled(step).chunks(size) {
            let together: Vec<&str> = part.iter().map(|at| texts[*at].as_str()).collect();
            for (at, vector) in part.iter().zip(ask(engine, &together).await) {
                compare(&alone[*at], &vector);
            }
        }
    }
}

/// Flash attention sums with 16 bits where there are few rows: the same input differed by 6e-5 alone and in company.
#[tokio::test(flavor = "multi_thread")]
async fn with_weights_of_32_bits_company_changes_no_component_by_more_than_a_hundred_thousandth() {
    for sketch in [Sketch::llama(CONTEXT_LEN), Sketch::encoder(CONTEXT_LEN)] {
        let engine = Engine::sketch(&sketch).await;
        compare_companies(&engine, |alone, together| {
            let distance = distance(alone, together);
            assert!(distance <= DISTANCE_MAX, "{sketch:?}: they differ by {distance}");
            assert!((cosine(together, together) - 1.0).abs() < 1e-5);
        })
        .await;
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_weights_of_8_bits_company_changes_no_direction() {
    for sketch in [Sketch::llama(CONTEXT_LEN), Sketch::encoder(CONTEXT_LEN)] {
        let engine = Engine::sketch(&Sketch { is_q8: true, ..sketch }).await;
        compare_companies(&engine, |alone, together| {
            let cosine = cosine(alone, together);
            assert!(cosine >= 0.9999, "{sketch:?}: their cosine is {cosine}");
        })
        .await;
        engine.stop().await;
    }
}

/// Mean pooling over inputs of different lengths gave wrong vectors, and no error, where the KV cache was not unified:
/// their cosine was 0.93 to 0.99. Here the mean is known: with causal attention the vector of the first token does not
/// depend on what follows, so an input twice as long is another one, and each is what it is alone.
#[tokio::test(flavor = "multi_thread")]
async fn inputs_of_different_lengths_are_pooled_over_their_own_tokens() {
    let engine = Engine::start(512, 2).await;
    let texts = ["ab", "abababababababababababab", "a", "the quick brown fox"];
    let together = ask(&engine, &texts).await;
    for (text, vector) in texts.iter().zip(&together) {
        assert!(distance(&ask(&engine, &[text]).await[0], vector) <= DISTANCE_MAX, "{text}");
    }
    assert!(cosine(&together[0], &together[1]) < 0.999, "the model tells lengths apart");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dimensions_base64_and_lengths_are_honoured() {
    // No multiple of the context's sequences: llama.cpp died of that.
    let engine = Engine::start(100, 1).await;
    let post = async |body: Value| engine.post("/v1/embeddings", &body).await;
    let whole = vectors(&post(json!({"input": "a text"})).await.ok()).remove(0);
    let short = vectors(&post(json!({"input": "a text", "dimensions": 8})).await.ok()).remove(0);
    let len = whole[..8].iter().map(|part| part * part).sum::<f64>().sqrt();
    let expected: Vec<f64> = whole[..8].iter().map(|part| part / len).collect();
    assert!(distance(&short, &expected) <= DISTANCE_MAX);
    let coded = post(json!({"input": "a text", "encoding_format": "base64"})).await.ok();
    let coded = STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let part = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()));
    let coded: Vec<f64> = coded.chunks(4).map(part).collect();
    assert!(distance(&coded, &whole) <= DISTANCE_MAX, "the same, as bytes");
    // The vocabulary has a token for each byte.
    let tokens = "a text".as_bytes();
    for input in [json!(tokens), json!([tokens])] {
        let answer = post(json!({"input": input})).await.ok();
        assert!(distance(&vectors(&answer)[0], &whole) <= DISTANCE_MAX, "the same, as tokens");
        assert_eq!(answer["usage"]["prompt_tokens"], 6);
    }
    let (status, _, message) = post(json!({"input": [1, 260]})).await.refusal();
    assert!(status == 400 && message.contains("260"), "{message}");
    let (status, _, _) = post(json!({"input": "a", "dimensions": 65})).await.refusal();
    assert_eq!(status, 400);
    let long = "x".repeat(150);
    let (status, code, message) = post(json!({"input": ["ok", long]})).await.refusal();
    assert_eq!((status, code.as_str()), (400, "context_length_exceeded"));
    assert!(message.contains("150") && message.contains("100"), "{message}");
    let cut = post(json!({"input": ["ok", long], "truncate": true})).await.ok();
    assert_eq!(cut["truncated"], json!([{"index": 1, "tokens": 150}]));
    assert_eq!(cut["usage"]["prompt_tokens"], 102);
    for empty in [json!(""), json!([]), json!([""]), json!(["ok", ""]), json!([[]])] {
        let (status, _, message) = post(json!({"input": empty})).await.refusal();
        assert!(status == 400 && message.contains("empty"), "{message}");
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_embeds_and_says_that_it_does_not_generate() {
    let engine = Engine::sketch(&Sketch::encoder(64)).await;
    assert_eq!(ask(&engine, &["a text"]).await[0].len(), 64);
    let chat = engine.chat("hello", json!({})).await.refusal();
    let completion = engine.post("/v1/completions", &json!({"prompt": "a"})).await.refusal();
    for (status, code, message) in [chat, completion] {
        assert_eq!((status, code.as_str()), (400, "unsupported_operation"));
        assert!(message.contains("/v1/embeddings"), "{message}");
    }
    engine.stop().await;
}

/// What a model for ranking makes of an input is one number, which nobody may take for a vector.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_for_ranking_embeds_nothing() {
    let engine = Engine::sketch(&Sketch { pooling: Some(4), ..Sketch::llama(64) }).await;
    let (status, code, message) =
        engine.post("/v1/embeddings", &json!({"input": "a text"})).await.refusal();
    assert_eq!((status, code.as_str()), (400, "unsupported_operation"));
    assert!(message.contains("ranks"), "{message}");
    engine.chat("hello", json!({"max_tokens": 2})).await.ok();
    engine.stop().await;
}

/// How the tokens' vectors become one is up to the model: the mean, the first or the last.
#[tokio::test(flavor = "multi_thread")]
async fn inputs_are_pooled_as_the_model_was_trained() {
    let mut vectors = Vec::new();
    for pooling in [1, 2, 3] {
        let engine = Engine::sketch(&Sketch { pooling: Some(pooling), ..Sketch::llama(64) }).await;
        vectors.push(ask(&engine, &["ab", "a", "b"]).await);
        engine.stop().await;
    }
    let [mean, first, last] = vectors.try_into().unwrap();
    let both = |at: usize| [&mean[at], &first[at], &last[at]];
    for (at, text) in ["one token", "another"].iter().enumerate() {
        let [mean, first, last] = both(at + 1);
        assert!(distance(mean, first) < 1e-5 && distance(mean, last) < 1e-5, "{text}");
    }
    assert!(distance(&first[0], &first[1]) < 1e-5, "nothing follows that the first token sees");
    assert!(distance(&last[0], &first[0]) > 1e-2 && distance(&mean[0], &first[0]) > 1e-2);
}

/// llama.cpp has one state for a process: the second engine found it taken.
#[tokio::test(flavor = "multi_thread")]
async fn two_engines_can_be_in_one_process() {
    let (one, other) = tokio::join!(Engine::start(64, 1), Engine::start(64, 1));
    let (left, right) = tokio::join!(ask(&one, &["a text"]), ask(&other, &["a text"]));
    assert!(distance(&left[0], &right[0]) <= DISTANCE_MAX);
    one.stop().await;
    assert_eq!(ask(&other, &["a text"]).await, right, "the other one goes on");
    other.stop().await;
}
