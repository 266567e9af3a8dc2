//! Cutting an input into stretches of whole lines, without holding it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::ops::Range;
use std::path::Path;

const BUFFER_LEN: usize = 1 << 20;

/// How much one stretch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) lines: u64,
    pub(super) len: u64,
}

/// Stretches of a file, from its begin to its end. A line that is longer than allowed is a stretch of its own: the
/// server says what is wrong with it.
pub(super) struct Stretches {
    reader: BufReader<File>,
    measure: Measure,
    /// Where the next stretch begins, and how much of it was seen.
    begin: u64,
    at: u64,
    lines: u64,
    /// The end of the last whole line.
    cut: u64,
}

impl Stretches {
    pub(super) fn of(path: &Path, measure: Measure) -> io::Result<Self> {
        let reader = BufReader::with_capacity(BUFFER_LEN, File::open(path)?);
        Ok(Self { reader, measure, begin: 0, at: 0, lines: 0, cut: 0 })
    }

    fn next_stretch(&mut self) -> io::Result<Option<Range<u64>>> {
        loop {
            if self.lines > 0
                && (self.lines >= self.measure.lines || self.at - self.begin > self.measure.len)
            {
                return Ok(Some(self.cut_here()));
            }
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                let rest = self.begin..self.at;
                self.begin = self.at;
                return Ok((!rest.is_empty()).then_some(rest));
            }
            let (len, is_line) = match memchr::memchr(b'\n', buffer) {
                Some(at) => (at + 1, true),
                None => (buffer.len(), false),
            };
            self.reader.consume(len);
            self.at += len as u64;
            if is_line {
                let fits = self.at - self.begin <= self.measure.len;
                if !fits && self.lines > 0 {
                    let stretch = self.cut_here();
                    // The line just read begins the next stretch.
                    (self.lines, self.cut) = (1, self.at);
                    return Ok(Some(stretch));
                }
                self.lines += 1;
                self.cut = self.at;
            }
        }
    }

    fn cut_here(&mut self) -> Range<u64> {
        let stretch = self.begin..self.cut;
        self.begin = self.cut;
        self.lines = 0;
        stretch
    }
}

impl Iterator for Stretches {
    type Item = io::Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_stretch().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(text: &str, lines: u64, len: u64) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Stretches::of(file.path(), Measure { lines, len })
            .unwrap()
            .map(|range| {
                let range = range.unwrap();
                text[range.start as usize..range.end as usize].to_owned()
            })
            .collect()
    }

    #[test]
    fn stretches_are_whole_lines_within_the_measure() {
        assert_eq!(stretches("a\nb\nc\n", 2, 100), ["a\nb\n", "c\n"]);
        assert_eq!(stretches("a\nb\nc", 2, 100), ["a\nb\n", "c"]);
        assert_eq!(stretches("a\nb\n", 2, 100), ["a\nb\n"]);
        assert_eq!(stretches("aaa\nbbb\ncc\nd\n", 9, 8), ["aaa\nbbb\n", "cc\nd\n"]);
        assert_eq!(stretches("aaa\nbbb\ncc\nd\n", 9, 7), ["aaa\n", "bbb\ncc\n", "d\n"]);
        assert_eq!(
            stretches("a\nlonger than allowed\nb\n", 9, 5),
            ["a\n", "longer than allowed\n", "b\n"]
        );
        assert_eq!(stretches("", 9, 5), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_lost_whatever_the_measure() {
        let text = (0..200).map(|number| "x".repeat(number % 17) + "\n").collect::<Vec<_>>().concat();
        for (lines, len) in [(1, 1), (7, 1_000), (1_000, 23), (3, 40)] {
            assert_eq!(stretches(&text, lines, len).concat(), text);
        }
    }
}
