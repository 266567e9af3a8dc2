//! Whether the computing is stuck: there is work, and no step ends.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::compute::Load;

/// A step that takes so long is none, whatever was to be expected.
const STALL_LEAST: Duration = Duration::from_secs(20);
/// And neither is one that takes so many times what the last one took.
const STALL_FACTOR: u32 = 10;
/// A context of tens of gigabytes has to be cleared, which no step tells the time of.
const MAKE_WITHIN: Duration = Duration::from_secs(600);

/// What is seen of the computing at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    steps: u64,
    is_waiting: bool,
    is_making: bool,
}

pub(crate) struct Watch {
    seen: Seen,
    since: Instant,
}

impl Watch {
    pub(crate) fn new(load: &Load, now: Instant) -> Self {
        Self { seen: Seen::of(load), since: now }
    }

    /// How long nothing has happened where that is too long.
    pub(crate) fn look(&mut self, load: &Load, now: Instant) -> Option<Duration> {
        let seen = Seen::of(load);
        if seen.is_waiting || seen != self.seen {
            (self.seen, self.since) = (seen, now);
            return None;
        }
        let last = Duration::from_millis(load.step_millis.load(Ordering::Relaxed));
        let limit = if seen.is_making {
            MAKE_WITHIN
        } else {
            STALL_LEAST.max(last.saturating_mul(STALL_FACTOR))
        };
        let unchanged = now.saturating_duration_since(self.since);
        (unchanged > limit).then_some(unchanged)
    }
}

impl Seen {
    fn of(load: &Load) -> Self {
        Self {
            steps: load.steps.load(Ordering::Relaxed),
            is_waiting: load.is_waiting.load(Ordering::Relaxed),
            is_making: load.is_making.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks each second for so long; returns when it was found stuck.
    fn stuck_after(load: &Load, within: Duration) -> Option<Duration> {
        let began = Instant::now();
        let mut watch = Watch::new(load, began);
        (1..=within.as_secs()).find_map(|second| watch.look(load, began + Duration::from_secs(second)))
    }

    #[test]
    fn a_step_that_does_not_end_is_a_stall() {
        let load = Load::default();
        assert_eq!(stuck_after(&load, Duration::from_secs(60)), Some(Duration::from_secs(21)));
        load.step_millis.store(30_000, Ordering::Relaxed);
        assert_eq!(stuck_after(&load, Duration::from_secs(300)), None);
        assert_eq!(stuck_after(&load, Duration::from_secs(400)), Some(Duration::from_secs(301)));
    }

    #[test]
    fn steps_that_end_are_none() {
        let load = Load::default();
        let began = Instant::now();
        let mut watch = Watch::new(&load, began);
        for second in 1..100 {
            if second % 15 == 0 {
                load.steps.fetch_add(1, Ordering::Relaxed);
            }
            assert_eq!(watch.look(&load, began + Duration::from_secs(second)), None);
        }
    }

    /// An answer that somebody read slowly held its place in the queue, which was taken for work that was left lying.
    #[test]
    fn nothing_to_do_is_none_however_long() {
        let load = Load::default();
        load.is_waiting.store(true, Ordering::Relaxed);
        assert_eq!(stuck_after(&load, Duration::from_secs(7_200)), None);
    }

    /// On a large machine another layout takes longer than any step, and the engine was started again for it, for ever.
    #[test]
    fn a_context_takes_longer_to_be_made_than_a_step() {
        let load = Load::default();
        let began = Instant::now();
        let mut watch = Watch::new(&load, began);
        load.is_making.store(true, Ordering::Relaxed);
        for second in 1..=500 {
            assert_eq!(watch.look(&load, began + Duration::from_secs(second)), None);
        }
        // The step after it has its own time.
        load.is_making.store(false, Ordering::Relaxed);
        for second in 501..=521 {
            assert_eq!(watch.look(&load, began + Duration::from_secs(second)), None);
        }
        assert!(watch.look(&load, began + Duration::from_secs(522)).is_some());
        load.is_making.store(true, Ordering::Relaxed);
        assert_eq!(stuck_after(&load, Duration::from_secs(900)), Some(Duration::from_secs(601)));
    }
}
