//! Chunks and their leases, in the model.

use overnight_domain::batch::BatchState;
use overnight_domain::chunk::{Chunk, ChunkEvent, ChunkRange, ChunkState, Lease, LogPosition};
use overnight_domain::ids::{BatchId, ChunkNumber, WorkerId};
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;

use super::{ChunkEntry, State};
use crate::{Hold, Parking, Result, StoreError};

impl ChunkEntry {
    /// Begun and not done: durable results may lie in the segments that no committed tally counts.
    pub(super) fn is_open(&self) -> bool {
        self.chunk.log_from.is_some() && self.chunk.state != ChunkState::Done
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.chunk.state.next(ChunkEvent::Claim).is_ok()
    }

    fn is_held_by(&self, lease: &Lease) -> bool {
        self.lease.as_ref().is_some_and(|kept| kept.token == lease.token)
    }
}

impl State {
    pub(super) fn chunks_of(&self, batch: &BatchId) -> impl Iterator<Item = &ChunkEntry> {
        self.chunks
            .range((batch.clone(), ChunkNumber(0))..=(batch.clone(), ChunkNumber(u32::MAX)))
            .map(|(_, entry)| entry)
    }

    pub(super) fn is_any_held(&self, batch: &BatchId) -> bool {
        self.chunks_of(batch).any(|entry| entry.lease.is_some())
    }

    fn held(&mut self, lease: &Lease) -> Option<&mut ChunkEntry> {
        self.chunks.get_mut(&(lease.batch.clone(), lease.chunk)).filter(|entry| entry.is_held_by(lease))
    }

    /// Parked chunks first, then by number.
    pub(super) fn lease_next(&mut self, lease: Lease) -> Option<(Lease, Chunk)> {
        let number = self
            .chunks_of(&lease.batch)
            .filter(|entry| entry.is_waiting())
            .map(|entry| (entry.chunk.state != ChunkState::Parked, entry.chunk.number))
            .min()?
            .1;
        let entry = self.chunks.get_mut(&(lease.batch.clone(), number))?;
        let lease = Lease { chunk: number, ..lease };
        entry.chunk.state = entry.chunk.state.next(ChunkEvent::Claim).ok()?;
        entry.lease = Some(lease.clone());
        Some((lease, entry.chunk.clone()))
    }

    pub(super) fn begin(&mut self, lease: &Lease, log_from: LogPosition) -> Hold {
        let Some(entry) = self.held(lease) else { return Hold::Lost };
        entry.chunk.log_from.get_or_insert(log_from);
        Hold::Held
    }

    pub(super) fn renew(&mut self, leases: &[Lease], expires_at: UnixTime) -> Vec<Hold> {
        let renew = |lease| match self.held(lease).and_then(|entry| entry.lease.as_mut()) {
            Some(kept) => {
                kept.expires_at = expires_at;
                Hold::Held
            }
            None => Hold::Lost,
        };
        leases.iter().map(renew).collect()
    }

    pub(super) fn complete(&mut self, lease: &Lease, tally: Tally, now: UnixTime) -> Hold {
        let Some(entry) = self.held(lease) else { return Hold::Lost };
        entry.chunk.state = ChunkState::Done;
        entry.chunk.tally = tally;
        entry.lease = None;
        self.add_chunk(&lease.batch, tally, now);
        Hold::Held
    }

    pub(super) fn park(&mut self, lease: &Lease, parking: Parking) -> Hold {
        let state = self.put_back_state(&lease.batch);
        let Some(entry) = self.held(lease) else { return Hold::Lost };
        entry.chunk.state = state;
        entry.chunk.fruitless_takeovers =
            if parking.has_progress { 0 } else { entry.chunk.fruitless_takeovers + 1 };
        entry.lease = None;
        Hold::Held
    }

    /// Where a leased chunk goes when it is put back: it waits while its batch goes on.
    fn put_back_state(&self, batch: &BatchId) -> ChunkState {
        match self.batches.get(batch).map(|entry| entry.batch.state) {
            Some(BatchState::InProgress) => ChunkState::Parked,
            _ => ChunkState::Dropped,
        }
    }

    /// The rest inherits the takeovers: whichever of its requests was the cause, the evidence is about all of them.
    pub(super) fn split(&mut self, lease: &Lease, at: u64, lens: (u64, u64)) -> Result<Hold> {
        let state = self.put_back_state(&lease.batch);
        let count = self.chunks_of(&lease.batch).count() as u32;
        let Some(entry) = self.held(lease) else { return Ok(Hold::Lost) };
        let whole = entry.chunk.range;
        let end = whole.first_entry + u64::from(whole.entry_count);
        if at <= whole.first_entry || at >= end {
            return Err(StoreError::Damaged(format!(
                "chunk `{}` of batch `{}` cannot be split at entry `{at}`",
                lease.chunk.0, lease.batch
            )));
        }
        let entry_count = (at - whole.first_entry) as u32;
        entry.chunk.range = ChunkRange { entry_count, len: lens.0, ..whole };
        let rest = Chunk {
            number: ChunkNumber(count),
            range: ChunkRange { first_entry: at, entry_count: (end - at) as u32, len: lens.1 },
            state,
            ..entry.chunk.clone()
        };
        self.chunks.insert((lease.batch.clone(), rest.number), ChunkEntry { chunk: rest, lease: None });
        Ok(Hold::Held)
    }

    pub(super) fn recover(&mut self, worker: &WorkerId) -> Vec<Chunk> {
        self.take_back(|lease| lease.worker != *worker);
        self.unfinished()
            .flat_map(|entry| self.chunks_of(&entry.batch.id))
            .filter(|entry| entry.is_open())
            .map(|entry| entry.chunk.clone())
            .collect()
    }

    pub(super) fn expire_leases(&mut self, now: UnixTime) -> Vec<Lease> {
        self.take_back(|lease| lease.expires_at <= now)
    }

    fn take_back(&mut self, is_over: impl Fn(&Lease) -> bool) -> Vec<Lease> {
        let leases = self.chunks.values().filter_map(|entry| entry.lease.clone());
        let over = leases.filter(is_over).collect::<Vec<_>>();
        for lease in &over {
            self.park(lease, Parking { has_progress: false });
        }
        over
    }

    pub(super) fn chunks(&self, batch: &BatchId) -> Vec<Chunk> {
        self.chunks_of(batch).map(|entry| entry.chunk.clone()).collect()
    }
}
