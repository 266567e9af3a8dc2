//! What `/metrics` shows of this process: plain atomics, written where the thing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct CounterSet {
    pub(crate) requests_completed: AtomicU64,
    pub(crate) requests_failed: AtomicU64,
    pub(crate) attempts: AtomicU64,
    pub(crate) attempts_charged: AtomicU64,
    pub(crate) engine_busy: AtomicU64,
    pub(crate) late_results_dropped: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) commit_failures: AtomicU64,
    /// From the append of the oldest frame of the last commit to its sync.
    pub(crate) commit_lag_micros: AtomicU64,
    pub(crate) input_tokens: AtomicU64,
    pub(crate) output_tokens: AtomicU64,
    pub(crate) memory_used: AtomicU64,
    /// Moments of the wall clock in milliseconds: when the dispatcher last turned, and last recorded a result.
    pub(crate) dispatcher_seen_at: AtomicU64,
    pub(crate) last_result_at: AtomicU64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Counters(Arc<CounterSet>);

impl std::ops::Deref for Counters {
    type Target = CounterSet;

    fn deref(&self) -> &CounterSet {
        &self.0
    }
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(crate) fn set(counter: &AtomicU64, to: u64) {
    counter.store(to, Ordering::Relaxed);
}

pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
