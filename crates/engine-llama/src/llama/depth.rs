//! Texts that are cut into words by a regular expression.
//!
//! For most vocabularies llama.cpp has code of its own that finds a text's words. For the others it takes `std::regex`, which
//! calls itself for every character of a match: a line of some ten thousand letters ends the process. Such a text is cut on
//! a stack that is as deep as its longest line needs, and refused where that would be too deep.

use std::sync::{Mutex, PoisonError};

/// Pre-tokenizers without a regular expression that could match more than one character, in the words of GGUF files. One
/// that is missing here costs a thread for a long line.
const FLAT: [&str; 16] = [
    "deepseek-r1-qwen",
    "falcon3",
    "gemma4",
    "glm4",
    "gpt-2",
    "kimi-k2",
    "lfm2",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "pixtral",
    "qwen2",
    "qwen35",
    "roberta-bpe",
    "smollm",
    "starcoder",
];

/// The most that was measured is 970, with the expression of `tekken` and `gpt-4o`.
const STACK_PER_CHARACTER: usize = 2 * 1024;
/// What everything else takes.
const STACK_LEAST: usize = 1024 * 1024;
/// Half of the smallest stack that anybody calls from, which has 2 MiB.
const HERE_LEN_MAX: usize = 512;
/// 512 MiB of addresses, of which less than half is ever touched.
pub(crate) const LINE_LEN_MAX: usize = 256 * 1024;

/// One deep stack at a time: its memory is in nobody's plan.
static TURN: Mutex<()> = Mutex::new(());

/// Why a text has no tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextError {
    #[error("a line of {0} characters, where {LINE_LEN_MAX} fit")]
    Line(usize),
    #[error("failed to get a stack for a long line: {0}")]
    Stack(#[from] std::io::Error),
}

/// Whether a vocabulary's texts are cut by an expression, by the file's own words for it.
pub(super) fn is_deep(model: Option<&str>, pre: Option<&str>) -> bool {
    model == Some("gpt2") && !pre.is_some_and(|pre| FLAT.contains(&pre))
}

/// Does the work where the stack is deep enough to cut the text.
pub(super) fn with_stack<T: Send>(text: &str, work: impl FnOnce() -> T + Send) -> Result<T, TextError> {
    let len = match_len_max(text);
    if len <= HERE_LEN_MAX {
        return Ok(work());
    }
    if len > LINE_LEN_MAX {
        return Err(TextError::Line(len));
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let stack_len = STACK_LEAST + len * STACK_PER_CHARACTER;
        let thread = std::thread::Builder::new().name("words".to_owned()).stack_size(stack_len);
        let done = thread.spawn_scoped(scope, work)?.join();
        Ok(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// No match of any of llama.cpp's expressions is longer, in characters: some take whole sentences, and some the line breaks
/// and slashes that follow, but none goes from a line break on to other text.
fn match_len_max(text: &str) -> usize {
    let (mut longest, mut len, mut is_after_break) = (0, 0, false);
    for character in text.chars() {
        let is_break = matches!(character, '\n' | '\r');
        let goes_on = character.is_whitespace() || character == '/';
        if is_after_break && !goes_on {
            // One blank before a word belongs to it.
            len = 1;
        }
        is_after_break = is_break || (is_after_break && goes_on);
        len += 1;
        longest = longest.max(len);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_ends_with_its_line_and_the_breaks_after_it() {
        for (text, len) in [
            ("", 0),
            ("one two", 7),
            ("one\ntwo", 4),
            ("one \n\n /\nfour", 9),
            ("\n\n\n", 3),
            ("äöü", 3),
        ] {
            assert_eq!(match_len_max(text), len, "{text:?}");
        }
    }

    #[test]
    fn a_long_line_has_a_stack_for_all_its_characters() {
        /// Takes the stack's memory call by call, as the expressions do.
        fn dive(left: usize) -> usize {
            let taken = std::hint::black_box([left as u8; 256]);
            if left == 0 { 0 } else { dive(left - 1) + usize::from(taken[left % 256] == left as u8) }
        }
        let line = "a".repeat(64 * 1024);
        assert_eq!(with_stack(&line, || dive(line.len())).unwrap(), line.len());
        let error = with_stack(&"a".repeat(LINE_LEN_MAX + 1), || ()).unwrap_err();
        assert!(matches!(error, TextError::Line(len) if len == LINE_LEN_MAX + 1), "{error}");
        let lines = "a line\n".repeat(LINE_LEN_MAX);
        with_stack(&lines, || ()).unwrap();
    }

    #[test]
    fn vocabularies_with_code_of_their_own_need_no_stack() {
        assert!(!is_deep(Some("gpt2"), Some("qwen2")));
        assert!(!is_deep(Some("llama"), None));
        assert!(is_deep(Some("gpt2"), Some("tekken")));
        assert!(is_deep(Some("gpt2"), None));
    }
}
