//! The only module that touches llama.cpp. Every id, position and length is checked here before it crosses over: what
//! is wrong there is a crash or another question's answer.

mod depth;
mod embedder;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::OnceLock;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::{
    LlamaBackendDeviceType, LogOptions, list_llama_ggml_backend_devices, send_logs_to_tracing,
};

use crate::grammar::Allowed;
use crate::machine::IS_FOR_GPUS;
use crate::question::{Sampling, TokenLogprob};
use crate::schedule::{Change, Layout, Row, Step};
use crate::token::Token;

pub(crate) use depth::{LINE_LEN_MAX, TextError};
pub(crate) use embedder::{Embedder, EmbedderShape};

/// The computing failed. What is in the context is not to be trusted any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComputeError {
    #[error(
        "failed to load the model `{path}`: it is no GGUF file that llama.cpp can read, or memory is short ({reason})"
    )]
    Load { path: String, reason: String },
    #[error("failed to make a context: memory is short, or the model cannot do this ({0})")]
    Context(String),
    #[error("llama.cpp failed to compute a step: {0}")]
    Step(String),
    #[error(
        "`{path}` keeps a state in place of what it has read (as Mamba, RWKV and their hybrids do), so a common beginning \
         cannot be shared, which this engine is made for: use another model, or another engine such as Ollama"
    )]
    Recurrent { path: String },
    #[error("the schedule asked for what the context does not have: {0}")]
    Bounds(String),
}

/// A loaded model.
#[expect(clippy::struct_field_names, reason = "it is what llama.cpp calls the model")]
pub(crate) struct Model {
    model: LlamaModel,
    is_on_gpu: bool,
    /// How deep the stack gets depends on the text.
    cuts_deep: bool,
}

/// llama.cpp has one state for a process, whoever is the first to need it.
fn library() -> Result<&'static LlamaBackend, String> {
    static LIBRARY: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let made = LIBRARY.get_or_init(|| {
        send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().map_err(|error| error.to_string())
    });
    made.as_ref().map_err(Clone::clone)
}

/// What llama.cpp has found, by its name, the driver's and the memory that is free.
fn gpus() -> Vec<String> {
    use LlamaBackendDeviceType::{Gpu, IntegratedGpu};
    let devices = list_llama_ggml_backend_devices().into_iter();
    devices
        .filter(|device| matches!(device.device_type, Gpu | IntegratedGpu))
        .map(|device| {
            let free = device.memory_free / 1_048_576;
            format!("{} ({}, {free} MiB free)", device.description, device.name)
        })
        .collect()
}

impl Model {
    pub(crate) fn load(path: &Path, gpu_layers: u32) -> Result<Self, ComputeError> {
        let failed = |reason: String| ComputeError::Load { path: path.display().to_string(), reason };
        let library = library().map_err(failed)?;
        let params = LlamaModelParams::default().with_n_gpu_layers(gpu_layers);
        let model = LlamaModel::load_from_file(library, path, &params)
            .map_err(|error| failed(error.to_string()))?;
        if model.is_recurrent() || model.is_hybrid() {
            return Err(ComputeError::Recurrent { path: path.display().to_string() });
        }
        let is_on_gpu = gpu_layers > 0 && library.supports_gpu_offload();
        if is_on_gpu {
            tracing::info!("computing on {}", gpus().join(", "));
        } else if IS_FOR_GPUS && gpu_layers > 0 {
            tracing::warn!("this build is for GPUs and has found none: the processor computes");
        }
        let meta = |key: &str| model.meta_val_str(key).ok();
        let (kind, pre) = (meta("tokenizer.ggml.model"), meta("tokenizer.ggml.pre"));
        let cuts_deep = depth::is_deep(kind.as_deref(), pre.as_deref());
        Ok(Self { model, is_on_gpu, cuts_deep })
    }

    pub(crate) const fn is_on_gpu(&self) -> bool {
        self.is_on_gpu
    }

    /// Special tokens in the text count as such only when `has_specials`: in what a chat template has rendered.
    pub(crate) fn tokenize(
        &self,
        text: &str,
        adds_start: bool,
        has_specials: bool,
    ) -> Result<Vec<Token>, TextError> {
        let work = || self.model.vocab().tokenize(text.as_bytes(), adds_start, has_specials);
        let tokens = if self.cuts_deep { depth::with_stack(text, work)? } else { work() };
        Ok(tokens.into_iter().map(|token| Token(token.0)).collect())
    }

    /// A text as it goes on from another one; none where the vocabulary has no tokens for exactly these bytes, or
    /// the text cannot be cut into any.
    pub(crate) fn continuation(&self, text: &str) -> Option<Vec<Token>> {
        let is_same = |tokens: &[Token]| {
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.piece(*token)).collect();
            bytes == text.as_bytes()
        };
        let tokens = self.tokenize(text, false, false).ok()?;
        if is_same(&tokens) {
            return Some(tokens);
        }
        // Some vocabularies begin every text with a space: it is left before a character that joins no other.
        let tokens = self.tokenize(&format!("\u{2}{text}"), false, false).ok()?;
        (0..tokens.len()).map(|from| &tokens[from..]).find(|rest| is_same(rest)).map(<[Token]>::to_vec)
    }

    /// The whole vocabulary.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = Token> {
        (0..self.model.n_vocab()).map(Token)
    }

    pub(crate) fn piece(&self, token: Token) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        if (0..self.model.n_vocab()).contains(&token.0) {
            self.model.vocab().token_to_piece_into(LlamaToken(token.0), &mut bytes, false, None);
        }
        bytes
    }

    /// The text of a token of control, which [`Self::piece`] leaves out.
    pub(crate) fn control_text(&self, token: Token) -> String {
        let mut bytes = Vec::with_capacity(16);
        if self.has(token) {
            self.model.vocab().token_to_piece_into(LlamaToken(token.0), &mut bytes, true, None);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn start_text(&self) -> String {
        self.control_text(Token(self.model.vocab().bos().0))
    }

    pub(crate) fn end_text(&self) -> String {
        self.control_text(Token(self.model.vocab().eos().0))
    }

    /// Whether an input ends with a token of control, as the model was trained.
    pub(crate) fn adds_end(&self) -> bool {
        let vocab = self.model.vocab();
        vocab.should_add_eos() || vocab.should_add_sep()
    }

    pub(crate) fn has(&self, token: Token) -> bool {
        (0..self.model.n_vocab()).contains(&token.0)
    }

    /// The chat template that the file carries.
    pub(crate) fn template(&self) -> Option<String> {
        self.model.chat_template(None).ok()?.to_string().ok()
    }

    pub(crate) fn ends(&self, token: Token) -> bool {
        self.model.vocab().is_eog(LlamaToken(token.0))
    }

    pub(crate) fn end_token(&self) -> Token {
        let vocab = self.model.vocab();
        let turn = vocab.eot();
        Token(if turn.0 >= 0 { turn.0 } else { vocab.eos().0 })
    }

    /// A value of the file's own table.
    pub(crate) fn meta(&self, key: &str) -> Option<String> {
        self.model.meta_val_str(key).ok()
    }

    /// How the file says that embeddings are made of what is computed for each token, in llama.cpp's numbers.
    fn pooling(&self) -> Option<String> {
        self.meta(&format!("{}.pooling_type", self.meta("general.architecture")?))
    }

    fn context(
        &self,
        params: LlamaContextParams,
        threads: u32,
    ) -> Result<LlamaContext<'_>, ComputeError> {
        let threads = i32::try_from(threads.max(1)).unwrap_or(1);
        let params = params.with_n_threads(threads).with_n_threads_batch(threads).with_no_perf(true);
        let context = self.model.new_context(library().map_err(ComputeError::Context)?, params);
        context.map_err(|error| ComputeError::Context(error.to_string()))
    }

    /// What it makes of an input is a rank, and no vector.
    pub(crate) fn ranks(&self) -> bool {
        self.pooling().as_deref() == Some(RANK_POOLING)
    }

    pub(crate) fn embedding_len(&self) -> usize {
        usize::try_from(self.model.n_embd_out()).unwrap_or(0)
    }

    /// How tokens are chosen for one question; its state grows with the answer.
    pub(crate) fn chooser(&self, sampling: &Sampling) -> Chooser {
        let mut chain = Vec::new();
        let has_penalties = sampling.frequency_penalty != 0.0
            || sampling.presence_penalty != 0.0
            || (sampling.repeat_penalty - 1.0).abs() > f32::EPSILON;
        if has_penalties {
            chain.push(LlamaSampler::penalties(
                self.model.n_vocab(),
                PENALTY_TOKENS,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            ));
        }
        if sampling.temperature > 0.0 {
            if sampling.top_k > 0 {
                chain.push(LlamaSampler::top_k(i32::try_from(sampling.top_k).unwrap_or(i32::MAX)));
            }
            chain.push(LlamaSampler::top_p(sampling.top_p, 1));
            chain.push(LlamaSampler::min_p(sampling.min_p, 1));
            chain.push(LlamaSampler::temp(sampling.temperature));
            chain.push(LlamaSampler::dist(sampling.seed));
        } else if chain.is_empty() {
            return Chooser(None);
        } else {
            chain.push(LlamaSampler::greedy());
        }
        Chooser(Some(LlamaSampler::chain(chain, true)))
    }
}

/// Of llama.cpp's numbers for kinds of pooling.
const NO_POOLING: &str = "0";
const RANK_POOLING: &str = "4";

/// Penalties look at so many tokens of the answer.
const PENALTY_TOKENS: i32 = 64;

/// The samplers of one question; none: the likeliest token.
pub(crate) struct Chooser(Option<LlamaSampler>);

/// A context for generation.
pub(crate) struct Session<'model> {
    model: &'model Model,
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    layout: Layout,
    step_len: usize,
    /// Which row of the last step has logits.
    has_logits: Vec<bool>,
}

impl<'model> Session<'model> {
    pub(crate) fn new(
        model: &'model Model,
        layout: Layout,
        step_len: usize,
        threads: u32,
    ) -> Result<Self, ComputeError> {
        let sequences = layout.sequences + 1;
        let cells = if layout.is_unified { layout.pool_len } else { layout.sequence_len * sequences };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_batch(step_len as u32)
            .with_n_ubatch(step_len.min(UBATCH_LEN) as u32)
            .with_n_seq_max(sequences)
            .with_kv_unified(layout.is_unified);
        let context = model.context(params, threads)?;
        let batch = LlamaBatch::new(step_len, 1);
        Ok(Self { model, context, batch, layout, step_len, has_logits: Vec::new() })
    }

    /// Computes one token, of which nothing stays: the weights are read, and it shows how long a row takes.
    pub(crate) fn warm_up(&mut self) -> Result<(), ComputeError> {
        let row = Row { sequence: 0, position: 0, token: Token(0), wants_logits: true };
        self.compute(&Step { rows: vec![row], ..Step::default() })?;
        self.change(Change::Cut { sequence: 0, from: 0 })
    }

    pub(crate) fn compute(&mut self, step: &Step) -> Result<(), ComputeError> {
        self.check(step)?;
        for change in &step.changes {
            self.change(*change)?;
        }
        self.batch.clear();
        for row in &step.rows {
            let (sequence, position) = (row.sequence as i32, row.position as i32);
            let added = self.batch.add(LlamaToken(row.token.0), position, &[sequence], row.wants_logits);
            added.map_err(|error| ComputeError::Bounds(error.to_string()))?;
        }
        self.has_logits = step.rows.iter().map(|row| row.wants_logits).collect();
        self.context.decode(&mut self.batch).map_err(|error| ComputeError::Step(error.to_string()))
    }

    fn check(&self, step: &Step) -> Result<(), ComputeError> {
        let out = |what: String| Err(ComputeError::Bounds(what));
        if step.rows.is_empty() || step.rows.len() > self.step_len {
            return out(format!("a step of {} rows, where 1 to {} fit", step.rows.len(), self.step_len));
        }
        let vocab = self.model.model.n_vocab();
        for row in &step.rows {
            if row.sequence > self.layout.sequences
                || row.position >= self.layout.sequence_len
                || !(0..vocab).contains(&row.token.0)
            {
                return out(format!("{row:?}"));
            }
        }
        for change in &step.changes {
            let (sequences, at) = match *change {
                Change::Cut { sequence, from } => ([sequence; 2], from),
                Change::Copy { from, to, len } => ([from, to], len),
            };
            if sequences.iter().max() > Some(&self.layout.sequences) || at > self.layout.sequence_len {
                return out(format!("{change:?}"));
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), ComputeError> {
        let failed = |error: &dyn std::fmt::Display| ComputeError::Step(format!("{change:?}: {error}"));
        match change {
            Change::Cut { sequence, from } => self
                .context
                .kv_cache_seq_rm(sequence as i32, Some(from), None)
                .map_err(|error| failed(&error)),
            Change::Copy { from, to, len } => {
                // Streams can only be copied whole.
                let copied = self.context.kv_cache_seq_cp(from as i32, to as i32, None, None);
                copied.map_err(|error| failed(&error))?;
                self.context.kv_cache_seq_rm(to as i32, Some(len), None).map_err(|error| failed(&error))
            }
        }
    }

    /// The token that follows a row of the last step.
    pub(crate) fn choose(&mut self, row: usize, chooser: &mut Chooser) -> Result<Token, ComputeError> {
        self.check_output(row)?;
        Ok(match &mut chooser.0 {
            Some(samplers) => Token(samplers.sample(&self.context, row as i32).0),
            None => likeliest(self.context.get_logits_ith(row as i32)),
        })
    }

    /// One of the tokens that a grammar allows.
    pub(crate) fn choose_allowed(
        &mut self,
        row: usize,
        allowed: &Allowed,
        chooser: &mut Chooser,
    ) -> Result<Token, ComputeError> {
        self.check_output(row)?;
        let logits = self.context.get_logits_ith(row as i32);
        let candidates = allowed.iter().filter_map(|token| {
            let logit = logits.get(token.0 as usize)?;
            Some(LlamaTokenData::new(LlamaToken(token.0), *logit, 0.0))
        });
        let chosen = match &mut chooser.0 {
            None => {
                candidates.max_by(|one, other| one.logit().total_cmp(&other.logit())).map(|one| one.id())
            }
            Some(samplers) => {
                let mut candidates = LlamaTokenDataArray::from_iter(candidates, false);
                candidates.apply_sampler(samplers);
                let chosen = candidates.selected_token();
                if let Some(chosen) = chosen {
                    samplers.accept(chosen);
                }
                chosen
            }
        };
        let chosen = chosen.ok_or_else(|| ComputeError::Bounds("a choice among nothing".to_owned()))?;
        Ok(Token(chosen.0))
    }

    /// The likeliest of some tokens, or one of them by chance.
    pub(crate) fn choose_among(
        &mut self,
        row: usize,
        branches: &[Token],
        chance: Option<(f32, f32)>,
    ) -> Result<Token, ComputeError> {
        self.check_output(row)?;
        let logits = self.context.get_logits_ith(row as i32);
        let of = |token: &Token| logits.get(token.0 as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let best = branches.iter().copied().max_by(|left, right| of(left).total_cmp(&of(right)));
        let best = best.ok_or_else(|| ComputeError::Bounds("a choice among nothing".to_owned()))?;
        let Some((temperature, at)) = chance else { return Ok(best) };
        let weight = |token: &Token| ((of(token) - of(&best)) / temperature).exp();
        let mut left = at * branches.iter().map(weight).sum::<f32>();
        for token in branches {
            left -= weight(token);
            if left <= 0.0 {
                return Ok(*token);
            }
        }
        Ok(best)
    }

    /// How likely a token was at a row, before any sampler, and which were likeliest.
    pub(crate) fn logprob(
        &self,
        row: usize,
        token: Token,
        top: u8,
    ) -> Result<TokenLogprob, ComputeError> {
        self.check_output(row)?;
        let logits = self.context.get_logits_ith(row as i32);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
        let total = f64::from(max) + sum.ln();
        let logprob = |token: usize| (f64::from(logits[token]) - total) as f32;
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let count = usize::from(top).min(order.len());
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, |a, b| logits[*b].total_cmp(&logits[*a]));
        }
        order.truncate(count);
        order.sort_unstable_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let shown = |token: usize| (self.model.piece(Token(token as i32)), logprob(token));
        Ok(TokenLogprob {
            bytes: self.model.piece(token),
            logprob: logprob(token.0 as usize),
            top: order.into_iter().map(shown).collect(),
        })
    }

    fn check_output(&self, row: usize) -> Result<(), ComputeError> {
        match self.has_logits.get(row) {
            Some(true) => Ok(()),
            _ => Err(ComputeError::Bounds(format!("logits of row {row}, which has none"))),
        }
    }
}

/// The first of the largest. Two passes, which the compiler makes wide, are several times faster than one with indexes.
fn likeliest(logits: &[f32]) -> Token {
    let max =
        logits.iter().fold(f32::NEG_INFINITY, |max, logit| if *logit > max { *logit } else { max });
    Token(logits.iter().position(|logit| *logit >= max).unwrap_or(0) as i32)
}

/// Rows that llama.cpp computes in one piece: more costs memory and gains nothing on a CPU.
const UBATCH_LEN: usize = 512;
