//! What is seen of a file while it passes: how many lines it has, and whether it begins like JSONL.
//!
//! The check is by content, never by name, and looks at the first line with anything in it; the others are checked when
//! a batch is validated.

use serde::de::IgnoredAny;

const BOM: &[u8] = b"\xef\xbb\xbf";
/// As much of a first line is kept to be parsed. Of a longer one only the beginning is looked at.
const FIRST_LINE_LEN_MAX: usize = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Beginning {
    Empty,
    Json,
    /// With the reason.
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inspected {
    pub(super) lines: u64,
    pub(super) beginning: Beginning,
}

#[derive(Debug, Default)]
pub(super) struct Inspector {
    line_breaks: u64,
    last: Option<u8>,
    first_line: Vec<u8>,
    beginning: Option<Beginning>,
    is_past_bom: bool,
}

impl Inspector {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        self.line_breaks += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.last = Some(*last);
        let mut rest = bytes;
        while self.beginning.is_none() && !rest.is_empty() {
            let line_end = memchr::memchr(b'\n', rest);
            let (piece, later) = match line_end {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, &[][..]),
            };
            let room = FIRST_LINE_LEN_MAX - self.first_line.len();
            self.first_line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() >= room {
                self.judge_long();
            } else if line_end.is_some() {
                self.judge_whole();
            }
            rest = later;
        }
    }

    /// Known to be no JSONL, before the end.
    pub(super) fn refusal(&self) -> Option<&str> {
        match &self.beginning {
            Some(Beginning::Other(reason)) => Some(reason),
            _ => None,
        }
    }

    pub(super) fn finish(mut self) -> Inspected {
        if self.beginning.is_none() {
            self.judge_whole();
        }
        let has_open_line = self.last.is_some_and(|last| last != b'\n');
        Inspected {
            lines: self.line_breaks + u64::from(has_open_line),
            beginning: self.beginning.unwrap_or(Beginning::Empty),
        }
    }

    fn judge_whole(&mut self) {
        let line = std::mem::take(&mut self.first_line);
        let mut text = line.as_slice();
        if !self.is_past_bom {
            text = text.strip_prefix(BOM).unwrap_or(text);
        }
        self.is_past_bom = true;
        let text = text.trim_ascii();
        if text.is_empty() {
            return;
        }
        self.beginning = Some(match serde_json::from_slice::<IgnoredAny>(text) {
            Ok(_) => Beginning::Json,
            Err(error) => Beginning::Other(error.to_string()),
        });
    }

    fn judge_long(&mut self) {
        let line = std::mem::take(&mut self.first_line);
        let text = line.strip_prefix(BOM).unwrap_or(&line).trim_ascii_start();
        self.beginning = Some(match text.first() {
            Some(b'{') => Beginning::Json,
            _ => Beginning::Other("it is long and does not begin with `{`".to_owned()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces of every small size, so that no border hides anything.
    fn inspect(bytes: &[u8]) -> Inspected {
        let mut all = Vec::new();
        for len in [1, 2, 3, 7, bytes.len().max(1)] {
            let mut inspector = Inspector::default();
            bytes.chunks(len).for_each(|piece| inspector.push(piece));
            all.push(inspector.finish());
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
        all.remove(0)
    }

    #[test]
    fn lines_are_counted_with_and_without_a_last_break() {
        for (bytes, lines) in
            [(&b""[..], 0), (b"{}", 1), (b"{}\n", 1), (b"{}\n{}", 2), (b"{}\r\n\n{}\n", 3)]
        {
            assert_eq!(inspect(bytes).lines, lines, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_first_line_with_anything_in_it_decides() {
        for bytes in [
            &b"{}\nnot json"[..],
            b"\xef\xbb\xbf{\"a\":1}\n",
            b"\r\n \n\n[1]\n",
            b"{\"a\":\"\xc3\xa9\"}",
        ] {
            assert_eq!(inspect(bytes).beginning, Beginning::Json);
        }
        for bytes in [&b""[..], b"\n\n", b" \r\n", b"\xef\xbb\xbf"] {
            assert_eq!(inspect(bytes).beginning, Beginning::Empty);
        }
        for bytes in [&b"hello\n{}"[..], b"{\"a\":\n1}", b"\x00\x01"] {
            assert!(matches!(inspect(bytes).beginning, Beginning::Other(_)));
        }
    }

    #[test]
    fn a_long_first_line_costs_bounded_memory() {
        for (first, is_json) in [(b'{', true), (b'x', false)] {
            let mut inspector = Inspector::default();
            inspector.push(&[first]);
            for _ in 0..64 {
                inspector.push(&vec![b' '; 65_536]);
            }
            assert!(inspector.first_line.capacity() <= 2 * FIRST_LINE_LEN_MAX);
            assert_eq!(inspector.finish().beginning == Beginning::Json, is_json);
        }
    }
}
