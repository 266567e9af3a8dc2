use super::*;

const RULES: LineRules<'static> = LineRules { route: Route::ChatCompletions, default_model: None };

fn line(body: &str) -> String {
    format!(r#"{{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{body}}}"#)
}

fn problems(line: &str, rules: LineRules<'_>) -> Vec<(&'static str, Option<&'static str>)> {
    match Request::parse(line.as_bytes(), rules) {
        Ok(request) => panic!("`{line}` was taken as {request:?}"),
        Err(problems) => problems.into_iter().map(|problem| (problem.code, problem.param)).collect(),
    }
}

#[test]
fn a_good_line_is_borrowed() {
    let text = line(
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"options":{"num_ctx":8192},"x":1}"#,
    );
    let request = Request::parse(text.as_bytes(), RULES).expect("a valid line");
    assert_eq!(request.custom_id, "a");
    assert_eq!(request.model.as_deref(), Some("m"));
    assert_eq!(request.prompt, Some(r#"[{"role":"user","content":"hi"}]"#));
    assert_eq!(request.reload_options.as_deref(), Some("num_ctx=8192"));
    assert!(request.body.ends_with(r#""x":1}"#));
}

#[test]
fn escaped_custom_ids_are_compared_unescaped() {
    let text = line(r#"{"model":"m","messages":[]}"#).replace(r#""a""#, r#""\u0061\n""#);
    let request = Request::parse(text.as_bytes(), RULES).expect("a valid line");
    assert_eq!(request.custom_id, "a\n");
}

#[test]
fn each_problem_has_its_code_and_param() {
    type Problem = (&'static str, Option<&'static str>);
    let cases: &[(&str, &[Problem])] = &[
        ("{", &[("invalid_json_line", None)]),
        ("nonsense", &[("invalid_json_line", None)]),
        ("[1]", &[("invalid_request", None)]),
        ("\"text\"", &[("invalid_request", None)]),
        ("null", &[("invalid_request", None)]),
        (
            "{}",
            &[
                ("missing_required_parameter", Some("custom_id")),
                ("missing_required_parameter", Some("method")),
                ("missing_required_parameter", Some("url")),
                ("missing_required_parameter", Some("body")),
            ],
        ),
        (
            r#"{"custom_id":1,"method":"GET","url":"/v1/embeddings","body":"x"}"#,
            &[
                ("invalid_request", Some("custom_id")),
                ("invalid_method", Some("method")),
                ("invalid_url", Some("url")),
                ("invalid_request", Some("body")),
            ],
        ),
        (
            r#"{"custom_id":"","method":"POST","url":"/v1/chat/completions","body":{"stream":true}}"#,
            &[
                ("invalid_request", Some("custom_id")),
                ("invalid_request", Some("body.model")),
                ("streaming_unsupported", Some("body.stream")),
                ("invalid_request", Some("body.messages")),
            ],
        ),
        (
            r#"{"custom_id":"a","custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{}}"#,
            &[("invalid_request", None)],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(&problems(text, RULES), expected, "{text}");
    }
}

#[test]
fn bytes_that_are_no_text_are_a_problem_of_their_line() {
    let error = Request::parse(b"{\"custom_id\":\"\xff\"}", RULES).expect_err("not UTF-8");
    assert_eq!(error[0].code, "invalid_json_line");
    assert!(error[0].message.contains("byte 15"), "{}", error[0].message);
}

/// The parser quotes a text that it did not expect: a line that was one long text and no JSON had all of itself in its
/// message, which is kept with the batch.
#[test]
fn a_message_does_not_repeat_the_line() {
    let text = format!("\"{}\" and more", "x".repeat(100_000));
    let error = Request::parse(text.as_bytes(), RULES).expect_err("not JSON");
    assert_eq!(error[0].code, "invalid_json_line");
    assert!(error[0].message.len() < 200, "{} bytes", error[0].message.len());
}

#[test]
fn the_batch_may_name_the_model() {
    let text = line(r#"{"messages":[]}"#);
    let rules = LineRules { default_model: Some("fallback"), ..RULES };
    let request = Request::parse(text.as_bytes(), rules).expect("a valid line");
    assert_eq!(request.model.as_deref(), Some("fallback"));
}

#[test]
fn a_model_is_put_in_place_and_nothing_else_changes() {
    let replaced = |body| with_model(body, "n\"ew").map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(
        replaced(r#"{"a": 1, "model" : "old","b":[ ]}"#).unwrap(),
        r#"{"a": 1, "model" : "n\"ew","b":[ ]}"#
    );
    assert_eq!(replaced(r#"{"a":1}"#).unwrap(), r#"{"model":"n\"ew","a":1}"#);
    assert_eq!(replaced("{ }").unwrap(), r#"{"model":"n\"ew" }"#);
    // A line with `null` for its model went to the engine with two models, the second of which was `null`.
    assert_eq!(replaced(r#"{"a":1,"model":null}"#).unwrap(), r#"{"a":1,"model":"n\"ew"}"#);
    assert_eq!(replaced("[]"), None);
}

#[test]
fn a_valid_line_is_taken_apart() {
    let text = line(r#"{"model":"m"}"#).replace(r#""a""#, r#""\u0041""#);
    let (custom_id, body) = split(text.as_bytes()).unwrap();
    assert_eq!((custom_id.as_ref(), body), ("A", r#"{"model":"m"}"#));
}

#[test]
fn embedding_inputs_are_counted() {
    let rules = LineRules { route: Route::Embeddings, default_model: None };
    for (input, count) in
        [(r#""a""#, 1), (r#"["a","b"]"#, 2), ("[1,2,3]", 1), ("[[1],[2]]", 2), ("[]", 1)]
    {
        let text = line(&format!(r#"{{"model":"m","input":{input}}}"#))
            .replace("/v1/chat/completions", "/embeddings");
        let request = Request::parse(text.as_bytes(), rules).expect("a valid line");
        assert_eq!(request.inputs, count, "{input}");
        assert_eq!(request.prompt, None);
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Request::parse(&bytes, RULES);
    }

    #[test]
    fn no_json_makes_it_panic(text in r#"\{("(custom_id|method|url|body|model)":("[a-z\\\\]{0,4}"|[0-9]{1,3}|null|\{\}|\[\]),?){0,5}\}"#) {
        let _ = Request::parse(text.as_bytes(), RULES);
    }
}

#[test]
fn only_what_forces_a_reload_tells_requests_apart() {
    let same = [
        r#"{"num_ctx": 8192, "temperature": 0, "num_gpu": 99}"#,
        r#"{"seed":1,"num_gpu":99,"num_ctx":8192,"use_mmap":null}"#,
    ];
    for options in same {
        assert_eq!(reload_options(options).as_deref(), Some("num_ctx=8192 num_gpu=99"), "{options}");
    }
    for options in [r#"{"temperature":0.5,"stop":["a"]}"#, "{}", "null", "7", r#"{"num_ctx":null}"#] {
        assert_eq!(reload_options(options), None, "{options}");
    }
}
