//! What can go wrong with the log, and what follows from it.

use std::io;
use std::path::{Path, PathBuf};

use overnight_domain::ids::BatchId;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{action} `{}`", path.display())]
    Disk { action: &'static str, path: PathBuf, source: io::Error },
    /// What the system's cache holds may differ from the disk: only a restart tells.
    #[error("sync `{}`", path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("open `{}`: another process uses it", .0.display())]
    InUse(PathBuf),
    #[error("read `{}`: it was written by a newer version of Overnight, use that one", .0.display())]
    Newer(PathBuf),
    #[error("read the frame of `{batch}` at byte {offset} of segment {segment}: it is damaged")]
    Damaged { batch: BatchId, segment: u32, offset: u64 },
    #[error("use the result log after `{0}`: restart, so that it is recovered from the disk")]
    Poisoned(String),
    #[error("use the result log: it is closed")]
    Closed,
    #[error("write {frames} frames before closing: {reason}")]
    Unsaved { frames: usize, reason: String },
    #[error("start the thread that commits")]
    Thread(#[source] io::Error),
}

impl LogError {
    pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { action, path: path.to_owned(), source }
    }

    pub(crate) fn sync(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Sync { path: path.to_owned(), source }
    }

    /// Whether the log must not be used any more: the disk may not have what the system said it has.
    pub(crate) fn is_fatal(&self) -> bool {
        const EIO: i32 = 5;
        match self {
            Self::Sync { .. } | Self::Poisoned(_) => true,
            Self::Disk { source, .. } => source.raw_os_error() == Some(EIO),
            _ => false,
        }
    }

    /// Whether there was no room, which somebody can make.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Disk { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// The whole chain in one line.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Disk { source, .. } | Self::Sync { source, .. } | Self::Thread(source) => {
                format!("{self}: {source}")
            }
            _ => self.to_string(),
        }
    }
}
