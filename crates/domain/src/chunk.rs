//! The chunk: a contiguous run of the plan's order, the unit of lease and resume.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::IllegalTransition;
use crate::ids::{BatchId, ChunkNumber, LeaseToken, WorkerId};
use crate::tally::Tally;
use crate::time::UnixTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkState {
    /// Nobody has begun it.
    Ready,
    Leased,
    /// Begun and put back: some of its requests may have durable results.
    Parked,
    /// Every request has a durable result.
    Done,
    /// Its batch ended early.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkEvent {
    Claim,
    /// The holder gives it back, or its lease is taken away.
    Park,
    Complete,
    /// Some of its results were found damaged.
    Reopen,
    /// The batch was cancelled or has expired.
    Drop,
}

impl ChunkEvent {
    pub const ALL: [Self; 5] = [Self::Claim, Self::Park, Self::Complete, Self::Reopen, Self::Drop];
}

impl ChunkState {
    pub const ALL: [Self; 5] = [Self::Ready, Self::Leased, Self::Parked, Self::Done, Self::Dropped];

    pub fn next(self, event: ChunkEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Ready | Self::Parked, ChunkEvent::Claim) => Ok(Self::Leased),
            (Self::Leased, ChunkEvent::Park) | (Self::Done, ChunkEvent::Reopen) => Ok(Self::Parked),
            (Self::Leased, ChunkEvent::Complete) => Ok(Self::Done),
            (Self::Ready | Self::Parked | Self::Leased, ChunkEvent::Drop) => Ok(Self::Dropped),
            _ => Err(IllegalTransition::new(self.as_str(), event)),
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Parked => "parked",
            Self::Done => "done",
            Self::Dropped => "dropped",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A place in a batch's series of segments: where the frame with this number begins, or will begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The segment, from 1.
    pub segment: u32,
    pub offset: u64,
    /// The number of the frame within its batch, from 1, in the order in which frames became durable.
    pub sequence: u64,
}

impl LogPosition {
    /// Where a series begins.
    pub const START: Self = Self { segment: 1, offset: 0, sequence: 1 };
}

/// The part of the plan that a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkRange {
    /// The first plan entry, from 0.
    pub first_entry: u64,
    pub entry_count: u32,
    /// The sum of the request lines' lengths.
    pub len: u64,
}

/// A worker's exclusive right to a chunk until a moment. What writes for the chunk shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub batch: BatchId,
    pub chunk: ChunkNumber,
    pub token: LeaseToken,
    pub worker: WorkerId,
    pub expires_at: UnixTime,
}

/// A chunk as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub batch: BatchId,
    pub number: ChunkNumber,
    pub range: ChunkRange,
    pub state: ChunkState,
    /// Where to look for results of its requests: nothing of it lies before. None while nobody has begun it.
    pub log_from: Option<LogPosition>,
    /// How often it was taken over with no new result since. Too often, and it is split.
    pub fruitless_takeovers: u32,
    /// What it came to when it was done; zero while it is not.
    pub tally: Tally,
}

/// How long a lease lasts, and when its holder renews it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    pub ttl: Duration,
    pub renew_after: Duration,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn transitions() {
        let mut table = String::new();
        for state in ChunkState::ALL {
            for event in ChunkEvent::ALL {
                let next = match state.next(event) {
                    Ok(next) => next.as_str(),
                    Err(_) => "-",
                };
                writeln!(table, "{:<8} {:<8} {next}", state.as_str(), format!("{event:?}")).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }
}
