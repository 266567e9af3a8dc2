//! What a model needs of the machine, estimated before it is loaded, and what is made of the memory that there is.

use crate::gguf::ModelFiles;
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
/// llama.cpp rounds the cells of a sequence up to this.
const CELLS_STEP: u32 = 256;
/// What the library, the vocabulary and our own process take beside the rest.
const FIXED_BYTES: u64 = 64 * 1024 * 1024;
/// Rows that are computed in one piece.
const PIECE_ROWS: u64 = 512;

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

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model needs about {} ({} weights, {} for {slots} requests of {context_len} tokens at once, {} to compute), and there are \
     {}: take a smaller model{}, or fewer `--slots` and a shorter `--context`",
    shown(*needs), shown(*weights), shown(*cells), shown(*buffers), shown(*has),
    if *is_told { ", give it more `--memory`" } else { "" }
)]
pub(crate) struct NoRoom {
    needs: u64,
    weights: u64,
    cells: u64,
    buffers: u64,
    has: u64,
    slots: u32,
    context_len: u32,
    is_told: bool,
}

/// What the model's head says about memory.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    weights: u64,
    cell: u64,
    buffers: u64,
    trained_len: u32,
    is_f32: bool,
}

impl Sizes {
    fn of(model: &ModelFiles) -> Self {
        let shape = &model.shape;
        // Keys and values are kept with 2 bytes each.
        let cell = shape.cells_len(1, 2);
        let width = shape.embedding_len;
        let inner = shape.feed_forward_len.unwrap_or(width.saturating_mul(4)).max(width);
        let row = shape.vocabulary_len.unwrap_or(0).saturating_add(inner.saturating_mul(4));
        // Logits of every row, and the widest layer a few times over.
        let buffers = row.saturating_mul(PIECE_ROWS * 4).saturating_add(FIXED_BYTES);
        let trained_len = shape.context_len.and_then(|len| u32::try_from(len).ok());
        let weights = model.weights_len;
        Self {
            weights,
            cell,
            buffers,
            trained_len: trained_len.unwrap_or(CONTEXT_LEN),
            is_f32: model.is_f32,
        }
    }

    fn cells(&self, slots: u32, context_len: u32) -> u64 {
        // One more sequence holds the common beginning.
        let cells = u64::from(slots + 1) * u64::from(context_len.next_multiple_of(CELLS_STEP));
        self.cell.saturating_mul(cells)
    }

    fn needs(&self, slots: u32, context_len: u32) -> u64 {
        self.weights.saturating_add(self.buffers).saturating_add(self.cells(slots, context_len))
    }

    fn plan(self, wishes: Wishes, available: Option<u64>) -> Result<Plan, NoRoom> {
        let has = wishes.bytes.or(available).unwrap_or(u64::MAX);
        let mut context_len =
            wishes.context_len.unwrap_or_else(|| self.trained_len.clamp(1, CONTEXT_LEN));
        let mut slots = wishes.slots.unwrap_or(SLOTS).max(1);
        while self.needs(slots, context_len) > has {
            let can_shorten = wishes.context_len.is_none() && context_len > CONTEXT_LEN_LEAST;
            if wishes.slots.is_none() && slots > if can_shorten { SLOTS_LEAST } else { 1 } {
                slots -= 1;
            } else if can_shorten {
                context_len = (context_len / 2).max(CONTEXT_LEN_LEAST);
            } else {
                return Err(NoRoom {
                    needs: self.needs(slots, context_len),
                    weights: self.weights,
                    cells: self.cells(slots, context_len),
                    buffers: self.buffers,
                    has,
                    slots,
                    context_len,
                    is_told: wishes.bytes.is_some(),
                });
            }
        }
        let streams =
            Layout { is_unified: false, sequences: slots, sequence_len: context_len, pool_len: 0 };
        let pool_len = context_len.next_multiple_of(CELLS_STEP) * (slots + 1);
        let sequences = slots.min(UNIFIED_SEQUENCES_MAX);
        let unified = Layout { is_unified: true, sequences, sequence_len: context_len, pool_len };
        let embed_len = wishes.context_len.unwrap_or(EMBED_LEN).min(self.trained_len).max(1);
        let bytes = self.needs(slots, context_len);
        Ok(Plan { streams, unified, step_len: STEP_LEN, embed_len, embeds_exactly: self.is_f32, bytes })
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
