//! What an answer is kept to, and how far it has come.

use std::sync::Arc;

use crate::choices::{Choices, Place};
use crate::grammar::{Grammar, Walk};
use crate::question::Form;
use crate::token::Token;

pub(super) enum Guide {
    Free,
    /// Nothing was asked of the model yet, only what must come first was taken: those who wait hold no walk.
    Ahead(Grammar, Vec<Token>),
    Grammar(Box<Walk>),
    OneOf(Arc<Choices>, Place),
}

impl Guide {
    pub(super) fn new(form: &Form) -> Self {
        match form {
            Form::Free => Self::Free,
            Form::Grammar(grammar) => Self::Ahead(grammar.clone(), Vec::new()),
            Form::OneOf(choices) => Self::OneOf(Arc::clone(choices), Place::default()),
        }
    }

    /// Goes past the tokens that must follow, and returns them without the answer's end. A closed set of answers is
    /// chosen only where its longest fits, so that the room is never too small for it.
    pub(super) fn forced(
        &mut self,
        room: usize,
        ends: impl Fn(Token) -> bool,
    ) -> Result<Vec<Token>, String> {
        match self {
            Self::Free => Ok(Vec::new()),
            Self::Ahead(grammar, taken) => {
                let tokens = fitting(grammar.start().to_vec(), room, ends);
                taken.extend(&tokens);
                Ok(tokens)
            }
            Self::Grammar(walk) => {
                let tokens = if room == 0 { Vec::new() } else { walk.forced()? };
                let tokens = fitting(tokens, room, ends);
                if !tokens.is_empty() {
                    walk.take(&tokens)?;
                }
                Ok(tokens)
            }
            Self::OneOf(choices, place) => {
                let (mut tokens, next) = choices.forced(*place);
                tokens.retain(|token| !ends(*token));
                *place = next;
                Ok(tokens)
            }
        }
    }

    /// The model is asked from now on.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        if let Self::Ahead(grammar, taken) = self {
            let mut walk = grammar.walk();
            if !taken.is_empty() {
                walk.take(taken)?;
            }
            *self = Self::Grammar(Box::new(walk));
        }
        Ok(())
    }

    /// The answer is whole, and nothing may follow.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Free | Self::Ahead(..) => false,
            Self::Grammar(walk) => walk.is_over(),
            Self::OneOf(choices, place) => choices.branches(*place).next().is_none(),
        }
    }
}

/// Those for which there is room, without the answer's end.
fn fitting(mut tokens: Vec<Token>, room: usize, ends: impl Fn(Token) -> bool) -> Vec<Token> {
    tokens.truncate(room);
    if let Some(end) = tokens.iter().position(|token| ends(*token)) {
        tokens.truncate(end);
    }
    tokens
}
