//! Whether Ollama has read a prompt whole.
//!
//! Since `truncate` and `shift` are obeyed it refuses what does not fit. Before, it says nothing and cuts in two ways:
//! the server drops the oldest messages until the rest fits, and the runner takes what is still too long out of the
//! middle, so that exactly a context is left. The count of what was read shows the second. The first shows in it only
//! where what may have been dropped is too long to have had room: then nothing was dropped. Where that leaves a doubt,
//! the messages are counted one by one, by calls that nothing is dropped from.

use super::sizes::{MARK_TOKENS, Sizes};

/// What is known of an answer's prompt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// As the engine counted what it read.
    pub(super) prompt: Option<u64>,
    pub(super) answer: u64,
    /// The context that it was read with.
    pub(super) context: Option<u64>,
    /// The engine refuses by itself what does not fit.
    pub(super) obeys: bool,
    /// What it leaves of a prompt that is too long may be as little as half a context.
    pub(super) halves: bool,
    pub(super) sizes: &'a Sizes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    /// It was cut, or is so long that nothing is left to answer with.
    Cut,
    /// Only counting helps.
    Doubt,
}

/// The judgement that costs nothing.
pub(super) fn judge(seen: Seen<'_>) -> Verdict {
    match (seen.prompt, seen.context) {
        // Nothing to compare: the engine's word is all there is.
        (_, None) if seen.obeys => Verdict::Whole,
        (_, None) => Verdict::Doubt,
        (Some(read), Some(context)) if read >= context => Verdict::Cut,
        _ if seen.obeys => Verdict::Whole,
        // Older versions leave the count out where they had the prompt in their cache.
        (None, Some(context)) if seen.sizes.tokens_max() <= context => Verdict::Whole,
        (None, Some(_)) => Verdict::Doubt,
        // The answer went on beyond the context: the beginning of the prompt was shifted out meanwhile.
        (Some(read), Some(context)) if read.saturating_add(seen.answer) > context => Verdict::Cut,
        (Some(read), Some(context)) if seen.halves && read >= context / 2 => Verdict::Doubt,
        (Some(read), Some(context)) => {
            // Had a message been dropped, the last one of them would not have fitted beside what was read: as Ollama
            // reckons, to which an image is more than most models read of it.
            let longest = seen.sizes.droppable().map(|(_, part)| part.text_tokens_max()).max();
            match longest {
                Some(longest) if read.saturating_add(longest) + seen.sizes.image_tokens() > context => {
                    Verdict::Doubt
                }
                _ => Verdict::Whole,
            }
        }
    }
}

/// The judgement where the context was asked for before the call and after it. Was it another one by then, the prompt may
/// have been read with either, or with a third.
pub(super) fn judge_between(before: Option<u64>, seen: Seen<'_>) -> Verdict {
    if before == seen.context {
        return judge(seen);
    }
    let least = before.unwrap_or(0).min(seen.context.unwrap_or(0));
    if seen.sizes.tokens_max() > least {
        return Verdict::Cut;
    }
    judge(Seen { context: Some(least), ..seen })
}

/// The judgement after counting: the tokens of each message's text, in the order of `sizes.parts`.
pub(super) fn settle(seen: Seen<'_>, counts: &[u64]) -> Verdict {
    let (Some(read), Some(context)) = (seen.prompt, seen.context) else { return Verdict::Cut };
    // An image counts as much as a long text: with some of them a sum proves nothing.
    if seen.sizes.images() > 0 || counts.len() != seen.sizes.parts.len() {
        return Verdict::Cut;
    }
    // A text by itself may count a few tokens more than inside a prompt: its beginning, its borders.
    let slack = 2 * counts.len() as u64;
    let whole: u64 = counts.iter().sum();
    if read.saturating_add(slack) < whole {
        return Verdict::Cut;
    }
    // What was dropped unseen is no longer than what the template adds to the rest. It did not fit, either.
    let unseen_max = slack + MARK_TOKENS * counts.len() as u64 + seen.sizes.frame_len as u64;
    let unseen =
        seen.sizes.droppable().map(|(at, _)| counts[at]).filter(|count| *count <= unseen_max).max();
    match unseen {
        Some(unseen) if read + unseen + MARK_TOKENS > context => Verdict::Cut,
        _ => Verdict::Whole,
    }
}

/// The lengths that Ollama and the `llama-server` within it tell: of the prompt, and of the context.
pub(super) fn read_refusal(message: &str) -> Option<(Option<u64>, Option<u64>)> {
    const TOLD: [&str; 5] = [
        "exceeds the available context size",
        "exceeds the context length",
        "exceeds maximum context length",
        "exceed_context_size_error",
        "exceeds the context window",
    ];
    if !TOLD.iter().any(|told| message.contains(told)) {
        return None;
    }
    // `request (9412 tokens) exceeds the available context size (8192 tokens), try increasing it`
    let mut numbers = message.split('(').skip(1).filter_map(|rest| {
        rest.split_once(" tokens)").and_then(|(number, _)| number.trim().parse().ok())
    });
    let first = numbers.next();
    Some((first, numbers.next()))
}

#[cfg(test)]
mod tests;
