//! The append-only result log: what makes an answer durable.
//!
//! Each batch has a series of segment files of its own. One thread gathers the frames of all batches for some
//! milliseconds, writes them with one call a series, syncs, and only then says that they are durable. Guarantees:
//!
//! - What was reported in [`Commit::Durable`] survives a crash, a power cut, a full disk and a torn write.
//! - What is returned by a recovery or a reader is whole, as its checksums say, and what is damaged is reported.
//! - After a failed sync nothing is accepted any more: the process ends, and recovery looks at what the disk has.
//! - Memory is bounded by [`LogOptions`]; a frame that finds no room is handed back.
//!
//! Deliberately absent: knowledge of what a payload means, deciding which of two results of one request counts, and
//! async. The format is described in `docs/formats.md`.

mod buffer;
mod commit;
mod disk;
mod error;
mod frame;
mod header;
mod log;
mod reader;
mod recover;
mod registry;
#[cfg(test)]
mod sample;
mod scan;
mod series;
mod walk;

pub use crate::commit::Commit;
pub use crate::disk::set_operation_hook;
pub use crate::error::LogError;
pub use crate::frame::{ContentKind, Durable, Frame, FrameHeader, PAYLOAD_LEN_MAX, Place, StoredFrame};
pub use crate::log::{Log, LogHandle, LogOptions, RejectReason, Rejected};
pub use crate::reader::{ScanSummary, SeriesReader, list_series};
pub use crate::recover::Recovered;
pub use crate::scan::{BadArea, BadReason, Damage};
