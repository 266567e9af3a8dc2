//! The request line: whatever a caller writes into the input.

use overnight_domain::request::{LineRules, Request, model_of, split, with_model};
use overnight_domain::route::Route;
use serde_json::Value;

use super::{Campaign, kind};

const RULES: [LineRules<'static>; 3] = [
    LineRules { route: Route::ChatCompletions, default_model: None },
    LineRules { route: Route::Embeddings, default_model: Some("fallback") },
    LineRules { route: Route::Responses, default_model: Some("fallback") },
];
const WORDS: &[&[u8]] = &[
    b"\"custom_id\":",
    b"\"method\":\"POST\",",
    b"\"url\":",
    b"\"body\":",
    b"\"model\":",
    b"null",
    b"true",
    b"[[1],[2]]",
    b"{}",
    b"\"stream\":true,",
    b"\"messages\":[],",
    b"\"input\":",
    b"\"instructions\":\"x\",",
    b"\"options\":{},",
    b"\\ud800",
    b"\\u0000",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"\\\"",
    b"1e999",
    b"-0",
    b"\xff",
    b"\n",
    b"/embeddings",
];

#[test]
fn request_line() {
    let seeds = [
        r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"hi"}],"options":{"num_ctx":8192},"stream":false}}"#,
        r#"{"custom_id":"\u0061\n","method":"post","url":"/v1/embeddings","body":{"input":["a","b"]}}"#,
        r#" {"body" : {"input":"x","model":null} ,"url":"/v1/responses","method":"POST","custom_id":"c"} "#,
        r#"{"custom_id":"b","method":"POST","url":"/responses","body":{ "instructions":"be brief","prompt":{}, "mod\u0065l":"old" }}"#,
        r#"{"custom_id":"b","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":[[1,2],[3]]},"more":[{}]}"#,
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec()).to_vec();
    let campaign = Campaign { seeds, words: WORDS, len_max: 16 * 1024, repair: None, executions: 8_000 };
    campaign.run(|input| kind(RULES.map(|rules| check(input, rules))));
}

/// What became of a line.
fn check(line: &[u8], rules: LineRules<'_>) -> u64 {
    let request = match Request::parse(line, rules) {
        Ok(request) => request,
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal has a reason");
            assert!(problems.iter().all(|problem| problem.message.len() <= 2_000), "messages are short");
            let places: Vec<_> = problems.iter().map(|problem| (problem.code, problem.param)).collect();
            return kind(places);
        }
    };
    assert!(!request.custom_id.is_empty());
    let (custom_id, body) = split(line).expect("a valid line can be taken apart");
    assert_eq!((&custom_id, body), (&request.custom_id, request.body));
    let named = model_of(body);
    assert_eq!(request.model.as_deref(), named.as_deref().or(rules.default_model));

    let renamed = with_model(body, "n\"ew").expect("a valid body can be given a model");
    let renamed = String::from_utf8(renamed).expect("text");
    assert_eq!(model_of(&renamed).as_deref(), Some("n\"ew"));
    // A body may hold what no `Value` can: a lone surrogate, a very large number, deep nesting.
    if let Ok(mut value) = serde_json::from_str::<Value>(body) {
        value["model"] = "n\"ew".into();
        assert_eq!(serde_json::from_str::<Value>(&renamed).expect("JSON"), value);
    }
    kind((
        named.is_some(),
        request.prompt.is_some(),
        request.reload_options.is_some(),
        request.inputs.min(3),
    ))
}
