//! The thread that commits: takes what waits, has each series write and sync its part, and reports.

use std::collections::BTreeMap;
use std::sync::Arc;

use overnight_domain::ids::BatchId;

use crate::buffer::{Buffer, Taken};
use crate::frame::{Durable, Frame, aligned};
use crate::header::FRAME_HEADER_LEN;
use crate::registry::Registry;

/// What is reported to the caller of the log, on the thread that commits.
#[derive(Debug)]
pub enum Commit {
    /// These survive a crash. They are of one batch, in the order of their sequence.
    Durable(Vec<Durable>),
    /// The disk does not take the frames of these batches. They stay in the buffer and are tried again about every
    /// second; reported once, until frames become durable again.
    Stalled { batches: Vec<BatchId>, error: String, is_full: bool },
    /// The log takes nothing any more. The process has to end, so that recovery looks at what the disk has.
    Poisoned(String),
}

/// The receiver of reports. It must not block: nothing becomes durable meanwhile.
pub(crate) type OnCommit = Box<dyn FnMut(Commit) + Send>;

/// What the thread shares with the handles.
pub(crate) struct Shared {
    pub(crate) buffer: Buffer,
    pub(crate) registry: Registry,
}

/// Runs until the log is closed or poisoned.
pub(crate) fn run(shared: &Arc<Shared>, mut on_commit: OnCommit) {
    let _guard = PoisonOnPanic(shared);
    loop {
        match shared.buffer.take() {
            Taken::Frames(frames) => commit_all(shared, frames, &mut on_commit),
            Taken::Closed => return,
            Taken::Poisoned(reason) => {
                on_commit(Commit::Poisoned(reason));
                return;
            }
        }
    }
}

/// Returns when all frames are durable, or when the log is poisoned or gives up at its end.
fn commit_all(shared: &Shared, frames: Vec<Frame>, on_commit: &mut OnCommit) {
    let mut groups = by_batch(frames);
    let mut is_reported = false;
    loop {
        // Asked before the attempt, so that the last one is made after it.
        let is_last = shared.buffer.is_closing();
        let mut stalled: Option<(String, bool)> = None;
        for (batch, frames) in &mut groups {
            let committed = shared.registry.commit(batch, std::mem::take(frames));
            *frames = committed.kept;
            if !committed.durable.is_empty() {
                let len = committed.durable.iter().map(stored_len).sum();
                shared.buffer.release(committed.durable.len(), len);
                is_reported = false;
                on_commit(Commit::Durable(committed.durable));
            }
            if let Some(error) = committed.error {
                if error.is_fatal() {
                    shared.buffer.poison(error.describe());
                    return;
                }
                stalled = Some((error.describe(), error.is_full()));
            }
        }
        groups.retain(|_, frames| !frames.is_empty());
        let Some((error, is_full)) = stalled else { return };
        if is_last {
            shared.buffer.give_up(groups.values().map(Vec::len).sum(), error);
            return;
        }
        if !is_reported {
            is_reported = true;
            on_commit(Commit::Stalled { batches: groups.keys().cloned().collect(), error, is_full });
        }
        shared.buffer.pause();
    }
}

/// As the buffer has counted it.
fn stored_len(durable: &Durable) -> usize {
    aligned(FRAME_HEADER_LEN as u64 + u64::from(durable.frame.place.len)) as usize
}

fn by_batch(frames: Vec<Frame>) -> BTreeMap<BatchId, Vec<Frame>> {
    let mut groups: BTreeMap<BatchId, Vec<Frame>> = BTreeMap::new();
    for frame in frames {
        match groups.get_mut(&frame.batch) {
            Some(group) => group.push(frame),
            None => {
                groups.insert(frame.batch.clone(), vec![frame]);
            }
        }
    }
    groups
}

/// A thread that ended by a panic must not leave a log that accepts frames nobody will write.
struct PoisonOnPanic<'a>(&'a Shared);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.buffer.poison("a panic of the thread that commits".to_owned());
        }
    }
}
