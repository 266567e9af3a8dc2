//! `POST /v1/completions`, as it is asked.

use serde::Deserialize;

use super::fields::Fields;
use super::generation::Asked;
use crate::refusal::{self, Refusal};

/// Alternatives that are shown for each token, as OpenAI has it.
const LOGPROBS_MAX: u8 = 5;

#[derive(Debug, PartialEq)]
pub(crate) struct CompletionAsked {
    pub(crate) asked: Asked,
    pub(crate) prompt: Prompt,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Texts([String; 1]),
    Tokens(Vec<i32>),
}

impl CompletionAsked {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::read(body)?;
        let expected = "one text, or one list of tokens";
        let prompt = fields.take("prompt", expected)?.ok_or_else(|| refusal::missing("prompt"))?;
        let mut asked = Asked::take(&mut fields)?;
        let logprobs: Option<u8> = fields.take("logprobs", "an integer from 0 to 5")?;
        if logprobs.is_some_and(|logprobs| logprobs > LOGPROBS_MAX) {
            return Err(refusal::out_of_range("logprobs", "an integer from 0 to 5"));
        }
        asked.top_logprobs = logprobs;
        fields.only("best_of", &["1"])?;
        fields.only("echo", &["false"])?;
        fields.only("suffix", &["\"\""])?;
        fields.end()?;
        Ok(Self { asked, prompt })
    }
}
