//! The batch: its states and the events that move them, and the record that the store keeps.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{BatchId, BlobKey, FileId, TenantId};
use crate::route::Route;
use crate::tally::Tally;
use crate::time::UnixTime;

/// An event that the current state does not allow. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` is not possible in state `{state}`")]
pub struct IllegalTransition {
    state: &'static str,
    event: String,
}

impl IllegalTransition {
    pub fn new(state: &'static str, event: impl fmt::Debug) -> Self {
        Self { state, event: format!("{event:?}") }
    }

    pub fn state(&self) -> &'static str {
        self.state
    }
}

/// The eight words of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl BatchStatus {
    pub const ALL: [Self; 8] = [
        Self::Validating,
        Self::Failed,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Expired | Self::Cancelled)
    }
}

/// Where a batch stands. One more than the wire knows: while an expired batch is being finalized, its end is already
/// decided, though people see `finalizing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    Validating,
    InProgress,
    Finalizing,
    Expiring,
    Cancelling,
    Completed,
    Failed,
    Expired,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchEvent {
    /// The input is valid and the plan is durable.
    Plan,
    /// The input cannot be used. No request was run.
    Reject,
    /// Every request has a durable result.
    Finish,
    /// Some of those results were found damaged: their requests run again.
    Reopen,
    /// A hard deadline has passed.
    Expire,
    Cancel,
    /// The files can be read in full.
    Close,
}

impl BatchEvent {
    pub const ALL: [Self; 7] =
        [Self::Plan, Self::Reject, Self::Finish, Self::Reopen, Self::Expire, Self::Cancel, Self::Close];
}

impl BatchState {
    pub const ALL: [Self; 9] = [
        Self::Validating,
        Self::InProgress,
        Self::Finalizing,
        Self::Expiring,
        Self::Cancelling,
        Self::Completed,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The states in which a batch takes room in the queue.
    pub const UNFINISHED: [Self; 5] =
        [Self::Validating, Self::InProgress, Self::Finalizing, Self::Expiring, Self::Cancelling];

    pub fn next(self, event: BatchEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Validating, BatchEvent::Plan) | (Self::Finalizing, BatchEvent::Reopen) => {
                Ok(Self::InProgress)
            }
            (Self::Validating, BatchEvent::Reject) => Ok(Self::Failed),
            (Self::InProgress, BatchEvent::Finish) => Ok(Self::Finalizing),
            (Self::InProgress, BatchEvent::Expire) => Ok(Self::Expiring),
            (
                Self::Validating | Self::InProgress | Self::Finalizing | Self::Expiring,
                BatchEvent::Cancel,
            ) => Ok(Self::Cancelling),
            (Self::Finalizing, BatchEvent::Close) => Ok(Self::Completed),
            (Self::Expiring, BatchEvent::Close) => Ok(Self::Expired),
            (Self::Cancelling, BatchEvent::Close) => Ok(Self::Cancelled),
            _ => Err(IllegalTransition::new(self.as_str(), event)),
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Expiring => "expiring",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub const fn status(self) -> BatchStatus {
        match self {
            Self::Validating => BatchStatus::Validating,
            Self::InProgress => BatchStatus::InProgress,
            Self::Finalizing | Self::Expiring => BatchStatus::Finalizing,
            Self::Cancelling => BatchStatus::Cancelling,
            Self::Completed => BatchStatus::Completed,
            Self::Failed => BatchStatus::Failed,
            Self::Expired => BatchStatus::Expired,
            Self::Cancelled => BatchStatus::Cancelled,
        }
    }

    pub const fn is_terminal(self) -> bool {
        self.status().is_terminal()
    }
}

/// When each state was reached. A state that was not passed through has no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchMoments {
    pub created_at: UnixTime,
    /// A target, or with `hard_expiry` the end.
    pub expires_at: UnixTime,
    pub in_progress_at: Option<UnixTime>,
    pub finalizing_at: Option<UnixTime>,
    pub completed_at: Option<UnixTime>,
    pub failed_at: Option<UnixTime>,
    pub expired_at: Option<UnixTime>,
    pub cancelling_at: Option<UnixTime>,
    pub cancelled_at: Option<UnixTime>,
}

impl BatchMoments {
    pub const fn new(created_at: UnixTime, expires_at: UnixTime) -> Self {
        Self {
            created_at,
            expires_at,
            in_progress_at: None,
            finalizing_at: None,
            completed_at: None,
            failed_at: None,
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
        }
    }

    /// Notes that `state` was reached at `now`, never before what was noted already.
    pub fn reach(&mut self, state: BatchState, now: UnixTime) {
        let now = [Some(self.created_at), self.in_progress_at, self.finalizing_at, self.cancelling_at]
            .into_iter()
            .flatten()
            .fold(now, UnixTime::max);
        match state {
            BatchState::Validating => {}
            BatchState::InProgress => {
                self.in_progress_at.get_or_insert(now);
                // A batch that goes back has not passed through what it goes back from.
                self.finalizing_at = None;
            }
            BatchState::Finalizing | BatchState::Expiring => self.finalizing_at = Some(now),
            BatchState::Cancelling => self.cancelling_at = Some(now),
            BatchState::Completed => self.completed_at = Some(now),
            BatchState::Failed => self.failed_at = Some(now),
            BatchState::Expired => self.expired_at = Some(now),
            BatchState::Cancelled => self.cancelled_at = Some(now),
        }
    }
}

/// Something wrong with the input of a batch: what `errors.data` lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchError {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
    /// The physical line, from 1.
    pub line: Option<u64>,
}

/// In which order the requests of a batch are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By model, by what makes an engine reload, then by prompt prefix, so that an engine's prefix cache works.
    #[default]
    Prefix,
    /// As the file has them.
    File,
}

impl Order {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::File => "file",
        }
    }
}

/// Why a batch is held, though its state would let it run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub by: PausedBy,
    pub reason: String,
    pub since: UnixTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PausedBy {
    /// Somebody asked for it.
    Caller,
    /// Its first outcomes were all the same refusal.
    Refusals,
}

/// What a caller may choose for a batch beyond the OpenAI members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOptions {
    /// -100 to 100; the higher runs first.
    pub priority: i32,
    pub order: Order,
    /// Attempts that a request has before it fails.
    pub attempts_max: u32,
    /// The longest that one call may take; without it the deadline follows the measured latency.
    pub timeout: Option<Duration>,
    /// Ends the batch at `expires_at`, rather than letting late work go on.
    pub hard_expiry: bool,
    /// A batch of any size, by a caller with admin scope; it does not count against the limits of others.
    pub large: bool,
    /// Fills the lines that name no model.
    pub model: Option<String>,
    /// Life of the output and error file, counted from their own creation.
    pub output_ttl: Option<Duration>,
}

/// A batch as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub id: BatchId,
    pub tenant: TenantId,
    pub route: Route,
    pub input_file: FileId,
    pub input_blob: BlobKey,
    pub input_len: u64,
    pub completion_window: String,
    pub metadata: Option<BTreeMap<String, String>>,
    pub options: BatchOptions,
    pub parent: Option<BatchId>,
    /// The one model that all lines name.
    pub model: Option<String>,
    pub state: BatchState,
    pub moments: BatchMoments,
    pub pause: Option<Pause>,
    pub errors: Vec<BatchError>,
    pub plan_blob: Option<BlobKey>,
    /// Requests in the input; 0 until it is planned.
    pub total: u64,
    /// The sum over the committed chunks; in a terminal state, the lines of the two files.
    pub tally: Tally,
    pub output_file: Option<FileId>,
    pub error_file: Option<FileId>,
    /// Disk that was promised to plan, results and output at creation.
    pub reserved_len: u64,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The whole table, so that a change of one cell is seen in review.
    #[test]
    fn transitions() {
        let mut table = String::new();
        for state in BatchState::ALL {
            for event in BatchEvent::ALL {
                let next = match state.next(event) {
                    Ok(next) => next.as_str(),
                    Err(_) => "-",
                };
                writeln!(table, "{:<12} {:<8} {next}", state.as_str(), format!("{event:?}")).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn terminal_states_never_change() {
        for state in BatchState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for event in BatchEvent::ALL {
                assert!(state.next(event).is_err(), "{state:?} moved on {event:?}");
            }
        }
    }

    #[test]
    fn moments_never_run_backwards() {
        let at = UnixTime::from_millis;
        let mut moments = BatchMoments::new(at(5_000), at(9_000));
        moments.reach(BatchState::InProgress, at(7_000));
        moments.reach(BatchState::Finalizing, at(6_000));
        moments.reach(BatchState::Completed, at(1_000));
        assert_eq!(moments.finalizing_at, Some(at(7_000)));
        assert_eq!(moments.completed_at, Some(at(7_000)));
    }

    #[test]
    fn a_reopened_batch_was_not_finalizing() {
        let at = UnixTime::from_millis;
        let mut moments = BatchMoments::new(at(1), at(9_000));
        moments.reach(BatchState::InProgress, at(2));
        let running = moments;
        moments.reach(BatchState::Finalizing, at(3));
        moments.reach(BatchState::InProgress, at(4));
        assert_eq!(moments, running);
    }
}
