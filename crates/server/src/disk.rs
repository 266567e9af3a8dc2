//! Whether there is room on the disk to accept and to dispatch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overnight_domain::limits::{DISK_FLOOR, DISK_HELD_BACK};

#[derive(Debug, Clone)]
pub(crate) struct Disk {
    folder: Arc<PathBuf>,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: Arc::new(folder.to_owned()), is_full: Arc::default() }
    }

    /// Free bytes for us, or everything when the system does not say.
    pub(crate) fn free(&self) -> u64 {
        match rustix::fs::statvfs(self.folder.as_path()) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(_) => u64::MAX,
        }
    }

    /// What may be promised to new batches.
    pub(crate) fn promisable(&self) -> u64 {
        self.free().saturating_sub(DISK_HELD_BACK)
    }

    /// Nothing is accepted and nothing dispatched while this holds.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// A write has failed for want of room: stop at once, not at the next look.
    pub(crate) fn note_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
    }

    /// Looks again; upkeep does so every second. Room must be twice the floor before work goes on, so that it does not
    /// flap. Returns true when that has changed.
    pub(crate) fn look(&self) -> bool {
        let was_full = self.is_full();
        let floor = if was_full { 2 * DISK_FLOOR } else { DISK_FLOOR };
        let is_full = self.free() < floor;
        self.is_full.store(is_full, Ordering::Relaxed);
        was_full != is_full
    }
}

/// What plan, results and output of a batch will need: per request a plan entry, a frame and a line of about a thousand
/// bytes each, and as much again as the input for answers that grow with their question.
pub(crate) const fn reservation(requests: u64, input_len: u64) -> u64 {
    const PER_REQUEST: u64 = 32 + 128 + 2 * 1_024;
    requests.saturating_mul(PER_REQUEST).saturating_add(input_len)
}
