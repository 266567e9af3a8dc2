//! Proves from the bytes that an output is complete: every request of the input has exactly one result line, in input
//! order, and each line is what we would have written for that request.
//!
//! Memory stays bounded whatever the files' sizes: the three files are walked side by side, and only where they
//! disagree is a bounded stretch read ahead, to say what happened. A body that was altered and is still JSON is seen
//! only by the digests of a [`Manifest`]. Absent on purpose: whether an answer is any good.

mod lines;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, BufRead};
use std::path::PathBuf;

use overnight_domain::file::Sha256;
use overnight_domain::ids::{BatchId, RequestIndex};
use overnight_domain::result::LineHead;
use overnight_domain::tally::Outcome;
use serde::{Deserialize, Serialize};

use crate::results::manifest::Manifest;
use lines::{Head, InputLines, ResultLines};

/// Lines that are read ahead of a disagreement, to tell a line that is missing from others that are too many.
const AHEAD_MAX: usize = 1_000;
/// Requests lately met, to recognise a line that stands there twice.
const RECENT_MAX: usize = 65_536;
/// Problems that are listed; the others are counted.
const LISTED_MAX: usize = 1_000;

/// What is to be proved.
pub(crate) struct Sources<'a> {
    pub(crate) input: &'a mut dyn BufRead,
    /// None: there is no such file, as when no request was answered.
    pub(crate) output: Option<&'a mut dyn BufRead>,
    pub(crate) errors: Option<&'a mut dyn BufRead>,
    /// Failed requests have their lines in `output` too.
    pub(crate) is_together: bool,
    /// The batch whose lines they are: with it the ids of all lines are computed again.
    pub(crate) batch: Option<&'a BatchId>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) total: u64,
    /// Requests with a good line in the output, and with one that tells of a failure.
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) input_sha256: Sha256,
    pub(crate) output_sha256: Option<Sha256>,
    pub(crate) error_sha256: Option<Sha256>,
    pub(crate) problems: Problems,
}

/// What `overnight run` leaves beside its output when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    /// None: failed requests have their lines in the output.
    pub(crate) errors: Option<PathBuf>,
    /// Answers that ended at their limit of length; older versions did not keep it.
    #[serde(default)]
    pub(crate) cut_short: u64,
    pub(crate) manifest: Manifest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Input,
    Output,
    Errors,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Errors => "error file",
        })
    }
}

/// Something wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) file: Which,
    /// From 1.
    pub(crate) line: u64,
    pub(crate) custom_id: Option<String>,
    pub(crate) kind: ProblemKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    /// The request has no result line.
    Missing,
    /// The request had its line already.
    Twice,
    /// The line is there, but not where the input has its request.
    OutOfOrder,
    /// No request near here has this `custom_id`.
    Unexpected,
    /// Not the line that we would have written: which part differs.
    Altered(&'static str),
    /// A failure in the output, or an answer in the error file.
    WrongFile,
    /// No line of ours at all.
    Malformed(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}", self.file, self.line)?;
        if let Some(custom_id) = &self.custom_id {
            write!(f, " (`{custom_id}`)")?;
        }
        match &self.kind {
            ProblemKind::Missing => f.write_str(": has no result line"),
            ProblemKind::Twice => f.write_str(": its request had a line already"),
            ProblemKind::OutOfOrder => f.write_str(": not in the order of the input"),
            ProblemKind::Unexpected => f.write_str(": belongs to no request near here"),
            ProblemKind::Altered(part) => write!(f, ": altered, `{part}` is not what it must be"),
            ProblemKind::WrongFile => f.write_str(": belongs into the other file"),
            ProblemKind::Malformed(why) => write!(f, ": {why}"),
        }
    }
}

/// All problems: the first ones as they are, the others as a number.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    pub(crate) listed: Vec<Problem>,
    pub(crate) count: u64,
}

impl Problems {
    /// The place in the list, where there is one.
    fn push(&mut self, problem: Problem) -> Option<usize> {
        self.count += 1;
        let has_room = self.listed.len() < LISTED_MAX;
        has_room.then(|| {
            self.listed.push(problem);
            self.listed.len() - 1
        })
    }
}

impl Proof {
    pub(crate) fn holds(&self) -> bool {
        self.problems.count == 0
    }

    /// Where the files differ from what finalizing noted, in words.
    pub(crate) fn differences(&self, manifest: &Manifest) -> Vec<String> {
        let mut differences = Vec::new();
        let digests = [
            // An input that was deleted in time has no digest to compare with.
            ("input", manifest.input_sha256.and(Some(self.input_sha256)), manifest.input_sha256),
            ("output", self.output_sha256, manifest.output_sha256),
            ("error file", self.error_sha256, manifest.error_sha256),
        ];
        for (name, found, noted) in digests {
            if found != noted {
                differences
                    .push(format!("the {name} is not the one that was written: its SHA-256 differs"));
            }
        }
        differences.extend(self.miscounts(manifest.requests, manifest.completed, manifest.failed));
        differences
    }

    /// Where the lines differ from counts that the batch claims.
    pub(crate) fn miscounts(&self, total: u64, completed: u64, failed: u64) -> Vec<String> {
        [
            ("requests", self.total, total),
            ("answered", self.completed, completed),
            ("failed", self.failed, failed),
        ]
        .into_iter()
        .filter(|(_, found, claimed)| found != claimed)
        .map(|(name, found, claimed)| format!("{name}: {found} lines, but the batch says {claimed}"))
        .collect()
    }
}

/// Reads all files to their ends.
pub(crate) fn verify(sources: Sources<'_>) -> io::Result<Proof> {
    let mut input = InputLines::new(sources.input);
    let mut walk = Walk {
        output: sources.output.map(|reader| ResultLines::new(reader, Which::Output)),
        errors: sources.errors.map(|reader| ResultLines::new(reader, Which::Errors)),
        is_together: sources.is_together,
        batch: sources.batch,
        recent: Recent::default(),
        missing: HashMap::new(),
        strays: HashMap::new(),
        problems: Problems::default(),
        completed: 0,
        failed: 0,
    };
    let mut total = 0_u64;
    while let Some((line, request)) = input.next()? {
        match request {
            Ok(custom_id) => walk.meet(line, total, &custom_id)?,
            Err(why) => {
                let kind = ProblemKind::Malformed(why);
                walk.problems.push(Problem { file: Which::Input, line, custom_id: None, kind });
            }
        }
        total += 1;
    }
    walk.drain()?;
    Ok(Proof {
        total,
        completed: walk.completed,
        failed: walk.failed,
        input_sha256: input.digest(),
        output_sha256: walk.output.map(ResultLines::digest),
        error_sha256: walk.errors.map(ResultLines::digest),
        problems: walk.problems,
    })
}

struct Walk<'a> {
    output: Option<ResultLines<'a>>,
    errors: Option<ResultLines<'a>>,
    is_together: bool,
    batch: Option<&'a BatchId>,
    recent: Recent,
    /// Requests without a line and lines without a request, by their `custom_id`: one may turn out to be the other.
    /// Both are as bounded as the list of problems whose places they hold.
    missing: HashMap<u128, usize>,
    strays: HashMap<u128, usize>,
    problems: Problems,
    completed: u64,
    failed: u64,
}

impl<'a> Walk<'a> {
    /// Finds the one line of the next request.
    fn meet(&mut self, line: u64, index: u64, custom_id: &str) -> io::Result<()> {
        let key = key_of(custom_id);
        for which in [Which::Output, Which::Errors] {
            let Some(file) = self.file(which) else { continue };
            if file.head()?.is_some_and(|head| head.key == key) {
                return self.take(which, index, custom_id);
            }
        }
        for which in [Which::Output, Which::Errors] {
            let Some(file) = self.file(which) else { continue };
            if let Some(before) = file.position(key, AHEAD_MAX)? {
                for _ in 0..before {
                    self.drop_stray(which)?;
                }
                return self.take(which, index, custom_id);
            }
        }
        if let Some(place) = self.strays.remove(&key) {
            // It came before its turn.
            self.problems.listed[place].kind = ProblemKind::OutOfOrder;
            self.recent.push(key);
            return Ok(());
        }
        let problem = Problem {
            file: Which::Input,
            line,
            custom_id: Some(custom_id.to_owned()),
            kind: ProblemKind::Missing,
        };
        if let Some(place) = self.problems.push(problem) {
            self.missing.insert(key, place);
        }
        Ok(())
    }

    /// The head of this file is the request's line: is it what it must be?
    fn take(&mut self, which: Which, index: u64, custom_id: &str) -> io::Result<()> {
        let Some(head) = self.pop(which)? else { return Ok(()) };
        self.recent.push(head.key);
        match head.outcome {
            Some(Outcome::Completed) => self.completed += 1,
            Some(Outcome::Failed) => self.failed += 1,
            None => {}
        }
        if let Some(kind) = self.fault(which, &head, index, custom_id) {
            let custom_id = Some(custom_id.to_owned());
            self.problems.push(Problem { file: which, line: head.line, custom_id, kind });
        }
        Ok(())
    }

    fn fault(&self, which: Which, head: &Head, index: u64, custom_id: &str) -> Option<ProblemKind> {
        if let Some(why) = &head.malformed {
            return Some(ProblemKind::Malformed(why.clone()));
        }
        let belongs = match which {
            Which::Errors => Outcome::Failed,
            _ => Outcome::Completed,
        };
        let may_be_here = self.is_together || head.outcome == Some(belongs);
        if !may_be_here {
            return Some(ProblemKind::WrongFile);
        }
        let ours = LineHead::new(self.batch?, RequestIndex(u32::try_from(index).ok()?), custom_id);
        if head.id != ours.line_id() {
            return Some(ProblemKind::Altered("id"));
        }
        let is_other = head.request_id.as_ref().is_some_and(|id| *id != ours.request_id());
        is_other.then_some(ProblemKind::Altered("request_id"))
    }

    /// The head of this file is not the line of the request that is looked for.
    fn drop_stray(&mut self, which: Which) -> io::Result<()> {
        let Some(head) = self.pop(which)? else { return Ok(()) };
        let problem = |kind| Problem {
            file: which,
            line: head.line,
            custom_id: (!head.custom_id.is_empty()).then(|| head.custom_id.clone()),
            kind,
        };
        if head.custom_id.is_empty() {
            let why = head.malformed.clone().unwrap_or_default();
            self.problems.push(problem(ProblemKind::Malformed(why)));
        } else if let Some(place) = self.missing.remove(&head.key) {
            // Its request was given up before: one problem, not two.
            self.problems.listed[place] = problem(ProblemKind::OutOfOrder);
            self.recent.push(head.key);
        } else if self.recent.contains(head.key) {
            self.problems.push(problem(ProblemKind::Twice));
        } else if let Some(place) = self.problems.push(problem(ProblemKind::Unexpected)) {
            self.strays.insert(head.key, place);
        }
        Ok(())
    }

    /// What stands behind the last request.
    fn drain(&mut self) -> io::Result<()> {
        for which in [Which::Output, Which::Errors] {
            while match self.file(which) {
                Some(file) => file.head()?.is_some(),
                None => false,
            } {
                self.drop_stray(which)?;
            }
        }
        Ok(())
    }

    fn pop(&mut self, which: Which) -> io::Result<Option<Head>> {
        self.file(which).map_or(Ok(None), ResultLines::pop)
    }

    fn file(&mut self, which: Which) -> Option<&mut ResultLines<'a>> {
        match which {
            Which::Input => None,
            Which::Output => self.output.as_mut(),
            Which::Errors => self.errors.as_mut(),
        }
    }
}

/// The requests that were met last.
#[derive(Default)]
struct Recent {
    order: VecDeque<u128>,
    counts: HashMap<u128, u32>,
}

impl Recent {
    fn push(&mut self, key: u128) {
        self.order.push_back(key);
        *self.counts.entry(key).or_default() += 1;
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }

    fn contains(&self, key: u128) -> bool {
        self.counts.contains_key(&key)
    }
}

fn key_of(custom_id: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(custom_id.as_bytes())
}

#[cfg(test)]
mod tests;
