//! The lines of the three files, one at a time, with the digest of all bytes.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read as _};

use overnight_domain::file::Sha256;
use overnight_domain::tally::Outcome;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Digest as _;

use super::{Which, key_of};

/// No line of ours is longer: a request or an answer at its limit, with every byte escaped.
const LINE_LEN_MAX: u64 = 256 << 20;

/// What a result line says about itself; its body is not kept.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// From 1.
    pub(super) line: u64,
    pub(super) key: u128,
    /// Empty when the line cannot be read.
    pub(super) custom_id: String,
    pub(super) id: String,
    pub(super) request_id: Option<String>,
    /// None: it is neither.
    pub(super) outcome: Option<Outcome>,
    pub(super) malformed: Option<String>,
}

/// A file as lines.
struct Lines<'a> {
    reader: &'a mut dyn BufRead,
    hash: sha2::Sha256,
    line: Vec<u8>,
    number: u64,
}

impl<'a> Lines<'a> {
    fn new(reader: &'a mut dyn BufRead) -> Self {
        Self { reader, hash: sha2::Sha256::new(), line: Vec::new(), number: 0 }
    }

    /// The next line with its line break, in a buffer that is used again.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let mut bounded = (&mut *self.reader).take(LINE_LEN_MAX);
        bounded.read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if self.line.len() as u64 == LINE_LEN_MAX {
            let why = format!("line {} is longer than {LINE_LEN_MAX} bytes", self.number);
            return Err(io::Error::other(why));
        }
        self.hash.update(&self.line);
        Ok(Some(&self.line))
    }

    fn digest(self) -> Sha256 {
        Sha256(self.hash.finalize().into())
    }
}

/// The requests of an input.
pub(super) struct InputLines<'a>(Lines<'a>);

impl<'a> InputLines<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Self {
        Self(Lines::new(reader))
    }

    /// The physical number of the next line that is not blank, and its `custom_id` or what is wrong with it.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Result<String, String>)>> {
        #[derive(Deserialize)]
        struct Request<'a> {
            #[serde(borrow)]
            custom_id: Cow<'a, str>,
        }
        loop {
            let is_first = self.0.number == 0;
            let Some(line) = self.0.next()? else { return Ok(None) };
            let mark = if is_first { b"\xef\xbb\xbf".as_slice() } else { b"" };
            let line = line.strip_prefix(mark).unwrap_or(line);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let request = match serde_json::from_slice::<Request<'_>>(line) {
                Ok(request) => Ok(request.custom_id.into_owned()),
                Err(error) => Err(format!("no request: {error}")),
            };
            return Ok(Some((self.0.number, request)));
        }
    }

    pub(super) fn digest(self) -> Sha256 {
        self.0.digest()
    }
}

/// The lines of an output or error file, with a bounded look ahead.
pub(super) struct ResultLines<'a> {
    lines: Lines<'a>,
    ahead: VecDeque<Head>,
    which: Which,
}

impl<'a> ResultLines<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead, which: Which) -> Self {
        Self { lines: Lines::new(reader), ahead: VecDeque::new(), which }
    }

    pub(super) fn head(&mut self) -> io::Result<Option<&Head>> {
        self.fill(1)?;
        Ok(self.ahead.front())
    }

    pub(super) fn pop(&mut self) -> io::Result<Option<Head>> {
        self.fill(1)?;
        Ok(self.ahead.pop_front())
    }

    /// How many lines stand before the one with this key, when it is among the next `longest`.
    pub(super) fn position(&mut self, key: u128, longest: usize) -> io::Result<Option<usize>> {
        self.fill(longest)?;
        Ok(self.ahead.iter().position(|head| head.key == key))
    }

    pub(super) fn digest(self) -> Sha256 {
        self.lines.digest()
    }

    fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.ahead.len() < count {
            let number = self.lines.number + 1;
            let Some(line) = self.lines.next()? else { break };
            let head = head_of(line, number, self.which);
            self.ahead.push_back(head);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultLine<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
    #[serde(borrow)]
    response: &'a RawValue,
    #[serde(borrow)]
    error: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer<'a> {
    status_code: u16,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure<'a> {
    #[serde(borrow, rename = "code")]
    _code: Cow<'a, str>,
    #[serde(borrow, rename = "message")]
    _message: Cow<'a, str>,
}

fn head_of(bytes: &[u8], line: u64, which: Which) -> Head {
    let mut head = Head {
        line,
        key: 0,
        custom_id: String::new(),
        id: String::new(),
        request_id: None,
        outcome: None,
        malformed: None,
    };
    let parsed: ResultLine<'_> = match serde_json::from_slice(bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            head.malformed = Some(format!("no result line: {error}"));
            return head;
        }
    };
    head.id = parsed.id.into_owned();
    head.key = key_of(&parsed.custom_id);
    head.custom_id = parsed.custom_id.into_owned();
    match (parsed.response.get(), parsed.error.get()) {
        ("null", error) => match serde_json::from_str::<Failure<'_>>(error) {
            Ok(_) => head.outcome = Some(Outcome::Failed),
            Err(error) => head.malformed = Some(format!("it has no answer, and no error: {error}")),
        },
        (response, "null") => match serde_json::from_str::<Answer<'_>>(response) {
            Ok(answer) if answer.body.get().starts_with('{') => {
                head.request_id = Some(answer.request_id.into_owned());
                let is_good = answer.status_code == 200;
                head.outcome = Some(if is_good { Outcome::Completed } else { Outcome::Failed });
            }
            Ok(_) => head.malformed = Some("its body is no object".to_owned()),
            Err(error) => head.malformed = Some(format!("its answer cannot be read: {error}")),
        },
        _ => head.malformed = Some("it has both an answer and an error".to_owned()),
    }
    if bytes.last() != Some(&b'\n') {
        head.malformed = Some(format!("the {which} ends inside a line"));
    }
    head
}
