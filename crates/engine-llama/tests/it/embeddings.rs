//! Embeddings: whatever else is computed with an input, its vector is the same.

use serde_json::{Value, json};

use crate::harness::Engine;

fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let vector = |entry: &Value| {
        entry["embedding"].as_array().unwrap().iter().map(|part| part.as_f64().unwrap()).collect()
    };
    answer["data"].as_array().unwrap().iter().map(vector).collect()
}

/// Sums in another order differ by 6e-5 with this model, whose random weights make the most of it; pooling over the wrong
/// rows differs by a hundred times as much.
const DISTANCE_MAX: f64 = 2e-4;

fn assert_alike(left: &[f64], right: &[f64]) {
    let distance = left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max);
    assert!(left.len() == right.len() && distance <= DISTANCE_MAX, "they differ by {distance}");
}

/// Mean pooling over inputs of different lengths gave wrong vectors, and no error, where the KV cache was not unified.
#[tokio::test(flavor = "multi_thread")]
async fn neither_order_nor_company_changes_a_vector() {
    let engine = Engine::start(512, 2).await;
    let texts: Vec<String> = (1..40).map(|n| format!("{n} {}", "word ".repeat(n * 7 % 23))).collect();
    let ask = async |texts: &[String]| {
        vectors(&engine.post("/v1/embeddings", &json!({"input": texts})).await.ok())
    };
    let together = ask(&texts).await;
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    for (left, right) in together.iter().zip(ask(&reversed).await.iter().rev()) {
        assert_alike(left, right);
    }
    for (text, vector) in texts.iter().zip(&together) {
        assert_alike(&ask(std::slice::from_ref(text)).await[0], vector);
        let len: f64 = vector.iter().map(|part| part * part).sum();
        assert!((len - 1.0).abs() < 1e-5);
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dimensions_base64_and_lengths_are_honoured() {
    let engine = Engine::start(64, 1).await;
    let post = async |body: Value| engine.post("/v1/embeddings", &body).await;
    let whole = vectors(&post(json!({"input": "a text"})).await.ok()).remove(0);
    let short = vectors(&post(json!({"input": "a text", "dimensions": 8})).await.ok()).remove(0);
    let len = whole[..8].iter().map(|part| part * part).sum::<f64>().sqrt();
    let expected: Vec<f64> = whole[..8].iter().map(|part| part / len).collect();
    assert_alike(&short, &expected);
    let coded = post(json!({"input": "a text", "encoding_format": "base64"})).await.ok();
    assert_eq!(coded["data"][0]["embedding"].as_str().unwrap().len(), (64_usize * 4).div_ceil(3) * 4);
    let (status, _, _) = post(json!({"input": "a", "dimensions": 65})).await.refusal();
    assert_eq!(status, 400);
    let long = "x".repeat(100);
    let (status, code, message) = post(json!({"input": ["ok", long]})).await.refusal();
    assert_eq!((status, code.as_str()), (400, "context_length_exceeded"));
    assert!(message.contains("100") && message.contains("64"), "{message}");
    let cut = post(json!({"input": ["ok", long], "truncate": true})).await.ok();
    assert_eq!(cut["truncated"], json!([{"index": 1, "tokens": 100}]));
    assert_eq!(cut["usage"]["prompt_tokens"], 66);
    let (status, _, _) = post(json!({"input": ""})).await.refusal();
    assert_eq!(status, 400);
    engine.stop().await;
}
