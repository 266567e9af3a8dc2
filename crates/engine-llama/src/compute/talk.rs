//! One generation: from logits to tokens, from tokens to what is said.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::choices::{Choices, Place};
use crate::llama::{Chooser, ComputeError, Model, Session};
use crate::question::{EndReason, Ending, Form, Generation, Piece, Said, Sampling};
use crate::speech::Speech;
use crate::token::Token;

/// What follows from a row's logits.
pub(super) enum Next {
    GoOn(Vec<Token>),
    Ended,
    /// Nobody listens.
    Gone,
}

pub(super) struct Talk {
    said: mpsc::Sender<Said>,
    speech: Speech,
    chooser: Chooser,
    form: Form,
    place: Place,
    sampling: Sampling,
    top_logprobs: Option<u8>,
    prompt_tokens: u32,
    cached_tokens: Option<u32>,
    answer_tokens: u32,
    answer_len_max: u32,
    /// What was not taken yet.
    piece: Piece,
    reason: EndReason,
    /// For choices among branches by chance.
    draws: u64,
}

/// Whoever waits for a talk that cannot begin, and why.
pub(super) type Unbegun = (mpsc::Sender<Said>, String);

impl Talk {
    /// The talk, and the tokens to begin with: the prompt, and what must follow it.
    pub(super) fn new(
        model: &Model,
        generation: Generation,
        said: mpsc::Sender<Said>,
    ) -> Result<(Self, Arc<[Token]>), Unbegun> {
        let chooser = match model.chooser(&generation.sampling, &generation.form) {
            Ok(chooser) => chooser,
            Err(what) => return Err((said, what)),
        };
        let mut talk = Self {
            said,
            speech: Speech::new(generation.stop),
            chooser,
            form: generation.form,
            place: Place::default(),
            sampling: generation.sampling,
            top_logprobs: generation.top_logprobs,
            prompt_tokens: generation.prompt.len() as u32,
            cached_tokens: None,
            answer_tokens: 0,
            answer_len_max: generation.answer_len_max.max(1),
            piece: Piece::default(),
            reason: EndReason::Stop,
            draws: u64::from(generation.sampling.seed),
        };
        let Form::OneOf(choices) = talk.form.clone() else { return Ok((talk, generation.prompt)) };
        let (forced, place) = choices.forced(Place::default());
        talk.place = place;
        // A single answer is known without the model; one row of logits is computed all the same, to end it by.
        let room = talk.answer_len_max.saturating_sub(1) as usize;
        let forced: Vec<Token> =
            forced.into_iter().take(room).filter(|token| !model.ends(*token)).collect();
        for token in &forced {
            talk.hear(model, *token);
        }
        let prompt = generation.prompt.iter().copied().chain(forced).collect();
        Ok((talk, prompt))
    }

    pub(super) const fn is_untouched(&self) -> bool {
        self.cached_tokens.is_none()
    }

    pub(super) const fn has_begun(&self) -> bool {
        self.cached_tokens.is_some()
    }

    pub(super) fn begin(&mut self, cached: u32) {
        self.cached_tokens = Some(cached.min(self.prompt_tokens));
    }

    pub(super) const fn answer_len_left(&self) -> u32 {
        self.answer_len_max - self.answer_tokens
    }

    pub(super) fn on_logits(
        &mut self,
        model: &Model,
        session: &mut Session<'_>,
        row: usize,
    ) -> Result<Next, ComputeError> {
        let tokens = match self.form.clone() {
            Form::OneOf(choices) => self.choose_branch(&choices, session, row)?,
            Form::Free | Form::Grammar(_) => vec![session.choose(row, &mut self.chooser)?],
        };
        let first = tokens.first().filter(|first| !model.ends(**first));
        if let (Some(top), Some(first)) = (self.top_logprobs, first) {
            self.piece.logprobs.push(session.logprob(row, *first, top)?);
        }
        if tokens.is_empty() {
            return Ok(Next::Ended);
        }
        for token in &tokens {
            if model.ends(*token) {
                self.reason = EndReason::Stop;
                return Ok(Next::Ended);
            }
            self.hear(model, *token);
            if self.speech.has_stopped() {
                self.reason = EndReason::Stop;
                return Ok(Next::Ended);
            }
            if self.answer_tokens >= self.answer_len_max {
                self.reason = EndReason::Length;
                return Ok(Next::Ended);
            }
        }
        Ok(if self.send_piece() { Next::GoOn(tokens) } else { Next::Gone })
    }

    /// The branch that the model takes, and what must follow it.
    fn choose_branch(
        &mut self,
        choices: &Choices,
        session: &mut Session<'_>,
        row: usize,
    ) -> Result<Vec<Token>, ComputeError> {
        let branches: Vec<Token> = choices.branches(self.place).collect();
        if branches.is_empty() {
            return Ok(Vec::new());
        }
        let chance = (self.sampling.temperature > 0.0)
            .then(|| (self.sampling.temperature, draw(&mut self.draws)));
        let token = session.choose_among(row, &branches, chance)?;
        let place = choices.take(self.place, token).expect("it was chosen among the branches");
        let (forced, place) = choices.forced(place);
        self.place = place;
        Ok([token].into_iter().chain(forced).collect())
    }

    fn hear(&mut self, model: &Model, token: Token) {
        self.answer_tokens += 1;
        let text = self.speech.say(&model.piece(token));
        self.piece.text.push_str(&text);
    }

    /// False when nobody listens.
    fn send_piece(&mut self) -> bool {
        if self.piece == Piece::default() {
            return !self.said.is_closed();
        }
        match self.said.try_send(Said::Piece(std::mem::take(&mut self.piece))) {
            Ok(()) => true,
            Err(TrySendError::Full(Said::Piece(piece))) => {
                self.piece = piece;
                true
            }
            Err(_) => false,
        }
    }

    pub(super) fn end(mut self) -> (mpsc::Sender<Said>, Vec<Said>) {
        if !self.speech.has_stopped() {
            let rest = self.speech.rest();
            self.piece.text.push_str(&rest);
        }
        let ending = Ending {
            reason: self.reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            answer_tokens: self.answer_tokens,
        };
        let mut rest = vec![Said::End(ending)];
        if self.piece != Piece::default() {
            rest.insert(0, Said::Piece(self.piece));
        }
        (self.said, rest)
    }

    pub(super) fn fail(self, what: String) -> (mpsc::Sender<Said>, Vec<Said>) {
        (self.said, vec![Said::Failed(what)])
    }
}

/// Hands over what is left to say. True: there is still something.
pub(super) fn deliver(said: &mpsc::Sender<Said>, rest: &mut Vec<Said>) -> bool {
    while !rest.is_empty() {
        match said.try_send(rest[0].clone()) {
            Ok(()) => {
                rest.remove(0);
            }
            Err(TrySendError::Full(_)) => return true,
            Err(TrySendError::Closed(_)) => return false,
        }
    }
    false
}

/// A number from 0 to 1: SplitMix64, whose state is the seed.
fn draw(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 40) as f32 / (1_u64 << 24) as f32
}
