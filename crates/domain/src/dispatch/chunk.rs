//! An open chunk: which of its requests are still to be sent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::pack::PackShape;

use super::Rank;

/// The place of an open chunk in the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSlot(pub u32);

/// A chunk to be opened.
#[derive(Debug, Clone)]
pub struct NewChunk {
    /// The model of each request, in the order of the plan.
    pub models: Vec<Arc<str>>,
    /// Requests, by their place in the chunk, that have a durable result or share the answer of the one before.
    pub done: HashSet<u32>,
    /// What each would be in a pack, none for one that cannot be packed; empty where nothing is packed.
    pub shapes: Vec<Option<PackShape>>,
}

/// How far a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkProgress {
    /// Requests that had to be answered when it was opened.
    pub expected: u32,
    pub durable: u32,
}

impl ChunkProgress {
    pub const fn is_done(&self) -> bool {
        self.durable >= self.expected
    }
}

/// Requests of one model, in the order of the plan, those that can be packed together as neighbours; and how many of
/// them were sent.
#[derive(Debug)]
struct ModelRun {
    model: Arc<str>,
    ordinals: Vec<u32>,
    sent: usize,
}

#[derive(Debug)]
pub(super) struct OpenChunk {
    pub(super) rank: Rank,
    runs: Vec<ModelRun>,
    models: Vec<Arc<str>>,
    shapes: Vec<Option<PackShape>>,
    /// Requests that may be sent again now, before fresh ones.
    pub(super) ready: VecDeque<u32>,
    pub(super) in_flight: u32,
    pub(super) recorded: u32,
    pub(super) durable: u32,
    expected: u32,
}

impl OpenChunk {
    pub(super) fn new(rank: Rank, new: NewChunk) -> Self {
        let mut runs: Vec<ModelRun> = Vec::new();
        let open = (0_u32..).zip(&new.models).filter(|(ordinal, _)| !new.done.contains(ordinal));
        for (ordinal, model) in open {
            match runs.iter_mut().rev().find(|run| run.model == *model) {
                Some(run) => run.ordinals.push(ordinal),
                None => runs.push(ModelRun { model: model.clone(), ordinals: vec![ordinal], sent: 0 }),
            }
        }
        if !new.shapes.is_empty() {
            for run in &mut runs {
                gather_alike(&mut run.ordinals, &new.shapes);
            }
        }
        let expected = runs.iter().map(|run| run.ordinals.len() as u32).sum();
        Self {
            rank,
            runs,
            models: new.models,
            shapes: new.shapes,
            ready: VecDeque::new(),
            in_flight: 0,
            recorded: 0,
            durable: 0,
            expected,
        }
    }

    /// For those who keep it.
    pub(super) fn shared_model_of(&self, ordinal: u32) -> Arc<str> {
        self.models[ordinal as usize].clone()
    }

    pub(super) fn model_of(&self, ordinal: u32) -> &str {
        &self.models[ordinal as usize]
    }

    pub(super) fn shape_of(&self, ordinal: u32) -> Option<&PackShape> {
        self.shapes.get(ordinal as usize)?.as_ref()
    }

    pub(super) const fn has_shapes(&self) -> bool {
        !self.shapes.is_empty()
    }

    /// What was not sent yet of the model of this request, in the order in which it is sent.
    pub(super) fn fresh_of_model(&self, ordinal: u32) -> impl Iterator<Item = u32> {
        let model = &self.models[ordinal as usize];
        let run = self.runs.iter().find(|run| run.model == *model);
        run.into_iter().flat_map(|run| run.ordinals[run.sent..].iter().copied())
    }

    /// The first fresh request whose model is served.
    pub(super) fn fresh(&self, is_served: impl Fn(&str) -> bool) -> Option<u32> {
        self.runs
            .iter()
            .find_map(|run| run.ordinals.get(run.sent).copied().filter(|_| is_served(&run.model)))
    }

    /// Takes a request that is being sent out of what is still to be sent.
    pub(super) fn take(&mut self, ordinal: u32) {
        if let Some(at) = self.ready.iter().position(|ready| *ready == ordinal) {
            self.ready.remove(at);
            return;
        }
        for run in &mut self.runs {
            if run.ordinals.get(run.sent) == Some(&ordinal) {
                run.sent += 1;
                return;
            }
        }
    }

    pub(super) fn unsent(&self) -> usize {
        self.ready.len() + self.runs.iter().map(|run| run.ordinals.len() - run.sent).sum::<usize>()
    }

    /// Those of the unsent whose model is served.
    pub(super) fn sendable(&self, is_served: impl Fn(&str) -> bool) -> usize {
        let ready = self.ready.iter().filter(|ordinal| is_served(self.model_of(**ordinal))).count();
        let fresh =
            self.runs.iter().filter(|run| run.ordinals.len() > run.sent && is_served(&run.model));
        ready + fresh.map(|run| run.ordinals.len() - run.sent).sum::<usize>()
    }

    pub(super) const fn progress(&self) -> ChunkProgress {
        ChunkProgress { expected: self.expected, durable: self.durable }
    }
}

/// Makes neighbours of requests that can be packed together: in the order of the first of each kind, and among
/// themselves as before.
fn gather_alike(ordinals: &mut [u32], shapes: &[Option<PackShape>]) {
    let mut firsts: HashMap<Option<u128>, u32> = HashMap::new();
    let kind = |ordinal: u32| shapes.get(ordinal as usize).copied().flatten().map(|shape| shape.key);
    for ordinal in &*ordinals {
        firsts.entry(kind(*ordinal)).or_insert(*ordinal);
    }
    if firsts.len() > 1 {
        ordinals.sort_by_key(|ordinal| (firsts[&kind(*ordinal)], *ordinal));
    }
}
