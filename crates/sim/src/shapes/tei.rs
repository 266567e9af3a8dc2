//! Text Embeddings Inference 1.8: `/embed` and `/rerank` beside `/v1/embeddings`, no list of models, and limits that it
//! keeps with 413.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Page, Told};
use crate::answer::{push_json, tokens};
use crate::calls::{CallsView, body_key};
use crate::lists::{inputs_of, pair_score, push_vector, vector};
use crate::script::Script;
use crate::wire::push_json_answer;

/// How a TEI is set up; for its shape alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tei {
    /// In tokens; a token is four bytes here.
    pub max_input_length: u64,
    /// Cuts longer inputs, and says nothing, unless the request forbids it.
    pub auto_truncate: bool,
}

impl Default for Tei {
    fn default() -> Self {
        Self { max_input_length: 512, auto_truncate: false }
    }
}

/// What it can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Embed,
    Rerank,
    /// `/v1/embeddings`
    OpenAi,
}

impl Work {
    pub(crate) fn find(path: &str) -> Option<Self> {
        match path {
            "/embed" => Some(Self::Embed),
            "/rerank" => Some(Self::Rerank),
            _ => None,
        }
    }
}

pub(super) fn page(page: Page, script: &Script, calls: &CallsView) -> Option<Told> {
    match page {
        Page::Info => Some(Told::json(&json!({
            "model_id": script.models.first(),
            "model_sha": "fca14538aa9956a46526bd1d0d11d69e19b5a101",
            "model_dtype": "float16",
            "model_type": {"embedding": {"pooling": "cls"}},
            "max_concurrent_requests": script.permits.as_ref().map_or(512, |permits| permits.max),
            "max_input_length": script.tei.max_input_length,
            "max_batch_tokens": 16_384,
            "max_batch_requests": null,
            "max_client_batch_size": inputs_max(script),
            "auto_truncate": script.tei.auto_truncate,
            "tokenization_workers": 4,
            "version": "1.8.2",
            "sha": null,
            "docker_label": null,
        }))),
        Page::Metrics => {
            let (_, waiting) = super::load(script, calls);
            Some(Told::text(format!("# TYPE te_queue_size gauge\nte_queue_size {waiting}\n")))
        }
        _ => None,
    }
}

/// Answers a request that nothing else was decided about.
pub(crate) fn push_answer(work: Work, body: &[u8], script: &Script, out: &mut Vec<u8>) {
    let answered = match work {
        Work::Embed => embed(body, script),
        Work::Rerank => rerank(body, script),
        Work::OpenAi => openai(body, script),
    };
    match answered {
        Ok((count, body)) => {
            push_json_answer(out, 200, &format!("x-compute-tokens: {count}\r\n"), &body);
        }
        Err(Refusal { status, message, kind }) => {
            let body = match work {
                Work::OpenAi => json!({"message": message, "code": status, "type": kind}),
                _ => json!({"error": message, "error_type": kind}),
            };
            push_json_answer(out, status, "", body.to_string().as_bytes());
        }
    }
}

struct Refusal {
    status: u16,
    message: String,
    kind: &'static str,
}

type Answered = Result<(u64, Vec<u8>), Refusal>;

fn invalid(message: String) -> Refusal {
    Refusal { status: 413, message, kind: "Validation" }
}

fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Refusal> {
    // axum's own words for a body that it cannot read.
    let refusal = |error: serde_json::Error| Refusal {
        status: 422,
        message: error.to_string(),
        kind: "Validation",
    };
    serde_json::from_slice(body).map_err(refusal)
}

fn inputs_max(script: &Script) -> usize {
    script.embeddings.inputs_max.unwrap_or(32)
}

/// The inputs as they are worked on: cut where that is wanted, refused where not.
fn taken(inputs: Vec<Vec<u8>>, truncate: bool, script: &Script) -> Result<(u64, Vec<Vec<u8>>), Refusal> {
    let tei = &script.tei;
    if inputs.len() > inputs_max(script) {
        return Err(invalid(format!(
            "batch size {} > maximum allowed batch size {}",
            inputs.len(),
            inputs_max(script)
        )));
    }
    let mut count = 0;
    let mut taken = Vec::with_capacity(inputs.len());
    for mut input in inputs {
        let len = tokens(input.len());
        if len > tei.max_input_length {
            if !truncate {
                return Err(invalid(format!(
                    "Input validation error: `inputs` must have less than {} tokens. Given: {len}",
                    tei.max_input_length
                )));
            }
            input.truncate((tei.max_input_length * 4) as usize);
        }
        count += tokens(input.len());
        taken.push(input);
    }
    Ok((count, taken))
}

fn embed(body: &[u8], script: &Script) -> Answered {
    #[derive(Deserialize)]
    struct Asked {
        inputs: Value,
        truncate: Option<bool>,
        dimensions: Option<usize>,
    }
    let asked: Asked = parse(body)?;
    let inputs = inputs_of(&asked.inputs).map_err(|error| invalid(error.0))?;
    let (count, inputs) = taken(inputs, asked.truncate.unwrap_or(script.tei.auto_truncate), script)?;
    let vectors: Vec<Vec<f32>> =
        inputs.iter().map(|input| vector(body_key(input), asked.dimensions.unwrap_or(8))).collect();
    let mut answer = Vec::new();
    push_json(&mut answer, &vectors);
    Ok((count, answer))
}

fn rerank(body: &[u8], script: &Script) -> Answered {
    #[derive(Deserialize)]
    struct Asked {
        query: String,
        texts: Vec<String>,
        truncate: Option<bool>,
        return_text: Option<bool>,
    }
    let asked: Asked = parse(body)?;
    if asked.texts.is_empty() {
        return Err(invalid("`texts` cannot be empty".to_owned()));
    }
    let pairs = asked.texts.iter().map(|text| format!("{}{text}", asked.query).into_bytes()).collect();
    let (count, _) = taken(pairs, asked.truncate.unwrap_or(script.tei.auto_truncate), script)?;
    let mut ranks: Vec<(usize, &String, f32)> = asked
        .texts
        .iter()
        .enumerate()
        .map(|(index, text)| (index, text, pair_score(&asked.query, text)))
        .collect();
    ranks.sort_by(|a, b| b.2.total_cmp(&a.2));
    let rank = |(index, text, score): &(usize, &String, f32)| {
        let mut rank = json!({"index": index, "score": score});
        if asked.return_text == Some(true) {
            rank["text"] = json!(text);
        }
        rank
    };
    let mut answer = Vec::new();
    push_json(&mut answer, &ranks.iter().map(rank).collect::<Vec<Value>>());
    Ok((count, answer))
}

fn openai(body: &[u8], script: &Script) -> Answered {
    #[derive(Deserialize)]
    struct Asked {
        input: Value,
        encoding_format: Option<String>,
        dimensions: Option<usize>,
    }
    let asked: Asked = parse(body)?;
    let inputs = inputs_of(&asked.input).map_err(|error| invalid(error.0))?;
    let (count, inputs) = taken(inputs, script.tei.auto_truncate, script)?;
    let in_base64 = asked.encoding_format.as_deref() == Some("base64");
    let mut answer = b"{\"object\":\"list\",\"data\":[".to_vec();
    for (index, input) in inputs.iter().enumerate() {
        if index > 0 {
            answer.push(b',');
        }
        answer.extend_from_slice(
            format!("{{\"object\":\"embedding\",\"index\":{index},\"embedding\":").as_bytes(),
        );
        push_vector(&mut answer, &vector(body_key(input), asked.dimensions.unwrap_or(8)), in_base64);
        answer.push(b'}');
    }
    answer.extend_from_slice(b"],\"model\":");
    push_json(&mut answer, &script.models.first());
    answer.extend_from_slice(
        format!(",\"usage\":{{\"prompt_tokens\":{count},\"total_tokens\":{count}}}}}").as_bytes(),
    );
    Ok((count, answer))
}
