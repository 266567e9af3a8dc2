//! Embeddings: inputs of all who wait, as many at once as a step has room for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use super::{Load, Resources, STEP_LEN_MIN, STEP_WITHIN};
use crate::inputs::{Input, InputQueue};
use crate::llama::{ComputeError, Embedder, EmbedderShape, Model};
use crate::question::Embedded;
use crate::refusal;
use crate::token::{QuestionId, Token};

/// Inputs of one step at most: each is a sequence of the context.
const INPUTS_MAX: usize = 64;
/// Tokens of a step of several inputs: on a CPU more of them together are no faster, and each looks past the cells of
/// all others.
const STEP_LEN: usize = 512;
/// Without flash attention looking past cells costs more.
const EXACT_STEP_LEN: usize = 256;

struct Asked {
    /// None: not computed yet.
    done: Vec<Option<Vec<f32>>>,
    reply: mpsc::Sender<Embedded>,
}

pub(super) struct Embeddings<'model> {
    model: &'model Model,
    resources: Resources,
    /// Made when it is first needed.
    embedder: Option<Embedder<'model>>,
    asked: BTreeMap<QuestionId, Asked>,
    waiting: InputQueue,
    load: Arc<Load>,
    /// Seconds for one token, averaged.
    token_seconds: f64,
}

impl<'model> Embeddings<'model> {
    pub(super) fn new(model: &'model Model, resources: Resources, load: Arc<Load>) -> Self {
        let (asked, waiting) = (BTreeMap::new(), InputQueue::default());
        Self { model, resources, embedder: None, asked, waiting, load, token_seconds: 0.0 }
    }

    pub(super) fn ask(
        &mut self,
        id: QuestionId,
        inputs: Vec<Arc<[Token]>>,
        reply: mpsc::Sender<Embedded>,
    ) {
        let longest = inputs.iter().map(|input| input.len()).max().unwrap_or(0);
        if longest > self.resources.embed_len || inputs.iter().any(|input| input.is_empty()) {
            let what =
                format!("an input of {longest} tokens, where 1 to {} fit", self.resources.embed_len);
            // Nobody listens any more: then nobody is told.
            let _ = reply.try_send(Err(refusal::failed(&what)));
            return;
        }
        self.asked.insert(id, Asked { done: vec![None; inputs.len()], reply });
        for (number, tokens) in inputs.into_iter().enumerate() {
            self.waiting.push(Input { id, number, tokens });
        }
    }

    pub(super) fn forget(&mut self, id: QuestionId) {
        self.asked.remove(&id);
        self.waiting.forget(id);
    }

    /// Tells all who wait to come again.
    pub(super) fn stop(self) {
        for asked in self.asked.into_values() {
            // It has room for one, and this is the one.
            let _ = asked.reply.try_send(Err(refusal::stopping()));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Computes one step of them.
    pub(super) fn turn(&mut self) -> Result<(), ComputeError> {
        if self.waiting.len() > 0 && self.has_embedder()? {
            let step = self.waiting.next_step(self.step_len(), INPUTS_MAX);
            let inputs: Vec<&[Token]> = step.iter().map(|input| &*input.tokens).collect();
            let tokens = inputs.iter().map(|input| input.len() as u64).sum();
            self.load.embedded_tokens.fetch_add(tokens, Ordering::Relaxed);
            for (input, embedding) in step.iter().zip(self.compute(&inputs)?) {
                if let Some(asked) = self.asked.get_mut(&input.id) {
                    asked.done[input.number] = Some(embedding);
                }
            }
        }
        self.answer();
        Ok(())
    }

    fn compute(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, ComputeError> {
        let tokens = inputs.iter().map(|input| input.len()).sum::<usize>();
        // A long input cannot be cut: whoever looks whether the computing is stuck has to know how long it may take.
        let expected = self.token_seconds * tokens as f64;
        self.load.step_millis.store((expected * 1e3) as u64, Ordering::Relaxed);
        let started = Instant::now();
        let embeddings =
            self.embedder.as_mut().expect("it is made before it is used").compute(inputs)?;
        let took = started.elapsed();
        let seconds = took.as_secs_f64() / tokens.max(1) as f64;
        self.token_seconds =
            if self.token_seconds == 0.0 { seconds } else { self.token_seconds * 0.9 + seconds * 0.1 };
        self.load.step_millis.store(took.as_millis() as u64, Ordering::Relaxed);
        Ok(embeddings)
    }

    /// Tokens of the next step, when it is one of several inputs.
    fn step_len(&self) -> usize {
        let Resources { embed_len, embeds_exactly, .. } = self.resources;
        let most = match (self.model.is_on_gpu(), embeds_exactly) {
            (true, _) => embed_len,
            (false, true) => EXACT_STEP_LEN,
            (false, false) => STEP_LEN,
        };
        let fitting = (STEP_WITHIN.as_secs_f64() / self.token_seconds.max(1e-9)) as usize;
        fitting.max(STEP_LEN_MIN).min(most).min(embed_len)
    }

    fn answer(&mut self) {
        let waiting = &mut self.waiting;
        self.asked.retain(|id, asked| {
            if asked.reply.is_closed() {
                waiting.forget(*id);
                return false;
            }
            if !asked.done.iter().all(Option::is_some) {
                return true;
            }
            let embedded = std::mem::take(&mut asked.done).into_iter().flatten().collect();
            // It has room for one, and this is the one.
            let _ = asked.reply.try_send(Ok(embedded));
            false
        });
    }

    /// Makes it where there is none. When memory is short for it, those who wait are refused and answers go on.
    fn has_embedder(&mut self) -> Result<bool, ComputeError> {
        if self.embedder.is_some() {
            return Ok(true);
        }
        let Resources { embed_len, embeds_exactly, threads, .. } = self.resources;
        let shape = EmbedderShape {
            tokens_max: embed_len,
            inputs_max: INPUTS_MAX,
            is_exact: embeds_exactly,
            threads,
        };
        match self.load.making(|| Embedder::new(self.model, shape)) {
            Ok(embedder) => self.embedder = Some(embedder),
            Err(error) => {
                tracing::error!("{error}");
                self.refuse_all(&error.to_string());
                return Ok(false);
            }
        }
        // The first step reads the weights, which is part of the making, and shows how long a token takes.
        let (load, probe) = (self.load.clone(), [Token(0); STEP_LEN_MIN]);
        load.making(|| self.compute(&[&probe[..STEP_LEN_MIN.min(embed_len)]]))?;
        Ok(true)
    }

    fn refuse_all(&mut self, what: &str) {
        for asked in std::mem::take(&mut self.asked).into_values() {
            // Nobody listens any more: then nobody is told.
            let _ = asked.reply.try_send(Err(refusal::failed(what)));
        }
        self.waiting = InputQueue::default();
    }
}
