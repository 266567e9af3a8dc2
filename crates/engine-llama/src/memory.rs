//! What a model needs of the machine, estimated before it is loaded, and what is made of the memory that there is.
//!
//! The figures follow what llama.cpp allocates, and are held against what a process really uses by a test: never less,
//! and less than 1.6 times as much.

use crate::gguf::{ModelFiles, Pooling};
use crate::machine::IS_FOR_GPUS;
use crate::schedule::{Layout, UNIFIED_SEQUENCES_MAX};

/// The longest prompt with its answer, where nobody says otherwise: long enough for documents, and room for several.
const CONTEXT_LEN: u32 = 8_192;
/// Given up before the last slots are.
const CONTEXT_LEN_LEAST: u32 = 2_048;
/// With more, every token takes longer on a CPU and none comes sooner.
const SLOTS: u32 = 32;
/// Context is given up before slots below this are.
const SLOTS_LEAST: u32 = 4;
/// Tokens of one step: nothing can be cancelled within it.
const STEP_LEN: u32 = 2_048;
/// The longest input of embeddings, where nobody says otherwise: it is computed in one piece.
const EMBED_LEN: u32 = 2_048;
/// A model that was not made for embeddings has the score of each word for each token computed all the same. More than
/// this share of the memory is not kept free for it: longer inputs are given up, down to the least.
const EMBED_SHARE: u64 = 8;
const EMBED_LEN_LEAST: u32 = 256;
/// llama.cpp rounds the cells of a sequence up to this.
const CELLS_STEP: u32 = 256;
/// Inputs of a step of embeddings, of which the longest input is made a multiple.
const EMBED_ROWS_STEP: u32 = 64;
/// Rows of answers that are computed in one piece.
const PIECE_ROWS: u64 = 512;
/// What the library and our own process take beside the rest.
const FIXED_BYTES: u64 = 48 * 1024 * 1024;
/// A word of the vocabulary with its place in the tables.
const WORD_BYTES: u64 = 256;
/// Of what the machine has left, this share is left to others where nobody says how much to use.
const OTHERS_SHARE: u64 = 8;
const F32_BYTES: u64 = 4;
const F16_BYTES: u64 = 2;

/// What the engine was told to use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes {
    pub(crate) context_len: Option<u32>,
    pub(crate) slots: Option<u32>,
    pub(crate) bytes: Option<u64>,
}

/// How the memory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) streams: Layout,
    pub(crate) unified: Layout,
    pub(crate) step_len: u32,
    pub(crate) embed_len: u32,
    pub(crate) embeds_exactly: bool,
    pub(crate) bytes: u64,
}

/// The machine's memory is planned with, of which a GPU needs little.
const GPU_ADVICE: &str = "; where a GPU computes, say its own memory with `--memory`, and `--gpu-layers` where not all layers fit";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model needs about {} ({} weights, {}{} to compute), and there are {}: take a smaller model{}, or {}{}",
    shown(needs.all()),
    shown(needs.weights),
    if needs.cells > 0 {
        format!("{} for {slots} requests of {context_len} tokens at once, ", shown(needs.cells))
    } else {
        String::new()
    },
    shown(needs.buffers),
    shown(*has),
    if *is_told { ", give it more `--memory`" } else { "" },
    if needs.cells > 0 { "fewer `--slots` and a shorter `--context`" } else { "a shorter `--context`" },
    if IS_FOR_GPUS { GPU_ADVICE } else { "" }
)]
pub(crate) struct NoRoom {
    needs: Needs,
    has: u64,
    slots: u32,
    context_len: u32,
    is_told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    weights: u64,
    cells: u64,
    buffers: u64,
}

impl Needs {
    const fn all(&self) -> u64 {
        self.weights.saturating_add(self.cells).saturating_add(self.buffers)
    }
}

/// What is kept for at once.
#[derive(Debug, Clone, Copy)]
struct Room {
    slots: u32,
    context_len: u32,
    embed_len: u32,
}

/// What the model's head says about memory.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    weights: u64,
    /// Keys and values of a cell.
    cell_elements: u64,
    vocabulary_len: u64,
    /// Numbers of a row between two layers and within one.
    row_elements: u64,
    heads: u64,
    trained_len: u32,
    is_f32: bool,
    is_causal: bool,
    generates: bool,
    is_for_embeddings: bool,
}

impl Sizes {
    fn of(model: &ModelFiles) -> Self {
        let shape = &model.shape;
        let width = shape.embedding_len;
        let inner = shape.feed_forward_len.unwrap_or(width.saturating_mul(4)).max(width);
        let trained_len = shape.context_len.and_then(|len| u32::try_from(len).ok());
        Self {
            weights: model.weights_len,
            cell_elements: shape.cells_len(1, 1),
            vocabulary_len: shape.vocabulary_len.unwrap_or(0),
            row_elements: width.saturating_mul(4).saturating_add(inner.saturating_mul(3)),
            heads: shape.heads,
            trained_len: trained_len.unwrap_or(CONTEXT_LEN).max(1),
            is_f32: model.is_f32,
            is_causal: shape.is_causal,
            generates: shape.generates(),
            is_for_embeddings: shape.pooling == Pooling::Vector,
        }
    }

    fn needs(&self, room: Room) -> Needs {
        let (cells, answering) = if self.generates { self.answering(room) } else { (0, 0) };
        let own = FIXED_BYTES.saturating_add(self.vocabulary_len.saturating_mul(WORD_BYTES));
        let embedding = self.embedding(room.embed_len);
        let buffers = own.saturating_add(answering).saturating_add(embedding);
        Needs { weights: self.weights, cells, buffers }
    }

    /// The cells, and what computing with them takes.
    fn answering(&self, room: Room) -> (u64, u64) {
        let sequence_len = u64::from(room.context_len.next_multiple_of(CELLS_STEP));
        // One more sequence holds the common beginning.
        let sequences = u64::from(room.slots) + 1;
        let cells = sequences * sequence_len;
        // In one pool every row has a mark for each cell of all.
        let seen = if room.slots <= UNIFIED_SEQUENCES_MAX { cells } else { sequence_len };
        let scores = self.vocabulary_len.saturating_mul(F32_BYTES);
        let rows = PIECE_ROWS.saturating_mul(self.row_bytes().saturating_add(seen * F16_BYTES));
        let buffers = rows.saturating_add(sequences.saturating_mul(scores));
        (self.cell_elements.saturating_mul(cells).saturating_mul(F16_BYTES), buffers)
    }

    /// All that embeddings take beside the weights.
    fn embedding(&self, len: u32) -> u64 {
        let rows = u64::from(len.next_multiple_of(EMBED_ROWS_STEP));
        let seen = u64::from(len.next_multiple_of(CELLS_STEP));
        let (element, marks) = if self.is_f32 {
            // Without flash attention each head has a score for each cell.
            (F32_BYTES, F32_BYTES.saturating_mul(self.heads.saturating_add(1)))
        } else {
            (F16_BYTES, F16_BYTES)
        };
        // Encoders keep no cells; they have no scores of words either, but those are cheap to count.
        let cells = if self.is_causal { self.cell_elements.saturating_mul(element) } else { 0 };
        // What is computed of each row is copied once more to be read.
        let copied = self.vocabulary_len.saturating_mul(F32_BYTES);
        let row = self.row_bytes().saturating_add(copied).saturating_add(seen.saturating_mul(marks));
        rows.saturating_mul(row).saturating_add(seen.saturating_mul(cells))
    }

    /// Of a row while it is computed: the scores of all words at the end, and what lies between.
    const fn row_bytes(&self) -> u64 {
        self.vocabulary_len.saturating_add(self.row_elements).saturating_mul(F32_BYTES)
    }

    /// The longest input of embeddings. Of a model that generates, `--context` is about something else.
    fn embed_len(&self, wishes: Wishes, has: u64) -> u32 {
        let wished = wishes.context_len.unwrap_or(EMBED_LEN);
        if self.is_for_embeddings {
            return wished.min(self.trained_len);
        }
        let mut len = wished.min(EMBED_LEN).min(self.trained_len);
        while self.embedding(len) > has / EMBED_SHARE && len > EMBED_LEN_LEAST {
            len = (len / 2).max(EMBED_LEN_LEAST);
        }
        len
    }

    fn plan(self, wishes: Wishes, available: Option<u64>) -> Result<Plan, NoRoom> {
        let spared = available.map(|available| available - available / OTHERS_SHARE);
        let has = wishes.bytes.or(spared).unwrap_or(u64::MAX);
        let embed_len = self.embed_len(wishes, has);
        let mut room = Room {
            slots: wishes.slots.unwrap_or(SLOTS).max(1),
            context_len: if self.generates {
                wishes.context_len.unwrap_or_else(|| self.trained_len.min(CONTEXT_LEN))
            } else {
                embed_len
            },
            embed_len,
        };
        while self.needs(room).all() > has {
            let can_shorten =
                self.generates && wishes.context_len.is_none() && room.context_len > CONTEXT_LEN_LEAST;
            let slots_least = if can_shorten { SLOTS_LEAST } else { 1 };
            if self.generates && wishes.slots.is_none() && room.slots > slots_least {
                room.slots -= 1;
            } else if can_shorten {
                room.context_len = (room.context_len / 2).max(CONTEXT_LEN_LEAST);
            } else if !self.generates && wishes.context_len.is_none() && room.embed_len > EMBED_LEN_LEAST
            {
                room.embed_len = (room.embed_len / 2).max(EMBED_LEN_LEAST);
                room.context_len = room.embed_len;
            } else {
                let Room { slots, context_len, .. } = room;
                let (needs, is_told) = (self.needs(room), wishes.bytes.is_some());
                return Err(NoRoom { needs, has, slots, context_len, is_told });
            }
        }
        Ok(self.laid_out(room))
    }

    fn laid_out(&self, room: Room) -> Plan {
        let Room { slots, context_len: sequence_len, embed_len } = room;
        let pool_len = sequence_len.next_multiple_of(CELLS_STEP) * (slots + 1);
        Plan {
            streams: Layout { is_unified: false, sequences: slots, sequence_len, pool_len: 0 },
            unified: Layout {
                is_unified: true,
                sequences: slots.min(UNIFIED_SEQUENCES_MAX),
                sequence_len,
                pool_len,
            },
            step_len: STEP_LEN,
            embed_len,
            embeds_exactly: self.is_f32,
            bytes: self.needs(room).all(),
        }
    }
}

/// What suits the model, the wishes and the memory; `available` is what the machine has left, where that is known.
pub(crate) fn plan(model: &ModelFiles, wishes: Wishes, available: Option<u64>) -> Result<Plan, NoRoom> {
    Sizes::of(model).plan(wishes, available)
}

fn shown(bytes: u64) -> String {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    let gib = bytes as f64 / GIB;
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{:.0} MiB", gib * 1024.0) }
}

#[cfg(test)]
mod tests;
