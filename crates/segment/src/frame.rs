//! The frame: one result with the facts of how it came about.

use std::time::Duration;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::{BatchId, ChunkNumber, DispatchToken, LeaseToken, RequestIndex};
use overnight_domain::tally::{Outcome, Usage};
use overnight_domain::time::UnixTime;

/// The longest payload. An answer of 16 MiB may double when it is made to stand on one line; a length beyond this in
/// a header is damage.
pub const PAYLOAD_LEN_MAX: usize = 64 * 1024 * 1024;

/// A result to be made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub batch: BatchId,
    pub header: FrameHeader,
    /// The finished result line with its line break, as far as the log is concerned any bytes.
    pub payload: Vec<u8>,
}

/// The facts of a result. Numbers of endpoints, models and faults are given out by whoever appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub content: ContentKind,
    pub outcome: Outcome,
    pub chunk: ChunkNumber,
    pub index: RequestIndex,
    pub lease: LeaseToken,
    pub dispatch: DispatchToken,
    pub attempts: u16,
    pub endpoint: u16,
    pub model: u16,
    /// The HTTP status of the last answer, 0 without one.
    pub status: u16,
    /// The fault of a failed request, 0 for none.
    pub fault: u8,
    pub started_at: UnixTime,
    /// Kept in whole milliseconds, at most 49 days.
    pub duration: Duration,
    /// Kept in 32 bits each.
    pub usage: Usage,
}

/// What the payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentKind {
    Json,
    F32,
    F16,
}

/// Where a frame's payload lies in its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The segment, from 1.
    pub segment: u32,
    /// Of the payload, behind the frame's header.
    pub offset: u64,
    pub len: u32,
}

/// A frame as it lies in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredFrame {
    pub header: FrameHeader,
    /// 1, 2, ... within the batch, in the order in which frames became durable.
    pub sequence: u64,
    pub place: Place,
}

impl StoredFrame {
    /// Where the frame behind this one begins: a scan from here continues.
    pub fn next_position(&self) -> LogPosition {
        LogPosition {
            segment: self.place.segment,
            offset: aligned(self.place.offset + u64::from(self.place.len)),
            sequence: self.sequence.saturating_add(1),
        }
    }
}

/// A frame that no crash loses any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    pub batch: BatchId,
    pub frame: StoredFrame,
}

/// Frames begin at multiples of 8, so that a search for the next one has little to look at.
pub(crate) const ALIGNMENT: u64 = 8;

pub(crate) const fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGNMENT)
}
