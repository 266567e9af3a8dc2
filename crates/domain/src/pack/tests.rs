use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::engine_facts::Capacity;

fn packed(bodies: &[&str]) -> (Value, Vec<Share>) {
    let (body, shares) = pack(bodies.iter().copied()).expect("they can be packed");
    (serde_json::from_slice(&body).expect("JSON"), shares)
}

fn values(lines: Vec<Vec<u8>>) -> Vec<Value> {
    lines.into_iter().map(|line| serde_json::from_slice(&line).expect("JSON")).collect()
}

const fn share(inputs: u32, tokens: u32) -> Share {
    Share { inputs, tokens }
}

#[test]
fn every_form_of_input_is_counted() {
    for (input, inputs, tokens) in [
        (r#""a text of twenty-five bytes""#, 1, 10),
        (r#"["a","b"]"#, 2, 4),
        (r#" [ "a" ] "#, 1, 2),
        ("[1, 2, 3]", 1, 3),
        ("[[1,2],[3]]", 2, 3),
        (r#""""#, 1, 1),
    ] {
        let shape = PackShape::of(&format!(r#"{{"model":"m","input":{input}}}"#)).expect(input);
        assert_eq!((shape.inputs, shape.tokens), (inputs, tokens), "for {input}");
    }
    for input in ["[]", "7", "null", "{}", r#"["a",1]"#, r#"[[1],"a"]"#, r#"[{"text":"a"}]"#, "[null]"] {
        assert_eq!(PackShape::of(&format!(r#"{{"model":"m","input":{input}}}"#)), None, "for {input}");
    }
    assert_eq!(PackShape::of(r#"{"model":"m"}"#), None);
}

#[test]
fn only_equal_bodies_have_one_key() {
    let key = |body: &str| PackShape::of(body).expect(body).key;
    let first = key(r#"{"model":"m","input":"a"}"#);
    assert_eq!(first, key(r#"{"input":["b","c"],"model":"m"}"#));
    for other in [
        r#"{"model":"n","input":"a"}"#,
        r#"{"model":"m","input":"a","dimensions":3}"#,
        r#"{"model":"m","input":"a","encoding_format":"base64"}"#,
        r#"{"model":"m","input":"a","user":"u"}"#,
        r#"{"model":"m","input":[1]}"#,
        r#"{"input":"a"}"#,
    ] {
        assert_ne!(first, key(other), "for {other}");
    }
}

#[test]
fn inputs_are_joined_and_the_rest_stays_as_it_was() {
    let bodies = [r#"{ "input" :"a\n\"", "model":"m"}"#, r#"{"model":"m","input":["b", "c"]}"#];
    let (body, shares) = pack(bodies.into_iter()).expect("texts");
    assert_eq!(String::from_utf8_lossy(&body), r#"{ "input" :["a\n\"","b", "c"], "model":"m"}"#);
    assert_eq!(shares.iter().map(|share| share.inputs).collect::<Vec<_>>(), [1, 2]);
    let (body, _) = packed(&[r#"{"input":[1,2]}"#, r#"{"input":[[3],[4,5]]}"#, r#"{"inp\u0075t":[6]}"#]);
    assert_eq!(body["input"], json!([[1, 2], [3], [4, 5], [6]]));
}

#[test]
fn an_answer_is_taken_apart_by_its_indices_and_keeps_its_bytes() {
    let answer = r#"{"object":"list","data":[
        {"index":2,"object":"embedding","embedding":[1.50, -0e1]},{"embedding":"AAA=","index" : 0},
        {"embedding":[0.1],"index":1}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}"#;
    let lines = unpack(answer, &[share(1, 1), share(2, 6)]).expect("whole");
    let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line)).collect();
    assert_eq!(
        texts[0],
        r#"{"object":"list","data":[{"embedding":"AAA=","index" : 0}],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1,"estimated":true}}"#
    );
    assert_eq!(
        texts[1],
        r#"{"object":"list","data":[{"embedding":[0.1],"index":0},{"index":1,"object":"embedding","embedding":[1.50, -0e1]}],"model":"m","usage":{"prompt_tokens":6,"total_tokens":6,"estimated":true}}"#
    );
}

#[test]
fn an_answer_that_is_not_one_for_each_is_refused() {
    let shares = [share(1, 1), share(1, 1)];
    for (data, why) in [
        (r#"[{"index":0}]"#, "1 embeddings for 2 inputs"),
        (r#"[{"index":0},{"index":1},{"index":2}]"#, "3 embeddings for 2 inputs"),
        (r#"[{"index":0},{"index":0}]"#, "two embeddings have the index 0"),
        (r#"[{"index":0},{"index":2}]"#, "an embedding has the index `2` of 2"),
        (r#"[{"index":0},{"index":-1}]"#, "an embedding has the index `-1` of 2"),
        (r#"[{"index":0},{"index":"1"}]"#, "an embedding has the index `\"1\"` of 2"),
        (r#"[{"index":0},{"embedding":[]}]"#, "an embedding has no index"),
        (r#"[{"index":0},{"index":1,"index":1}]"#, "an embedding has no index"),
        (r#"[{"index":0},7]"#, "an embedding has no index"),
        (r#"{"0":{}}"#, "`data` is no list"),
    ] {
        let error = unpack(&format!(r#"{{"data":{data}}}"#), &shares).expect_err(data);
        assert!(error.starts_with(why), "{error} for {data}");
    }
    assert_eq!(unpack("{}", &shares), Err("no data".to_owned()));
    assert!(unpack("[]", &shares).is_err());
    assert!(unpack(r#"{"data":[{"index":0},{"index":1}]"#, &shares).is_err(), "cut short");
}

/// Each line gets a copy: what is long there would be as many times longer in memory and on the disk.
#[test]
fn little_may_stand_beside_the_embeddings() {
    let data = r#"[{"index":0},{"index":1}]"#;
    let answer = |len: usize| format!(r#"{{"data":{data},"extra":"{}"}}"#, "x".repeat(len));
    let shares = [share(1, 1), share(1, 1)];
    assert!(unpack(&answer(1_000), &shares).is_ok());
    let error = unpack(&answer(PACK_MEMBERS_LEN_MAX), &shares).expect_err("too much");
    assert!(error.contains("beside its embeddings"), "{error}");
}

#[test]
fn every_count_of_a_usage_is_shared_out_and_the_rest_is_copied() {
    let answer = r#"{"data":[{"index":0},{"index":1},{"index":2}],"usage":{"prompt_tokens":10,"total_tokens":11.0,
        "prompt_tokens_details":{"cached_tokens":2,"audio":null},"completion_tokens":0,"cost":0.5}}"#;
    let lines = values(unpack(answer, &[share(1, 1), share(1, 1), share(1, 1)]).expect("whole"));
    let sum = |pointer: &str| -> u64 {
        lines.iter().map(|line| line.pointer(pointer).and_then(Value::as_u64).expect(pointer)).sum()
    };
    assert_eq!(sum("/usage/prompt_tokens"), 10);
    assert_eq!(sum("/usage/total_tokens"), 11);
    assert_eq!(sum("/usage/prompt_tokens_details/cached_tokens"), 2);
    assert_eq!(sum("/usage/completion_tokens"), 0);
    assert!(lines.iter().all(|line| line["usage"]["estimated"] == true && line["usage"]["cost"] == 0.5));
    let none = values(unpack(r#"{"data":[{"index":0}],"usage":null}"#, &[share(1, 1)]).expect("whole"));
    assert_eq!(none[0]["usage"], Value::Null);
}

#[test]
fn limits_are_what_was_asked_for_as_far_as_the_engine_takes_it() {
    let facts = |flavour, inputs_per_call, tokens_per_call| EngineFacts {
        flavour,
        capacity: Capacity { inputs_per_call, tokens_per_call, ..Capacity::default() },
        ..EngineFacts::default()
    };
    let of = |inputs, tokens, facts: &EngineFacts| {
        let (limits, notices) = PackLimits::of(inputs, tokens, Some(facts));
        (limits.inputs, limits.tokens, notices.len())
    };
    let (auto, other) = (PACK_TOKENS_AUTO, facts(Flavour::Other, None, None));
    assert_eq!(PackLimits::of(None, None, None), (PackLimits::NONE, Vec::new()));
    assert_eq!(of(None, None, &other), (1, auto, 0), "nobody knows whether it takes lists");
    assert_eq!(of(Some(8), Some(100), &other), (8, 100, 0));
    assert_eq!(of(None, None, &facts(Flavour::Vllm, None, None)), (32, auto, 0));
    assert_eq!(of(None, None, &facts(Flavour::Tei, Some(64), Some(9))), (32, 9, 0));
    assert_eq!(of(None, None, &facts(Flavour::Tei, Some(4), None)), (4, auto, 0));
    assert_eq!(of(None, None, &facts(Flavour::LlamaCpp, Some(1), None)), (1, auto, 0));
    assert_eq!(of(Some(64), Some(99), &facts(Flavour::Tei, Some(16), Some(10))), (16, 10, 2));
    let (_, notices) = PackLimits::of(Some(64), None, Some(&facts(Flavour::Tei, Some(16), None)));
    assert!(notices[0].contains("set `inputs_per_call = 16`"), "{notices:?}");
}

proptest! {
    /// Whatever an engine answers, what comes out of it are JSON objects, or nothing.
    #[test]
    fn damaged_answers_are_refused_or_whole(at in 0_usize..200, byte: u8, cut in 0_usize..200) {
        let answer = r#"{"object":"list","data":[{"index":1,"embedding":[1.5]},{"embedding":[0.5],"index":0}],"model":"m","usage":{"prompt_tokens":7}}"#;
        let mut bytes = answer.as_bytes().to_vec();
        let place = at % bytes.len();
        bytes[place] = byte;
        bytes.truncate(bytes.len() - if cut < 100 { 0 } else { cut % bytes.len() });
        if let Ok(text) = std::str::from_utf8(&bytes)
            && let Ok(lines) = unpack(text, &[share(1, 1), share(1, 2)])
        {
            prop_assert_eq!(lines.len(), 2);
            for line in values(lines) {
                prop_assert_eq!(line["data"].as_array().map(Vec::len), Some(1));
                prop_assert_eq!(&line["data"][0]["index"], &json!(0));
            }
        }
    }

    /// What is packed and answered comes back to whom it belongs, whatever the order of the answer.
    #[test]
    fn answers_find_their_requests(
        inputs in proptest::collection::vec(proptest::collection::vec(any::<String>(), 1..4), 1..12),
        total in 0_u64..10_000_000,
        seed: u64,
    ) {
        let bodies: Vec<String> = inputs.iter().map(|texts| {
            let input = if texts.len() == 1 { json!(texts[0]) } else { json!(texts) };
            json!({"model": "m", "input": input}).to_string()
        }).collect();
        let (body, shares) = packed(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
        let mut data: Vec<Value> = body["input"].as_array().expect("a list").iter().enumerate()
            .map(|(index, text)| json!({"index": index, "embedding": text})).collect();
        let turn = seed as usize % data.len();
        data.rotate_left(turn);
        let answer = json!({"data": data, "usage": {"prompt_tokens": total}}).to_string();
        let lines = values(unpack(&answer, &shares).expect("whole"));
        for (line, texts) in lines.iter().zip(&inputs) {
            let own: Vec<Value> = texts.iter().enumerate()
                .map(|(index, text)| json!({"index": index, "embedding": text})).collect();
            prop_assert_eq!(&line["data"], &json!(own));
        }
        let sum: u64 = lines.iter().map(|line| line["usage"]["prompt_tokens"].as_u64().expect("a count")).sum();
        prop_assert_eq!(sum, total);
        let usage = Usage { input_tokens: total, cached_tokens: seed, ..Usage::default() };
        let parts = share_tokens(usage, &shares);
        prop_assert_eq!(parts.iter().map(|part| part.input_tokens).sum::<u64>(), total);
        prop_assert_eq!(parts.iter().map(|part| part.cached_tokens).sum::<u64>(), seed);
    }
}
