//! What the computing thread is asked, and what it says.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::choices::Choices;
#[cfg(feature = "llama")]
use crate::grammar::Grammar;
use crate::refusal::Refusal;
use crate::token::{QuestionId, Token};

/// How the next token is chosen. A temperature of 0 takes the likeliest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampling {
    pub(crate) temperature: f32,
    /// 0: all.
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) presence_penalty: f32,
    /// 1: none.
    pub(crate) repeat_penalty: f32,
    pub(crate) seed: u32,
}

impl Sampling {
    /// Whether nothing but the temperature matters.
    pub(crate) fn is_plain(&self) -> bool {
        let has_cuts = self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0;
        let has_penalties = self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
            || (self.repeat_penalty - 1.0).abs() > f32::EPSILON;
        !has_penalties && (self.temperature == 0.0 || !has_cuts)
    }
}

/// What an answer may look like.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    Free,
    #[cfg(feature = "llama")]
    Grammar(Grammar),
    /// One of these texts, and nothing else.
    OneOf(Arc<Choices>),
}

/// A text to be continued.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) prompt: Arc<[Token]>,
    pub(crate) answer_len_max: u32,
    pub(crate) sampling: Sampling,
    pub(crate) form: Form,
    pub(crate) stop: Vec<String>,
    /// Log probabilities of the chosen token and of so many others.
    pub(crate) top_logprobs: Option<u8>,
}

/// An order to the computing thread.
#[derive(Debug)]
pub(crate) enum Order {
    Generate(QuestionId, Generation, mpsc::Sender<Said>),
    Embed(QuestionId, Vec<Arc<[Token]>>, mpsc::Sender<Embedded>),
    /// Nobody listens any more.
    Forget(QuestionId),
    /// The process is about to end: whoever waits is told to come again.
    Stop,
}

/// What comes back of a generation, in this order: any number of pieces, then one end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Piece(Piece),
    End(Ending),
    /// The engine could not go on with it.
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprob>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenLogprob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) logprob: f32,
    pub(crate) top: Vec<(Vec<u8>, f32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The model was done, or a stop string came.
    Stop,
    /// The limit of the answer or of the context.
    Length,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) reason: EndReason,
    pub(crate) prompt_tokens: u32,
    /// Of the prompt, copied from what was computed before.
    pub(crate) cached_tokens: u32,
    pub(crate) answer_tokens: u32,
}

/// The embeddings of all inputs in their order, or why there are none.
pub(crate) type Embedded = Result<Vec<Vec<f32>>, Refusal>;
