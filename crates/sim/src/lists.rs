//! Answers that are lists: embeddings, moderations, rerank and score.
//!
//! A number depends on its own text alone, not on what else stands in the request: packing inputs together must not
//! change a vector.

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{BadRequest, Question, push_json, push_number, tokens};
use crate::calls::body_key;

pub(crate) fn write_embeddings(question: &Question<'_>, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    #[derive(Deserialize)]
    struct Asked {
        input: Value,
        dimensions: Option<usize>,
        encoding_format: Option<String>,
    }
    let asked: Asked = parse(question.body)?;
    let len = asked.dimensions.unwrap_or(question.embedding_len);
    if len == 0 || len > EMBEDDING_LEN_MAX {
        return Err(BadRequest(format!("`dimensions` must be 1 to {EMBEDDING_LEN_MAX}, not {len}")));
    }
    let in_base64 = asked.encoding_format.as_deref() == Some("base64");
    let inputs = inputs_of(&asked.input)?;
    let mut input_tokens = 0;
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for (index, input) in inputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"object\":\"embedding\",\"index\":");
        push_number(out, index as u64);
        out.extend_from_slice(b",\"embedding\":");
        push_vector(out, &vector(body_key(input), len), in_base64);
        out.push(b'}');
        input_tokens += tokens(input.len());
    }
    out.extend_from_slice(b"],\"model\":\"");
    out.extend_from_slice(question.model.as_bytes());
    out.extend_from_slice(b"\",\"usage\":{\"prompt_tokens\":");
    push_number(out, input_tokens);
    out.extend_from_slice(b",\"total_tokens\":");
    push_number(out, input_tokens);
    out.extend_from_slice(b"}}");
    Ok(())
}

/// How many inputs an embeddings request has; none when it cannot be read.
pub(crate) fn count_inputs(body: &[u8]) -> Option<usize> {
    #[derive(Deserialize)]
    struct Asked {
        input: Value,
    }
    let asked: Asked = parse(body).ok()?;
    Some(inputs_of(&asked.input).ok()?.len())
}

pub(crate) fn write_moderations(question: &Question<'_>, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    #[derive(Deserialize)]
    struct Asked {
        input: Value,
    }
    let asked: Asked = parse(question.body)?;
    let results: Vec<Value> = inputs_of(&asked.input)?
        .iter()
        .map(|input| {
            let score = unit(body_key(input));
            let flagged = score > 0.5;
            json!({"flagged": flagged, "categories": {"violence": flagged}, "category_scores": {"violence": score}})
        })
        .collect();
    push_named(question, out, "modr-", &[("results", json!(results))]);
    Ok(())
}

pub(crate) fn write_rerank(question: &Question<'_>, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    #[derive(Deserialize)]
    struct Asked {
        query: String,
        documents: Vec<Value>,
        top_n: Option<usize>,
    }
    let asked: Asked = parse(question.body)?;
    let mut scored: Vec<(usize, String, f32)> = Vec::with_capacity(asked.documents.len());
    for (index, document) in asked.documents.iter().enumerate() {
        let text = document.as_str().or_else(|| document["text"].as_str());
        let text = text.ok_or_else(|| BadRequest(format!("`documents[{index}]` has no text")))?;
        scored.push((index, text.to_owned(), pair_score(&asked.query, text)));
    }
    scored.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    scored.truncate(asked.top_n.unwrap_or(usize::MAX));
    let results: Vec<Value> = scored
        .iter()
        .map(|(index, text, score)| json!({"index": index, "document": {"text": text}, "relevance_score": score}))
        .collect();
    let usage = json!({"total_tokens": tokens(question.body.len())});
    push_named(question, out, "rerank-", &[("results", json!(results)), ("usage", usage)]);
    Ok(())
}

pub(crate) fn write_score(question: &Question<'_>, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    #[derive(Deserialize)]
    struct Asked {
        text_1: Value,
        text_2: Value,
    }
    let asked: Asked = parse(question.body)?;
    let (left, right) = (inputs_of(&asked.text_1)?, inputs_of(&asked.text_2)?);
    if left.len() != 1 && left.len() != right.len() {
        return Err(BadRequest(format!("`text_1` has {} texts, `text_2` {}", left.len(), right.len())));
    }
    let scores: Vec<Value> = right
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let other = &left[if left.len() == 1 { 0 } else { index }];
            let score = pair_score(&String::from_utf8_lossy(other), &String::from_utf8_lossy(text));
            json!({"index": index, "object": "score", "score": score})
        })
        .collect();
    let prompt_tokens = tokens(question.body.len());
    let usage = json!({"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens});
    let members = [("object", json!("list")), ("data", json!(scores)), ("usage", usage)];
    push_named(question, out, "score-", &members);
    Ok(())
}

fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| BadRequest(error.to_string()))
}

/// The inputs of a request: one text, many texts, one list of tokens, or many.
pub(crate) fn inputs_of(input: &Value) -> Result<Vec<Vec<u8>>, BadRequest> {
    match input {
        Value::String(text) => Ok(vec![text.clone().into_bytes()]),
        Value::Array(parts) if parts.first().is_some_and(Value::is_number) => {
            Ok(vec![input.to_string().into_bytes()])
        }
        Value::Array(parts) if !parts.is_empty() => Ok(parts
            .iter()
            .map(|part| part.as_str().map_or_else(|| part.to_string(), ToOwned::to_owned).into_bytes())
            .collect()),
        _ => Err(BadRequest("the input must be a text or a list that is not empty".to_owned())),
    }
}

/// An object with id, creation and model before the members given.
fn push_named(question: &Question<'_>, out: &mut Vec<u8>, prefix: &str, members: &[(&str, Value)]) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(prefix.as_bytes());
    crate::answer::push_hash(out, question.hash);
    out.extend_from_slice(b"\",\"created\":1700000000,\"model\":\"");
    out.extend_from_slice(question.model.as_bytes());
    out.push(b'"');
    for (name, value) in members {
        out.push(b',');
        push_json(out, name);
        out.push(b':');
        push_json(out, value);
    }
    out.push(b'}');
}

pub(crate) fn push_vector(out: &mut Vec<u8>, vector: &[f32], in_base64: bool) {
    if in_base64 {
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        push_json(out, &base64::engine::general_purpose::STANDARD.encode(bytes));
    } else {
        push_json(out, vector);
    }
}

/// A vector of length one that a hash stands for.
pub(crate) fn vector(hash: u64, len: usize) -> Vec<f32> {
    let mut state = hash;
    let mut numbers: Vec<f32> = (0..len)
        .map(|_| {
            state = mixed(state);
            unit(state) * 2.0 - 1.0
        })
        .collect();
    let norm = numbers.iter().map(|number| number * number).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    for number in &mut numbers {
        *number /= norm;
    }
    numbers
}

pub(crate) fn pair_score(left: &str, right: &str) -> f32 {
    unit(mixed(body_key(left.as_bytes()) ^ body_key(right.as_bytes()).rotate_left(32)))
}

/// From a hash to 0.0 up to 1.0, in steps that an `f32` holds exactly.
fn unit(hash: u64) -> f32 {
    (hash >> 40) as f32 / (1u32 << 24) as f32
}

/// One step of splitmix64.
pub(crate) const fn mixed(state: u64) -> u64 {
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Beyond any model in use.
const EMBEDDING_LEN_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use overnight_domain::route::Route;

    use super::*;
    use crate::answer::write_answer;
    use crate::directive::Text;
    use crate::shape::Shape;

    fn answer(route: Route, body: &Value) -> Result<Value, BadRequest> {
        let body = body.to_string();
        let hash = body_key(body.as_bytes());
        let body = body.as_bytes();
        let question = Question {
            route,
            body,
            hash,
            model: "m",
            text: Text::Hash,
            len: None,
            embedding_len: 4,
            shape: Shape::OpenAi,
        };
        let mut out = Vec::new();
        write_answer(&question, &mut out)?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn a_vector_depends_on_its_own_text_alone() {
        let packed = answer(Route::Embeddings, &json!({"input": ["a", "b", "a"]})).unwrap();
        let alone = answer(Route::Embeddings, &json!({"input": "b"})).unwrap();
        assert_eq!(packed["data"][1]["embedding"], alone["data"][0]["embedding"]);
        assert_eq!(packed["data"][0]["embedding"], packed["data"][2]["embedding"]);
        assert_ne!(packed["data"][0]["embedding"], packed["data"][1]["embedding"]);
        let numbers: Vec<f64> = serde_json::from_value(alone["data"][0]["embedding"].clone()).unwrap();
        assert_eq!(numbers.len(), 4);
        let norm: f64 = numbers.iter().map(|number| number * number).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }

    #[test]
    fn base64_holds_the_same_numbers() {
        let plain = answer(Route::Embeddings, &json!({"input": "a", "dimensions": 3})).unwrap();
        let packed = answer(
            Route::Embeddings,
            &json!({"input": "a", "dimensions": 3, "encoding_format": "base64"}),
        )
        .unwrap();
        let text = packed["data"][0]["embedding"].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let numbers: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        let plain: Vec<f32> = serde_json::from_value(plain["data"][0]["embedding"].clone()).unwrap();
        assert_eq!(numbers, plain);
    }

    #[test]
    fn tokens_are_one_input_and_nothing_is_none() {
        let count = |input: Value| {
            let value = answer(Route::Embeddings, &json!({"input": input}));
            value.map(|value| value["data"].as_array().unwrap().len())
        };
        assert_eq!(count(json!([1, 2, 3])).unwrap(), 1);
        assert_eq!(count(json!([[1, 2], [3]])).unwrap(), 2);
        assert!(count(json!([])).is_err());
        assert!(count(json!(7)).is_err());
    }

    #[test]
    fn documents_come_best_first() {
        let body = json!({"query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2});
        let value = answer(Route::Rerank, &body).unwrap();
        let scores: Vec<f64> = value["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| result["relevance_score"].as_f64().unwrap())
            .collect();
        assert_eq!(scores.len(), 2);
        assert!(scores[0] >= scores[1]);
    }

    #[test]
    fn scores_pair_one_with_many_or_each_with_each() {
        let value = answer(Route::Score, &json!({"text_1": "q", "text_2": ["a", "b"]})).unwrap();
        assert_eq!(value["data"].as_array().unwrap().len(), 2);
        assert!(answer(Route::Score, &json!({"text_1": ["q", "r"], "text_2": ["a"]})).is_err());
        let value = answer(Route::Moderations, &json!({"input": ["a", "b"]})).unwrap();
        assert_eq!(value["results"].as_array().unwrap().len(), 2);
    }
}
