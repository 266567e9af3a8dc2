use overnight_domain::engine_facts::ModelFacts;

use super::*;

fn facts(models: &[(&str, Option<bool>)]) -> EngineFacts {
    let model = |(name, is_loaded): &(&str, Option<bool>)| ModelFacts {
        name: (*name).to_owned(),
        is_loaded: *is_loaded,
        ..ModelFacts::default()
    };
    EngineFacts { models: models.iter().map(model).collect(), ..EngineFacts::default() }
}

#[test]
fn a_model_is_chosen_by_what_it_is_for() {
    let many = facts(&[
        ("nomic-embed-text:latest", Some(false)),
        ("llama3:8b", Some(false)),
        ("qwen3:8b", Some(true)),
        ("BAAI/bge-reranker-v2-m3", None),
    ]);
    let models = Models::choose(&many, None);
    assert_eq!(models.of(Route::ChatCompletions), Some("qwen3:8b"), "what is loaded goes first");
    assert_eq!(models.of(Route::Embeddings), Some("nomic-embed-text:latest"));
    assert_eq!(models.of(Route::Rerank), Some("BAAI/bge-reranker-v2-m3"));
    let embedder = Models::choose(&facts(&[("thenlper/gte-base", None)]), None);
    assert_eq!(embedder.of(Route::ChatCompletions), None);
    assert_eq!(embedder.of(Route::Rerank), Some("thenlper/gte-base"));
    let none = Models::choose(&facts(&[]), None);
    assert_eq!((none.of(Route::Embeddings), none.of(Route::Responses)), (None, None));
    assert_eq!(Models::choose(&many, Some("x")).of(Route::Embeddings), Some("x"));
}

#[test]
fn a_fault_is_said_in_the_engines_own_words() {
    for (body, expected) in [
        (r#"{"error":{"message":"no such model"}}"#, "400: no such model"),
        (r#"{"error":"no such model","error_type":"Validation"}"#, "400: no such model"),
        (r#"{"object":"error","message":"no such model"}"#, "400: no such model"),
        (" no such model\n", "400: no such model"),
    ] {
        assert_eq!(words(&Fault::Refused { status: 400, body: body.as_bytes().to_vec() }), expected);
    }
}

#[test]
fn an_answer_that_does_not_do_what_was_asked_is_seen() {
    let plain = json!({"choices": [{"message": {"content": "5 bananas"}, "finish_reason": "stop"}]});
    for (name, can) in [
        ("chat", true),
        ("usage", false),
        ("system role", true),
        ("tools", false),
        ("JSON mode", false),
        ("JSON schema", false),
        ("logprobs", false),
        ("stop", false),
        ("max_tokens", false),
        ("completions", false),
        ("embeddings", false),
        ("rerank", false),
        ("a wrong model is refused", false),
        ("a long prompt is refused", false),
    ] {
        let case = CASES.iter().find(|case| case.name == name).expect("a case");
        let outcome = (case.judge)(&Value::Null, &Ok(plain.clone()), None);
        assert_eq!(matches!(outcome, Outcome::Can(_)), can, "{name}: {outcome:?}");
    }
}
