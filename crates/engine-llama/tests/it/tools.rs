//! Tools: shown to the model, called by a grammar, told of in earlier messages.

use serde_json::{Value, json};

use crate::gguf::Sketch;
use crate::harness::Engine;

/// Begins with what it was given of tools, and writes calls as many templates do.
const TEMPLATE: &str = "{% if tools %}Tools:{% for tool in tools %} {{ tool.function | tojson }}{% endfor %}\n{% endif %}\
    {% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}\
    {% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}\
    <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

async fn engine_with_tools() -> Engine {
    Engine::sketch(&Sketch { template: TEMPLATE, ..Sketch::llama(1_024) }).await
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "required": ["city"], "additionalProperties": false,
        "properties": {"city": {"enum": ["Rome", "Oslo"]}}});
    json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}}])
}

fn named(name: &str) -> Value {
    json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": name}}, "max_tokens": 60})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_named_is_called_whole_and_as_a_stream() {
    let engine = engine_with_tools().await;
    let answer = engine.chat("Is it warm?", named("weather")).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(["Rome", "Oslo"].contains(&arguments["city"].as_str().unwrap()));

    let mut streamed = named("now");
    streamed["stream"] = json!(true);
    let events = engine.chat("What time is it?", streamed).await.events();
    let calls: Vec<&Value> =
        events.iter().map(|event| &event["choices"][0]["delta"]["tool_calls"][0]).collect();
    assert_eq!((&calls[0]["function"]["name"], &calls[0]["index"]), (&json!("now"), &json!(0)));
    let arguments: String =
        calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{}");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    let mut only = named("weather");
    only["tools"] = json!([tools()[0]]);
    only["tool_choice"] = json!("required");
    let answer = engine.chat("Is it warm?", only).await.ok();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "weather");

    let mut cut = named("weather");
    cut["max_tokens"] = json!(4);
    let answer = engine.chat("Is it warm?", cut).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_calls_and_their_results_are_part_of_the_prompt() {
    let engine = engine_with_tools().await;
    let ask = async |messages: Value, more: Value| {
        let mut body = json!({"messages": messages, "max_tokens": 1, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = engine.post("/v1/chat/completions", &body).await.ok();
        answer["usage"]["prompt_tokens"].as_u64().unwrap() as usize
    };
    let told = json!([{"role": "user", "content": "Warm?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "21 degrees"}]);
    let text =
        "_user\nWarm?_\n_assistant\nweather({\"city\": \"Rome\"})_\n_tool\n21 degrees_\n_assistant\n";
    // This model's tokens are bytes, but for `th` and those of ChatML.
    let tokens = text.len() - text.matches("th").count();
    assert_eq!(ask(told.clone(), json!({})).await, tokens, "the arguments are written as JSON once");
    // `none`: the model is not told of any.
    assert_eq!(ask(told.clone(), json!({"tools": tools(), "tool_choice": "none"})).await, tokens);
    let shown = named("now");
    assert!(ask(told, shown).await > tokens + 60);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_of_tools_cannot_be_honoured_is_refused_by_name() {
    let engine = engine_with_tools().await;
    for (more, param) in [
        (json!({"tools": tools()}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "auto"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        (json!({"tools": tools(), "tool_choice": 7}), "tool_choice"),
        (json!({"tools": [{}]}), "tools[0]"),
        (json!({"tools": 7}), "tools"),
    ] {
        let answer = engine.chat("x", more.clone()).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{more}: {}",
            answer.text
        );
    }
    let mut both = named("now");
    both["response_format"] = json!({"type": "json_object"});
    assert_eq!(engine.chat("x", both).await.json()["error"]["param"], "response_format");
    engine.stop().await;
    // A template that has no place for tools.
    let engine = Engine::start(512, 1).await;
    assert_eq!(engine.chat("x", named("weather")).await.json()["error"]["param"], "tools");
    engine.stop().await;
}
