//! The ledger: how many calls came, how many at once, and how often for each request.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A summary of the ledger at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsView {
    /// Requests for work that arrived whole.
    pub total: u64,
    /// Requests for `/health` and `/v1/models`.
    pub probes: u64,
    /// Requests that got everything they were to get, garbage and refusals included.
    pub finished: u64,
    /// Of these, refusals for want of a permit.
    pub refused: u64,
    /// Requests whose client left before the end.
    pub abandoned: u64,
    pub in_flight: u64,
    pub in_flight_max: u64,
    pub connections: u64,
    pub crashes: u64,
    pub is_listening: bool,
    /// How many different requests were counted (bodies or `id`s).
    pub requests: u64,
    /// Calls that were not counted by request, because the ledger was full or counting is off.
    pub uncounted: u64,
    /// Calls of one request -> how many requests were called so often.
    pub histogram: BTreeMap<u32, u64>,
}

/// The key under which the calls with this body are counted.
pub fn body_key(body: &[u8]) -> u64 {
    xxh3_64(body)
}

/// The key under which the calls with this `id` are counted.
pub fn marker_key(marker: &str) -> u64 {
    xxh3_64(marker.as_bytes())
}

/// The counters, shared by all connections.
#[derive(Debug)]
pub(crate) struct Ledger {
    counts_all: bool,
    total: AtomicU64,
    probes: AtomicU64,
    finished: AtomicU64,
    refused: AtomicU64,
    abandoned: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    connections: AtomicU64,
    crashes: AtomicU64,
    is_listening: AtomicBool,
    uncounted: AtomicU64,
    by_request: Mutex<HashMap<u64, u32, BuildHasherDefault<KeyHasher>>>,
    order: Mutex<Vec<String>>,
}

/// One request in flight, from its last byte to the last byte of its answer. Dropped unfinished, its client left.
pub(crate) struct InFlight<'a> {
    ledger: &'a Ledger,
    /// How many are in flight, this one included.
    pub(crate) now: u64,
    is_finished: bool,
}

/// The keys are hashes already.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Ledger {
    pub(crate) fn new(counts_all: bool) -> Self {
        Self {
            counts_all,
            total: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            in_flight_max: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            crashes: AtomicU64::new(0),
            is_listening: AtomicBool::new(false),
            uncounted: AtomicU64::new(0),
            by_request: Mutex::default(),
            order: Mutex::default(),
        }
    }

    pub(crate) fn enter(&self) -> InFlight<'_> {
        self.total.fetch_add(1, Ordering::Relaxed);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        if now > self.in_flight_max.load(Ordering::Relaxed) {
            self.in_flight_max.fetch_max(now, Ordering::Relaxed);
        }
        InFlight { ledger: self, now, is_finished: false }
    }

    /// Counts a call of one request and says the how manieth it is. Where nobody asked for counts only those that
    /// `needs_count` are kept; the others get 1.
    pub(crate) fn count(&self, key: u64, marker: Option<&str>, needs_count: bool) -> u32 {
        if !self.counts_all && !needs_count {
            return 1;
        }
        if let Some(marker) = marker {
            let mut order = held(&self.order);
            if order.len() < ORDER_LEN_MAX {
                order.push(marker.to_owned());
            }
        }
        let mut by_request = held(&self.by_request);
        if by_request.len() >= REQUESTS_MAX && !by_request.contains_key(&key) {
            self.uncounted.fetch_add(1, Ordering::Relaxed);
            return 1;
        }
        let count = by_request.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    pub(crate) fn calls_of(&self, key: u64) -> u32 {
        held(&self.by_request).get(&key).copied().unwrap_or(0)
    }

    pub(crate) fn order(&self) -> Vec<String> {
        held(&self.order).clone()
    }

    pub(crate) fn probed(&self) {
        self.probes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn crashed(&self) {
        self.crashes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn listens(&self, is_listening: bool) {
        self.is_listening.store(is_listening, Ordering::Relaxed);
    }

    /// Forgets all counts; what is in flight stays.
    pub(crate) fn clear(&self) {
        for counter in [
            &self.total,
            &self.probes,
            &self.finished,
            &self.refused,
            &self.abandoned,
            &self.connections,
            &self.crashes,
            &self.uncounted,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        self.in_flight_max.store(self.in_flight.load(Ordering::Relaxed), Ordering::Relaxed);
        held(&self.by_request).clear();
        held(&self.order).clear();
    }

    /// The counters alone, without a walk over all requests.
    pub(crate) fn brief(&self) -> CallsView {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let total = read(&self.total);
        CallsView {
            total,
            probes: read(&self.probes),
            finished: read(&self.finished),
            refused: read(&self.refused),
            abandoned: read(&self.abandoned),
            in_flight: read(&self.in_flight),
            in_flight_max: read(&self.in_flight_max),
            connections: read(&self.connections),
            crashes: read(&self.crashes),
            is_listening: self.is_listening.load(Ordering::Relaxed),
            requests: held(&self.by_request).len() as u64,
            uncounted: if self.counts_all { read(&self.uncounted) } else { total },
            histogram: BTreeMap::new(),
        }
    }

    pub(crate) fn view(&self) -> CallsView {
        let mut view = self.brief();
        for count in held(&self.by_request).values() {
            *view.histogram.entry(*count).or_insert(0) += 1;
        }
        view
    }

    /// Waits until the counters (without `histogram`) are as wanted; `false` when they were not in time.
    ///
    /// It looks again and again: to wake it at every request would cost the engine more than the answers do.
    pub(crate) fn wait_until(&self, wanted: impl Fn(&CallsView) -> bool, within: Duration) -> bool {
        let until = Instant::now() + within;
        while !wanted(&self.brief()) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        true
    }
}

impl InFlight<'_> {
    pub(crate) fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let counter = if self.is_finished { &self.ledger.finished } else { &self.ledger.abandoned };
        counter.fetch_add(1, Ordering::Relaxed);
        self.ledger.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// A panic of another connection leaves the counters as usable as before.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Twice the largest batch; some 600 MB when full.
const REQUESTS_MAX: usize = 20_000_000;

/// Markers are for tests of order, which look at some thousands.
const ORDER_LEN_MAX: usize = 100_000;

const LOOK_AGAIN: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_request() {
        let ledger = Ledger::new(true);
        assert_eq!(ledger.count(7, Some("a"), false), 1);
        assert_eq!(ledger.count(7, Some("a"), false), 2);
        assert_eq!(ledger.count(8, None, false), 1);
        assert_eq!(ledger.view().histogram, BTreeMap::from([(1, 1), (2, 1)]));
        assert_eq!(ledger.order(), ["a", "a"]);
        ledger.clear();
        assert_eq!(ledger.calls_of(7), 0);
    }

    #[test]
    fn what_is_left_unfinished_is_abandoned() {
        let ledger = Ledger::new(false);
        let first = ledger.enter();
        let second = ledger.enter();
        assert_eq!(second.now, 2);
        first.finish();
        drop(second);
        let view = ledger.view();
        assert_eq!((view.finished, view.abandoned, view.in_flight, view.in_flight_max), (1, 1, 0, 2));
        assert!(!ledger.wait_until(|view| view.total > 2, Duration::from_millis(1)));
        assert!(ledger.wait_until(|view| view.total == 2, Duration::ZERO));
    }
}
