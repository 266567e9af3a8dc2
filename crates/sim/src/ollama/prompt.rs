//! Prompts as Ollama puts them together, counts them and cuts them.

use serde_json::Value;

/// A prompt as a list of messages.
#[derive(Debug)]
pub(super) struct Prompt {
    messages: Vec<Message>,
    /// Tokens of the template around the messages, the tools included.
    frame: u64,
}

#[derive(Debug)]
struct Message {
    is_system: bool,
    tokens: u64,
}

/// What decides how a prompt that is too long is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) context: u64,
    pub(super) may_truncate: bool,
    /// Since Ollama runs `llama-server`, what is left of a cut prompt is half a context.
    pub(super) halves: bool,
}

/// What a message costs besides its words.
const MESSAGE_TOKENS: u64 = 4;
/// The beginning of the prompt, and the head of the answer.
const FRAME_TOKENS: u64 = 3;
/// Letters of one token at most.
const PIECE_LEN: usize = 6;

impl Prompt {
    pub(super) fn of_messages(messages: &Value, tools: &Value) -> Self {
        let read = |message: &Value| Message {
            is_system: message["role"] == "system",
            tokens: MESSAGE_TOKENS
                + tokens(message["content"].as_str().unwrap_or_default())
                + if message["tool_calls"].is_null() {
                    0
                } else {
                    tokens(&message["tool_calls"].to_string())
                },
        };
        let tools = if tools.is_null() { 0 } else { tokens(&tools.to_string()) };
        Self {
            messages: messages
                .as_array()
                .map(|list| list.iter().map(read).collect())
                .unwrap_or_default(),
            frame: FRAME_TOKENS + tools,
        }
    }

    pub(super) fn of_text(text: &str, is_raw: bool) -> Self {
        let frame = if is_raw { 1 } else { MESSAGE_TOKENS + FRAME_TOKENS };
        Self { messages: vec![Message { is_system: false, tokens: tokens(text) }], frame }
    }

    fn len(&self) -> u64 {
        self.frame + self.messages.iter().map(|message| message.tokens).sum::<u64>()
    }

    /// The tokens that are read, and whether that is less than the prompt has; or how long it is, where cutting was
    /// forbidden.
    pub(super) fn cut(&mut self, cut: Cut) -> Result<(u64, bool), u64> {
        let whole = self.len();
        if whole <= cut.context {
            return Ok((whole, false));
        }
        if !cut.may_truncate {
            return Err(whole);
        }
        // The oldest messages go first; those of the system and the last one stay.
        while self.len() > cut.context {
            let last = self.messages.len() - 1;
            let Some(oldest) = self.messages[..last].iter().position(|message| !message.is_system)
            else {
                break;
            };
            self.messages.remove(oldest);
        }
        if self.len() <= cut.context {
            return Ok((self.len(), true));
        }
        Ok((if cut.halves { cut.context / 2 + 2 } else { cut.context }, true))
    }
}

/// Words in pieces of at most six letters, and every other character but white space by itself.
pub(super) fn tokens(text: &str) -> u64 {
    let (mut count, mut piece) = (0, 0);
    for letter in text.chars() {
        if letter.is_alphanumeric() {
            if piece == 0 {
                count += 1;
            }
            piece = (piece + 1) % PIECE_LEN;
        } else {
            piece = 0;
            count += u64::from(!letter.is_whitespace());
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cut(context: u64, may_truncate: bool, halves: bool) -> Cut {
        Cut { context, may_truncate, halves }
    }

    #[test]
    fn tokens_are_pieces_of_words_and_punctuation() {
        assert_eq!(tokens("Hello, wonderful world!"), 1 + 1 + 2 + 1 + 1);
        assert_eq!(tokens("   "), 0);
    }

    #[test]
    fn the_oldest_messages_go_and_system_and_last_stay() {
        let words = |count: usize| "a ".repeat(count);
        let chat = || {
            let messages = json!([
                {"role": "system", "content": words(10)},
                {"role": "user", "content": words(30)},
                {"role": "assistant", "content": words(5)},
                {"role": "user", "content": words(20)},
            ]);
            Prompt::of_messages(&messages, &Value::Null)
        };
        let whole = 3 + 4 * 4 + 65;
        assert_eq!(chat().cut(cut(whole, true, false)).unwrap(), (whole, false));
        assert_eq!(chat().cut(cut(whole - 1, true, false)).unwrap(), (whole - 34, true));
        assert_eq!(chat().cut(cut(30, true, false)).unwrap(), (30, true));
        assert_eq!(chat().cut(cut(30, true, true)).unwrap(), (17, true));
        assert_eq!(chat().cut(cut(whole - 1, false, true)).unwrap_err(), whole);
    }
}
