//! What the server says about a batch, as far as the command line reads it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Ending;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct BatchView {
    pub(super) id: String,
    pub(super) status: String,
    pub(super) endpoint: String,
    pub(super) model: Option<String>,
    pub(super) input_file_id: String,
    pub(super) output_file_id: Option<String>,
    pub(super) error_file_id: Option<String>,
    pub(super) errors: Option<Errors>,
    pub(super) created_at: i64,
    pub(super) in_progress_at: Option<i64>,
    pub(super) completed_at: Option<i64>,
    pub(super) expires_at: Option<i64>,
    pub(super) request_counts: Counts,
    pub(super) metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) overnight: Ours,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Errors {
    pub(super) data: Vec<ErrorView>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ErrorView {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) line: Option<u64>,
}

/// The member `overnight`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ours {
    pub(super) priority: Option<i32>,
    pub(super) paused: bool,
    pub(super) pause_reason: Option<String>,
    pub(super) waiting_reason: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) cut_short: u64,
    pub(super) rate_per_second: Option<f64>,
}

impl Counts {
    pub(super) const fn done(self) -> u64 {
        self.completed + self.failed
    }
}

impl BatchView {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "expired" | "cancelled")
    }

    /// The exit code of a batch that is over.
    pub(super) fn ending(&self) -> Ending {
        let Counts { total, completed, failed } = self.request_counts;
        if failed > 0 {
            Ending::WithFailed
        } else if total > 0 && completed == total {
            Ending::Answered
        } else {
            Ending::Failure
        }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.metadata.as_ref()?.get("name").map(String::as_str)
    }

    /// `status` with what of ours belongs to it.
    pub(super) fn status_shown(&self) -> String {
        if self.overnight.paused && !self.is_over() {
            format!("{} (paused)", self.status)
        } else {
            self.status.clone()
        }
    }
}

/// A moment of the wire, in the time zone of whoever reads it.
pub(super) fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}
