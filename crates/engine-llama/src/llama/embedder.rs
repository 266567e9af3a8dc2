//! The context for embeddings: whole inputs in one piece each, always one pool of cells.
//!
//! An input's vector is to be the same whatever is computed beside it. What gets in the way was measured: with flash
//! attention llama.cpp keeps keys and values with 16 bits, and sums with 16 bits too where a piece has fewer rows than
//! a tile. With weights of 32 bits it is therefore left out and the cells have 32 bits, which leaves 6e-8 of 7e-5. With
//! other weights the rounding is of their size anyway; there short pieces are only filled up to a tile.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::{ComputeError, Model, NO_POOLING};
use crate::token::Token;
use crate::vector::scaled;

/// llama.cpp's `LLAMA_FLASH_ATTN_TYPE_DISABLED`, which its crate has no name for.
const NO_FLASH_ATTENTION: i32 = 0;
/// Rows of a tile of flash attention on a CPU (`GGML_FA_TILE_Q`).
const TILE_ROWS: usize = 64;

/// How a context for embeddings is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EmbedderShape {
    /// Tokens of one step, and so the longest input.
    pub(crate) tokens_max: usize,
    /// Inputs of one step.
    pub(crate) inputs_max: usize,
    /// As exact as weights of 32 bits are.
    pub(crate) is_exact: bool,
    pub(crate) threads: u32,
}

/// See the module.
pub(crate) struct Embedder<'model> {
    model: &'model Model,
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    shape: EmbedderShape,
}

impl<'model> Embedder<'model> {
    pub(crate) fn new(model: &'model Model, shape: EmbedderShape) -> Result<Self, ComputeError> {
        // llama.cpp tries its largest piece with as many tokens for each sequence, and dies where that does not work out.
        let len = shape.tokens_max.next_multiple_of(shape.inputs_max);
        let batch = LlamaBatch::new(len, 1);
        let len = len as u32;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(len))
            // An input that is cut over two pieces would be pooled over the second alone.
            .with_n_batch(len)
            .with_n_ubatch(len)
            .with_n_seq_max(shape.inputs_max as u32)
            .with_kv_unified(true)
            .with_embeddings(true)
            .with_pooling_type(pooling(model));
        let params = if shape.is_exact {
            params
                .with_flash_attention_policy(NO_FLASH_ATTENTION)
                .with_type_k(KvCacheType::F32)
                .with_type_v(KvCacheType::F32)
        } else {
            params
        };
        let context = model.context(params, shape.threads)?;
        Ok(Self { model, context, batch, shape })
    }

    /// The embeddings of inputs that fit together, each scaled to length 1.
    pub(crate) fn compute(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, ComputeError> {
        let total: usize = inputs.iter().map(|input| input.len()).sum();
        if inputs.len() > self.shape.inputs_max
            || total > self.shape.tokens_max
            || inputs
                .iter()
                .any(|input| input.is_empty() || !input.iter().all(|token| self.model.has(*token)))
        {
            return Err(ComputeError::Bounds(format!("{} inputs of {total} tokens", inputs.len())));
        }
        self.context.clear_kv_cache();
        self.batch.clear();
        for (sequence, input) in (0_i32..).zip(inputs) {
            self.add(sequence, input)?;
        }
        let filled = TILE_ROWS.min(self.shape.tokens_max);
        if !self.shape.is_exact && total < filled && inputs.len() < self.shape.inputs_max {
            let filling = vec![inputs[0][0]; filled - total];
            self.add(inputs.len() as i32, &filling)?;
        }
        self.context.decode(&mut self.batch).map_err(|error| ComputeError::Step(error.to_string()))?;
        (0_i32..)
            .zip(inputs)
            .map(|(sequence, _)| {
                let embedding = self.context.embeddings_seq_ith(sequence);
                embedding.map(scaled).map_err(|error| ComputeError::Step(error.to_string()))
            })
            .collect()
    }

    fn add(&mut self, sequence: i32, tokens: &[Token]) -> Result<(), ComputeError> {
        for (position, token) in (0_i32..).zip(tokens) {
            let added = self.batch.add(LlamaToken(token.0), position, &[sequence], true);
            added.map_err(|error| ComputeError::Bounds(error.to_string()))?;
        }
        Ok(())
    }
}

/// As the model was trained, and the mean where it was not trained for embeddings.
fn pooling(model: &Model) -> LlamaPoolingType {
    match model.pooling().as_deref() {
        None | Some(NO_POOLING) => LlamaPoolingType::Mean,
        Some(_) => LlamaPoolingType::Unspecified,
    }
}
