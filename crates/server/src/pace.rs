//! How fast the running batches go, observed once a second for everybody to read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use overnight_domain::ids::BatchId;
use overnight_domain::progress::{Course, Eta, Pace};

#[derive(Debug, Clone)]
pub(crate) struct Paces {
    started: Instant,
    batches: Arc<Mutex<HashMap<BatchId, Pace>>>,
    whole: Arc<Mutex<Whole>>,
}

/// The pace of all batches together, since the process began.
#[derive(Debug, Clone, Default)]
pub(crate) struct Whole {
    pub(crate) pace: Pace,
    pub(crate) course: Course,
}

impl Paces {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), batches: Arc::default(), whole: Arc::default() }
    }

    /// Results of the batches that run now; the others are forgotten.
    pub(crate) fn observe(&self, done: &[(BatchId, u64)]) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.retain(|id, _| done.iter().any(|(running, _)| running == id));
        for (id, done) in done {
            batches.entry(id.clone()).or_default().observe(self.started.elapsed(), *done);
        }
    }

    /// Results of all batches since the process began.
    pub(crate) fn observe_whole(&self, done: u64) {
        let now = self.started.elapsed();
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.pace.observe(now, done);
        whole.course.observe(now, done);
    }

    pub(crate) fn whole(&self) -> Whole {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Results a second, and when `left` more will be there.
    pub(crate) fn of(&self, batch: &BatchId, left: u64) -> (Option<f64>, Option<Eta>) {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.get(batch).map_or((None, None), |pace| (pace.rate(), pace.eta(left)))
    }
}
