//! The one place that reads the wall clock and makes ids from it.

use std::time::{SystemTime, UNIX_EPOCH};

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
