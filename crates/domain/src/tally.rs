//! What was counted: outcomes and tokens. Tallies only grow, and only by what is durable.

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// Tokens and endings as the engines reported them, summed over answered requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    /// Answers that ended because they were as long as they might be (`finish_reason: length`), not because all was said.
    #[serde(default)]
    pub cut_short: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        // What engines report is not to be trusted with our arithmetic.
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.cut_short = self.cut_short.saturating_add(other.cut_short);
    }
}

/// Requests with a durable result, by outcome, and their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Lines of the output file.
    pub completed: u64,
    /// Lines of the error file.
    pub failed: u64,
    pub usage: Usage,
}

impl Tally {
    pub const fn done(&self) -> u64 {
        self.completed + self.failed
    }

    pub fn record(&mut self, outcome: Outcome, usage: Usage) {
        match outcome {
            Outcome::Completed => self.completed += 1,
            Outcome::Failed => self.failed += 1,
        }
        self.usage += usage;
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.usage += other.usage;
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

/// Which of the two files a result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed,
    Failed,
}
