//! The one place that reads the wall clock and makes ids from it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overnight_domain::time::UnixTime;
use uuid::Uuid;

#[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is given")]
pub fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A fresh id; later ones sort behind earlier ones of this process.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// How long the machine has slept since it was started, never more than it has: the clock that goes on in a suspend less
/// the one that stands still. Only what it grows by has a meaning. Zero where the system has no such clocks.
#[cfg(target_os = "linux")]
pub(crate) fn asleep() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    // In this order: time that passes between the two makes it less, not more.
    let [running_on, standing_still] = [ClockId::Boottime, ClockId::Monotonic]
        .map(|clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default());
    running_on.saturating_sub(standing_still)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn asleep() -> Duration {
    Duration::ZERO
}
