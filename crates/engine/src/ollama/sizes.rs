//! How long a prompt can be at most, without a tokenizer.
//!
//! A token stands for at least one byte of what it was made from. So the bytes of a text, and something for what the
//! model's template puts around it, are more than it has tokens.

/// What a prompt is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) parts: Vec<Part>,
    /// Bytes of what is rendered beside the messages, such as tools.
    pub(super) frame_len: usize,
}

/// A message, or the whole of a prompt that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Ollama never drops the messages of the system.
    pub(super) is_system: bool,
    /// Bytes.
    pub(super) len: usize,
    pub(super) images: usize,
}

/// What Ollama reckons with for an image (`server/prompt.go`).
const IMAGE_TOKENS: u64 = 768;
/// The marks of a template around one message, generously: the widest in its library have a dozen.
pub(super) const MARK_TOKENS: u64 = 32;
/// A template's own text: the longest preambles of tools and dates.
pub(super) const TEMPLATE_TOKENS: u64 = 1024;

impl Part {
    /// More tokens than it can have beside its images.
    pub(super) const fn text_tokens_max(&self) -> u64 {
        self.len as u64 + MARK_TOKENS
    }
}

impl Sizes {
    /// More tokens than the prompt can have.
    pub(super) fn tokens_max(&self) -> u64 {
        let texts: u64 = self.parts.iter().map(Part::text_tokens_max).sum();
        texts + self.image_tokens() + self.frame_len as u64 + TEMPLATE_TOKENS
    }

    /// The messages that Ollama may drop where it cuts: all but the system's and the last one.
    pub(super) fn droppable(&self) -> impl Iterator<Item = (usize, &Part)> {
        let last = self.parts.len().saturating_sub(1);
        self.parts.iter().enumerate().filter(move |(at, part)| *at != last && !part.is_system)
    }

    pub(super) fn images(&self) -> usize {
        self.parts.iter().map(|part| part.images).sum()
    }

    /// What Ollama reckons with for all of them when it decides what to drop.
    pub(super) fn image_tokens(&self) -> u64 {
        self.images() as u64 * IMAGE_TOKENS
    }
}
