use super::*;
use overnight_domain::engine_facts::Flavour;

fn seen(cuts: bool) -> Seen {
    Seen { flavour: Flavour::Tei, model: Some("BAAI/bge".to_owned()), cuts }
}

fn asked(route: Route, body: &str, cuts: bool) -> Option<(&'static str, Value)> {
    let native = native(route, &Bytes::copy_from_slice(body.as_bytes()), &seen(cuts)).unwrap()?;
    Some((native.path, serde_json::from_slice(&native.body).unwrap()))
}

fn back(route: Route, body: &str, tokens: Option<&'static str>, answer: &str) -> Result<String, Fault> {
    let native = native(route, &Bytes::copy_from_slice(body.as_bytes()), &seen(true)).unwrap().unwrap();
    let mut headers = HeaderMap::new();
    if let Some(tokens) = tokens {
        headers.insert(COMPUTE_TOKENS, http::HeaderValue::from_static(tokens));
    }
    let body = native.back(&headers, answer.as_bytes())?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn the_openai_route_is_left_only_for_what_it_lacks() {
    let plain = r#"{"model":"m","input":"a","encoding_format":"base64"}"#;
    assert_eq!(asked(Route::Embeddings, plain, false), None);
    assert_eq!(asked(Route::Embeddings, "[1]", true), None, "the engine refuses it");
    assert_eq!(asked(Route::ChatCompletions, plain, true), None);
    let (path, body) = asked(Route::Embeddings, plain, true).unwrap();
    assert_eq!((path, body), ("/embed", json!({"inputs": "a", "truncate": false})));
    let own = r#"{"input":["a",[1,2]],"truncate":true,"normalize":false,"prompt_name":"query","dimensions":3}"#;
    let (_, body) = asked(Route::Embeddings, own, false).unwrap();
    let expected = json!({
        "inputs": ["a", [1, 2]], "truncate": true, "normalize": false, "prompt_name": "query", "dimensions": 3,
    });
    assert_eq!(body, expected);
}

#[test]
fn a_text_that_is_no_unicode_goes_out_as_it_came() {
    let body = Bytes::from_static(br#"{"input":"\ud800 and \u00e9","truncate":false}"#);
    let native = native(Route::Embeddings, &body, &seen(false)).unwrap().unwrap();
    assert_eq!(&native.body[..], br#"{"inputs":"\ud800 and \u00e9","truncate":false}"#);
}

#[test]
fn embeddings_come_back_digit_by_digit() {
    let body = r#"{"model":"mine","input":["a","b"]}"#;
    let answer = back(Route::Embeddings, body, Some("7"), "[[0.10,-1e-7],[2,3.30]]").unwrap();
    assert!(answer.contains("\"index\":1,\"embedding\":[2,3.30]"), "{answer}");
    assert!(answer.contains("[0.10,-1e-7]"), "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
    assert_eq!(answer["model"], "mine");
    assert_eq!(answer["object"], "list");
    let body = r#"{"input":"a","encoding_format":"base64"}"#;
    let answer: Value =
        serde_json::from_str(&back(Route::Embeddings, body, None, "[[1,-2.5]]").unwrap()).unwrap();
    assert_eq!(answer["data"][0]["embedding"], "AACAPwAAIMA=");
    assert_eq!(answer["model"], "BAAI/bge");
    for wrong in ["{}", "[[1]", "[1]", "[[\"a\"]]", ""] {
        let fault = back(Route::Embeddings, body, None, wrong).unwrap_err();
        assert_eq!(fault.kind(), "engine_garbage", "for `{wrong}`");
    }
}

#[test]
fn a_rerank_is_asked_and_answered_in_each_ones_words() {
    let body = r#"{"model":"m","query":"q","documents":["a",{"text":"b"},"c"],"top_n":2}"#;
    let (path, asked) = asked(Route::Rerank, body, false).unwrap();
    let expected =
        json!({"query": "q", "texts": ["a", "b", "c"], "raw_scores": false, "return_text": false});
    assert_eq!((path, asked), ("/rerank", expected));
    let ranks = r#"[{"index":0,"score":0.10},{"index":2,"score":9.9e-1},{"index":1,"score":0.5}]"#;
    let answer = back(Route::Rerank, body, Some("12"), ranks).unwrap();
    assert_eq!(
        answer,
        r#"{"model":"m","results":[{"index":2,"document":{"text":"c"},"relevance_score":9.9e-1},{"index":1,"document":{"text":"b"},"relevance_score":0.5}],"usage":{"prompt_tokens":12,"total_tokens":12}}"#
    );
    let bare = r#"{"query":"q","documents":["a"],"return_documents":false}"#;
    let answer = back(Route::Rerank, bare, None, r#"[{"index":0,"score":1}]"#).unwrap();
    assert_eq!(answer, r#"{"model":"BAAI/bge","results":[{"index":0,"relevance_score":1}]}"#);
    let strange = back(Route::Rerank, body, None, r#"[{"index":3,"score":1}]"#).unwrap_err();
    assert_eq!(strange.kind(), "engine_garbage");
}

#[test]
fn what_has_no_words_in_tei_is_refused_by_name() {
    for (route, body, name) in [
        (Route::Rerank, r#"{"query":"q","documents":["a",{"title":"b"}]}"#, "documents[1]"),
        (Route::Rerank, r#"{"documents":[]}"#, "query"),
        (Route::Embeddings, r#"{"input":"a","encoding_format":"int8"}"#, "encoding_format"),
    ] {
        let Err(Fault::Refused { status: 400, body }) =
            native(route, &Bytes::copy_from_slice(body.as_bytes()), &seen(true))
        else {
            panic!("not refused: {body}");
        };
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert!(body["error"]["message"].as_str().unwrap().contains(name), "{body}");
    }
}

#[test]
fn teis_statuses_have_meanings_of_their_own() {
    let refused =
        |status, body: &str| reinterpret(Fault::Refused { status, body: body.as_bytes().to_vec() });
    let failed = refused(424, r#"{"error":"Inference failed","error_type":"Backend"}"#);
    assert_eq!(failed.kind(), "engine_error");
    let long = r#"{"error":"Input validation error: `inputs` must have less than 512 tokens. Given: 600","error_type":"Validation"}"#;
    let Fault::TooLongPrompt { prompt_tokens, context_len, .. } = refused(413, long) else {
        panic!("not recognised");
    };
    assert_eq!((prompt_tokens, context_len), (Some(600), Some(512)));
    let many = r#"{"error":"batch size 33 > maximum allowed batch size 32","error_type":"Validation"}"#;
    assert_eq!(refused(413, many).kind(), "request_refused");
    assert_eq!(
        refused(422, r#"{"error":"Tokenization error","error_type":"Tokenizer"}"#).kind(),
        "request_refused"
    );
}
