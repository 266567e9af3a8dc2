//! Finding the frames of one segment, also behind damage.
//!
//! A frame's header has its own marker and checksum, so its length can be trusted though its payload is damaged, and
//! the next frame can be found where a header is damaged. Zeros are not an end: a lost page in the middle looks like
//! the room that is allocated but not yet written.

use std::io;
use std::ops::ControlFlow;

use crate::disk::DiskFile;
use crate::frame::{ALIGNMENT, Place, StoredFrame, aligned};
use crate::header::{Decoded, FRAME_HEADER_LEN, FRAME_MARKER, SEGMENT_HEADER_LEN, StoredHeader};

/// Damaged areas that are listed one by one; the others are counted.
pub(crate) const BAD_AREAS_MAX: usize = 1_000;
/// Read at once: long enough that a sequential scan costs few calls, short enough to skip long payloads.
const READ_LEN: usize = 256 * 1024;

/// Bytes of a segment that hold no whole frame though they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadArea {
    pub segment: u32,
    pub offset: u64,
    pub len: u64,
    pub reason: BadReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadReason {
    /// The first bytes of the segment, which say whose it is. Its frames are not concerned.
    SegmentHeader,
    /// No frame's header begins here: one frame or several in a row, or a zeroed page.
    Header,
    /// The header is whole and the payload is not.
    Payload,
    /// The segment is not there at all.
    Missing,
}

/// The damage that a scan came upon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// The first 1,000.
    pub areas: Vec<BadArea>,
    pub count: u64,
}

impl Damage {
    pub fn is_none(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn add(&mut self, area: BadArea) {
        if self.areas.len() < BAD_AREAS_MAX {
            self.areas.push(area);
        }
        self.count += 1;
    }

    pub(crate) fn append(&mut self, other: Self) {
        let listed = other.areas.len() as u64;
        let unlisted = other.count - listed;
        other.areas.into_iter().for_each(|area| self.add(area));
        self.count += unlisted;
    }
}

/// What to look for in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) segment: u32,
    /// The digest of the batch: frames of another one are damage.
    pub(crate) batch: [u8; 16],
    pub(crate) from: u64,
    /// Payloads are read, checked and shown; without it they are skipped.
    pub(crate) with_payloads: bool,
}

pub(crate) enum Scanned {
    /// To the end of the file.
    Whole(SegmentEnd),
    /// The visitor had enough.
    Stopped(Damage),
    /// A whole frame that this build does not understand.
    Newer,
}

pub(crate) struct SegmentEnd {
    /// Before the last whole frame.
    pub(crate) damage: Damage,
    /// Behind the last whole frame, or where the scan began.
    pub(crate) end: u64,
    /// What is between `end` and the end of the file: nothing but zeros, or frames that are not whole.
    pub(crate) rest: Damage,
    pub(crate) file_len: u64,
}

/// Shows every whole frame. The bytes are empty when payloads are not asked for.
pub(crate) fn scan_segment(
    file: &dyn DiskFile,
    scope: Scope,
    visit: &mut dyn FnMut(&StoredFrame, &[u8]) -> ControlFlow<()>,
) -> io::Result<Scanned> {
    let mut window = Window::new(file)?;
    let mut damage = Damage::default();
    // Damage that has no whole frame behind it yet.
    let mut pending = Damage::default();
    let mut offset = aligned(scope.from.max(SEGMENT_HEADER_LEN as u64));
    let mut end = offset;
    loop {
        match window.frame(offset, scope)? {
            Decoded::Newer => return Ok(Scanned::Newer),
            Decoded::Valid(header) => {
                let place = Place {
                    segment: scope.segment,
                    offset: offset + FRAME_HEADER_LEN as u64,
                    len: header.payload_len,
                };
                let after = aligned(place.offset + u64::from(place.len));
                let payload = if scope.with_payloads {
                    window.bytes(place.offset, place.len as usize)?
                } else {
                    &[]
                };
                if scope.with_payloads && crc32c::crc32c(payload) != header.payload_crc {
                    pending.add(BadArea {
                        segment: scope.segment,
                        offset,
                        len: after - offset,
                        reason: BadReason::Payload,
                    });
                } else {
                    damage.append(std::mem::take(&mut pending));
                    end = after;
                    let frame = StoredFrame { header: header.facts, sequence: header.sequence, place };
                    if visit(&frame, payload).is_break() {
                        return Ok(Scanned::Stopped(damage));
                    }
                }
                offset = after;
            }
            Decoded::Bad => {
                let gap = window.gap(offset, scope)?;
                let len = if gap.is_last { gap.used } else { gap.len };
                if len > 0 {
                    pending.add(BadArea {
                        segment: scope.segment,
                        offset,
                        len,
                        reason: BadReason::Header,
                    });
                }
                offset += gap.len;
                if gap.is_last {
                    let file_len = window.file_len;
                    return Ok(Scanned::Whole(SegmentEnd { damage, end, rest: pending, file_len }));
                }
            }
        }
    }
}

/// Bytes without a frame.
struct Gap {
    len: u64,
    /// Without the zeros at its end.
    used: u64,
    /// It reaches to the end of the file.
    is_last: bool,
}

/// A part of a file in memory that moves ahead with the scan.
struct Window<'a> {
    file: &'a dyn DiskFile,
    file_len: u64,
    buffer: Vec<u8>,
    /// Where `buffer` begins in the file.
    start: u64,
    filled: usize,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn DiskFile) -> io::Result<Self> {
        Ok(Self { file, file_len: file.len()?, buffer: vec![0; READ_LEN], start: 0, filled: 0 })
    }

    /// The bytes from `offset`, fewer than `len` where the file ends.
    fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(self.file_len.saturating_sub(offset)).unwrap_or(usize::MAX));
        if offset < self.start || offset + len as u64 > self.start + self.filled as u64 {
            if self.buffer.len() < len {
                self.buffer.resize(len, 0);
            }
            self.start = offset;
            self.filled = 0;
            self.filled = self.file.read_at(&mut self.buffer, offset)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from.min(self.filled)..(from + len).min(self.filled)])
    }

    /// The header at `offset`, if a frame of the batch begins there that can be whole.
    fn frame(&mut self, offset: u64, scope: Scope) -> io::Result<Decoded<StoredHeader>> {
        let file_len = self.file_len;
        Ok(match StoredHeader::decode(self.bytes(offset, FRAME_HEADER_LEN)?) {
            Decoded::Valid(header)
                if header.batch != scope.batch
                    || offset + FRAME_HEADER_LEN as u64 + u64::from(header.payload_len) > file_len =>
            {
                Decoded::Bad
            }
            decoded => decoded,
        })
    }

    /// How far it is from `offset`, where no frame begins, to the next one.
    fn gap(&mut self, offset: u64, scope: Scope) -> io::Result<Gap> {
        let mut used = 0;
        let mut at = offset;
        loop {
            let bytes = self.bytes(at, READ_LEN)?;
            let is_end = bytes.len() < READ_LEN;
            let marker = find_marker(bytes, at == offset);
            let skipped = &bytes[..marker.unwrap_or(bytes.len())];
            if let Some(last) = last_nonzero(skipped) {
                used = at + last as u64 + 1 - offset;
            }
            at += skipped.len() as u64;
            if marker.is_some() {
                if !matches!(self.frame(at, scope)?, Decoded::Bad) {
                    return Ok(Gap { len: at - offset, used, is_last: false });
                }
                at += ALIGNMENT;
                used = at - offset;
            } else if is_end {
                return Ok(Gap { len: at - offset, used, is_last: true });
            }
        }
    }
}

/// Zeros are common and long: they are passed in one go.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    bytes.iter().rposition(|byte| *byte != 0)
}

/// The first place where a frame may begin; the very first one is known not to be.
fn find_marker(bytes: &[u8], is_first: bool) -> Option<usize> {
    let step = ALIGNMENT as usize;
    bytes
        .chunks_exact(step)
        .enumerate()
        .skip(usize::from(is_first))
        .find(|(_, word)| *word == FRAME_MARKER)
        .map(|(index, _)| index * step)
}

#[cfg(test)]
mod tests;
