//! The common beginning that is held ready for the questions that share it.

use super::Row;
use crate::token::{Token, common_len};

/// A shorter one saves less than the copy costs.
pub(super) const SHARED_LEN_MIN: usize = 16;
/// A neighbour that shares less than this much of what the nearest shares is no longer of the group.
const GROUP_SHARE: f64 = 0.75;
/// Neighbours that are looked at.
const GROUP_LOOKED_AT: usize = 64;
/// One pool of cells pays when this many times more is shared than not. Measured on a CPU: with half as much shared as not,
/// streams were a quarter faster.
const MOSTLY: usize = 4;
/// And is kept until it is no more than this many times: what comes varies.
const MOSTLY_STILL: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Prefix {
    tokens: Vec<Token>,
    computed: usize,
}

impl Prefix {
    /// Not all of it is computed yet.
    pub(super) const fn is_busy(&self) -> bool {
        self.computed < self.tokens.len()
    }

    pub(super) const fn is_held(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whether a question of a group that shares `group` tokens can begin: what is held is all that it could hope for.
    pub(super) fn is_ready_for(&self, prompt: &[Token], group: usize) -> bool {
        let shared = common_len(&self.tokens, prompt) as f64;
        !(self.is_busy() && shared > 0.0) && shared >= group as f64 * GROUP_SHARE
    }

    /// Holds other tokens from now on; returns how many of them are computed already.
    pub(super) fn replace(&mut self, tokens: &[Token]) -> u32 {
        self.computed = common_len(&self.tokens, tokens).min(self.computed);
        self.tokens = tokens.to_vec();
        self.computed as u32
    }

    /// So much of it was found computed elsewhere.
    pub(super) fn take_over(&mut self, len: u32) {
        self.computed = self.computed.max(self.tokens.len().min(len as usize));
    }

    /// How much of the prompt can be copied. Its last token is always computed, for its logits.
    pub(super) fn shared_with(&self, prompt: &[Token]) -> u32 {
        let shared = common_len(&self.tokens[..self.computed], prompt).min(prompt.len() - 1);
        if shared < SHARED_LEN_MIN { 0 } else { shared as u32 }
    }

    /// Up to `room` rows of what is still to be computed.
    pub(super) fn rows(&mut self, sequence: u32, room: usize) -> Vec<Row> {
        let until = self.tokens.len().min(self.computed + room);
        let tokens = &self.tokens[self.computed..until];
        let rows = (self.computed as u32..).zip(tokens).map(|(position, token)| Row {
            sequence,
            position,
            token: *token,
            wants_logits: false,
        });
        let rows = rows.collect();
        self.computed = until;
        rows
    }
}

/// Whether what a place has left serves a question of a group that shares `group` tokens.
pub(super) fn is_enough(kept: u32, group: usize) -> bool {
    kept > 0 && f64::from(kept) >= group as f64 * GROUP_SHARE
}

/// How long a beginning a prompt shares with the neighbours behind it; 0 when it is too short to be held.
pub(super) fn group_len<'a>(prompt: &[Token], neighbours: impl Iterator<Item = &'a [Token]>) -> usize {
    let mut group = 0;
    for neighbour in neighbours.take(GROUP_LOOKED_AT) {
        let shared = common_len(prompt, neighbour);
        if group == 0 {
            group = shared;
        } else if (shared as f64) < group as f64 * GROUP_SHARE {
            break;
        }
        group = group.min(shared);
    }
    if group < SHARED_LEN_MIN { 0 } else { group.min(prompt.len() - 1) }
}

/// For prompts in their order; `already` when they are in one pool now.
pub(super) fn is_mostly_shared(prompts: &[&[Token]], already: bool) -> bool {
    let shared: usize = prompts.windows(2).map(|pair| common_len(pair[0], pair[1])).sum();
    let total: usize = prompts.iter().skip(1).map(|prompt| prompt.len()).sum();
    shared > 0 && shared >= (total - shared) * if already { MOSTLY_STILL } else { MOSTLY }
}
