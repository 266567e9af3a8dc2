//! The bytes of the two headers: the one that begins a segment and the one that begins a frame. See `docs/formats.md`.

use std::time::Duration;

use overnight_domain::ids::{ChunkNumber, DispatchToken, LeaseToken, RequestIndex};
use overnight_domain::tally::{Outcome, Usage};
use overnight_domain::time::UnixTime;

use crate::frame::{ContentKind, FrameHeader, PAYLOAD_LEN_MAX};

/// Of segments and of frames: both change together.
const VERSION: u16 = 1;

pub(crate) const SEGMENT_HEADER_LEN: usize = 64;
pub(crate) const FRAME_HEADER_LEN: usize = 128;

/// No text in UTF-8 holds 0xff or 0xfe: a payload of text never looks like a frame.
pub(crate) const FRAME_MARKER: [u8; 8] = *b"\xffonfram\xfe";
const SEGMENT_MARKER: [u8; 8] = *b"\xffonsegm\xfe";
/// Behind marker and checksum: what the checksum covers.
const COVERED_FROM: usize = 12;

/// A flag of byte 101: the answer ended because it was as long as it might be.
const CUT_SHORT: u8 = 1;

/// What bytes turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoded<T> {
    Valid(T),
    /// Whole, but of a version or with a value that is not known here: nothing of it may be touched.
    Newer,
    Bad,
}

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) batch: [u8; 16],
    pub(crate) number: u32,
    /// The sequence of the first frame in it.
    pub(crate) first_sequence: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        put(&mut bytes, 12, VERSION.to_le_bytes());
        put(&mut bytes, 16, self.batch);
        put(&mut bytes, 32, self.first_sequence.to_le_bytes());
        put(&mut bytes, 40, self.number.to_le_bytes());
        seal(&mut bytes, SEGMENT_MARKER);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() else { return Decoded::Bad };
        if !is_sealed(bytes, SEGMENT_MARKER) {
            return Decoded::Bad;
        }
        if u16::from_le_bytes(get(bytes, 12)) != VERSION {
            return Decoded::Newer;
        }
        Decoded::Valid(Self {
            batch: get(bytes, 16),
            first_sequence: u64::from_le_bytes(get(bytes, 32)),
            number: u32::from_le_bytes(get(bytes, 40)),
        })
    }
}

/// The header of a frame, with what the log itself knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredHeader {
    pub(crate) batch: [u8; 16],
    pub(crate) sequence: u64,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) facts: FrameHeader,
}

impl StoredHeader {
    pub(crate) fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let facts = &self.facts;
        let mut bytes = [0; FRAME_HEADER_LEN];
        put(&mut bytes, 12, VERSION.to_le_bytes());
        bytes[14] = content_number(facts.content);
        bytes[15] = outcome_number(facts.outcome);
        put(&mut bytes, 16, self.batch);
        put(&mut bytes, 32, self.sequence.to_le_bytes());
        put(&mut bytes, 40, facts.lease.0.to_le_bytes());
        put(&mut bytes, 48, facts.dispatch.0.to_le_bytes());
        put(&mut bytes, 56, facts.started_at.millis().to_le_bytes());
        put(&mut bytes, 64, facts.chunk.0.to_le_bytes());
        put(&mut bytes, 68, facts.index.0.to_le_bytes());
        put(&mut bytes, 72, u32::try_from(facts.duration.as_millis()).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut bytes, 76, saturated(facts.usage.input_tokens));
        put(&mut bytes, 80, saturated(facts.usage.cached_tokens));
        put(&mut bytes, 84, saturated(facts.usage.output_tokens));
        put(&mut bytes, 88, saturated(facts.usage.reasoning_tokens));
        put(&mut bytes, 92, facts.attempts.to_le_bytes());
        put(&mut bytes, 94, facts.endpoint.to_le_bytes());
        put(&mut bytes, 96, facts.model.to_le_bytes());
        put(&mut bytes, 98, facts.status.to_le_bytes());
        bytes[100] = facts.fault;
        bytes[101] = if facts.usage.cut_short > 0 { CUT_SHORT } else { 0 };
        put(&mut bytes, 104, self.payload_len.to_le_bytes());
        put(&mut bytes, 108, self.payload_crc.to_le_bytes());
        seal(&mut bytes, FRAME_MARKER);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let Some(bytes) = bytes.first_chunk::<FRAME_HEADER_LEN>() else { return Decoded::Bad };
        if !is_sealed(bytes, FRAME_MARKER) {
            return Decoded::Bad;
        }
        let u16_at = |at| u16::from_le_bytes(get(bytes, at));
        let u32_at = |at| u32::from_le_bytes(get(bytes, at));
        let u64_at = |at| u64::from_le_bytes(get(bytes, at));
        let (Some(content), Some(outcome), VERSION) =
            (content_of(bytes[14]), outcome_of(bytes[15]), u16_at(12))
        else {
            return Decoded::Newer;
        };
        let payload_len = u32_at(104);
        if payload_len as usize > PAYLOAD_LEN_MAX {
            return Decoded::Newer;
        }
        Decoded::Valid(Self {
            batch: get(bytes, 16),
            sequence: u64_at(32),
            payload_len,
            payload_crc: u32_at(108),
            facts: FrameHeader {
                content,
                outcome,
                chunk: ChunkNumber(u32_at(64)),
                index: RequestIndex(u32_at(68)),
                lease: LeaseToken(u64_at(40)),
                dispatch: DispatchToken(u64_at(48)),
                attempts: u16_at(92),
                endpoint: u16_at(94),
                model: u16_at(96),
                status: u16_at(98),
                fault: bytes[100],
                started_at: UnixTime::from_millis(u64_at(56)),
                duration: Duration::from_millis(u64::from(u32_at(72))),
                usage: Usage {
                    input_tokens: u64::from(u32_at(76)),
                    cached_tokens: u64::from(u32_at(80)),
                    output_tokens: u64::from(u32_at(84)),
                    reasoning_tokens: u64::from(u32_at(88)),
                    cut_short: u64::from(bytes[101] & CUT_SHORT),
                },
            },
        })
    }
}

const fn content_number(content: ContentKind) -> u8 {
    match content {
        ContentKind::Json => 1,
        ContentKind::F32 => 2,
        ContentKind::F16 => 3,
    }
}

const fn content_of(number: u8) -> Option<ContentKind> {
    match number {
        1 => Some(ContentKind::Json),
        2 => Some(ContentKind::F32),
        3 => Some(ContentKind::F16),
        _ => None,
    }
}

const fn outcome_number(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Completed => 1,
        Outcome::Failed => 2,
    }
}

const fn outcome_of(number: u8) -> Option<Outcome> {
    match number {
        1 => Some(Outcome::Completed),
        2 => Some(Outcome::Failed),
        _ => None,
    }
}

fn saturated(tokens: u64) -> [u8; 4] {
    u32::try_from(tokens).unwrap_or(u32::MAX).to_le_bytes()
}

fn seal(bytes: &mut [u8], marker: [u8; 8]) {
    put(bytes, 0, marker);
    let checksum = crc32c::crc32c(&bytes[COVERED_FROM..]);
    put(bytes, 8, checksum.to_le_bytes());
}

fn is_sealed(bytes: &[u8], marker: [u8; 8]) -> bool {
    bytes[..8] == marker && u32::from_le_bytes(get(bytes, 8)) == crc32c::crc32c(&bytes[COVERED_FROM..])
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the offsets of fields lie within the header")
}

#[cfg(test)]
mod tests;
