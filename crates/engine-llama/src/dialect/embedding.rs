//! `POST /v1/embeddings`: what is asked and what is answered.

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::Fields;
use crate::refusal::{self, Refusal};

/// As OpenAI has it.
pub(crate) const INPUTS_MAX: usize = 2_048;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EmbeddingAsked {
    pub(crate) model: Option<String>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) dimensions: Option<usize>,
    pub(crate) is_base64: bool,
    /// Inputs that are too long are cut, and the answer says which.
    pub(crate) truncates: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<i32>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Inputs {
    One(Input),
    Many(Vec<Input>),
}

impl EmbeddingAsked {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::read(body)?;
        let expected = "a text, a list of texts, or lists of tokens";
        let inputs = match fields.take("input", expected)?.ok_or_else(|| refusal::missing("input"))? {
            Inputs::One(input) => vec![input],
            Inputs::Many(inputs) => inputs,
        };
        let has_empty = inputs.iter().any(|input| match input {
            Input::Text(text) => text.is_empty(),
            Input::Tokens(tokens) => tokens.is_empty(),
        });
        if has_empty || inputs.is_empty() || inputs.len() > INPUTS_MAX {
            return Err(refusal::out_of_range(
                "input",
                &format!("1 to {INPUTS_MAX} inputs, none of them empty"),
            ));
        }
        let dimensions: Option<usize> = fields.take("dimensions", "an integer of at least 1")?;
        if dimensions == Some(0) {
            return Err(refusal::out_of_range("dimensions", "an integer of at least 1"));
        }
        let format: Option<String> = fields.take("encoding_format", "`float` or `base64`")?;
        let is_base64 = match format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err(refusal::out_of_range("encoding_format", "`float` or `base64`")),
        };
        let truncates: Option<bool> = fields.take("truncate", "true or false")?;
        let model = fields.take("model", "a text")?;
        fields.end()?;
        Ok(Self { model, inputs, dimensions, is_base64, truncates: truncates.unwrap_or(false) })
    }
}

/// What the model made of the inputs.
#[derive(Debug)]
pub(crate) struct EmbeddingAnswer {
    pub(crate) embeddings: Vec<Vec<f32>>,
    pub(crate) tokens: usize,
    /// Which inputs were cut, with the length that they had.
    pub(crate) cut: Vec<(usize, usize)>,
}

impl EmbeddingAnswer {
    pub(crate) fn body(&self, model: &str, asked: &EmbeddingAsked) -> Value {
        let data: Vec<Value> = self
            .embeddings
            .iter()
            .enumerate()
            .map(|(index, embedding)| {
                let embedding = shortened(embedding, asked.dimensions);
                let embedding = if asked.is_base64 { base64(&embedding) } else { json!(embedding) };
                json!({"object": "embedding", "index": index, "embedding": embedding})
            })
            .collect();
        let mut body = json!({
            "object": "list", "data": data, "model": model,
            "usage": {"prompt_tokens": self.tokens, "total_tokens": self.tokens},
        });
        if asked.truncates {
            let cut: Vec<Value> = self
                .cut
                .iter()
                .map(|(index, tokens)| json!({"index": index, "tokens": tokens}))
                .collect();
            body["truncated"] = json!(cut);
        }
        body
    }
}

/// The first so many parts, of length 1 again.
fn shortened(embedding: &[f32], dimensions: Option<usize>) -> Vec<f32> {
    let Some(dimensions) = dimensions.filter(|dimensions| *dimensions < embedding.len()) else {
        return embedding.to_vec();
    };
    let parts = &embedding[..dimensions];
    let len = parts.iter().map(|part| f64::from(*part).powi(2)).sum::<f64>().sqrt();
    if len == 0.0 {
        return parts.to_vec();
    }
    parts.iter().map(|part| (f64::from(*part) / len) as f32).collect()
}

fn base64(embedding: &[f32]) -> Value {
    let bytes: Vec<u8> = embedding.iter().flat_map(|part| part.to_le_bytes()).collect();
    Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
}
