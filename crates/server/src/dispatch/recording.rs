//! From frame to durable result: appending, what the log reports, and the counts that follow.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use overnight_domain::dispatch::ChunkSlot;
use overnight_domain::tally::Outcome;
use overnight_segment::{Commit, Frame, RejectReason};
use tokio::sync::Notify;

use super::Dispatch;
use crate::clock;
use crate::counters::{add, set};

/// What the log's thread reports, until the dispatcher takes it. Bounded by the log's own buffer: only what was
/// appended can be reported.
#[derive(Clone, Default)]
pub(crate) struct CommitInbox(Arc<(Mutex<Vec<Commit>>, Notify)>);

impl CommitInbox {
    pub(crate) fn put(&self, commit: Commit) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
        self.0.1.notify_one();
    }

    /// Returns when something is there. A notification that came early is kept.
    pub(super) async fn arrived(&self) {
        self.0.1.notified().await;
    }

    fn take(&self) -> Vec<Commit> {
        std::mem::take(&mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Dispatch {
    pub(super) fn append(&mut self, slot: ChunkSlot, frame: Frame) -> anyhow::Result<()> {
        if let Some(held) = self.held.get_mut(&slot) {
            held.uncommitted += 1;
            self.oldest_append.get_or_insert_with(Instant::now);
        }
        if !self.overflow.is_empty() {
            self.overflow.push_back(frame);
            return Ok(());
        }
        self.offer(frame)
    }

    /// Hands a frame to the log; one that finds no room waits, and with it everything behind it.
    fn offer(&mut self, frame: Frame) -> anyhow::Result<()> {
        match self.log.append(frame) {
            Ok(()) => Ok(()),
            Err(rejected) => match rejected.reason {
                RejectReason::Full => {
                    self.overflow.push_front(rejected.frame);
                    Ok(())
                }
                RejectReason::TooLong => anyhow::bail!("a result line is longer than a frame can be"),
                RejectReason::Poisoned | RejectReason::Closed => {
                    anyhow::bail!(
                        "the result log takes nothing any more; restart, so that it is recovered"
                    )
                }
            },
        }
    }

    pub(super) fn on_commits(&mut self) -> anyhow::Result<()> {
        for commit in self.commits.take() {
            self.results.beat();
            match commit {
                Commit::Durable(frames) => self.on_durable(&frames),
                Commit::Stalled { error, is_full, .. } => {
                    tracing::error!(error, is_full, "results cannot be written; dispatch waits");
                    add(&self.ctx.counters.commit_failures, 1);
                    self.is_stalled = true;
                    if is_full {
                        self.ctx.disk.note_full();
                    }
                }
                Commit::Poisoned(reason) => {
                    anyhow::bail!(
                        "the result log failed to sync ({reason}); restart, so that it is recovered"
                    )
                }
            }
        }
        while let Some(frame) = self.overflow.pop_front() {
            let waiting = self.overflow.len();
            self.offer(frame)?;
            if self.overflow.len() > waiting {
                break;
            }
        }
        Ok(())
    }

    fn on_durable(&mut self, frames: &[overnight_segment::Durable]) {
        self.is_stalled = false;
        let counters = self.ctx.counters.clone();
        add(&counters.commits, 1);
        if let Some(since) = self.oldest_append.take() {
            set(&counters.commit_lag_micros, since.elapsed().as_micros() as u64);
        }
        set(&counters.last_result_at, clock::now().millis());
        let mut touched = HashSet::new();
        for durable in frames {
            let header = &durable.frame.header;
            match header.outcome {
                Outcome::Completed => add(&counters.requests_completed, 1),
                Outcome::Failed => {
                    add(&counters.requests_failed, 1);
                    self.ctx.failures.note(&durable.batch, durable.frame);
                }
            }
            add(&counters.input_tokens, header.usage.input_tokens);
            add(&counters.output_tokens, header.usage.output_tokens);
            // A frame of a chunk that is no longer held is durable all the same; whoever holds the chunk finds it.
            let Some(slot) = self.by_lease.get(&header.lease).copied() else { continue };
            let Some(held) = self.held.get_mut(&slot) else { continue };
            held.uncommitted -= 1;
            held.has_progress = true;
            held.tally.record(header.outcome, header.usage);
            touched.insert(slot);
            if self.core.durable(slot).is_some_and(|progress| progress.is_done()) {
                self.complete(slot);
            }
        }
        for slot in touched {
            if let Some(held) = self.held.get(&slot) {
                self.ctx.live.set(&held.batch.id, held.lease.chunk, held.tally);
            }
        }
    }
}
