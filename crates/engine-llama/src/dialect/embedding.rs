//! `POST /v1/embeddings`: what is asked and what is answered.

use std::borrow::Cow;

use base64::Engine as _;
use serde::{Deserialize, Serialize, Serializer};

use super::fields::Fields;
use crate::refusal::{self, Refusal};
use crate::vector::scaled;

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

/// Written number by number: as JSON values a call's vectors would take ten times their memory.
#[derive(Debug, Serialize)]
pub(crate) struct Body<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
    model: &'a str,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<Vec<Cut>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Debug, Serialize)]
struct Cut {
    index: usize,
    tokens: usize,
}

#[derive(Debug)]
struct Vector<'a> {
    parts: Cow<'a, [f32]>,
    is_base64: bool,
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_base64 {
            let bytes: Vec<u8> = self.parts.iter().flat_map(|part| part.to_le_bytes()).collect();
            serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
        } else {
            self.parts.serialize(serializer)
        }
    }
}

impl EmbeddingAnswer {
    pub(crate) fn body<'a>(&'a self, model: &'a str, asked: &EmbeddingAsked) -> Body<'a> {
        let entry = |(index, embedding): (usize, &'a Vec<f32>)| {
            let parts = shortened(embedding, asked.dimensions);
            Entry { object: "embedding", index, embedding: Vector { parts, is_base64: asked.is_base64 } }
        };
        let cut = |(index, tokens): &(usize, usize)| Cut { index: *index, tokens: *tokens };
        Body {
            object: "list",
            data: self.embeddings.iter().enumerate().map(entry).collect(),
            model,
            usage: Usage { prompt_tokens: self.tokens, total_tokens: self.tokens },
            truncated: asked.truncates.then(|| self.cut.iter().map(cut).collect()),
        }
    }
}

/// The first so many parts, of length 1 again.
fn shortened(embedding: &[f32], dimensions: Option<usize>) -> Cow<'_, [f32]> {
    match dimensions.and_then(|dimensions| embedding.get(..dimensions)) {
        Some(parts) if parts.len() < embedding.len() => Cow::Owned(scaled(parts)),
        _ => Cow::Borrowed(embedding),
    }
}
