//! TEI's own routes, for what its OpenAI route lacks: `/rerank`, which it has under no other name, and `/embed`, which
//! alone can be told not to cut inputs.
//!
//! Written from the source of 1.2 to 1.8 (`router/src/http/types.rs`, `server.rs`). Numbers are copied digit by digit. An
//! answer takes the shape that the same request has at other engines.

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::survey::Seen;

/// How many tokens the request came to.
const COMPUTE_TOKENS: HeaderName = HeaderName::from_static("x-compute-tokens");

/// A request in TEI's own words, and how its answer is brought back.
#[derive(Debug)]
pub(crate) struct Native {
    pub(crate) path: &'static str,
    pub(crate) body: Bytes,
    model: String,
    back: Back,
}

#[derive(Debug)]
enum Back {
    Embeddings { in_base64: bool },
    Rerank { top_n: usize, documents: Option<Vec<String>> },
}

/// The request in TEI's own words, where it must be sent so.
pub(crate) fn native(route: Route, body: &Bytes, seen: &Seen) -> Result<Option<Native>, Fault> {
    match route {
        Route::Rerank => rerank(body, seen).map(Some),
        Route::Embeddings => embed(body, seen),
        _ => Ok(None),
    }
}

impl Native {
    /// The answer as the caller expects it.
    pub(crate) fn back(&self, headers: &HeaderMap, body: &[u8]) -> Result<Bytes, Fault> {
        let tokens = headers.get(COMPUTE_TOKENS).and_then(|value| value.to_str().ok()?.parse().ok());
        let written = match &self.back {
            Back::Embeddings { in_base64 } => embeddings_back(body, &self.model, tokens, *in_base64),
            Back::Rerank { top_n, documents } => {
                rerank_back(body, &self.model, tokens, *top_n, documents.as_deref())
            }
        };
        written.map(Bytes::from).map_err(|reason| Fault::Garbage { detail: reason })
    }
}

/// TEI says 424 when the model failed, and 413 when an input has too many tokens. Other words are as elsewhere.
pub(crate) fn reinterpret(fault: Fault) -> Fault {
    match fault {
        Fault::Refused { status: 424, body } => Fault::EngineError { status: 424, body },
        Fault::Refused { status: 413 | 422, body } if is_too_long(&body) => too_long(&body),
        other => other,
    }
}

/// "`inputs` must have less than 512 tokens. Given: 600"
fn is_too_long(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.contains("must have less than") && text.contains("tokens. Given")
}

fn too_long(body: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(body);
    let number_behind = |mark: &str| -> Option<u64> {
        let tail = text.split_once(mark)?.1.trim_start();
        tail.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Fault::TooLongPrompt {
        prompt_tokens: number_behind("Given:"),
        context_len: number_behind("must have less than"),
        detail: crate::answer::read_error(body).unwrap_or_else(|| text.into_owned()),
    }
}

#[derive(Deserialize)]
struct AskedRerank<'a> {
    #[serde(borrow)]
    query: &'a RawValue,
    documents: Vec<Value>,
    model: Option<String>,
    top_n: Option<usize>,
    return_documents: Option<bool>,
    raw_scores: Option<bool>,
    truncate: Option<bool>,
}

fn rerank(body: &Bytes, seen: &Seen) -> Result<Native, Fault> {
    let asked: AskedRerank<'_> = serde_json::from_slice(body)
        .map_err(|error| refused(&format!("the request is not understood: {error}")))?;
    let text_of = |(index, document): (usize, &Value)| {
        let text = document.as_str().or_else(|| document["text"].as_str());
        text.map(str::to_owned).ok_or_else(|| {
            refused(&format!("`documents[{index}]` is neither a text nor an object with `text`"))
        })
    };
    let texts: Vec<String> =
        asked.documents.iter().enumerate().map(text_of).collect::<Result<_, _>>()?;
    let ours = NativeRerank {
        query: asked.query,
        texts: &texts,
        raw_scores: asked.raw_scores.unwrap_or(false),
        return_text: false,
        truncate: truncate(asked.truncate, seen),
    };
    Ok(Native {
        path: "/rerank",
        body: Bytes::from(serde_json::to_vec(&ours).expect("plain data")),
        model: asked.model.or_else(|| seen.model.clone()).unwrap_or_default(),
        back: Back::Rerank {
            top_n: asked.top_n.unwrap_or(usize::MAX),
            documents: asked.return_documents.unwrap_or(true).then_some(texts),
        },
    })
}

#[derive(Serialize)]
struct NativeRerank<'a> {
    query: &'a RawValue,
    texts: &'a [String],
    raw_scores: bool,
    return_text: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate: Option<bool>,
}

/// A caller who wants inputs to be cut says so; of itself the engine must not do it unseen.
fn truncate(asked: Option<bool>, seen: &Seen) -> Option<bool> {
    asked.or(seen.cuts.then_some(false))
}

fn rerank_back(
    body: &[u8],
    model: &str,
    tokens: Option<u64>,
    top_n: usize,
    documents: Option<&[String]>,
) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Rank<'a> {
        index: usize,
        #[serde(borrow)]
        score: &'a RawValue,
    }
    #[derive(Serialize)]
    struct Document<'a> {
        text: &'a str,
    }
    #[derive(Serialize)]
    struct Ranked<'a> {
        index: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        document: Option<Document<'a>>,
        relevance_score: &'a RawValue,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        model: &'a str,
        results: Vec<Ranked<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Value>,
    }
    let mut ranks: Vec<Rank<'_>> =
        serde_json::from_slice(body).map_err(|error| format!("not a list of ranks: {error}"))?;
    let score = |rank: &Rank<'_>| rank.score.get().parse::<f64>().unwrap_or(f64::NEG_INFINITY);
    ranks.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.index.cmp(&b.index)));
    ranks.truncate(top_n);
    let mut results = Vec::with_capacity(ranks.len());
    for Rank { index, score } in ranks {
        let document = match documents.map(|documents| documents.get(index)) {
            None => None,
            Some(Some(text)) => Some(Document { text }),
            Some(None) => return Err(format!("a rank for document {index}, which was not sent")),
        };
        results.push(Ranked { index, document, relevance_score: score });
    }
    let usage = tokens.map(|tokens| json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    Ok(serde_json::to_vec(&Answer { model, results, usage }).expect("plain data"))
}

#[derive(Deserialize)]
struct AskedEmbeddings<'a> {
    #[serde(borrow)]
    input: &'a RawValue,
    model: Option<String>,
    encoding_format: Option<String>,
    truncate: Option<bool>,
    #[serde(borrow)]
    dimensions: Option<&'a RawValue>,
    #[serde(borrow)]
    truncation_direction: Option<&'a RawValue>,
    #[serde(borrow)]
    normalize: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_name: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct NativeEmbeddings<'a> {
    inputs: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncation_direction: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalize: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_name: Option<&'a RawValue>,
}

/// None where the OpenAI route says all that is asked.
fn embed(body: &Bytes, seen: &Seen) -> Result<Option<Native>, Fault> {
    // What is not understood is for the engine to refuse, in its own words.
    let Ok(asked) = serde_json::from_slice::<AskedEmbeddings<'_>>(body) else { return Ok(None) };
    let is_plain = asked.truncate.is_none()
        && asked.truncation_direction.is_none()
        && asked.normalize.is_none()
        && asked.prompt_name.is_none();
    if is_plain && !seen.cuts {
        return Ok(None);
    }
    let in_base64 = match asked.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(refused(&format!(
                "`encoding_format` must be `float` or `base64`, not `{other}`"
            )));
        }
    };
    let ours = NativeEmbeddings {
        inputs: asked.input,
        truncate: truncate(asked.truncate, seen),
        dimensions: asked.dimensions,
        truncation_direction: asked.truncation_direction,
        normalize: asked.normalize,
        prompt_name: asked.prompt_name,
    };
    Ok(Some(Native {
        path: "/embed",
        body: Bytes::from(serde_json::to_vec(&ours).expect("plain data")),
        model: asked.model.or_else(|| seen.model.clone()).unwrap_or_default(),
        back: Back::Embeddings { in_base64 },
    }))
}

fn embeddings_back(
    body: &[u8],
    model: &str,
    tokens: Option<u64>,
    in_base64: bool,
) -> Result<Vec<u8>, String> {
    #[derive(Serialize)]
    struct Entry<'a, T> {
        object: &'a str,
        index: usize,
        embedding: T,
    }
    #[derive(Serialize)]
    struct Answer<'a, T> {
        object: &'a str,
        data: Vec<Entry<'a, T>>,
        model: &'a str,
        usage: Value,
    }
    let vectors: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| format!("not a list of embeddings: {error}"))?;
    let tokens = tokens.unwrap_or(0);
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let written = if in_base64 {
        let mut data = Vec::with_capacity(vectors.len());
        for (index, vector) in vectors.into_iter().enumerate() {
            data.push(Entry { object: "embedding", index, embedding: base64_of(vector)? });
        }
        serde_json::to_vec(&Answer { object: "list", data, model, usage })
    } else {
        let mut data = Vec::with_capacity(vectors.len());
        for (index, vector) in vectors.into_iter().enumerate() {
            if !vector.get().starts_with('[') {
                return Err(format!("embedding {index} is no list"));
            }
            data.push(Entry { object: "embedding", index, embedding: vector });
        }
        serde_json::to_vec(&Answer { object: "list", data, model, usage })
    };
    Ok(written.expect("plain data"))
}

/// As OpenAI packs it: the numbers' four bytes, the lowest first.
fn base64_of(vector: &RawValue) -> Result<String, String> {
    let numbers: Vec<f32> = serde_json::from_str(vector.get())
        .map_err(|error| format!("an embedding is no list of numbers: {error}"))?;
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The request's own fault, said before it is sent, as an engine would say it.
fn refused(message: &str) -> Fault {
    let body = json!({"error": {
        "message": message, "type": "invalid_request_error", "param": null, "code": "invalid_request",
    }});
    Fault::Refused { status: 400, body: body.to_string().into_bytes() }
}

#[cfg(test)]
mod tests;
