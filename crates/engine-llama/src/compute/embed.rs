//! Embeddings: inputs of all who wait, sorted by length, as many at once as fit.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Resources;
use crate::llama::{ComputeError, Embedder, Model};
use crate::question::Embedded;
use crate::token::{QuestionId, Token};

/// Inputs of one step at most: each is a sequence of the context.
const INPUTS_MAX: usize = 64;

struct Asked {
    inputs: Vec<Arc<[Token]>>,
    done: Vec<Option<Vec<f32>>>,
    reply: mpsc::Sender<Embedded>,
}

pub(super) struct Embeddings<'model> {
    model: &'model Model,
    resources: Resources,
    /// Made when it is first needed.
    embedder: Option<Embedder<'model>>,
    asked: BTreeMap<QuestionId, Asked>,
    /// By length, then by who asked and which of theirs it is.
    waiting: BTreeMap<(usize, QuestionId, usize), Arc<[Token]>>,
}

impl<'model> Embeddings<'model> {
    pub(super) const fn new(model: &'model Model, resources: Resources) -> Self {
        Self { model, resources, embedder: None, asked: BTreeMap::new(), waiting: BTreeMap::new() }
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
            let _ = reply.try_send(Err(what));
            return;
        }
        for (number, input) in inputs.iter().enumerate() {
            self.waiting.insert((input.len(), id, number), input.clone());
        }
        self.asked.insert(id, Asked { done: vec![None; inputs.len()], inputs, reply });
    }

    pub(super) fn forget(&mut self, id: QuestionId) {
        if let Some(asked) = self.asked.remove(&id) {
            for (number, input) in asked.inputs.iter().enumerate() {
                self.waiting.remove(&(input.len(), id, number));
            }
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Computes one step of them; returns its tokens.
    pub(super) fn turn(&mut self) -> Result<u64, ComputeError> {
        let (mut keys, mut total) = (Vec::new(), 0);
        for key in self.waiting.keys() {
            if keys.len() == INPUTS_MAX || total + key.0 > self.resources.embed_len {
                break;
            }
            total += key.0;
            keys.push(*key);
        }
        if !keys.is_empty() {
            let inputs: Vec<Arc<[Token]>> =
                keys.iter().map(|key| self.waiting.remove(key).expect("it was just listed")).collect();
            let embedded =
                self.embedder()?.compute(&inputs.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
            for ((_, id, number), embedding) in keys.into_iter().zip(embedded) {
                if let Some(asked) = self.asked.get_mut(&id) {
                    asked.done[number] = Some(embedding);
                }
            }
        }
        self.answer();
        Ok(total as u64)
    }

    fn answer(&mut self) {
        self.asked.retain(|_, asked| {
            if asked.reply.is_closed() {
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

    fn embedder(&mut self) -> Result<&mut Embedder<'model>, ComputeError> {
        if self.embedder.is_none() {
            let Resources { embed_len, threads, .. } = self.resources;
            self.embedder = Some(Embedder::new(self.model, embed_len, INPUTS_MAX, threads)?);
        }
        Ok(self.embedder.as_mut().expect("it was just made"))
    }
}
