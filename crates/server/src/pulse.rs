//! Pulses: every long part of the process beats as it goes, and a watcher on a thread of its own ends the process when
//! one of them falls silent. A part that waits for nothing in particular beats on a tick, one with much to do beats in
//! the middle of it.
//!
//! A beat is a count, not a time: silence is the time over which the watcher saw no beat. A machine that sleeps, a process
//! that is stopped or looked at with a debugger stops the watcher with all others, and nobody is blamed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use overnight_domain::limits::STOPPED_WITHIN;
use tokio_util::sync::CancellationToken;

use crate::service::Announcer;

/// What a process ends with of which a part was stuck: `EX_SOFTWARE` of sysexits.h.
const EXIT_STUCK: i32 = 70;
/// Between two looks of the watcher, unless parts are given up sooner.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The long parts of the process that are alive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulses(Arc<Mutex<Vec<Weak<Part>>>>);

#[derive(Debug)]
struct Part {
    name: &'static str,
    beats: AtomicU64,
}

/// The pulse of one part. The part counts as alive until the last clone is gone.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Part>);

impl Pulse {
    /// It goes on. As cheap as a counter: a loop over millions may beat in each turn.
    pub(crate) fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pulses {
    pub(crate) fn begin(&self, name: &'static str) -> Pulse {
        let part = Arc::new(Part { name, beats: AtomicU64::new(0) });
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part));
        Pulse(part)
    }

    fn alive(&self) -> Vec<Arc<Part>> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter_map(Weak::upgrade).collect()
    }
}

/// A part that has not beaten for too long.
#[derive(Debug, PartialEq, Eq)]
struct Stuck {
    name: &'static str,
    silent_for: Duration,
}

/// What the watcher has seen of each part.
struct Watch {
    pulses: Pulses,
    stuck_after: Duration,
    seen: Vec<Seen>,
}

struct Seen {
    part: Weak<Part>,
    beats: u64,
    silent_for: Duration,
}

impl Watch {
    fn new(pulses: Pulses, stuck_after: Duration) -> Self {
        Self { pulses, stuck_after, seen: Vec::new() }
    }

    /// Often enough that a part is given up in time, and that the watcher's own lateness counts for little.
    fn look_every(&self) -> Duration {
        LOOK_EVERY.min(self.stuck_after / 8)
    }

    /// Looks at all parts, `watched` after the last look. The one that is silent for longest, if it is stuck.
    fn look(&mut self, watched: Duration) -> Option<Stuck> {
        self.seen.retain(|seen| seen.part.strong_count() > 0);
        for part in self.pulses.alive() {
            let beats = part.beats.load(Ordering::Relaxed);
            let known =
                self.seen.iter_mut().find(|seen| Weak::ptr_eq(&seen.part, &Arc::downgrade(&part)));
            match known {
                Some(seen) if seen.beats == beats => seen.silent_for += watched,
                Some(seen) => (seen.beats, seen.silent_for) = (beats, Duration::ZERO),
                None => {
                    let part = Arc::downgrade(&part);
                    self.seen.push(Seen { part, beats, silent_for: Duration::ZERO });
                }
            }
        }
        let silent = self.seen.iter().max_by_key(|seen| seen.silent_for)?;
        let name = silent.part.upgrade()?.name;
        let silent_for = silent.silent_for;
        (silent_for >= self.stuck_after).then_some(Stuck { name, silent_for })
    }
}

/// Watches until `over` is dropped; ends the process when a part is stuck, or when a stop does not come to its end. While
/// all is well the service manager is told so.
pub(crate) fn watch(
    pulses: Pulses,
    stuck_after: Duration,
    announcer: &Announcer,
    stop: &CancellationToken,
    over: &Receiver<()>,
) {
    let mut watch = Watch::new(pulses, stuck_after);
    let every = watch.look_every();
    let (mut last, mut stopping) = (Instant::now(), Duration::ZERO);
    loop {
        if !matches!(over.recv_timeout(every), Err(RecvTimeoutError::Timeout)) {
            return;
        }
        // Late itself, the watcher saw nothing meanwhile: a process that was stopped is not stuck.
        let watched = last.elapsed().min(2 * every);
        last = Instant::now();
        if stop.is_cancelled() {
            stopping += watched;
            if stopping >= STOPPED_WITHIN {
                give_up(&Stuck { name: "stop", silent_for: stopping }, announcer);
            }
        } else if let Some(stuck) = watch.look(watched) {
            give_up(&stuck, announcer);
        }
        announcer.ping();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a part that is stuck cannot be waited for; what was durable stays, and the next start goes on"
)]
fn give_up(stuck: &Stuck, announcer: &Announcer) {
    let Stuck { name, silent_for } = stuck;
    tracing::error!(
        part = name,
        silent_for = format!("{} s", silent_for.as_secs()),
        "a part of the server is stuck; the process ends, and goes on where it was when it is started again"
    );
    announcer.status(&format!("`{name}` was stuck"));
    std::process::exit(EXIT_STUCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch(pulses: &Pulses) -> Watch {
        Watch::new(pulses.clone(), 3 * SECOND)
    }

    #[test]
    fn the_part_that_falls_silent_is_named() {
        let pulses = Pulses::default();
        let (ingest, api) = (pulses.begin("ingest"), pulses.begin("api"));
        let mut watch = watch(&pulses);
        for _ in 0..3 {
            ingest.beat();
            api.beat();
            assert_eq!(watch.look(SECOND), None);
        }
        for _ in 0..2 {
            api.beat();
            assert_eq!(watch.look(SECOND), None);
        }
        api.beat();
        assert_eq!(watch.look(SECOND), Some(Stuck { name: "ingest", silent_for: 3 * SECOND }));
    }

    #[test]
    fn a_beat_in_time_is_enough() {
        let pulses = Pulses::default();
        let slow = pulses.begin("slow");
        let mut watch = watch(&pulses);
        for look in 0..60 {
            if look % 3 == 0 {
                slow.beat();
            }
            assert_eq!(watch.look(SECOND), None, "at look {look}");
        }
    }

    #[test]
    fn a_part_that_has_ended_is_no_longer_watched() {
        let pulses = Pulses::default();
        let part = pulses.begin("finalize");
        let other = part.clone();
        let mut watch = watch(&pulses);
        watch.look(SECOND);
        drop(part);
        assert!(watch.look(4 * SECOND).is_some(), "its blocking work still holds the pulse");
        drop(other);
        assert_eq!(watch.look(60 * SECOND), None);
    }
}
