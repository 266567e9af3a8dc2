//! Notices: what whoever went to bed wants to be told, as facts. Words are made of them when they are delivered.
//!
//! The id of a notice follows from what happened, so that the same news put twice is one notice. The facts belong to no
//! tenant and hold no secret and nothing of a request or an answer, but for the first words of an error.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::batch::{Batch, BatchStatus, Pause, PausedBy};
use crate::ids::{BatchId, FileId, NoticeId};
use crate::limits::NOTICE_WORDS_LEN_MAX;
use crate::time::UnixTime;

/// The events by the names that messages carry. They never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeEvent {
    BatchEnded,
    BatchPaused,
    NoProgress,
    NoEndpoint,
}

impl NoticeEvent {
    pub const ALL: [Self; 4] = [Self::BatchEnded, Self::BatchPaused, Self::NoProgress, Self::NoEndpoint];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BatchEnded => "batch_ended",
            Self::BatchPaused => "batch_paused",
            Self::NoProgress => "no_progress",
            Self::NoEndpoint => "no_endpoint",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

/// The ways by which notices reach somebody. Each is delivered to on its own: one that is down delays no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receiver {
    Command,
    Url,
}

impl Receiver {
    pub const ALL: [Self; 2] = [Self::Command, Self::Url];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Url => "url",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|receiver| receiver.as_str() == text)
    }
}

/// What a receiver is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub receiver: Receiver,
    pub events: Vec<NoticeEvent>,
}

/// Something happened, at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub id: NoticeId,
    pub at: UnixTime,
    pub news: News,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum News {
    /// Its status is terminal.
    BatchEnded { batch: BatchFacts },
    /// It was paused, and not by a person's own command.
    BatchPaused { batch: BatchFacts, reason: String },
    /// It is its turn, nobody paused it, and it has had no new result for so long.
    NoProgress {
        batch: BatchFacts,
        silent_for: Duration,
        /// Why, when that is known.
        reason: Option<String>,
    },
    /// There is work and nothing to give it to.
    NoEndpoint { endpoints: Vec<EndpointFacts>, down_for: Duration, unfinished_batches: u64 },
}

/// A batch as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFacts {
    pub id: BatchId,
    pub status: BatchStatus,
    pub model: Option<String>,
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
    pub created_at: UnixTime,
    pub output_file: Option<FileId>,
    pub error_file: Option<FileId>,
    /// The first thing that was wrong with its input.
    pub problem: Option<String>,
}

/// An endpoint that is not up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointFacts {
    pub name: String,
    pub reason: String,
}

impl BatchFacts {
    /// Of the batch as the store has it: what is counted is committed.
    pub fn of(batch: &Batch) -> Self {
        let problem = batch.errors.first().map(|error| match error.line {
            Some(line) => format!("line {line}: {}", error.message),
            None => error.message.clone(),
        });
        Self {
            id: batch.id.clone(),
            status: batch.state.status(),
            model: batch.model.as_deref().map(short),
            total: batch.total,
            completed: batch.tally.completed,
            failed: batch.tally.failed,
            created_at: batch.moments.created_at,
            output_file: batch.output_file.clone(),
            error_file: batch.error_file.clone(),
            problem: problem.as_deref().map(short),
        }
    }
}

impl News {
    pub const fn event(&self) -> NoticeEvent {
        match self {
            Self::BatchEnded { .. } => NoticeEvent::BatchEnded,
            Self::BatchPaused { .. } => NoticeEvent::BatchPaused,
            Self::NoProgress { .. } => NoticeEvent::NoProgress,
            Self::NoEndpoint { .. } => NoticeEvent::NoEndpoint,
        }
    }

    pub const fn batch(&self) -> Option<&BatchFacts> {
        match self {
            Self::BatchEnded { batch }
            | Self::BatchPaused { batch, .. }
            | Self::NoProgress { batch, .. } => Some(batch),
            Self::NoEndpoint { .. } => None,
        }
    }
}

impl Notice {
    /// Of a batch whose state has become terminal.
    pub fn batch_ended(batch: &Batch, now: UnixTime) -> Self {
        Self::new(now, News::BatchEnded { batch: BatchFacts::of(batch) })
    }

    /// A pause is news when nobody asked for it and the batch was not held by such a one before.
    pub fn batch_paused(before: Option<&Pause>, batch: &Batch) -> Option<Self> {
        let is_ours = |pause: &Pause| pause.by != PausedBy::Caller;
        if before.is_some_and(is_ours) {
            return None;
        }
        let pause = batch.pause.as_ref().filter(|pause| is_ours(pause))?;
        let reason = short(&pause.reason);
        Some(Self::new(pause.since, News::BatchPaused { batch: BatchFacts::of(batch), reason }))
    }

    /// `done` are the answered and the failed requests that are durable.
    pub fn no_progress(
        batch: &Batch,
        done: (u64, u64),
        silent_for: Duration,
        reason: Option<&str>,
        now: UnixTime,
    ) -> Self {
        let batch = BatchFacts { completed: done.0, failed: done.1, ..BatchFacts::of(batch) };
        Self::new(now, News::NoProgress { batch, silent_for, reason: reason.map(short) })
    }

    pub fn no_endpoint(
        endpoints: impl IntoIterator<Item = (String, String)>,
        down_for: Duration,
        unfinished_batches: u64,
        now: UnixTime,
    ) -> Self {
        let endpoints = endpoints
            .into_iter()
            .map(|(name, reason)| EndpointFacts { name, reason: short(&reason) })
            .collect();
        Self::new(now, News::NoEndpoint { endpoints, down_for, unfinished_batches })
    }

    fn new(at: UnixTime, news: News) -> Self {
        let batch = news.batch().map_or("", |batch| batch.id.as_str());
        // An end has no moment in it: a batch ends once.
        let moment = if news.event() == NoticeEvent::BatchEnded { 0 } else { at.millis() };
        let name = format!("{} {batch} {moment}", news.event().as_str());
        let digest = xxhash_rust::xxh3::xxh3_128(name.as_bytes());
        Self { id: NoticeId::from_uuid(Uuid::from_u128(digest)), at, news }
    }
}

/// Engines and inputs may say a lot.
fn short(text: &str) -> String {
    match text.char_indices().nth(NOTICE_WORDS_LEN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for event in NoticeEvent::ALL {
            assert_eq!(NoticeEvent::parse(event.as_str()), Some(event));
            assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
        }
        for receiver in Receiver::ALL {
            assert_eq!(Receiver::parse(receiver.as_str()), Some(receiver));
        }
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let long = "\u{e9}".repeat(NOTICE_WORDS_LEN_MAX);
        assert_eq!(short(&long), long);
        assert_eq!(short(&format!("{long}x")), format!("{long}..."));
    }

    #[test]
    fn the_same_news_has_the_same_id() {
        let outage = |millis, seconds| {
            let down_for = Duration::from_secs(seconds);
            Notice::no_endpoint([], down_for, 1, UnixTime::from_millis(millis)).id
        };
        assert_eq!(outage(5, 60), outage(5, 61));
        assert_ne!(outage(5, 60), outage(6, 60));
    }
}
