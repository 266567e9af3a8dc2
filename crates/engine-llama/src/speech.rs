//! From the bytes of tokens to text that may be shown: whole characters only, and nothing of a stop string.

/// Holds back what may become part of a stop string or is half a character.
#[derive(Debug)]
pub(crate) struct Speech {
    stop: Vec<String>,
    held: Vec<u8>,
    has_stopped: bool,
}

impl Speech {
    pub(crate) fn new(stop: Vec<String>) -> Self {
        let stop = stop.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stop, held: Vec::new(), has_stopped: false }
    }

    /// Takes the bytes of a token and returns what may be said now.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> String {
        if self.has_stopped {
            return String::new();
        }
        self.held.extend_from_slice(bytes);
        let found = self.stop.iter().filter_map(|stop| find(&self.held, stop.as_bytes())).min();
        if let Some(at) = found {
            self.has_stopped = true;
            self.held.truncate(at);
            return self.rest();
        }
        let kept = self.stop.iter().map(|stop| beginning_at_end(&self.held, stop.as_bytes())).max();
        let until = whole_characters(&self.held[..self.held.len() - kept.unwrap_or(0)]);
        let said = self.held.drain(..until).collect::<Vec<u8>>();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// What was held back; the answer is over.
    pub(crate) fn rest(&mut self) -> String {
        let said = std::mem::take(&mut self.held);
        String::from_utf8_lossy(&said).into_owned()
    }

    pub(crate) const fn has_stopped(&self) -> bool {
        self.has_stopped
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// How many bytes at the end of `text` are a beginning of `wanted`.
fn beginning_at_end(text: &[u8], wanted: &[u8]) -> usize {
    (1..wanted.len().min(text.len() + 1)).rev().find(|len| text.ends_with(&wanted[..*len])).unwrap_or(0)
}

/// The length without a character at the end that is cut. Bytes that can become no character count as whole: they are
/// shown as the replacement character.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(error) => {
            let bad = error.valid_up_to() + error.error_len().unwrap_or(1);
            bad + whole_characters(&bytes[bad..])
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(stop: &[&str], pieces: &[&[u8]]) -> (String, bool) {
        let mut speech = Speech::new(stop.iter().map(|stop| (*stop).to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            text.push_str(&speech.say(piece));
        }
        text.push_str(&speech.rest());
        (text, speech.has_stopped())
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_said() {
        assert_eq!(said(&["END"], &[b"one E", b"N", b"D two"]), ("one ".to_owned(), true));
        assert_eq!(said(&["END"], &[b"one E", b"N", b"NE"]), ("one ENNE".to_owned(), false));
        assert_eq!(said(&["b", "ab"], &[b"xa", b"b"]), ("x".to_owned(), true), "the earliest counts");
        assert_eq!(said(&["", "z"], &[b"a"]), ("a".to_owned(), false));
    }

    #[test]
    fn a_character_is_said_whole() {
        let mut speech = Speech::new(Vec::new());
        assert_eq!(speech.say(&[b'a', 0xf0, 0x9f]), "a");
        assert_eq!(speech.say(&[0xa6]), "");
        assert_eq!(speech.say(&[0x80, b'b']), "\u{1F980}b");
        assert_eq!(
            speech.say(&[0xff, b'c']),
            "\u{fffd}c",
            "what can become no character is not waited for"
        );
        assert_eq!(speech.say(&[0xc3]), "");
        assert_eq!(speech.rest(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_text_is_the_same(text in "[abé\u{1F980}]{0,30}", cuts in prop::collection::vec(1_usize..4, 0..60)) {
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            pieces.push(rest);
            let expected = match text.find("ab") {
                Some(at) => (text[..at].to_owned(), true),
                None => (text.clone(), false),
            };
            prop_assert_eq!(said(&["ab"], &pieces), expected);
        }
    }
}
