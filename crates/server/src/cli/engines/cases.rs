//! What an engine is tried out with: each case a small request, and how its answer is judged.

use overnight_domain::engine_facts::EngineFacts;
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;
use serde_json::{Value, json};

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Can(String),
    Cannot(String),
    Skipped(String),
}

impl Outcome {
    pub(super) fn shown(&self) -> (&'static str, &str) {
        match self {
            Self::Can(detail) => ("can", detail),
            Self::Cannot(detail) => ("cannot", detail),
            Self::Skipped(detail) => ("skipped", detail),
        }
    }
}

type Came = Result<Value, Fault>;

/// One thing that is tried.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) route: Route,
    /// An engine that can do it is of use.
    pub(super) is_basic: bool,
    pub(super) asks_twice: bool,
    /// The request, or why it cannot be made. A model that is not in it is filled in.
    pub(super) body: fn(&EngineFacts, &str) -> Result<Value, String>,
    pub(super) judge: fn(&Value, &Came, Option<&Came>) -> Outcome,
}

/// The model that is asked, by what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Models {
    pub(super) chat: Option<String>,
    pub(super) embeddings: Option<String>,
    pub(super) rerank: Option<String>,
}

impl Models {
    /// Names tell what a model is for; what is loaded goes first.
    pub(super) fn choose(facts: &EngineFacts, asked: Option<&str>) -> Self {
        if let Some(model) = asked {
            let model = Some(model.to_owned());
            return Self { chat: model.clone(), embeddings: model.clone(), rerank: model };
        }
        let mut models: Vec<_> = facts.models.iter().collect();
        models.sort_by_key(|model| model.is_loaded != Some(true));
        let first = |is_fit: &dyn Fn(&str) -> bool| {
            let fit = models.iter().find(|model| is_fit(&model.name.to_lowercase()));
            fit.map(|model| model.name.clone())
        };
        let is_reranker = |name: &str| name.contains("rerank");
        let is_embedder = |name: &str| {
            !is_reranker(name)
                && ["embed", "bge", "gte", "e5-", "minilm", "mpnet"]
                    .iter()
                    .any(|part| name.contains(part))
        };
        let chat = first(&|name| !is_reranker(name) && !is_embedder(name));
        Self {
            embeddings: first(&is_embedder).or_else(|| chat.clone()),
            rerank: first(&is_reranker).or_else(|| first(&is_embedder)).or_else(|| chat.clone()),
            chat,
        }
    }

    pub(super) fn of(&self, route: Route) -> Option<&str> {
        match route {
            Route::Embeddings => self.embeddings.as_deref(),
            Route::Rerank | Route::Score => self.rerank.as_deref(),
            _ => self.chat.as_deref(),
        }
    }
}

/// What a fault says, for people.
pub(super) fn words(fault: &Fault) -> String {
    match fault {
        Fault::Busy { status, detail, .. } | Fault::Misconfigured { status, detail } => {
            format!("{status}: {detail}")
        }
        Fault::EngineError { status, body } | Fault::Refused { status, body } => {
            let text = String::from_utf8_lossy(body);
            let said: Value = serde_json::from_slice(body).unwrap_or_default();
            let message = [&said["error"]["message"], &said["error"], &said["message"], &said["detail"]]
                .into_iter()
                .find_map(Value::as_str);
            let message: String = message.unwrap_or(text.trim()).chars().take(200).collect();
            format!("{status}: {message}")
        }
        Fault::TooLong { limit } => format!("the answer is longer than {limit} bytes"),
        Fault::Down { detail }
        | Fault::Stale { detail }
        | Fault::Lost { detail }
        | Fault::Timeout { detail }
        | Fault::Garbage { detail }
        | Fault::TooLongPrompt { detail, .. } => detail.clone(),
    }
}

/// A picture of 64 by 64 points, the left half red and the right half blue: some models take none that is smaller.
const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAT0lEQVR42u3PsQkAAAzDsPz/dHpCp2wCzwalybTxvgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA+Dq47PDiz8p6GQAAAABJRU5ErkJggg==";

const NO_SUCH_MODEL: &str = "overnight-check-no-such-model";

/// A longer prompt would take longer to send than the case is worth.
const CONTEXT_MAX: u64 = 262_144;

const CHAT: Case = Case {
    name: "chat",
    route: Route::ChatCompletions,
    is_basic: true,
    asks_twice: false,
    body: |_, _| Ok(chat("Say hello.", &json!({"max_tokens": 32}))),
    judge: |_, came, _| judged(came, |answer| content(answer).map(|text| format!("{:?}", start(text)))),
};

/// In this order. What may load a model comes first.
pub(super) const CASES: &[Case] = &[
    CHAT,
    Case {
        name: "usage",
        judge: |_, came, _| {
            judged(came, |answer| {
                let count = |name: &str| answer["usage"][name].as_u64().filter(|count| *count > 0);
                match (count("prompt_tokens"), count("completion_tokens")) {
                    (Some(prompt), Some(completion)) => Ok(format!("{prompt} and {completion} tokens")),
                    _ => Err("its answers do not say how many tokens they took".to_owned()),
                }
            })
        },
        is_basic: false,
        ..CHAT
    },
    Case {
        name: "system role",
        is_basic: false,
        body: |_, _| {
            let messages = json!([
                {"role": "system", "content": "Answer every question with the one word BANANA."},
                {"role": "user", "content": "What is two and two?"},
            ]);
            Ok(json!({"messages": messages, "max_tokens": 48, "temperature": 0}))
        },
        judge: |_, came, _| {
            judged(came, |answer| {
                let followed = content(answer)?.to_uppercase().contains("BANANA");
                Ok(if followed {
                    String::new()
                } else {
                    "taken, but the answer does not follow it".to_owned()
                })
            })
        },
        ..CHAT
    },
    Case {
        name: "tools",
        is_basic: false,
        body: |_, _| {
            let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
            let tool = json!({"type": "function", "function": {
                "name": "get_weather", "description": "The weather in a city now", "parameters": parameters,
            }});
            Ok(chat(
                "What is the weather in Paris now? Use the tool.",
                &json!({"tools": [tool], "max_tokens": 256}),
            ))
        },
        judge: |_, came, _| {
            judged(came, |answer| {
                let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
                if call["name"] != "get_weather" {
                    return Err("it answered without calling the tool".to_owned());
                }
                let arguments = call["arguments"].as_str().ok_or("the arguments are no text")?;
                let parsed: Value =
                    serde_json::from_str(arguments).map_err(|_| "the arguments are no JSON")?;
                if parsed["city"].is_string() {
                    Ok(arguments.to_owned())
                } else {
                    Err("the arguments lack `city`".to_owned())
                }
            })
        },
        ..CHAT
    },
    Case {
        name: "image input",
        is_basic: false,
        body: |_, _| {
            let parts = json!([
                {"type": "text", "text": "Which two colours does this picture have?"},
                {"type": "image_url", "image_url": {"url": PICTURE}},
            ]);
            Ok(json!({"messages": [{"role": "user", "content": parts}], "max_tokens": 48}))
        },
        ..CHAT
    },
    Case {
        name: "JSON mode",
        is_basic: false,
        body: |_, _| {
            let more = json!({"response_format": {"type": "json_object"}, "max_tokens": 256});
            Ok(chat("Give a JSON object with the member `city` for the capital of France.", &more))
        },
        judge: |_, came, _| judged(came, |answer| json_of(answer).map(|_| String::new())),
        ..CHAT
    },
    Case {
        name: "JSON schema",
        is_basic: false,
        body: |_, _| {
            let schema = json!({
                "type": "object", "additionalProperties": false, "required": ["name", "year"],
                "properties": {"name": {"type": "string"}, "year": {"type": "integer"}},
            });
            let format = json!({"type": "json_schema", "json_schema": {"name": "event", "strict": true, "schema": schema}});
            Ok(chat(
                "When did people first walk on the moon?",
                &json!({"response_format": format, "max_tokens": 256}),
            ))
        },
        judge: |_, came, _| {
            judged(came, |answer| {
                let object = json_of(answer)?;
                // Nothing says how long a number may be: one without a fraction is an integer.
                let is_integer = object["year"].as_f64().is_some_and(|year| year.fract() == 0.0);
                if object["name"].is_string() && is_integer {
                    Ok(String::new())
                } else {
                    Err(format!(
                        "the answer is JSON, but not of the schema: {}",
                        start(&object.to_string())
                    ))
                }
            })
        },
        ..CHAT
    },
    Case {
        name: "logprobs",
        is_basic: false,
        body: |_, _| {
            Ok(chat("Say hello.", &json!({"logprobs": true, "top_logprobs": 1, "max_tokens": 8})))
        },
        judge: |_, came, _| {
            judged(came, |answer| match answer["choices"][0]["logprobs"]["content"].as_array() {
                Some(list) if !list.is_empty() => Ok(format!("{} tokens", list.len())),
                _ => Err("the answer has none".to_owned()),
            })
        },
        ..CHAT
    },
    Case {
        name: "same answer by seed",
        is_basic: false,
        asks_twice: true,
        body: |_, _| {
            Ok(chat(
                "Tell a story of one sentence.",
                &json!({"seed": 7, "temperature": 1, "max_tokens": 24}),
            ))
        },
        judge: |_, came, again| {
            judged(came, |first| match again {
                Some(Ok(second)) if content(first)? == content(second)? => Ok(String::new()),
                Some(Ok(_)) => {
                    Err("two answers to the same request with the same seed differ".to_owned())
                }
                Some(Err(fault)) => Err(words(fault)),
                None => Err("there was no time to ask twice".to_owned()),
            })
        },
        ..CHAT
    },
    Case {
        name: "stop",
        is_basic: false,
        body: |_, _| {
            Ok(chat(
                "Count from one to nine in figures: 1 2 3",
                &json!({"stop": ["5"], "max_tokens": 48, "temperature": 0}),
            ))
        },
        judge: |_, came, _| {
            judged(came, |answer| match content(answer)? {
                text if text.contains('5') => Err("the text goes on behind it".to_owned()),
                _ if answer["choices"][0]["finish_reason"] == "stop" => Ok(String::new()),
                _ => Err(format!("`finish_reason` is {}", answer["choices"][0]["finish_reason"])),
            })
        },
        ..CHAT
    },
    Case {
        name: "max_tokens",
        is_basic: false,
        body: |_, _| Ok(chat("Tell a long story.", &json!({"max_tokens": 4}))),
        judge: |_, came, _| {
            judged(came, |answer| match &answer["choices"][0]["finish_reason"] {
                reason if reason == "length" => Ok("`finish_reason` is `length`".to_owned()),
                reason => Err(format!("`finish_reason` is {reason}, so that a cut answer is not seen")),
            })
        },
        ..CHAT
    },
    Case {
        name: "completions",
        route: Route::Completions,
        is_basic: false,
        body: |_, _| Ok(json!({"prompt": "Once upon a time", "max_tokens": 8})),
        judge: |_, came, _| {
            judged(came, |answer| {
                let text = answer["choices"][0]["text"].as_str();
                text.map(|text| format!("{:?}", start(text)))
                    .ok_or_else(|| "the answer has no text".to_owned())
            })
        },
        ..CHAT
    },
    Case {
        name: "responses",
        route: Route::Responses,
        is_basic: false,
        body: |_, _| Ok(json!({"input": "Say hello.", "max_output_tokens": 32})),
        judge: |_, came, _| {
            judged(came, |answer| {
                answer["output"]
                    .as_array()
                    .map(|_| String::new())
                    .ok_or_else(|| "the answer has no `output`".to_owned())
            })
        },
        ..CHAT
    },
    EMBEDDINGS,
    Case {
        name: "embeddings of a list",
        is_basic: false,
        body: |_, _| Ok(json!({"input": ["one", "two", "three"]})),
        judge: |_, came, _| {
            judged(came, |answer| {
                let lens: Vec<usize> =
                    (0..3).filter_map(|at| vector(answer, at)).map(<[Value]>::len).collect();
                if lens.len() == 3 {
                    Ok(String::new())
                } else {
                    Err(format!("{} of 3 vectors came", lens.len()))
                }
            })
        },
        ..EMBEDDINGS
    },
    Case {
        name: "embeddings in base64",
        is_basic: false,
        body: |_, _| Ok(json!({"input": "one", "encoding_format": "base64"})),
        judge: |_, came, _| {
            judged(came, |answer| match &answer["data"][0]["embedding"] {
                Value::String(text) => Ok(format!("{} numbers", text.len() / 4 * 3 / 4)),
                _ => Err("numbers came all the same".to_owned()),
            })
        },
        ..EMBEDDINGS
    },
    Case {
        name: "embeddings of a dimension",
        is_basic: false,
        body: |_, _| Ok(json!({"input": "one", "dimensions": 64})),
        judge: |_, came, _| {
            judged(came, |answer| match vector(answer, 0).map(<[Value]>::len) {
                Some(64) => Ok(String::new()),
                len => Err(format!("asked for 64 numbers, {} came", len.unwrap_or(0))),
            })
        },
        ..EMBEDDINGS
    },
    Case {
        name: "rerank",
        route: Route::Rerank,
        is_basic: true,
        asks_twice: false,
        body: |_, _| {
            Ok(
                json!({"query": "What is a panda?", "documents": ["A bear of China.", "A sort of cheese."]}),
            )
        },
        judge: |_, came, _| {
            judged(came, |answer| match answer["results"].as_array() {
                Some(results)
                    if results.len() == 2
                        && results.iter().all(|result| result["relevance_score"].is_number()) =>
                {
                    Ok(String::new())
                }
                _ => Err("the answer has no `results` with `relevance_score`".to_owned()),
            })
        },
    },
    Case {
        name: "a wrong model is refused",
        is_basic: false,
        body: |_, _| Ok(chat_of(NO_SUCH_MODEL)),
        judge: |_, came, _| match came {
            Err(fault) => Outcome::Can(words(fault)),
            Ok(_) => Outcome::Cannot(
                "it answers with the model that it has, whatever is asked for".to_owned(),
            ),
        },
        ..CHAT
    },
    Case {
        name: "a long prompt is refused",
        is_basic: false,
        body: |facts, model| {
            let known = facts.models.iter().find(|known| known.name == model);
            match known.and_then(|known| known.context_len) {
                Some(len) if len <= CONTEXT_MAX => {
                    Ok(chat(&"word ".repeat((len + len / 4) as usize), &json!({"max_tokens": 1})))
                }
                Some(len) => Err(format!("its context of {len} tokens is too long to try")),
                None => Err("it does not tell its context".to_owned()),
            }
        },
        judge: |_, came, _| match came {
            Err(fault @ (Fault::Refused { .. } | Fault::TooLongPrompt { .. })) => {
                Outcome::Can(words(fault))
            }
            Err(fault) => Outcome::Cannot(words(fault)),
            Ok(answer) => Outcome::Cannot(format!(
                "it answered, having read {} tokens",
                answer["usage"]["prompt_tokens"]
                    .as_u64()
                    .map_or_else(|| "some".to_owned(), |count| count.to_string())
            )),
        },
        ..CHAT
    },
];

const EMBEDDINGS: Case = Case {
    name: "embeddings",
    route: Route::Embeddings,
    is_basic: true,
    asks_twice: false,
    body: |_, _| Ok(json!({"input": "one"})),
    judge: |_, came, _| {
        judged(came, |answer| match vector(answer, 0) {
            Some(numbers) => Ok(format!("{} numbers", numbers.len())),
            None => Err("the answer has no vector".to_owned()),
        })
    },
};

fn chat(prompt: &str, more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": prompt}]});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

fn chat_of(model: &str) -> Value {
    chat("Say hello.", &json!({"model": model, "max_tokens": 1}))
}

fn judged(came: &Came, judge: impl FnOnce(&Value) -> Result<String, String>) -> Outcome {
    match came {
        Err(fault) => Outcome::Cannot(words(fault)),
        Ok(answer) => match judge(answer) {
            Ok(detail) => Outcome::Can(detail),
            Err(why) => Outcome::Cannot(why),
        },
    }
}

/// What was said. A model that only thought has said nothing, which is well.
fn content(answer: &Value) -> Result<&str, String> {
    let message = &answer["choices"][0]["message"];
    match &message["content"] {
        Value::String(text) => Ok(text),
        Value::Null if message["reasoning_content"].is_string() || message["reasoning"].is_string() => {
            Ok("")
        }
        _ => Err("the answer has no content".to_owned()),
    }
}

fn json_of(answer: &Value) -> Result<Value, String> {
    let text = content(answer)?;
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        _ => Err(format!("the answer is no JSON object: {}", start(text))),
    }
}

fn vector(answer: &Value, at: usize) -> Option<&[Value]> {
    let entry = answer["data"].as_array()?.iter().find(|entry| entry["index"] == at)?;
    entry["embedding"].as_array().map(Vec::as_slice).filter(|numbers| !numbers.is_empty())
}

fn start(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests;
