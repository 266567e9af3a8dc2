//! The log as its callers see it: opened once, appended to through handles, closed at the end.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::BatchId;
use overnight_domain::limits;

use crate::buffer::Buffer;
use crate::commit::{Commit, OnCommit, Shared, run};
use crate::disk::{Disk, LocalDisk};
use crate::error::LogError;
use crate::frame::{Frame, StoredFrame};
use crate::recover::Recovered;
use crate::registry::Registry;
use crate::series::SeriesPlace;

/// The log of one process. Dropping it closes it, too.
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Held as long as the log is open: two processes in one series would overwrite each other.
    _lock: Option<File>,
}

/// Appends, and asks where things are. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// How long a frame may wait for others.
    pub commit_after: Duration,
    /// So many bytes do not wait for more.
    pub commit_len: usize,
    /// Frames that are not durable yet: what a crash costs.
    pub buffer_frames: usize,
    pub buffer_len: usize,
    /// A segment at most. One longer frame gets a segment of its own.
    pub segment_len: u64,
    /// Between two attempts while the disk takes nothing.
    pub retry_after: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            commit_after: limits::COMMIT_AFTER,
            commit_len: limits::COMMIT_LEN,
            buffer_frames: limits::COMMIT_BUFFER_FRAMES,
            buffer_len: limits::COMMIT_BUFFER_LEN,
            segment_len: 64 * 1024 * 1024,
            retry_after: Duration::from_secs(1),
        }
    }
}

/// A frame that was not taken, handed back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub frame: Frame,
    pub reason: RejectReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// There is room after the next [`Commit::Durable`]. A frame longer than the buffer needs it empty: whoever is
    /// handed one back appends no other before it.
    Full,
    Poisoned,
    Closed,
    /// Longer than [`crate::PAYLOAD_LEN_MAX`].
    TooLong,
}

impl Log {
    /// Opens the log in `dir`, which is made when it is not there. `on_commit` is called on the thread that commits
    /// and must not block.
    pub fn open(
        dir: &Path,
        options: LogOptions,
        on_commit: Box<dyn FnMut(Commit) + Send>,
    ) -> Result<Self, LogError> {
        let disk = LocalDisk;
        disk.create_folder(dir).map_err(LogError::disk("create", dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(LogError::disk("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(LogError::disk("lock", &path)(error)),
        }
        // An empty parent is that of a name alone: the current folder.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_folder(parent).map_err(LogError::sync(parent))?;
        }
        Self::open_on(Arc::new(disk), dir, options, on_commit, Some(lock))
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        on_commit: OnCommit,
        lock: Option<File>,
    ) -> Result<Self, LogError> {
        let place = SeriesPlace { disk, dir: dir.to_owned(), segment_len: options.segment_len };
        let shared = Arc::new(Shared { buffer: Buffer::new(options), registry: Registry::new(place) });
        let for_thread = Arc::clone(&shared);
        let thread = Builder::new()
            .name("commit".to_owned())
            .spawn(move || run(&for_thread, on_commit))
            .map_err(LogError::Thread)?;
        Ok(Self { shared, thread: Some(thread), _lock: lock })
    }

    pub fn handle(&self) -> LogHandle {
        LogHandle { shared: Arc::clone(&self.shared) }
    }

    /// Commits what is buffered and ends the thread. Frames that the disk does not take are reported as unsaved:
    /// their requests run again.
    pub fn close(mut self) -> Result<(), LogError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LogError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.buffer.close();
        // A panic has poisoned the buffer, which the check below tells.
        let _ = thread.join();
        self.shared.buffer.check()?;
        self.shared.registry.close_all()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(error = error.describe(), "failed to close the result log");
        }
    }
}

impl LogHandle {
    /// Never blocks: a frame that finds no room is handed back.
    #[expect(clippy::result_large_err, reason = "the frame is moved in and, if need be, out")]
    pub fn append(&self, frame: Frame) -> Result<(), Rejected> {
        self.shared.buffer.push(frame)
    }

    /// Where the next durable frame of the batch will begin: nothing that is appended from now on lies before. Opens
    /// the series if need be, which reads its last segment; an open one is asked without waiting.
    pub fn tail(&self, batch: &BatchId) -> Result<LogPosition, LogError> {
        self.checked(|| self.shared.registry.tail(batch))
    }

    /// The number of the last durable frame, 0 before the first. None when the series is not open in this process.
    pub fn durable_sequence(&self, batch: &BatchId) -> Option<u64> {
        self.shared.registry.durable_tail(batch).map(|tail| tail.sequence - 1)
    }

    /// Opens a series after a restart: shows the whole frames from `from`, which are all synced by then, and cuts
    /// what is torn behind them. On a series that is open it shows what is durable.
    pub fn recover(
        &self,
        batch: &BatchId,
        from: LogPosition,
        visit: &mut dyn FnMut(&StoredFrame),
    ) -> Result<Recovered, LogError> {
        self.checked(|| self.shared.registry.recover(batch, from, visit))
    }

    /// Closes the file of a batch that needs none any more, and gives back the room that was allocated ahead.
    /// Appending opens it again.
    pub fn close_series(&self, batch: &BatchId) -> Result<(), LogError> {
        self.checked(|| self.shared.registry.close(batch))
    }

    /// Deletes all segments of a batch. Nothing of it may be appended any more: that would begin a new series.
    pub fn remove_series(&self, batch: &BatchId) -> Result<(), LogError> {
        self.checked(|| self.shared.registry.remove(batch))
    }

    /// A failed sync anywhere ends the log.
    fn checked<T>(&self, act: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
        self.shared.buffer.check()?;
        act().inspect_err(|error| {
            if error.is_fatal() {
                self.shared.buffer.poison(error.describe());
            }
        })
    }
}

#[cfg(test)]
mod tests;
