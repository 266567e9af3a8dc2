use overnight_domain::fault::Fault;
use serde_json::{Value, json};

use super::*;

fn chat(more: &Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn said(role: &str, more: &Value) -> Value {
    let mut message = json!({"role": role});
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"messages": [message]})
}

fn sent(route: Route, body: &Value) -> Result<Value, Refusal> {
    let sent = translate(route, &body.to_string(), Defaults::default())?;
    Ok(serde_json::from_slice(&sent.body).unwrap())
}

fn assert_refused(route: Route, body: &Value, param: &str) {
    let refusal = sent(route, body).expect_err(&format!("`{param}` is refused"));
    let fault = refusal.into_fault();
    let Fault::Refused { status: 400, body: said } = fault else { panic!("{fault:?}") };
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["error"]["param"], param, "{said}");
    assert!(said["error"]["message"].as_str().unwrap().contains(param), "{said}");
}

/// Members of objects within a request were left out without a word, and those of the wrong type with them: a batch that
/// asked not to think thought all night.
#[test]
fn what_is_not_read_of_inner_objects_is_refused_by_name() {
    let png = "data:image/png;base64,iVBORw0KGgo=";
    let part = |part: Value| said("user", &json!({"content": [part]}));
    let call = |call: Value| said("assistant", &json!({"tool_calls": [call]}));
    let at = "messages[0].";
    let cases = [
        (json!({"reasoning": {"enabled": false}}), "reasoning.enabled".to_owned()),
        (json!({"reasoning": {"max_tokens": 512}}), "reasoning.max_tokens".to_owned()),
        (json!({"reasoning": {"effort": "low", "exclude": true}}), "reasoning.exclude".to_owned()),
        (json!({"reasoning": "off"}), "reasoning".to_owned()),
        (json!({"reasoning_effort": "low", "reasoning": "off"}), "reasoning".to_owned()),
        (part(json!({"type": "text", "text": "a", "lang": "de"})), format!("{at}content[0].lang")),
        (part(json!({"type": "text", "text": 7})), format!("{at}content[0].text")),
        (part(json!({"type": 7})), format!("{at}content[0].type")),
        (
            part(json!({"type": "image_url", "image_url": {"url": png, "crop": 1}})),
            format!("{at}content[0].image_url.crop"),
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": png}, "text": "a"})),
            format!("{at}content[0].text"),
        ),
        (said("tool", &json!({"content": "a", "tool_call_id": 7})), format!("{at}tool_call_id")),
        (call(json!({"id": 7, "function": {"name": "f"}})), format!("{at}tool_calls[0].id")),
        (call(json!({"function": {"name": "f"}, "when": 1})), format!("{at}tool_calls[0].when")),
        (call(json!({"type": "custom", "function": {"name": "f"}})), format!("{at}tool_calls[0].type")),
        (
            call(json!({"function": {"name": "f", "output": "b"}})),
            format!("{at}tool_calls[0].function.output"),
        ),
        (
            call(json!({"function": {"name": "f", "arguments": {"a": 1}}})),
            format!("{at}tool_calls[0].function.arguments"),
        ),
        (
            json!({"response_format": {"type": "json_object", "schema": {}}}),
            "response_format.schema".to_owned(),
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "loose": 1}}}),
            "response_format.json_schema.loose".to_owned(),
        ),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type".to_owned()),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "examples": []}}]}),
            "tools[0].function.examples".to_owned(),
        ),
        (json!({"model": 7}), "model".to_owned()),
    ];
    for (more, param) in cases {
        assert_refused(Route::ChatCompletions, &chat(&more), &param);
    }
    let body = json!({"model": "m", "input": "a", "encoding_format": 5});
    assert_refused(Route::Embeddings, &body, "encoding_format");
}

#[test]
fn what_ollama_has_no_choice_about_is_left_out() {
    let png = "data:image/png;base64,iVBORw0KGgo=";
    let body = json!({
        "model": "m",
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "what is it?"},
                {"type": "image_url", "image_url": {"url": png, "detail": "low"}},
            ]},
            {"role": "assistant", "content": null, "refusal": null, "tool_calls": [{
                "id": "c", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"},
            }]},
            {"role": "tool", "tool_call_id": "c", "name": "f", "content": "found"},
        ],
        "tools": [{"type": "function", "function": {
            "name": "f", "description": "d", "strict": true, "parameters": {"type": "object", "x": 1},
        }}],
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "n", "description": "d", "strict": true, "schema": {"type": "object"},
        }},
        "reasoning": {"effort": "none"},
    });
    let sent = sent(Route::ChatCompletions, &body).unwrap();
    assert_eq!(sent["messages"][0]["images"], json!(["iVBORw0KGgo="]));
    assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(sent["messages"][2]["tool_name"], "f");
    assert_eq!(sent["tools"], body["tools"]);
    assert_eq!(sent["format"], json!({"type": "object"}));
    assert_eq!(sent["think"], false);
}

/// Ollama takes 2048.0 for 2048; here it was read as no context at all, so that nothing showed what was cut to it.
#[test]
fn a_context_that_is_no_whole_number_is_refused() {
    for context in ["2048.0", "2e3", "\"2048\"", "-1", "0", "true"] {
        let body = format!(r#"{{"model":"m","prompt":"a","options":{{"num_ctx":{context}}}}}"#);
        let refusal = translate(Route::Completions, &body, Defaults::default()).unwrap_err();
        let Fault::Refused { body, .. } = refusal.into_fault() else { panic!("it is refused") };
        assert!(String::from_utf8(body).unwrap().contains("`options.num_ctx` must be"), "{context}");
    }
    let body = r#"{"model":"m","prompt":"a","options":{"num_ctx":2048}}"#;
    let own = Defaults { num_ctx: Some(8192) };
    assert_eq!(translate(Route::Completions, body, own).unwrap().num_ctx, Some(2048));
    assert_eq!(
        translate(Route::Completions, r#"{"model":"m","prompt":"a"}"#, own).unwrap().num_ctx,
        Some(8192)
    );
}
