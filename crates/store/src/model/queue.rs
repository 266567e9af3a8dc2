//! The queue over all tenants, in the model.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use overnight_domain::batch::{Batch, BatchState};
use overnight_domain::chunk::Lease;
use overnight_domain::ids::{BatchId, ChunkNumber, TenantId};

use super::{BatchEntry, ChunkEntry, State};
use crate::{BatchWithOpenChunks, ClaimQuery, Claimed, Demand, Page, QueueView};

/// Its place in the order of the queue: higher priority first, then older, then by id.
fn place(batch: &Batch) -> impl Ord + use<'_> {
    (Reverse(batch.options.priority), batch.moments.created_at, &batch.id)
}

impl State {
    fn in_order(&self) -> Vec<&BatchEntry> {
        let mut entries = self.batches.values().collect::<Vec<_>>();
        entries.sort_by(|a, b| place(&a.batch).cmp(&place(&b.batch)));
        entries
    }

    pub(super) fn queue(&self, states: &[BatchState], limit: usize) -> Vec<BatchWithOpenChunks> {
        self.in_order()
            .into_iter()
            .filter(|entry| states.contains(&entry.batch.state))
            .take(limit)
            .map(|entry| self.with_open_chunks(entry.batch.clone()))
            .collect()
    }

    pub(super) fn queue_of(&self, tenant: &TenantId, limit: usize) -> Page<BatchWithOpenChunks> {
        let rows = self
            .in_order()
            .into_iter()
            .filter(|entry| entry.batch.tenant == *tenant && !entry.batch.state.is_terminal())
            .map(|entry| self.with_open_chunks(entry.batch.clone()))
            .collect();
        Page::cut(rows, limit)
    }

    pub(super) fn closable(&self, limit: usize) -> Vec<Batch> {
        let ending = [BatchState::Finalizing, BatchState::Expiring, BatchState::Cancelling];
        self.in_order()
            .into_iter()
            .filter(|entry| ending.contains(&entry.batch.state) && !self.is_any_held(&entry.batch.id))
            .take(limit)
            .map(|entry| entry.batch.clone())
            .collect()
    }

    pub(super) fn queue_batch(&self, id: &BatchId) -> Option<Batch> {
        self.batches.get(id).map(|entry| entry.batch.clone())
    }

    pub(super) fn queue_view(&self) -> QueueView {
        let mut view = QueueView::default();
        for entry in self.in_order() {
            *view.batches.entry(entry.batch.state).or_default() += 1;
            if !entry.batch.state.is_terminal() {
                view.backlog.push((entry.batch.id.clone(), entry.backlog()));
            }
        }
        view
    }

    pub(super) fn demand(&self) -> Vec<Demand> {
        let mut demands: BTreeMap<Option<String>, i32> = BTreeMap::new();
        for BatchEntry { batch, .. } in self.batches.values() {
            if batch.state == BatchState::InProgress && batch.pause.is_none() {
                let priority = demands.entry(batch.model.clone()).or_insert(batch.options.priority);
                *priority = batch.options.priority.max(*priority);
            }
        }
        demands.into_iter().map(|(model, priority)| Demand { model, priority }).collect()
    }

    pub(super) fn known_batches(&self, ids: &[BatchId]) -> Vec<BatchId> {
        ids.iter().filter(|id| self.batches.contains_key(id)).cloned().collect()
    }

    pub(super) fn claim(&mut self, query: ClaimQuery) -> Option<Claimed> {
        let batch = self.next_batch(&query)?;
        let lease = Lease {
            batch: batch.id.clone(),
            chunk: ChunkNumber(0),
            token: query.token,
            worker: query.worker,
            expires_at: query.now.plus(query.ttl),
        };
        let (lease, chunk) = self.lease_next(lease)?;
        Some(Claimed { lease, chunk, batch })
    }

    /// The first batch in order that may run and has a chunk that waits.
    fn next_batch(&self, query: &ClaimQuery) -> Option<Batch> {
        let comes_before = |batch: &Batch, other: &Batch| place(batch) < place(other);
        let active = self
            .batches
            .values()
            .map(|entry| &entry.batch)
            .filter(|batch| self.is_any_held(&batch.id))
            .collect::<Vec<_>>();
        let may_be_active = |batch: &Batch| {
            active.len() < query.active_batches_max
                || active.iter().any(|other| other.id == batch.id || comes_before(batch, other))
        };
        let is_before_bound = |batch: &Batch| match &query.before {
            Some(bound) => {
                self.batches.get(bound).is_some_and(|entry| comes_before(batch, &entry.batch))
            }
            None => true,
        };
        self.in_order()
            .into_iter()
            .map(|entry| &entry.batch)
            .filter(|batch| batch.state == BatchState::InProgress && batch.pause.is_none())
            .filter(|batch| !query.except.contains(&batch.id))
            .filter(|batch| {
                batch.model.as_ref().is_none_or(|model| !query.unserved_models.contains(model))
            })
            .filter(|batch| self.chunks_of(&batch.id).any(ChunkEntry::is_waiting))
            .find(|batch| is_before_bound(batch) && may_be_active(batch))
            .cloned()
    }
}
