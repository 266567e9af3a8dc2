//! The newest failures of the batches that run: where their lines lie, for whoever looks at what goes wrong right now.
//!
//! Filled by the dispatcher when a failure is durable. Empty after a restart; all failures of a batch are read from its
//! segments by `results.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use overnight_domain::ids::BatchId;
use overnight_segment::StoredFrame;

/// Enough to see what goes wrong; who wants all of them asks for the failed requests of the batch.
pub(crate) const KEPT_PER_BATCH: usize = 8;

#[derive(Debug, Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<HashMap<BatchId, VecDeque<StoredFrame>>>>);

impl Failures {
    pub(crate) fn note(&self, batch: &BatchId, frame: StoredFrame) {
        let mut batches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !batches.contains_key(batch) {
            batches.insert(batch.clone(), VecDeque::with_capacity(KEPT_PER_BATCH));
        }
        if let Some(frames) = batches.get_mut(batch) {
            frames.truncate(KEPT_PER_BATCH - 1);
            frames.push_front(frame);
        }
    }

    /// Newest first.
    pub(crate) fn of(&self, batch: &BatchId) -> Vec<StoredFrame> {
        let batches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        batches.get(batch).map(|frames| frames.iter().copied().collect()).unwrap_or_default()
    }

    /// The batch has ended: its files say it all.
    pub(crate) fn forget(&self, batch: &BatchId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(batch);
    }
}
