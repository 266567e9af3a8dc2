//! The results index: where each finished line lies in the output and the error file, in the order in which results
//! became durable, and what is known of the failed ones. It keeps cursors valid when the segments are gone.
//!
//! Described in `docs/formats.md`.

use overnight_domain::time::UnixTime;

const MAGIC: [u8; 8] = *b"OVNRESX\x01";
/// Magic, lines, failed requests, checksum of the three.
pub(crate) const HEADER_LEN: u64 = 8 + 8 + 8 + 4;
pub(crate) const LINE_LEN: u64 = 12;
pub(crate) const FAILED_LEN: u64 = 40;
const ERROR_FILE: u64 = 1 << 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) lines: u64,
    pub(crate) failed: u64,
}

impl IndexHeader {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN as usize);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.lines.to_le_bytes());
        bytes.extend_from_slice(&self.failed.to_le_bytes());
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes
    }

    /// None when it is damaged or of another version.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, check) = bytes.split_at_checked(24)?;
        let is_whole = head[..8] == MAGIC && check == crc32c::crc32c(head).to_le_bytes();
        is_whole.then(|| Self { lines: u64_at(head, 8), failed: u64_at(head, 16) })
    }

    pub(crate) const fn line_at(sequence: u64) -> u64 {
        HEADER_LEN + (sequence - 1) * LINE_LEN
    }

    pub(crate) const fn failed_at(&self, number: u64) -> u64 {
        HEADER_LEN + self.lines * LINE_LEN + number * FAILED_LEN
    }
}

/// Where a line lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinePlace {
    pub(crate) is_error: bool,
    pub(crate) offset: u64,
    /// With its line break.
    pub(crate) len: u32,
}

impl LinePlace {
    pub(crate) fn to_bytes(self) -> [u8; LINE_LEN as usize] {
        let mut bytes = [0; LINE_LEN as usize];
        let offset = self.offset | if self.is_error { ERROR_FILE } else { 0 };
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; LINE_LEN as usize]) -> Self {
        let offset = u64_at(bytes, 0);
        Self { is_error: offset & ERROR_FILE != 0, offset: offset & !ERROR_FILE, len: u32_at(bytes, 8) }
    }
}

/// What is kept of a failed request, in input order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailedEntry {
    pub(crate) index: u32,
    /// The physical line of the input.
    pub(crate) line: u32,
    /// Where its line lies in the error file.
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) attempts: u16,
    pub(crate) status: u16,
    pub(crate) fault: u8,
    pub(crate) endpoint: u16,
    pub(crate) last_at: UnixTime,
}

impl FailedEntry {
    pub(crate) fn to_bytes(self) -> [u8; FAILED_LEN as usize] {
        let mut bytes = [0; FAILED_LEN as usize];
        bytes[0..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.line.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.len.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.attempts.to_le_bytes());
        bytes[22..24].copy_from_slice(&self.status.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.endpoint.to_le_bytes());
        bytes[26] = self.fault;
        bytes[32..40].copy_from_slice(&self.last_at.millis().to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; FAILED_LEN as usize]) -> Self {
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            index: u32_at(bytes, 0),
            line: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            len: u32_at(bytes, 16),
            attempts: short(20),
            status: short(22),
            endpoint: short(24),
            fault: bytes[26],
            last_at: UnixTime::from_millis(u64_at(bytes, 32)),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_parts_are_read_back(a: u64, b: u32, c: u16, d: u8, flag: bool) {
            let header = IndexHeader { lines: a, failed: u64::from(b) };
            prop_assert_eq!(IndexHeader::from_bytes(&header.to_bytes()), Some(header));
            let place = LinePlace { is_error: flag, offset: a >> 1, len: b };
            prop_assert_eq!(LinePlace::from_bytes(&place.to_bytes()), place);
            let failed = FailedEntry {
                index: b, line: !b, offset: a, len: b / 2, attempts: c, status: !c, fault: d, endpoint: c ^ 7,
                last_at: UnixTime::from_millis(a / 3),
            };
            prop_assert_eq!(FailedEntry::from_bytes(&failed.to_bytes()), failed);
        }
    }

    #[test]
    fn a_damaged_header_is_refused() {
        let mut bytes = IndexHeader { lines: 3, failed: 1 }.to_bytes();
        bytes[9] ^= 1;
        assert_eq!(IndexHeader::from_bytes(&bytes), None);
        assert_eq!(IndexHeader::from_bytes(&bytes[..5]), None);
    }
}
