//! What shall happen to a request, as tests write it: `status=429,times=2,retry_after=1`.
//!
//! The same words stand in the body of a request, as `[[sim:...]]` somewhere in its text, and in the rules of a
//! [`Script`](crate::Script). A word that is not known is an error and never passed over: a test with a misspelt fault
//! would prove nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::garbage::Garbage;

/// What happens instead of a plain answer, and how the answer looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Directive {
    /// `status=N` · `crash` · `reset` · `garbage=NAME` or the bare name of a [`Garbage`].
    pub outcome: Option<Outcome>,
    /// `retry_after=TEXT`: the header beside a status, a number, a date or nonsense
    /// (`~` stands for a comma).
    pub retry_after: Option<String>,
    /// `code=TEXT`: the `code` in the error envelope.
    pub code: Option<String>,
    /// `delay_ms=N`: in place of the latency of the script.
    pub delay: Option<Duration>,
    /// `period_ms=N`: the pause between two bytes of `slow_loris`.
    pub period: Option<Duration>,
    /// `len=N`: how long the text of the answer is (or the body of `huge`, `gzip_bomb`, `endless_headers`).
    pub len: Option<u64>,
    /// `unicode` · `echo`: what the text of the answer is.
    pub text: Option<Text>,
    /// `times=N`: only the first N calls with this body (or this `id`) meet this.
    pub times: Option<u32>,
    /// `id=TEXT`: the name under which the calls of this request are counted, in place of its body.
    pub marker: Option<String>,
}

/// What comes instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    Garbage(Garbage),
    /// The whole engine goes down with everything it has in flight.
    Crash,
    /// The connection is reset (RST).
    Reset,
}

/// What the text of an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Text {
    /// `answer ` and the hash of the body: see [`answer_text`](crate::answer_text).
    #[default]
    Hash,
    /// The text that the request ends with: the last message, the prompt, the input.
    Echo,
    /// [`UNICODE_TEXT`](crate::UNICODE_TEXT): what careless readers take for the end of a line.
    Unicode,
}

/// A directive that cannot be read. The text says which word and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectiveError(String);

impl Directive {
    /// The directives in the text of a body, joined: what a later one says replaces what an earlier one said.
    pub(crate) fn find(body: &[u8]) -> Result<Option<Self>, DirectiveError> {
        let mut found: Option<Self> = None;
        let mut rest = body;
        while let Some(start) = memmem::find(rest, OPENING) {
            rest = &rest[start + OPENING.len()..];
            let end = memmem::find(rest, b"]]")
                .ok_or_else(|| DirectiveError("`[[sim:` without `]]`".to_owned()))?;
            let words = std::str::from_utf8(&rest[..end])
                .map_err(|_| DirectiveError("bytes that are not UTF-8".to_owned()))?;
            found.get_or_insert_default().read(words)?;
            rest = &rest[end..];
        }
        Ok(found)
    }

    fn read(&mut self, words: &str) -> Result<(), DirectiveError> {
        for word in words.split(',').map(str::trim) {
            let known = match word.split_once('=') {
                Some((key, value)) => self.read_value(key, value),
                None => self.read_bare(word),
            };
            known.ok_or_else(|| DirectiveError(format!("the word `{word}` is not understood")))?;
        }
        Ok(())
    }

    /// `None` when the word is not known.
    fn read_bare(&mut self, word: &str) -> Option<()> {
        match word {
            "crash" => self.outcome = Some(Outcome::Crash),
            "reset" => self.outcome = Some(Outcome::Reset),
            "unicode" => self.text = Some(Text::Unicode),
            "echo" => self.text = Some(Text::Echo),
            name => self.outcome = Some(Outcome::Garbage(name.parse().ok()?)),
        }
        Some(())
    }

    /// `None` when the key or its value is not known.
    fn read_value(&mut self, key: &str, value: &str) -> Option<()> {
        let millis = || value.parse().ok().map(Duration::from_millis);
        match key {
            "status" => {
                let status = value.parse().ok().filter(|status| (200..=999).contains(status))?;
                self.outcome = Some(Outcome::Status(status));
            }
            "garbage" => self.outcome = Some(Outcome::Garbage(value.parse().ok()?)),
            "retry_after" => self.retry_after = Some(value.replace('~', ",")),
            "code" => self.code = Some(value.to_owned()),
            "delay_ms" => self.delay = Some(millis()?),
            "period_ms" => self.period = Some(millis()?),
            "len" => self.len = Some(value.parse().ok().filter(|len| *len <= LEN_MAX)?),
            "times" => self.times = Some(value.parse().ok()?),
            "id" if !value.is_empty() => self.marker = Some(value.to_owned()),
            _ => return None,
        }
        Some(())
    }
}

impl FromStr for Directive {
    type Err = DirectiveError;

    fn from_str(words: &str) -> Result<Self, DirectiveError> {
        let mut directive = Self::default();
        directive.read(words)?;
        Ok(directive)
    }
}

impl TryFrom<String> for Directive {
    type Error = DirectiveError;

    fn try_from(words: String) -> Result<Self, DirectiveError> {
        words.parse()
    }
}

impl From<Directive> for String {
    fn from(directive: Directive) -> Self {
        directive.to_string()
    }
}

impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.marker.iter().map(|id| format!("id={id}")));
        words.extend(self.outcome.map(|outcome| match outcome {
            Outcome::Status(status) => format!("status={status}"),
            Outcome::Garbage(garbage) => format!("garbage={garbage}"),
            Outcome::Crash => "crash".to_owned(),
            Outcome::Reset => "reset".to_owned(),
        }));
        words.extend(self.times.map(|times| format!("times={times}")));
        words.extend(
            self.retry_after.iter().map(|text| format!("retry_after={}", text.replace(',', "~"))),
        );
        words.extend(self.code.iter().map(|code| format!("code={code}")));
        words.extend(self.delay.map(|delay| format!("delay_ms={}", delay.as_millis())));
        words.extend(self.period.map(|period| format!("period_ms={}", period.as_millis())));
        words.extend(self.len.map(|len| format!("len={len}")));
        words.extend(match self.text {
            Some(Text::Unicode) => Some("unicode".to_owned()),
            Some(Text::Echo) => Some("echo".to_owned()),
            Some(Text::Hash) | None => None,
        });
        f.write_str(&words.join(","))
    }
}

impl fmt::Display for DirectiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read the directive of the stand-in engine: {}", self.0)
    }
}

impl std::error::Error for DirectiveError {}

const OPENING: &[u8] = b"[[sim:";

/// The longest answer that can be asked for: 4 GiB, over which no client of ours takes anything.
const LEN_MAX: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written_back() {
        for words in [
            "id=a-1,status=429,times=2,retry_after=1,code=busy",
            "garbage=slow_loris,period_ms=5",
            "delay_ms=7,len=100,unicode",
            "crash",
            "reset,times=1",
            "echo",
            "status=503,retry_after=Wed~ 21 Oct 2026 07:28:00 GMT",
        ] {
            let directive: Directive = words.parse().expect("known words");
            assert_eq!(directive.to_string(), words);
        }
        assert_eq!("hang".parse::<Directive>(), "garbage=hang".parse());
    }

    #[test]
    fn a_misspelt_word_is_an_error() {
        for words in ["", "statsu=400", "status=abc", "status=99", "crash=1", "garbage=nothing", "len"] {
            assert!(words.parse::<Directive>().is_err(), "`{words}` was taken");
        }
    }

    #[test]
    fn directives_of_a_body_are_joined() {
        let found = Directive::find(br#"{"content":"x [[sim:id=q]] y [[sim:status=500,times=1]]"}"#);
        assert_eq!(found, Ok(Some("id=q,status=500,times=1".parse().expect("known words"))));
        assert_eq!(Directive::find(b"{}"), Ok(None));
        assert!(Directive::find(b"[[sim:status=1").is_err());
    }
}
