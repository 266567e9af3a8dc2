//! Batches on which a duty has failed lately: they are passed over for a while, so that one broken batch neither ends
//! the process nor holds up the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use overnight_domain::ids::BatchId;

/// Long enough to keep the log readable, short enough that a repaired disk is noticed soon.
const PASSED_OVER_FOR: Duration = Duration::from_secs(10);
/// Batches that are looked at behind those that are passed over.
pub(crate) const LOOKED_AT: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Setbacks(HashMap<BatchId, Instant>);

impl Setbacks {
    pub(crate) fn note(&mut self, batch: BatchId) {
        self.0.insert(batch, Instant::now());
    }

    pub(crate) fn is_passed_over(&mut self, batch: &BatchId) -> bool {
        self.0.retain(|_, since| since.elapsed() < PASSED_OVER_FOR);
        self.0.contains_key(batch)
    }
}
