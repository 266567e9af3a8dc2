//! Cuts a stream of bytes into lines: CRLF, blank lines, a byte order mark and a missing last newline are no problem.

use memchr::memchr;

/// A line of the input that is not blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Without its line break. None: it is longer than the limit, and was not kept.
    pub(crate) bytes: Option<&'a [u8]>,
    /// Where it begins in the input.
    pub(crate) offset: u64,
    /// Its physical number, from 1.
    pub(crate) number: u64,
}

/// Holds at most one line.
#[derive(Debug)]
pub(crate) struct LineReader {
    len_max: usize,
    /// The beginning of a line whose end is still to come.
    carry: Vec<u8>,
    /// The carried line is longer than the limit.
    is_over: bool,
    /// Where the next line begins.
    offset: u64,
    number: u64,
    seen: u64,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl LineReader {
    pub(crate) const fn new(len_max: usize) -> Self {
        Self { len_max, carry: Vec::new(), is_over: false, offset: 0, number: 0, seen: 0 }
    }

    /// Calls `visit` for each line that ends in `piece`.
    pub(crate) fn feed(&mut self, piece: &[u8], mut visit: impl FnMut(Line<'_>)) {
        let mut rest = piece;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            self.seen += end as u64 + 1;
            if self.carry.is_empty() && !self.is_over {
                self.emit(line, &mut visit);
            } else {
                self.keep(line);
                let carry = std::mem::take(&mut self.carry);
                self.emit(&carry, &mut visit);
                self.carry = carry;
                self.carry.clear();
            }
            self.is_over = false;
            self.offset = self.seen;
            rest = after;
        }
        self.seen += rest.len() as u64;
        self.keep(rest);
    }

    /// The last line, when it has no line break.
    pub(crate) fn finish(mut self, mut visit: impl FnMut(Line<'_>)) {
        let carry = std::mem::take(&mut self.carry);
        if !carry.is_empty() || self.is_over {
            self.emit(&carry, &mut visit);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_over || self.carry.len() + bytes.len() > self.len_max {
            self.is_over = true;
            self.carry = Vec::new();
        } else {
            self.carry.extend_from_slice(bytes);
        }
    }

    fn emit(&mut self, line: &[u8], visit: &mut impl FnMut(Line<'_>)) {
        self.number += 1;
        let number = self.number;
        if self.is_over || line.len() > self.len_max {
            visit(Line { bytes: None, offset: self.offset, number });
            return;
        }
        let mark =
            if number == 1 && line.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let line = &line[mark..];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.iter().all(u8::is_ascii_whitespace) {
            visit(Line { bytes: Some(line), offset: self.offset + mark as u64, number });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]], len_max: usize) -> Vec<(Option<Vec<u8>>, u64, u64)> {
        let mut found = Vec::new();
        let mut reader = LineReader::new(len_max);
        for piece in pieces {
            reader.feed(piece, |line| {
                found.push((line.bytes.map(<[u8]>::to_vec), line.offset, line.number));
            });
        }
        reader.finish(|line| found.push((line.bytes.map(<[u8]>::to_vec), line.offset, line.number)));
        found
    }

    #[test]
    fn line_ends_of_all_kinds() {
        let found = lines(&[b"\xef\xbb\xbfa\r\n\n  \r\nb\nc"], 10);
        assert_eq!(
            found,
            [(Some(b"a".to_vec()), 3, 1), (Some(b"b".to_vec()), 11, 4), (Some(b"c".to_vec()), 13, 5)]
        );
    }

    #[test]
    fn a_line_over_the_limit_is_reported_and_not_kept() {
        let found = lines(&[b"ab", b"cde", b"f\nok\nabcdef"], 4);
        assert_eq!(found, [(None, 0, 1), (Some(b"ok".to_vec()), 7, 2), (None, 10, 3)]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[a-c\\n\\r ]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let whole = lines(&[bytes], 8);
            prop_assert_eq!(&lines(&pieces, 8), &whole);
            for (line, offset, _) in whole {
                if let Some(line) = line {
                    let from = offset as usize;
                    prop_assert_eq!(&bytes[from..from + line.len()], &line[..]);
                }
            }
        }
    }
}
