//! The sequences that nobody uses, and what is left in their cells.
//!
//! A stream has its cells to itself, so those of a question that ended stay: the next one of the group goes on behind
//! their common beginning, and nothing is copied (llama.cpp copies a stream whole, however short the beginning is).
//! In one pool the cells are needed by others, and a copy costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Layout;
use crate::token::{Token, common_len};

/// What was computed for the question before.
#[derive(Debug)]
struct Left {
    prompt: Arc<[Token]>,
    len: usize,
}

#[derive(Debug)]
pub(super) struct Places {
    keeps: bool,
    free: BTreeMap<u32, Option<Left>>,
}

/// A free sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: u32,
    /// Tokens of the prompt that are in its cells.
    pub(super) kept: u32,
    /// Whether there is anything in its cells.
    pub(super) has_cells: bool,
}

impl Places {
    pub(super) fn new(layout: Layout) -> Self {
        let free = (0..layout.sequences).map(|sequence| (sequence, None)).collect();
        Self { keeps: !layout.is_unified, free }
    }

    /// The free sequence that has most of the prompt in its cells, or else one where nothing is lost.
    pub(super) fn best_for(&self, prompt: &[Token]) -> Option<Place> {
        let place = |(sequence, left): (&u32, &Option<Left>)| {
            // The last token is always computed, for its logits.
            let shared =
                |left: &Left| common_len(&left.prompt[..left.len], prompt).min(prompt.len() - 1);
            let kept = left.as_ref().map_or(0, shared) as u32;
            Place { sequence: *sequence, kept, has_cells: left.is_some() }
        };
        let rank = |place: &Place| (place.kept, !place.has_cells, std::cmp::Reverse(place.sequence));
        self.free.iter().map(place).max_by_key(rank)
    }

    /// What is left in the cells of free sequences.
    pub(super) fn left(&self) -> impl Iterator<Item = (u32, &[Token])> {
        self.free.iter().filter_map(|(sequence, left)| {
            left.as_ref().map(|left| (*sequence, &left.prompt[..left.len]))
        })
    }

    pub(super) fn take(&mut self, sequence: u32) {
        self.free.remove(&sequence);
    }

    /// Whether what was computed of the prompt stays in the cells.
    pub(super) fn give_back(&mut self, sequence: u32, prompt: Arc<[Token]>, computed: u32) -> bool {
        let len = prompt.len().min(computed as usize);
        self.free.insert(sequence, self.keeps.then_some(Left { prompt, len }));
        self.keeps
    }
}
