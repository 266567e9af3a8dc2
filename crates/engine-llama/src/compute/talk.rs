//! One generation: from logits to tokens, from tokens to what is said.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::guide::Guide;
use crate::llama::{Chooser, ComputeError, Model, Session};
use crate::question::{EndReason, Ending, Generation, Piece, Said, Sampling};
use crate::refusal::{self, Refusal};
use crate::speech::Speech;
use crate::token::Token;

/// What follows from a row's logits.
pub(super) enum Next {
    GoOn(Vec<Token>),
    Ended,
    Refused(Refusal),
    /// Nobody listens.
    Gone,
}

pub(super) struct Talk {
    said: mpsc::Sender<Said>,
    speech: Speech,
    chooser: Chooser,
    guide: Guide,
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
    uncounted: Counts,
}

/// Tokens of an answer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) all: u64,
    /// That had to follow, and were not asked of the model.
    pub(super) forced: u64,
}

/// Whoever waits for a talk that cannot begin, and why.
pub(super) type Unbegun = (mpsc::Sender<Said>, Refusal);

impl Talk {
    /// The talk, and the tokens to begin with: the prompt, and what must follow it.
    pub(super) fn new(
        model: &Model,
        generation: Generation,
        said: mpsc::Sender<Said>,
    ) -> Result<(Self, Arc<[Token]>), Unbegun> {
        let mut talk = Self {
            said,
            speech: Speech::new(generation.stop),
            chooser: model.chooser(&generation.sampling),
            guide: Guide::new(&generation.form),
            sampling: generation.sampling,
            top_logprobs: generation.top_logprobs,
            prompt_tokens: generation.prompt.len() as u32,
            cached_tokens: None,
            answer_tokens: 0,
            answer_len_max: generation.answer_len_max.max(1),
            piece: Piece::default(),
            reason: EndReason::Stop,
            draws: u64::from(generation.sampling.seed),
            uncounted: Counts::default(),
        };
        // A single answer is known without the model; one row of logits is computed all the same, to end it by.
        match talk.hear_forced(model, talk.answer_len_max - 1) {
            Ok(forced) if forced.is_empty() => Ok((talk, generation.prompt)),
            Ok(forced) => Ok((talk, generation.prompt.iter().copied().chain(forced).collect())),
            Err(why) => Err((talk.said, refusal::cannot_follow(&why))),
        }
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

    /// What was said since the last time.
    pub(super) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.uncounted)
    }

    pub(super) fn on_logits(
        &mut self,
        model: &Model,
        session: &mut Session<'_>,
        row: usize,
    ) -> Result<Next, ComputeError> {
        if let Err(why) = self.guide.begin() {
            return Ok(Next::Refused(refusal::cannot_follow(&why)));
        }
        if self.speech.has_stopped() || self.guide.is_over() {
            return Ok(Next::Ended);
        }
        let token = match self.choose(model, session, row)? {
            Ok(token) if model.ends(token) => return Ok(Next::Ended),
            Ok(token) => token,
            Err(why) => return Ok(Next::Refused(refusal::cannot_follow(&why))),
        };
        if let Some(top) = self.top_logprobs {
            self.piece.logprobs.push(session.logprob(row, token, top)?);
        }
        self.hear(model, token);
        let mut tokens = match self.hear_forced(model, self.answer_len_left()) {
            Ok(forced) => forced,
            Err(why) => return Ok(Next::Refused(refusal::cannot_follow(&why))),
        };
        if self.speech.has_stopped() || self.guide.is_over() {
            return Ok(Next::Ended);
        }
        if self.answer_tokens >= self.answer_len_max {
            self.reason = EndReason::Length;
            return Ok(Next::Ended);
        }
        tokens.insert(0, token);
        Ok(if self.send_piece() { Next::GoOn(tokens) } else { Next::Gone })
    }

    /// The next token, or why none can be kept to what was asked.
    fn choose(
        &mut self,
        model: &Model,
        session: &mut Session<'_>,
        row: usize,
    ) -> Result<Result<Token, String>, ComputeError> {
        match &mut self.guide {
            Guide::Free => session.choose(row, &mut self.chooser).map(Ok),
            Guide::Ahead(..) => unreachable!("with the first logits it has begun"),
            Guide::Grammar(walk) => {
                let allowed = match walk.allowed() {
                    Ok(allowed) => allowed,
                    Err(why) => return Ok(Err(why)),
                };
                let token = session.choose_allowed(row, &allowed, &mut self.chooser)?;
                let taken = if model.ends(token) { Ok(()) } else { walk.take(&[token]) };
                Ok(taken.map(|()| token))
            }
            Guide::OneOf(choices, place) => {
                let branches: Vec<Token> = choices.branches(*place).collect();
                let chance = (self.sampling.temperature > 0.0)
                    .then(|| (self.sampling.temperature, draw(&mut self.draws)));
                let token = session.choose_among(row, &branches, chance)?;
                *place = choices.take(*place, token).expect("it was chosen among the branches");
                Ok(Ok(token))
            }
        }
    }

    fn hear(&mut self, model: &Model, token: Token) {
        self.answer_tokens += 1;
        self.uncounted.all += 1;
        let text = self.speech.say(&model.piece(token));
        self.piece.text.push_str(&text);
    }

    /// What must follow now. Where the probability of each token is to be shown, each is asked of the model.
    fn hear_forced(&mut self, model: &Model, room: u32) -> Result<Vec<Token>, String> {
        let room = if self.top_logprobs.is_some() { 0 } else { room };
        let forced = self.guide.forced(room as usize, |token| model.ends(token))?;
        for token in &forced {
            self.hear(model, *token);
        }
        self.uncounted.forced += forced.len() as u64;
        Ok(forced)
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

    pub(super) fn refuse(self, refusal: Refusal) -> (mpsc::Sender<Said>, Vec<Said>) {
        (self.said, vec![Said::Refused(refusal)])
    }
}

/// Hands over what is left to say. True: there is still something.
pub(super) fn deliver(said: &mpsc::Sender<Said>, rest: &mut Vec<Said>) -> bool {
    while !rest.is_empty() {
        match said.try_reserve() {
            Ok(place) => place.send(rest.remove(0)),
            Err(TrySendError::Full(())) => return true,
            Err(TrySendError::Closed(())) => return false,
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
