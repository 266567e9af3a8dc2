//! Frames, batches and dice for the tests of this crate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overnight_domain::ids::{BatchId, ChunkNumber, DispatchToken, LeaseToken, RequestIndex};
use overnight_domain::tally::{Outcome, Usage};
use overnight_domain::time::UnixTime;
use uuid::Uuid;

use crate::disk::Disk;
use crate::frame::{ContentKind, Frame, FrameHeader};
use crate::series::SeriesPlace;

/// Where the modelled disk has the log.
pub(crate) const DIR: &str = "log";

pub(crate) fn batch(number: u128) -> BatchId {
    BatchId::from_uuid(Uuid::from_u128(number))
}

pub(crate) fn place(disk: &Arc<dyn Disk>, segment_len: u64) -> SeriesPlace {
    SeriesPlace { disk: Arc::clone(disk), dir: Path::new(DIR).to_owned(), segment_len }
}

pub(crate) fn header(index: u32) -> FrameHeader {
    FrameHeader {
        content: ContentKind::Json,
        outcome: if index.is_multiple_of(3) { Outcome::Failed } else { Outcome::Completed },
        chunk: ChunkNumber(index / 7),
        index: RequestIndex(index),
        lease: LeaseToken(u64::from(index) << 33),
        dispatch: DispatchToken(u64::from(index) << 34 | 1),
        attempts: 1 + index as u16 % 5,
        endpoint: 2,
        model: 3,
        status: 200,
        fault: 4,
        started_at: UnixTime::from_millis(1_700_000_000_000 + u64::from(index)),
        duration: Duration::from_millis(u64::from(index)),
        usage: Usage {
            input_tokens: 5,
            cached_tokens: 6,
            output_tokens: 7,
            reasoning_tokens: 8,
            cut_short: 0,
        },
    }
}

/// The payload that the request with this index has wherever it is read.
pub(crate) fn payload(index: u32, len: usize) -> Vec<u8> {
    let mut dice = Dice(u64::from(index));
    std::iter::repeat_with(|| b'a' + (dice.roll() % 26) as u8).take(len).collect()
}

pub(crate) fn frame(batch: &BatchId, index: u32, len: usize) -> Frame {
    Frame { batch: batch.clone(), header: header(index), payload: payload(index, len) }
}

/// A repeatable sequence of numbers: splitmix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub(crate) fn is_likely(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
