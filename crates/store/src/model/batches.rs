//! Batches, in the model.

use std::collections::BTreeSet;

use overnight_domain::batch::{Batch, BatchError, BatchEvent, BatchState};
use overnight_domain::chunk::{Chunk, ChunkEvent, ChunkState};
use overnight_domain::ids::{BatchId, ChunkNumber, TenantId};
use overnight_domain::notice::Notice;
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;

use super::{BatchEntry, ChunkEntry, State};
use crate::{
    Admission, AdmissionRefusal, BatchPatch, BatchQuery, BatchWithOpenChunks, CHILDREN_MAX, Closing,
    Created, CreationKey, Moved, Page, Planned, Result, StoreError,
};

impl BatchEntry {
    /// Requests without a committed result; while nobody has counted them, as many as were announced.
    pub(super) fn backlog(&self) -> u64 {
        match self.batch.state {
            BatchState::Validating => self.expected_requests,
            _ => self.batch.total.saturating_sub(self.batch.tally.done()),
        }
    }
}

impl State {
    pub(super) fn unfinished(&self) -> impl Iterator<Item = &BatchEntry> {
        self.batches.values().filter(|entry| !entry.batch.state.is_terminal())
    }

    pub(super) fn create_batch(
        &mut self,
        batch: Batch,
        admission: Admission,
        key: Option<CreationKey>,
    ) -> Result<Created> {
        let name = key.as_ref().map(|key| (batch.tenant.clone(), key.key.clone()));
        if let Some(key) = key.filter(|key| key.is_repeat)
            && let Some((earlier, at)) = name.as_ref().and_then(|name| self.creations.get(name))
            && *at >= key.not_before
        {
            return Ok(Created::Existing(Box::new(self.batches[earlier].batch.clone())));
        }
        if let Some(refusal) = self.refusal(&batch, admission) {
            return Ok(Created::Refused(refusal));
        }
        if self.batches.contains_key(&batch.id) {
            return Err(StoreError::Damaged(format!("there is a batch `{}` already", batch.id)));
        }
        if let Some(name) = name {
            self.creations.insert(name, (batch.id.clone(), batch.moments.created_at));
        }
        let expected_requests = admission.expected_requests;
        self.batches.insert(batch.id.clone(), BatchEntry { batch, expected_requests });
        Ok(Created::New)
    }

    fn refusal(&self, batch: &Batch, admission: Admission) -> Option<AdmissionRefusal> {
        let counted = || self.unfinished().filter(|entry| !entry.batch.options.large);
        let unfinished = counted().count() as u64;
        let queued: u64 = counted().map(BatchEntry::backlog).sum();
        let reserved: u64 = self.unfinished().map(|entry| entry.batch.reserved_len).sum();
        let free = admission.disk_free.saturating_sub(reserved);
        if !batch.options.large && unfinished >= admission.unfinished_batches_max {
            Some(AdmissionRefusal::UnfinishedBatches { now: unfinished })
        } else if !batch.options.large
            && queued.saturating_add(admission.expected_requests) > admission.queued_requests_max
        {
            Some(AdmissionRefusal::QueuedRequests { now: queued })
        } else if batch.reserved_len > free {
            Some(AdmissionRefusal::Disk { needed: batch.reserved_len, free })
        } else {
            None
        }
    }

    pub(super) fn batch(&self, tenant: &TenantId, id: &BatchId) -> Option<BatchWithOpenChunks> {
        self.batch_of(tenant, id).map(|batch| self.with_open_chunks(batch))
    }

    fn batch_of(&self, tenant: &TenantId, id: &BatchId) -> Option<Batch> {
        let entry = self.batches.get(id).filter(|entry| entry.batch.tenant == *tenant);
        entry.map(|entry| entry.batch.clone())
    }

    pub(super) fn children(&self, tenant: &TenantId, id: &BatchId) -> Vec<Batch> {
        self.batches
            .values()
            .map(|entry| &entry.batch)
            .filter(|batch| batch.tenant == *tenant && batch.parent.as_ref() == Some(id))
            .take(CHILDREN_MAX)
            .cloned()
            .collect()
    }

    pub(super) fn list_batches(
        &self,
        tenant: &TenantId,
        query: &BatchQuery,
    ) -> Page<BatchWithOpenChunks> {
        let rows = self
            .batches
            .values()
            .rev()
            .map(|entry| &entry.batch)
            .filter(|batch| batch.tenant == *tenant)
            .filter(|batch| query.states.is_empty() || query.states.contains(&batch.state))
            .filter(|batch| query.after.as_ref().is_none_or(|after| batch.id < *after))
            .map(|batch| self.with_open_chunks(batch.clone()))
            .collect();
        Page::cut(rows, query.limit)
    }

    /// Adds the chunks that are begun and not done. In a terminal state the tally says it all.
    pub(super) fn with_open_chunks(&self, batch: Batch) -> BatchWithOpenChunks {
        let open = self
            .chunks_of(&batch.id)
            .filter(|entry| !batch.state.is_terminal() && entry.is_open())
            .map(|entry| entry.chunk.number)
            .collect();
        BatchWithOpenChunks { batch, open }
    }

    pub(super) fn plan_batch(&mut self, id: &BatchId, planned: Planned, now: UnixTime) -> Result<Moved> {
        if planned.total == 0 || planned.chunks.is_empty() {
            return Err(StoreError::Damaged(format!("the plan of batch `{id}` has no request")));
        }
        let ranges = planned.chunks;
        let moved = self.transition(id, BatchEvent::Plan, now, |batch| {
            batch.total = planned.total;
            batch.model = planned.model;
            batch.plan_blob = Some(planned.plan_blob);
            batch.reserved_len = planned.reserved_len;
        });
        if let Moved::To(_) = moved {
            for (number, range) in (0..).map(ChunkNumber).zip(ranges) {
                let chunk = Chunk {
                    batch: id.clone(),
                    number,
                    range,
                    state: ChunkState::Ready,
                    log_from: None,
                    fruitless_takeovers: 0,
                    tally: Tally::default(),
                };
                self.chunks.insert((id.clone(), number), ChunkEntry { chunk, lease: None });
            }
        }
        Ok(moved)
    }

    pub(super) fn reject_batch(
        &mut self,
        id: &BatchId,
        errors: Vec<BatchError>,
        now: UnixTime,
    ) -> Moved {
        self.transition(id, BatchEvent::Reject, now, |batch| batch.errors = errors)
    }

    pub(super) fn cancel_batch(&mut self, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Moved {
        let Some(batch) = self.batch_of(tenant, id) else { return Moved::NotFound };
        if matches!(batch.state, BatchState::Cancelling | BatchState::Cancelled) {
            return Moved::To(Box::new(batch));
        }
        let moved = self.transition(id, BatchEvent::Cancel, now, |_| {});
        if let Moved::To(_) = moved {
            self.drop_unheld(id);
        }
        moved
    }

    pub(super) fn update_batch(&mut self, tenant: &TenantId, id: &BatchId, patch: BatchPatch) -> Moved {
        let entry = self.batches.get_mut(id).filter(|entry| entry.batch.tenant == *tenant);
        let Some(batch) = entry.map(|entry| &mut entry.batch) else { return Moved::NotFound };
        if batch.state.is_terminal() {
            return Moved::Illegal(Box::new(batch.clone()));
        }
        batch.options.priority = patch.priority.unwrap_or(batch.options.priority);
        batch.moments.expires_at = patch.expires_at.unwrap_or(batch.moments.expires_at);
        let before = batch.pause.clone();
        if let Some(pause) = patch.pause {
            batch.pause = pause;
        }
        let batch = batch.clone();
        if let Some(notice) = Notice::batch_paused(before.as_ref(), &batch) {
            self.put_notice(&notice);
        }
        Moved::To(Box::new(batch))
    }

    pub(super) fn expire_batches(&mut self, now: UnixTime) -> Vec<BatchId> {
        let late = self
            .batches
            .values()
            .map(|entry| &entry.batch)
            .filter(|batch| batch.options.hard_expiry && batch.moments.expires_at <= now)
            .filter(|batch| batch.state == BatchState::InProgress)
            .map(|batch| batch.id.clone())
            .collect::<Vec<_>>();
        for id in &late {
            self.transition(id, BatchEvent::Expire, now, |_| {});
            self.drop_unheld(id);
        }
        late
    }

    pub(super) fn reopen_batch(
        &mut self,
        id: &BatchId,
        numbers: &[ChunkNumber],
        now: UnixTime,
    ) -> Result<Moved> {
        if numbers.is_empty() {
            return Err(StoreError::Damaged(format!("batch `{id}` cannot be reopened without a chunk")));
        }
        let Some(entry) = self.batches.get(id) else { return Ok(Moved::NotFound) };
        if entry.batch.state.next(BatchEvent::Reopen).is_err() {
            return Ok(Moved::Illegal(Box::new(entry.batch.clone())));
        }
        let wanted = numbers.iter().collect::<BTreeSet<_>>();
        let is_done = |number: &ChunkNumber| {
            let entry = self.chunks.get(&(id.clone(), *number));
            entry.is_some_and(|entry| entry.chunk.state == ChunkState::Done)
        };
        if wanted.len() < numbers.len() || !numbers.iter().all(is_done) {
            return Err(StoreError::Damaged(format!("not all of the chunks of batch `{id}` are done")));
        }
        for number in numbers {
            let entry = self.chunks.get_mut(&(id.clone(), *number)).expect("found above");
            entry.chunk.state = ChunkState::Parked;
            entry.chunk.tally = Tally::default();
        }
        let chunks = self.chunks_of(id).map(|entry| entry.chunk.tally);
        let tally = chunks.fold(Tally::default(), |sum, tally| sum + tally);
        Ok(self.transition(id, BatchEvent::Reopen, now, |batch| batch.tally = tally))
    }

    pub(super) fn close_batch(
        &mut self,
        id: &BatchId,
        closing: Closing,
        now: UnixTime,
    ) -> Result<Moved> {
        let Some(entry) = self.batches.get(id) else { return Ok(Moved::NotFound) };
        if self.is_any_held(id) || entry.batch.state.next(BatchEvent::Close).is_err() {
            return Ok(Moved::Illegal(Box::new(entry.batch.clone())));
        }
        let mut files = closing.output.iter().chain(&closing.error);
        if let Some(file) = files.find(|file| self.files.contains_key(&file.id)) {
            return Err(StoreError::Damaged(format!("there is a file `{}` already", file.id)));
        }
        let (output_file, error_file) = (
            closing.output.as_ref().map(|file| file.id.clone()),
            closing.error.as_ref().map(|file| file.id.clone()),
        );
        for file in closing.output.into_iter().chain(closing.error) {
            self.create_file(file)?;
        }
        Ok(self.transition(id, BatchEvent::Close, now, |batch| {
            batch.tally = closing.tally;
            batch.output_file = output_file;
            batch.error_file = error_file;
        }))
    }

    pub(super) fn delete_batch(&mut self, tenant: &TenantId, id: &BatchId) -> Moved {
        let Some(batch) = self.batch_of(tenant, id) else { return Moved::NotFound };
        if !batch.state.is_terminal() {
            return Moved::Illegal(Box::new(batch));
        }
        for file in batch.output_file.iter().chain(&batch.error_file) {
            self.hide_file(file);
        }
        self.batches.remove(id);
        self.chunks.retain(|(owner, _), _| owner != id);
        self.creations.retain(|_, (created, _)| created != id);
        Moved::To(Box::new(batch))
    }

    /// Adds what a chunk has come to, and finishes the batch when that was the last one.
    pub(super) fn add_chunk(&mut self, id: &BatchId, tally: Tally, now: UnixTime) {
        if let Some(entry) = self.batches.get_mut(id) {
            entry.batch.tally += tally;
        }
        let is_last = self.chunks_of(id).all(|entry| entry.chunk.state == ChunkState::Done);
        if is_last {
            // Illegal for a batch that has ended early: it keeps its end.
            self.transition(id, BatchEvent::Finish, now, |_| {});
        }
    }

    fn drop_unheld(&mut self, id: &BatchId) {
        for entry in self.chunks.values_mut().filter(|entry| entry.chunk.batch == *id) {
            if entry.lease.is_none()
                && let Ok(state) = entry.chunk.state.next(ChunkEvent::Drop)
            {
                entry.chunk.state = state;
            }
        }
    }

    fn transition(
        &mut self,
        id: &BatchId,
        event: BatchEvent,
        now: UnixTime,
        change: impl FnOnce(&mut Batch),
    ) -> Moved {
        let Some(batch) = self.batches.get_mut(id).map(|entry| &mut entry.batch) else {
            return Moved::NotFound;
        };
        let Ok(to) = batch.state.next(event) else { return Moved::Illegal(Box::new(batch.clone())) };
        batch.state = to;
        batch.moments.reach(to, now);
        change(batch);
        let batch = batch.clone();
        if to.is_terminal() {
            self.put_notice(&Notice::batch_ended(&batch, now));
        }
        Moved::To(Box::new(batch))
    }
}
