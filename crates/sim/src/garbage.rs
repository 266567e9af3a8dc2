//! The classes of garbage that an engine may answer with. Their names are stable: tests and scripts write them.

use std::fmt;
use std::str::FromStr;

/// One way of answering wrongly. What each puts on the wire stands in `steps.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Garbage {
    /// Takes the request and never says a word.
    Hang,
    /// The right answer, one byte a second (`period_ms` changes that).
    SlowLoris,
    /// A whole HTTP answer whose JSON stops in the middle.
    HalfJson,
    /// The connection is closed before as many bytes came as were announced.
    Truncated,
    /// More bytes come than were announced: the rest of the answer poisons the kept connection.
    WrongLengthShort,
    /// Fewer bytes come than were announced, and the connection stays open.
    WrongLengthLong,
    /// A valid answer of 1 GiB (`len` changes that), streamed.
    Huge,
    /// Bytes inside a string that are not UTF-8.
    InvalidUtf8,
    /// A page of HTML with status 200, as a proxy gives.
    Html200,
    /// A JSON object, but of another kind than was asked for.
    WrongShape,
    /// An answer with `choices` (or `data`, `output`, `results`) empty.
    EmptyChoices,
    /// The members that matter come twice, with different values.
    DuplicateKeys,
    /// `NaN` and `Infinity` where numbers belong, as Python writes them.
    Nan,
    /// `Content-Encoding: gzip` although nobody asked, a megabyte that unpacks to 1 GiB (`len` changes that).
    GzipBomb,
    /// The connection is closed in good order without a byte of an answer.
    EarlyClose,
    /// A valid answer, spread over many lines with blank space around: an output line must not keep the line feeds.
    NewlineNoise,
    /// Status 200 and no body.
    EmptyBody,
    /// Valid JSON that is no object.
    NotObject,
    /// Arrays nested 100,000 deep.
    DeepNesting,
    /// What should be a status line is none.
    BadStatusLine,
    /// Header lines without end (64 MiB; `len` changes that).
    EndlessHeaders,
    /// A chunked body with a chunk size that is no number.
    BadChunk,
    /// Server-sent events although nobody asked for a stream, cut before `[DONE]`.
    TruncatedSse,
}

impl Garbage {
    pub const ALL: [Self; 23] = [
        Self::Hang,
        Self::SlowLoris,
        Self::HalfJson,
        Self::Truncated,
        Self::WrongLengthShort,
        Self::WrongLengthLong,
        Self::Huge,
        Self::InvalidUtf8,
        Self::Html200,
        Self::WrongShape,
        Self::EmptyChoices,
        Self::DuplicateKeys,
        Self::Nan,
        Self::GzipBomb,
        Self::EarlyClose,
        Self::NewlineNoise,
        Self::EmptyBody,
        Self::NotObject,
        Self::DeepNesting,
        Self::BadStatusLine,
        Self::EndlessHeaders,
        Self::BadChunk,
        Self::TruncatedSse,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::SlowLoris => "slow_loris",
            Self::HalfJson => "half_json",
            Self::Truncated => "truncated",
            Self::WrongLengthShort => "wrong_length_short",
            Self::WrongLengthLong => "wrong_length_long",
            Self::Huge => "huge",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Html200 => "html_200",
            Self::WrongShape => "wrong_shape",
            Self::EmptyChoices => "empty_choices",
            Self::DuplicateKeys => "duplicate_keys",
            Self::Nan => "nan",
            Self::GzipBomb => "gzip_bomb",
            Self::EarlyClose => "early_close",
            Self::NewlineNoise => "newline_noise",
            Self::EmptyBody => "empty_body",
            Self::NotObject => "not_object",
            Self::DeepNesting => "deep_nesting",
            Self::BadStatusLine => "bad_status_line",
            Self::EndlessHeaders => "endless_headers",
            Self::BadChunk => "bad_chunk",
            Self::TruncatedSse => "truncated_sse",
        }
    }
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Garbage {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|garbage| garbage.name() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_stands_once() {
        for (index, garbage) in Garbage::ALL.into_iter().enumerate() {
            assert_eq!(garbage.name().parse(), Ok(garbage));
            assert!(Garbage::ALL[index + 1..].iter().all(|other| other.name() != garbage.name()));
        }
        assert_eq!("nothing".parse::<Garbage>(), Err(()));
    }
}
