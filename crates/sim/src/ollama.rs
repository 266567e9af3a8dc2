//! The shape of Ollama: its own routes, one runner that is loaded anew when options of loading change, a queue before
//! it, durations in the answers, and prompts that are cut without a word.
//!
//! Written from ollama/ollama 0.32 (`api/types.go`, `server/routes.go`, `server/prompt.go`, `server/sched.go`) and, for
//! how versions before 0.13 cut, from the runner of 0.9 (`runner/ollamarunner`). Tokens are counted in a way of its own:
//! pieces of words, and punctuation.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::calls::body_key;
use crate::conduct::Active;
use crate::wire::push_json_answer;

mod prompt;
mod runner;

pub(crate) use runner::Runner;

use prompt::{Cut, Prompt};

/// How the Ollama is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ollama {
    pub version: String,
    /// The context that a model is loaded with when nobody says otherwise.
    pub num_ctx: u64,
    /// The context that its models were made for. No version takes more.
    pub trained_ctx: u64,
    /// `OLLAMA_NUM_PARALLEL`.
    pub parallel: u32,
    /// `OLLAMA_MAX_QUEUE`: requests that wait for a load.
    pub max_queue: usize,
    /// How long a load takes.
    pub load_ms: u64,
    /// Tokens that an answer would have if nothing ended it.
    pub answer_tokens: u64,
}

impl Default for Ollama {
    fn default() -> Self {
        Self {
            version: "0.32.9".to_owned(),
            num_ctx: 4096,
            trained_ctx: 131_072,
            parallel: 1,
            max_queue: 512,
            load_ms: 0,
            answer_tokens: 5,
        }
    }
}

/// The routes that compute something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Chat,
    Generate,
    Embed,
}

/// The routes that only tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    Version,
    Tags,
    Ps,
    Show,
}

/// An answer with its status.
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Ollama {
    /// Whether chat and generate know `truncate` and `shift`, and `/api/ps` tells the context.
    fn is_new(&self) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (0, 13)
    }
}

/// A name without a tag means `:latest`.
fn tagged(name: &str) -> String {
    if name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

fn failed(status: u16, message: &str) -> Told {
    Told { status, body: json!({"error": message}) }
}

impl Told {
    pub(crate) fn push(&self, out: &mut Vec<u8>) {
        push_json_answer(out, self.status, "", self.body.to_string().as_bytes());
    }
}

pub(crate) fn tell(tell: Tell, body: &[u8], active: &Active) -> Told {
    let setup = &active.script.ollama;
    let body = match tell {
        Tell::Version => json!({"version": setup.version}),
        Tell::Tags => {
            let models: Vec<Value> = active.script.models.iter().map(|name| model(name)).collect();
            json!({"models": models})
        }
        Tell::Ps => {
            let models: Vec<Value> = active
                .ollama
                .loaded()
                .map(|(name, context)| {
                    let mut loaded = model(&name);
                    loaded["expires_at"] = json!("2026-11-21T20:00:00Z");
                    loaded["size_vram"] = json!(1 << 30);
                    if setup.is_new() {
                        loaded["context_length"] = json!(context);
                    }
                    loaded
                })
                .into_iter()
                .collect();
            json!({"models": models})
        }
        Tell::Show => {
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            let name = asked["model"].as_str().unwrap_or_default();
            if !is_there(name, active) {
                return failed(404, &format!("model '{name}' not found"));
            }
            json!({
                "parameters": format!("num_ctx                        {}", setup.num_ctx),
                "template": "{{ .Prompt }}",
                "details": {"format": "gguf", "family": "sim"},
                "model_info": {"general.architecture": "sim", "sim.context_length": setup.trained_ctx},
                "capabilities": ["completion", "tools", "thinking"],
            })
        }
    };
    Told { status: 200, body }
}

fn model(name: &str) -> Value {
    let name = tagged(name);
    json!({
        "name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 1 << 30,
        "digest": format!("{:016x}{:016x}", body_key(name.as_bytes()), 7),
        "details": {"format": "gguf", "family": "sim", "parameter_size": "1B"},
    })
}

fn is_there(name: &str, active: &Active) -> bool {
    active.script.models.iter().any(|known| tagged(known) == tagged(name))
}

/// Waits for the runner, for the time that the answer takes, and answers.
pub(crate) async fn work(work: Work, body: &[u8], latency: Duration, active: &Active) -> Told {
    let arrived = Instant::now();
    let asked: Value = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) => return failed(400, &error.to_string()),
    };
    let name = asked["model"].as_str().unwrap_or_default();
    if !is_there(name, active) {
        return failed(404, &format!("model '{name}' not found"));
    }
    let setup = &active.script.ollama;
    let options = runner::Options::of(&asked["options"], &tagged(name), setup);
    let context = options.num_ctx;
    let Ok(slot) = active.ollama.take(options, setup).await else {
        return failed(503, "server busy, please try again.  maximum pending requests exceeded");
    };
    let load = arrived.elapsed();
    let computed = Instant::now();
    let told = match work {
        Work::Embed => embed(&asked, context, active),
        Work::Chat | Work::Generate => generate(work, &asked, context, active),
    };
    tokio::time::sleep(latency).await;
    drop(slot);
    let mut told = told;
    if told.status == 200 {
        let eval = computed.elapsed();
        told.body["model"] = asked["model"].clone();
        told.body["total_duration"] = json!(arrived.elapsed().as_nanos() as u64);
        told.body["load_duration"] = json!(load.as_nanos() as u64);
        if work != Work::Embed {
            told.body["prompt_eval_duration"] = json!((eval / 2).as_nanos() as u64);
            told.body["eval_duration"] = json!((eval / 2).as_nanos() as u64);
        }
    }
    told
}

fn generate(work: Work, asked: &Value, context: u64, active: &Active) -> Told {
    let setup = &active.script.ollama;
    let flag = |name: &str| !setup.is_new() || asked[name].as_bool().unwrap_or(true);
    let mut prompt = match work {
        Work::Chat => Prompt::of_messages(&asked["messages"], &asked["tools"]),
        _ => Prompt::of_text(asked["prompt"].as_str().unwrap_or_default(), asked["raw"] == true),
    };
    let cut = Cut { context, may_truncate: flag("truncate"), halves: setup.is_new() };
    let (read, was_cut) = match prompt.cut(cut) {
        Ok(read) => read,
        Err(tokens) => {
            let message = format!(
                "request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
            );
            return failed(400, &message);
        }
    };
    let wanted = asked["options"]["num_predict"].as_i64().and_then(|number| u64::try_from(number).ok());
    let (mut said, mut reason) = match wanted {
        Some(wanted) if wanted < setup.answer_tokens => (wanted, "length"),
        _ => (setup.answer_tokens, "stop"),
    };
    let room = context.saturating_sub(read);
    let mut is_shifted = false;
    if said > room {
        if flag("shift") {
            is_shifted = true;
        } else {
            (said, reason) = (room, "length");
        }
    }
    let text = if was_cut || is_shifted {
        CUT_TEXT.to_owned()
    } else {
        format!("answer {:016x}", body_key(asked.to_string().as_bytes()))
    };
    let mut body = json!({
        "created_at": "2026-11-21T08:15:30.123456789Z", "done": true, "done_reason": reason,
        "prompt_eval_count": read, "eval_count": said,
    });
    if work == Work::Chat {
        body["message"] = message(asked, &text);
    } else {
        body["response"] = json!(text);
        body["context"] = json!([1, 2, 3]);
    }
    if asked["logprobs"] == true && setup.is_new() {
        body["logprobs"] = json!([
            {"token": "answer", "logprob": -0.25, "bytes": [97],
             "top_logprobs": [{"token": "answer", "logprob": -0.25, "bytes": [97]}]}
        ]);
    }
    Told { status: 200, body }
}

/// What an answer to a prompt says that the engine has not read whole, so that a test finds it wherever it ends up.
pub(crate) const CUT_TEXT: &str = "an answer to a prompt that was cut";

/// Calls the first tool when there is one, thinks when asked to, and keeps to a format.
fn message(asked: &Value, text: &str) -> Value {
    let mut message = json!({"role": "assistant", "content": text});
    if let Some(name) = asked.pointer("/tools/0/function/name") {
        message["content"] = json!("");
        message["tool_calls"] = json!([{"id": "call_sim", "function": {"index": 0, "name": name, "arguments": {"b": 1, "a": "x"}}}]);
    }
    if asked["think"] == true || asked["think"].is_string() {
        message["thinking"] = json!("hm");
    }
    if asked["format"].is_string() || asked["format"].is_object() {
        message["content"] = json!(json!({"format": asked["format"]}).to_string());
    }
    if let Some(images) = asked["messages"].as_array().and_then(|list| list.last()?["images"].as_array())
    {
        message["content"] = json!(format!("{} images", images.len()));
    }
    message
}

/// Embedding cuts from the end. Versions since 0.13 refuse; before, `truncate: false` refuses.
fn embed(asked: &Value, context: u64, active: &Active) -> Told {
    let texts: Vec<&str> = match &asked["input"] {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => return failed(400, "invalid input type"),
    };
    let len = asked["dimensions"].as_u64().map_or(active.script.embedding_len, |len| len as usize);
    let mut read = 0;
    let mut vectors = Vec::with_capacity(texts.len());
    for text in texts {
        let tokens = prompt::tokens(text) + 2;
        if tokens > context && (asked["truncate"] == false || active.script.ollama.is_new()) {
            return failed(400, "the input length exceeds the context length");
        }
        read += tokens.min(context);
        vectors.push(crate::lists::vector(body_key(text.as_bytes()), len));
    }
    Told { status: 200, body: json!({"embeddings": vectors, "prompt_eval_count": read}) }
}
