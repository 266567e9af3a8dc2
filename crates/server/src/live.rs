//! Live counts: what is durable in chunks that are not committed yet.
//!
//! The store's tally of a batch is the sum of its committed chunks. People want to see the others too, and counts must
//! never run backwards. So the dispatcher notes here what became durable in each open chunk, and takes a chunk out only
//! after the store has committed it; a reader looks here *before* it reads the store and adds only chunks that the
//! store still calls open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use overnight_domain::ids::{BatchId, ChunkNumber};
use overnight_domain::tally::Tally;

type OpenChunks = HashMap<ChunkNumber, Tally>;

#[derive(Debug, Clone, Default)]
pub(crate) struct Live(Arc<Mutex<HashMap<BatchId, OpenChunks>>>);

/// The counts of one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveView(HashMap<BatchId, OpenChunks>);

impl LiveView {
    /// What the open chunks add to the committed tally of a batch.
    pub(crate) fn sum(&self, batch: &BatchId, open: &[ChunkNumber]) -> Tally {
        let mut sum = Tally::default();
        if let Some(chunks) = self.0.get(batch) {
            open.iter().filter_map(|number| chunks.get(number)).for_each(|tally| sum += *tally);
        }
        sum
    }
}

impl Live {
    /// Take it before reading the store.
    pub(crate) fn view(&self) -> LiveView {
        LiveView(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(crate) fn set(&self, batch: &BatchId, chunk: ChunkNumber, tally: Tally) {
        let mut batches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunks) = batches.get_mut(batch) {
            chunks.insert(chunk, tally);
        } else {
            batches.insert(batch.clone(), HashMap::from([(chunk, tally)]));
        }
    }

    /// Only after the store has committed the chunk.
    pub(crate) fn remove(&self, batch: &BatchId, chunk: ChunkNumber) {
        let mut batches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunks) = batches.get_mut(batch) {
            chunks.remove(&chunk);
            if chunks.is_empty() {
                batches.remove(batch);
            }
        }
    }

    /// The batch has ended: its final tally is in the store.
    pub(crate) fn forget(&self, batch: &BatchId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(batch);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_open_chunks_count() {
        let live = Live::default();
        let batch = BatchId::from_uuid(Uuid::from_u128(1));
        let tally = |completed| Tally { completed, ..Tally::default() };
        live.set(&batch, ChunkNumber(0), tally(3));
        live.set(&batch, ChunkNumber(1), tally(4));
        let view = live.view();
        live.remove(&batch, ChunkNumber(0));
        assert_eq!(view.sum(&batch, &[ChunkNumber(0), ChunkNumber(1)]), tally(7));
        assert_eq!(view.sum(&batch, &[ChunkNumber(1)]), tally(4), "chunk 0 was committed meanwhile");
        assert_eq!(live.view().sum(&batch, &[ChunkNumber(0), ChunkNumber(1)]), tally(4));
    }
}
