//! Answers that are kept to a schema, and schemas that are refused.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::gguf::Sketch;
use crate::harness::{Engine, content};

fn by_schema(schema: &Value, more: &Value) -> Value {
    let mut body = json!({"model": "random",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Nested, enumerated, of numbers, of lists.
fn schemas() -> Vec<Value> {
    let object = |properties: Value| {
        let names: Vec<&String> = properties.as_object().unwrap().keys().collect();
        json!({"type": "object", "required": names, "additionalProperties": false, "properties": properties})
    };
    let short = json!({"type": "string", "maxLength": 8});
    vec![
        object(json!({"category": {"enum": ["invoice", "contract", "report"]}, "title": short})),
        object(json!({"total": {"type": "number", "minimum": 0.5, "maximum": 99.5},
            "pages": {"type": "integer", "minimum": 1, "maximum": 40}})),
        object(
            json!({"tags": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"enum": ["a", "b", 3, null]}}}),
        ),
        object(json!({"who": object(json!({"name": short, "is_person": {"type": "boolean"},
            "address": object(json!({"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}))}))})),
        json!({"type": "array", "minItems": 2, "maxItems": 2,
            "items": {"anyOf": [{"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500}, {"const": "none"}]}}),
        json!({"type": "object", "properties": {"a": short, "b": {"type": ["integer", "null"], "maximum": 9}},
            "additionalProperties": {"type": "boolean"}}),
        object(
            json!({"day": {"type": "string", "format": "date"}, "id": {"type": "string", "format": "uuid"}}),
        ),
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "required": ["v"], "additionalProperties": false,
            "properties": {"v": {"type": "integer", "minimum": -9, "maximum": 9},
                "next": {"$ref": "#/$defs/tree"}}}}}),
        json!({"type": "array", "prefixItems": [{"type": "string", "maxLength": 6}, {"type": "number"}], "items": false,
            "minItems": 2}),
        json!({"type": "object"}),
    ]
}

struct Validator {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Validator {
    fn new(schema: &Value) -> Self {
        let mut compiler = boon::Compiler::new();
        compiler.enable_format_assertions();
        compiler.add_resource("schema.json", schema.clone()).unwrap();
        let mut schemas = boon::Schemas::new();
        let index = compiler.compile("schema.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn check(&self, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        if let Err(error) = self.schemas.validate(&value, self.index) {
            panic!("{text} is not of the schema: {error}");
        }
    }
}

/// Half of them at a temperature at which the demo model speaks nonsense.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_answers_that_ended_by_themselves_are_of_their_schema() {
    const DOCUMENTS: usize = 1_000;
    let engine = Engine::demo(512, 16).await;
    let schemas = schemas();
    let validators: Vec<Validator> = schemas.iter().map(Validator::new).collect();
    let ask = async |number: usize| {
        let document =
            format!("Document {number}: the total of {} is due in {} days.", number * 37, number % 60);
        let temperature = if number.is_multiple_of(2) { 0.0 } else { 1.5 };
        let body = by_schema(
            &schemas[number % schemas.len()],
            &json!({"max_tokens": 64, "seed": number,
            "temperature": temperature, "messages": [{"role": "user", "content": document}]}),
        );
        (number, engine.post("/v1/chat/completions", &body).await.ok())
    };
    let mut answers = futures::stream::iter((0..DOCUMENTS).map(ask)).buffer_unordered(64);
    let mut cut = 0;
    while let Some((number, answer)) = answers.next().await {
        match answer["choices"][0]["finish_reason"].as_str().unwrap() {
            "stop" => validators[number % schemas.len()].check(&content(&answer)),
            reason => {
                assert_eq!(
                    (reason, &answer["usage"]["completion_tokens"]),
                    ("length", &json!(64)),
                    "{answer}"
                );
                cut += 1;
            }
        }
    }
    drop(answers);
    assert!(cut < DOCUMENTS / 4, "{cut} were cut: too few are left to tell");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_schema_asks_and_cannot_be_kept_to_is_refused_by_name() {
    let engine = Engine::start(256, 2).await;
    for (schema, named) in [
        (json!({"not": {"type": "string"}}), "`not`"),
        (json!({"if": {"type": "string"}, "then": {"minLength": 3}}), "`if`"),
        (json!({"type": "array", "uniqueItems": true}), "`uniqueItems`"),
        (json!({"type": "array", "contains": {"type": "integer"}}), "`contains`"),
        (json!({"type": "object", "dependentRequired": {"a": ["b"]}}), "`dependentRequired`"),
        (json!({"type": "object", "propertyNames": {"pattern": "a"}}), "`propertyNames`"),
        (json!({"type": "object", "properties": {"a": {}}, "minProperties": 1}), "maxProperties"),
        (json!({"oneOf": [{"type": "number"}, {"type": "integer"}]}), "oneOf"),
        (json!({"type": "string", "format": "frob"}), "frob"),
        (json!({"type": "string", "pattern": "^(?=a)b"}), "look-around"),
        (json!({"type": "string", "pattern": "("}), "regex"),
        (json!({"$ref": "https://example.com/a.json"}), "https://example.com/a.json"),
        (json!({"$ref": "#/nowhere"}), "nowhere"),
        (json!({"$ref": "#"}), ""),
        (json!({"type": "array", "minItems": 3, "maxItems": 2}), "minItems"),
        (json!({"type": "strin"}), "strin"),
        (json!({"type": "object", "x-guidance": {"lenient": true}}), "x-guidance"),
        (json!({"enum": []}), "empty"),
        (json!(false), "false"),
        (json!([1]), "object"),
    ] {
        let body = by_schema(
            &schema,
            &json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}),
        );
        // The second time it is known already.
        for _ in 0..2 {
            let (status, code, message) = engine.post("/v1/chat/completions", &body).await.refusal();
            assert_eq!((status, code.as_str()), (400, "invalid_schema"), "{schema}: {message}");
            assert!(message.contains(named), "{schema}: {message}");
        }
    }
    engine.stop().await;
}

/// Schemas that make a compiler or what follows from it grow without end.
fn bombs() -> Vec<(&'static str, String)> {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("{}{{}}{}", open.repeat(depth), close.repeat(depth))
    };
    let list =
        |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(",");
    vec![
        ("nested lists", nested(r#"{"type":"array","items":"#, "}", 120)),
        ("deeper than JSON is read", nested(r#"{"items":"#, "}", 5_000)),
        ("nested allOf", nested(r#"{"allOf":["#, "]}", 60)),
        ("doubling allOf", {
            let defs = list(20, &|n| {
                let next = n + 1;
                format!(
                    r##""d{n}":{{"anyOf":[{{"$ref":"#/$defs/d{next}"}},{{"$ref":"#/$defs/d{next}"}}]}}"##
                )
            });
            format!(
                r##"{{"allOf":[{{"$ref":"#/$defs/d0"}},{{"$ref":"#/$defs/d0"}}],"$defs":{{{defs},"d20":{{"type":"string","minLength":1}}}}}}"##
            )
        }),
        (
            "a long list",
            r#"{"type":"array","items":{"type":"integer"},"minItems":1000000000}"#.to_owned(),
        ),
        ("a long text", r#"{"type":"string","minLength":100000000}"#.to_owned()),
        (
            "a pattern of repetitions",
            r#"{"type":"string","pattern":"^(((a{0,100}){0,100}){0,100}){0,100}$"}"#.to_owned(),
        ),
        ("an ambiguous pattern", r#"{"type":"string","pattern":"^(a|a?)+(.*b.{40}){5}$"}"#.to_owned()),
        ("a multiple", r#"{"type":"integer","multipleOf":99991}"#.to_owned()),
        ("many properties", {
            let properties = list(1_000, &|n| format!(r#""p{n}":{{"type":"integer","maximum":{n}}}"#));
            format!(r#"{{"type":"object","properties":{{{properties}}}}}"#)
        }),
        ("too many properties", {
            let properties = list(5_000, &|n| format!(r#""p{n}":{{"type":"null"}}"#));
            format!(r#"{{"type":"object","properties":{{{properties}}}}}"#)
        }),
        ("many values", format!(r#"{{"enum":[{}]}}"#, list(3_000, &|n| format!(r#""value {n}""#)))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_grows_without_end_is_refused_or_answered_in_time() {
    let engine = Engine::start(256, 2).await;
    for (name, schema) in bombs() {
        let started = Instant::now();
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"x"}}],"max_tokens":20,"temperature":1.5,"seed":1,
            "response_format":{{"type":"json_schema","json_schema":{{"schema":{schema}}}}}}}"#
        );
        let answer = engine.post_text("/v1/chat/completions", &body).await;
        println!(
            "{name}: {} in {:?}: {}",
            answer.status,
            started.elapsed(),
            answer.text.chars().take(160).collect::<String>()
        );
        assert!(matches!(answer.status, 200 | 400), "{name}: {}", answer.text);
        // Where a panic aborts, it would have been the end of the engine.
        assert!(!answer.text.contains("panic:"), "{name}: {}", answer.text);
        // Ample for a machine that does ten other things; without bounds some of them take minutes and gigabytes.
        assert!(started.elapsed() < Duration::from_secs(40), "{name}");
    }
    // The engine goes on as before.
    engine.chat("x", json!({"max_tokens": 1})).await.ok();
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_follow_is_not_asked_of_the_model() {
    let engine = Engine::demo(512, 4).await;
    let ask = async |schema: Value, more: Value| {
        let counts = async || {
            let all = engine.metric("answer_tokens_total").await as usize;
            (all, engine.metric("answer_tokens_forced_total").await as usize)
        };
        let before = counts().await;
        let mut more = more;
        more["messages"] = json!([{"role": "user", "content": "Invoice 7, the total is due."}]);
        let answer = engine.post("/v1/chat/completions", &by_schema(&schema, &more)).await.ok();
        let after = counts().await;
        assert_eq!(answer["usage"]["completion_tokens"], after.0 - before.0);
        (answer, after.0 - before.0, after.1 - before.1)
    };
    let labels = |names: &[&str]| {
        json!({"type": "object", "required": ["category"], "additionalProperties": false,
        "properties": {"category": {"type": "string", "enum": names}}})
    };
    let greedy = json!({"temperature": 0, "max_tokens": 40});
    // A closed set of which no two begin alike: one decision.
    let (answer, all, forced) = ask(labels(&["invoice", "contract", "report"]), greedy.clone()).await;
    assert_eq!((content(&answer).as_str(), all - forced), (r#"{"category":"invoice"}"#, 1), "{answer}");
    // One answer: none.
    let (answer, all, forced) = ask(labels(&["other"]), greedy.clone()).await;
    assert_eq!((content(&answer).as_str(), all - forced), (r#"{"category":"other"}"#, 0));
    // By a grammar, with other sampling, a few.
    let by_grammar = json!({"temperature": 0.1, "top_k": 1, "max_tokens": 40});
    let (answer, all, forced) = ask(labels(&["invoice", "contract", "report"]), by_grammar).await;
    assert_eq!(content(&answer), r#"{"category":"invoice"}"#);
    assert!(all - forced <= 4 && forced > 0, "{forced} of {all}");
    // Where each token's probability is to be shown, each is asked for.
    let shown = json!({"temperature": 0, "max_tokens": 40, "logprobs": true});
    let (answer, all, forced) = ask(labels(&["invoice", "contract"]), shown).await;
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!((forced, tokens.len(), text), (0, all, content(&answer)));
    engine.stop().await;
}

/// A limit within what must follow, at its end, and behind it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_by_a_schema_is_cut_where_the_limit_is() {
    let engine = Engine::start(256, 2).await;
    let schema = json!({"type": "object", "required": ["kind"], "additionalProperties": false,
        "properties": {"kind": {"enum": ["aa", "b"]}}});
    let whole = [r#"{"kind":"aa"}"#, r#"{"kind":"b"}"#];
    for more in [json!({"temperature": 0}), json!({"temperature": 1.5, "top_k": 50, "seed": 3})] {
        for limit in 1..16 {
            let mut more = more.clone();
            more["messages"] = json!([{"role": "user", "content": "x"}]);
            more["max_tokens"] = json!(limit);
            let answer = engine.post("/v1/chat/completions", &by_schema(&schema, &more)).await.ok();
            let said = content(&answer);
            // This model's tokens are bytes.
            assert!(whole.iter().any(|whole| whole.starts_with(&said)), "{said}");
            assert_eq!(answer["usage"]["completion_tokens"], said.len());
            let reason = if whole.contains(&said.as_str()) { "stop" } else { "length" };
            assert_eq!(
                (answer["choices"][0]["finish_reason"].as_str().unwrap(), said.len() <= limit),
                (reason, true)
            );
            assert!(reason == "stop" || said.len() == limit);
        }
    }
    engine.stop().await;
}

/// Such a vocabulary put a space before every text of a closed set.
#[tokio::test(flavor = "multi_thread")]
async fn a_vocabulary_of_spaces_adds_none_to_an_answer() {
    let engine = Engine::sketch(&Sketch { has_spaces: true, ..Sketch::llama(256) }).await;
    let one = json!({"type": "object", "required": ["a b"], "additionalProperties": false,
        "properties": {"a b": {"const": "c d"}}});
    let several = json!({"type": "object", "required": ["a b"], "additionalProperties": false,
        "properties": {"a b": {"enum": ["c", "d \u{e9}"]}}});
    for (schema, said) in [
        (&one, &[r#"{"a b":"c d"}"#][..]),
        (&several, &[r#"{"a b":"c"}"#, "{\"a b\":\"d \u{e9}\"}"][..]),
    ] {
        // As a choice among texts, by a grammar, and by a grammar whose every token is chosen.
        for more in [
            json!({"temperature": 0}),
            json!({"top_k": 40}),
            json!({"temperature": 0, "logprobs": true}),
        ] {
            let mut more = more;
            more["messages"] = json!([{"role": "user", "content": "x"}]);
            more["max_tokens"] = json!(40);
            let answer = engine.post("/v1/chat/completions", &by_schema(schema, &more)).await.ok();
            assert!(said.contains(&content(&answer).as_str()), "{more}: {answer}");
        }
    }
    engine.stop().await;
}
