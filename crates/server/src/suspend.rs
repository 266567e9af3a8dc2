//! Whether the machine has slept. Nothing tells a process so: it is seen from two clocks, of which one stands still.
//!
//! Spans (deadlines, windows, paces, the watch over our parts) are measured by the clock that stands still, so a sleep is
//! no part of them. What the wall clock says (leases, the ends of batches) has jumped.

use std::time::Duration;

use crate::clock;

/// Shorter than any sleep, longer than the clocks can be apart otherwise.
const NOTICED_FROM: Duration = Duration::from_secs(1);

/// What one part has noticed so far.
#[derive(Debug)]
pub(crate) struct SuspendWatch {
    asleep: Duration,
}

impl SuspendWatch {
    pub(crate) fn new() -> Self {
        Self { asleep: clock::asleep() }
    }

    /// How long the machine has slept since it was asked last, if it has.
    pub(crate) fn slept(&mut self) -> Option<Duration> {
        self.look(clock::asleep())
    }

    fn look(&mut self, asleep: Duration) -> Option<Duration> {
        let slept = suspended_for(self.asleep, asleep);
        self.asleep = self.asleep.max(asleep);
        slept
    }
}

/// From what the clocks were apart before and are now.
fn suspended_for(before: Duration, now: Duration) -> Option<Duration> {
    now.checked_sub(before).filter(|slept| *slept >= NOTICED_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sleep_is_noticed() {
        let millis = Duration::from_millis;
        assert_eq!(suspended_for(millis(5_000), millis(5_000)), None);
        assert_eq!(
            suspended_for(millis(5_000), millis(5_003)),
            None,
            "the clocks are read one after the other"
        );
        assert_eq!(
            suspended_for(millis(5_000), millis(4_000)),
            None,
            "a reading that was late says less"
        );
        assert_eq!(suspended_for(millis(5_000), millis(8_005_000)), Some(millis(8_000_000)));
    }

    #[test]
    fn a_sleep_is_told_once() {
        let mut watch = SuspendWatch { asleep: Duration::from_secs(5) };
        let slept = Duration::from_secs(7_205);
        assert_eq!(watch.look(slept), Some(Duration::from_secs(7_200)));
        assert_eq!(watch.look(slept), None);
        // A reading that was late must not make the next one look like another sleep.
        assert_eq!(watch.look(Duration::from_secs(7_000)), None);
        assert_eq!(watch.look(slept), None);
    }

    #[test]
    fn a_machine_that_is_awake_is_not_taken_for_asleep() {
        let mut watch = SuspendWatch::new();
        assert!((0..10_000).all(|_| watch.slept().is_none()));
    }
}
