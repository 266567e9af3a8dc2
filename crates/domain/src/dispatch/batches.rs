//! The open batches and chunks: what is known of them, what may be asked about them, and what they are told.

use std::time::Duration;

use crate::ids::{BatchId, DispatchToken};
use crate::time::UnixTime;

use super::chunk::{ChunkProgress, ChunkSlot, NewChunk, OpenChunk};
use super::endpoint::Endpoint;
use super::refusals::{RefusalPattern, RefusalWatch};
use super::{Dispatcher, RequestSlot};

/// The order of the queue: higher priority first, then older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    descending_priority: i64,
    created_at: UnixTime,
    id: BatchId,
}

impl Rank {
    pub fn new(priority: i32, created_at: UnixTime, id: BatchId) -> Self {
        Self { descending_priority: -i64::from(priority), created_at, id }
    }
}

/// What the dispatcher knows about a batch of which it holds chunks.
#[derive(Debug, Clone)]
pub struct BatchTerms {
    pub id: BatchId,
    pub priority: i32,
    pub created_at: UnixTime,
    pub total: u64,
    /// Results that were committed before: a batch that has some is past its first outcomes.
    pub done_before: u64,
    pub attempts_max: u32,
    pub timeout: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct BatchWork {
    pub(super) terms: BatchTerms,
    pub(super) chunks: Vec<ChunkSlot>,
    /// Nothing of it is sent.
    pub(super) is_held: bool,
    refusals: RefusalWatch,
}

impl Dispatcher {
    /// Takes in a chunk whose lease is held. `new` says which of its requests have results already.
    pub fn open(&mut self, terms: BatchTerms, new: NewChunk) -> ChunkSlot {
        let slot = ChunkSlot(self.next_slot);
        self.next_slot = self.next_slot.wrapping_add(1);
        let rank = Rank::new(terms.priority, terms.created_at, terms.id.clone());
        let batch = self.batches.entry(rank.clone()).or_insert_with(|| BatchWork {
            refusals: RefusalWatch::new(terms.total, terms.done_before),
            terms,
            chunks: Vec::new(),
            is_held: false,
        });
        batch.chunks.push(slot);
        self.chunks.insert(slot, OpenChunk::new(rank, new));
        slot
    }

    /// Forgets a chunk: it is done, parked or lost. Calls that are still in flight for it are returned, to be dropped.
    pub fn close(&mut self, slot: ChunkSlot) -> Vec<DispatchToken> {
        let Some(chunk) = self.chunks.remove(&slot) else { return Vec::new() };
        if let Some(batch) = self.batches.get_mut(&chunk.rank) {
            batch.chunks.retain(|other| *other != slot);
            if batch.chunks.is_empty() {
                self.batches.remove(&chunk.rank);
            }
        }
        self.pasts.retain(|request, _| request.chunk != slot);
        self.waiting.retain(|_, request| request.chunk != slot);
        let tokens: Vec<_> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.pack.chunk == slot)
            .map(|(token, _)| *token)
            .collect();
        for token in &tokens {
            self.take_flight(*token);
        }
        self.lane.forget(slot);
        tokens
    }

    /// A recorded result of a chunk is durable.
    pub fn durable(&mut self, slot: ChunkSlot) -> Option<ChunkProgress> {
        let chunk = self.chunks.get_mut(&slot)?;
        chunk.durable += 1;
        Some(chunk.progress())
    }

    /// Nothing more of the batch is sent until it is let go; calls in flight may end.
    pub fn set_held(&mut self, batch: &BatchId, is_held: bool) {
        for work in self.batches.values_mut().filter(|work| work.terms.id == *batch) {
            work.is_held = is_held;
        }
    }

    /// The batch was given another priority: its place in the order changes at once.
    pub fn set_priority(&mut self, batch: &BatchId, priority: i32) {
        let moved = self
            .batches
            .iter()
            .find(|(_, work)| work.terms.id == *batch && work.terms.priority != priority);
        let Some(rank) = moved.map(|(rank, _)| rank.clone()) else { return };
        let mut work = self.batches.remove(&rank).expect("it was just found");
        work.terms.priority = priority;
        let rank = Rank::new(priority, work.terms.created_at, work.terms.id.clone());
        for slot in &work.chunks {
            self.chunks.get_mut(slot).expect("a batch lists open chunks").rank = rank.clone();
        }
        self.batches.insert(rank, work);
    }

    pub fn batch_count(&self) -> usize {
        self.batches.len()
    }

    pub fn is_open(&self, slot: ChunkSlot) -> bool {
        self.chunks.contains_key(&slot)
    }

    /// The first outcomes of the batch were all the same refusal; asked once, after it became so.
    pub fn take_refused(&mut self) -> Option<(BatchId, RefusalPattern)> {
        self.batches
            .values_mut()
            .find_map(|work| work.refusals.take().map(|pattern| (work.terms.id.clone(), pattern)))
    }

    /// Requests that could be sent if there were room, over batches that are not held. Those that wait for an endpoint
    /// which is not in use are not counted.
    pub fn unsent(&self) -> usize {
        self.batches
            .values()
            .filter(|work| !work.is_held)
            .flat_map(|work| &work.chunks)
            .map(|slot| self.sendable(*slot))
            .sum()
    }

    /// Chunks of which something is left to send and nothing can be sent by an endpoint that is in use.
    pub fn stranded(&self) -> Vec<ChunkSlot> {
        let waits = |slot: &ChunkSlot| self.chunks[slot].unsent() > 0 && self.sendable(*slot) == 0;
        self.chunks.keys().copied().filter(waits).collect()
    }

    pub fn is_model_served(&self, model: &str) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.may_be_tried() && endpoint.may_serve(model))
    }

    /// The batches of which chunks are open, first in the queue first, with their open chunks and what could be sent.
    pub fn batches(&self) -> impl Iterator<Item = (&BatchTerms, &[ChunkSlot], usize)> {
        self.batches.values().map(|work| {
            let unsent = work.chunks.iter().map(|slot| self.sendable(*slot)).sum();
            (&work.terms, work.chunks.as_slice(), unsent)
        })
    }

    /// A chunk that may be put back now: nothing of it is in flight or waits for the commit.
    pub fn is_idle(&self, slot: ChunkSlot) -> bool {
        self.chunks
            .get(&slot)
            .is_some_and(|chunk| chunk.in_flight == 0 && chunk.recorded == chunk.durable)
    }

    /// What is left to send of a chunk, as far as an endpoint that is in use could serve it: what waits for another model
    /// must not keep work away from those who are there. While nobody is in use all of it counts.
    fn sendable(&self, slot: ChunkSlot) -> usize {
        let chunk = &self.chunks[&slot];
        if !self.endpoints.iter().any(Endpoint::may_be_tried) {
            return chunk.unsent();
        }
        chunk.sendable(|model| self.is_model_served(model))
    }

    pub(super) fn watch_outcome(&mut self, request: RequestSlot, refusal: Option<RefusalPattern>) {
        let rank = self.chunks.get(&request.chunk).map(|chunk| &chunk.rank);
        if let Some(work) = rank.and_then(|rank| self.batches.get_mut(rank)) {
            work.refusals.note(refusal);
        }
    }
}
