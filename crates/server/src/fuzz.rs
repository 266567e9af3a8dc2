//! A fuzzer that needs no other compiler and no tool: seeded mutations of a corpus, steered by what the code under test
//! makes of an input.
//!
//! A target checks what must hold for any input and returns its kind: which way the code went. An input of a kind not
//! seen before joins the corpus. The same seeds give the same inputs in the same order on every machine, so a finding
//! is there again in the next run. Deliberately absent: coverage of branches, which needs instrumentation.
//!
//! `docs/testing.md` says how to let it run for longer.

mod config;
mod frame;
mod mutation;
mod plan;
mod request;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use mutation::{Dice, mutate};

/// Inputs that are kept beside the seeds.
const CORPUS_MAX: usize = 4_096;
/// Calls that are spent on making a finding shorter.
const SHRINKS_MAX: usize = 200;
/// How much the process may grow: the inputs are some hundred KiB at most.
const GROWTH_MAX: u64 = 512 << 20;

/// What to feed a target with.
pub(crate) struct Campaign {
    pub(crate) seeds: Vec<Vec<u8>>,
    /// What the format is made of: inserted and written over what is there.
    pub(crate) words: &'static [&'static [u8]],
    pub(crate) len_max: usize,
    /// Makes checksums fit again. Half of the inputs get it: without, none would come behind the checksums.
    pub(crate) repair: Option<fn(&mut [u8])>,
    /// Without `FUZZ_SECONDS`.
    pub(crate) executions: u64,
}

impl Campaign {
    pub(crate) fn run(self, mut target: impl FnMut(&[u8]) -> u64) {
        let until = seconds().map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let (started, len_before) = (Instant::now(), peak_len());
        let mut dice = Dice(0);
        let (mut kinds, mut corpus, mut count) = (HashSet::new(), self.seeds.clone(), 0);
        while until.map_or(count < self.executions, |until| Instant::now() < until) {
            let input = match self.seeds.get(count as usize) {
                Some(seed) => seed.clone(),
                None => self.next(&mut dice, &corpus),
            };
            count += 1;
            match call(&mut target, &input) {
                Some(kind) => {
                    let is_new = kinds.insert(kind);
                    if is_new && corpus.len() < self.seeds.len() + CORPUS_MAX {
                        corpus.push(input);
                    }
                }
                None => report(count, &shortest(&mut target, input)),
            }
        }
        let grown = peak_len().saturating_sub(len_before);
        assert!(grown <= GROWTH_MAX, "the process grew by {grown} bytes");
        let span = started.elapsed();
        println!("{count} executions in {span:.1?}, {} kinds, {} MiB grown", kinds.len(), grown >> 20);
    }

    fn next(&self, dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = mutate(dice, corpus, self.words, self.len_max);
        if let Some(repair) = self.repair
            && dice.below(2) == 0
        {
            repair(&mut input);
        }
        input
    }
}

/// The kind of what can be told apart by its hash, the same in every run.
pub(crate) fn kind(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Writes an input for code that reads it from the disk, as a new file: some file systems flush one that was emptied and
/// written again, which makes each execution wait for the disk.
fn put_file(path: &Path, input: &[u8]) {
    drop(std::fs::remove_file(path));
    std::fs::write(path, input).expect("a small file in a folder of the test");
}

#[expect(clippy::disallowed_methods, reason = "it asks how long to run, and is part of no server")]
fn seconds() -> Option<u64> {
    let text = std::env::var("FUZZ_SECONDS").ok()?;
    Some(text.parse().expect("FUZZ_SECONDS is a number of seconds"))
}

/// None: a property does not hold, and the panic has said which.
fn call(target: &mut impl FnMut(&[u8]) -> u64, input: &[u8]) -> Option<u64> {
    catch_unwind(AssertUnwindSafe(|| target(input))).ok()
}

/// Leaves parts out of an input for as long as it still shows the finding.
fn shortest(target: &mut impl FnMut(&[u8]) -> u64, mut input: Vec<u8>) -> Vec<u8> {
    let (mut len, mut calls) = (input.len() / 2, 0);
    while len > 0 {
        let mut at = 0;
        while at < input.len() && calls < SHRINKS_MAX {
            let mut shorter = input.clone();
            shorter.drain(at..(at + len).min(input.len()));
            calls += 1;
            if call(target, &shorter).is_none() {
                input = shorter;
            } else {
                at += len;
            }
        }
        len /= 2;
    }
    input
}

fn report(number: u64, input: &[u8]) -> ! {
    panic!("execution {number}: a property does not hold for b\"{}\"", input.escape_ascii());
}

/// The most memory that the process has had; 0 where the system does not tell.
fn peak_len() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

#[test]
#[should_panic(expected = "does not hold for b\"q\"")]
fn a_finding_ends_the_campaign_with_its_shortest_input() {
    let campaign = Campaign {
        seeds: vec![b"some text".to_vec()],
        words: &[b"question"],
        len_max: 100,
        repair: None,
        executions: 10_000,
    };
    campaign.run(|input| {
        assert!(!input.contains(&b'q'), "found");
        0
    });
}
