//! Frames that wait for the next commit: the one place where appending and committing meet.
//!
//! Bounded in frames and bytes, counting those of the commit that is under way: they are what a crash costs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::LogError;
use crate::frame::{Frame, PAYLOAD_LEN_MAX};
use crate::log::{LogOptions, RejectReason, Rejected};
use crate::series::frame_len;

pub(crate) struct Buffer {
    options: LogOptions,
    state: Mutex<State>,
    /// Only the thread that commits waits here.
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<Frame>,
    queue_len: usize,
    /// When the first of the queue came.
    since: Option<Instant>,
    /// Queue and open commit together.
    frames: usize,
    len: usize,
    /// The thread waits, so that somebody has to wake it.
    is_waiting: bool,
    is_closing: bool,
    poison: Option<String>,
    unsaved: Option<(usize, String)>,
}

/// What there is to do for the thread that commits.
pub(crate) enum Taken {
    Frames(Vec<Frame>),
    Closed,
    Poisoned(String),
}

impl Buffer {
    pub(crate) fn new(options: LogOptions) -> Self {
        Self { options, state: Mutex::default(), wake: Condvar::new() }
    }

    #[expect(clippy::result_large_err, reason = "the frame is moved in and, if need be, out")]
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Rejected> {
        let len = frame_len(&frame) as usize;
        let mut state = self.lock();
        let reason = if state.poison.is_some() {
            Some(RejectReason::Poisoned)
        } else if state.is_closing {
            Some(RejectReason::Closed)
        } else if frame.payload.len() > PAYLOAD_LEN_MAX {
            Some(RejectReason::TooLong)
        } else if state.frames > 0 && !self.has_room(&state, len) {
            Some(RejectReason::Full)
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(Rejected { frame, reason });
        }
        let was_due = self.is_due(&state);
        if state.queue.is_empty() {
            state.since = Some(Instant::now());
        }
        state.queue.push(frame);
        state.queue_len += len;
        state.frames += 1;
        state.len += len;
        let is_news = state.queue.len() == 1 || (!was_due && self.is_due(&state));
        if is_news && state.is_waiting {
            drop(state);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until a commit is due, and takes all there is. An empty buffer waits for the first frame or the end.
    pub(crate) fn take(&self) -> Taken {
        let mut state = self.lock();
        loop {
            if let Some(reason) = &state.poison {
                return Taken::Poisoned(reason.clone());
            }
            let wait = match state.since {
                Some(since) if !state.is_closing && !self.is_due(&state) => {
                    self.options.commit_after.saturating_sub(since.elapsed())
                }
                Some(_) => Duration::ZERO,
                None if state.is_closing => return Taken::Closed,
                None => {
                    state = self.wait(state, None);
                    continue;
                }
            };
            if wait.is_zero() {
                state.queue_len = 0;
                state.since = None;
                let capacity = state.queue.len();
                return Taken::Frames(std::mem::replace(&mut state.queue, Vec::with_capacity(capacity)));
            }
            state = self.wait(state, Some(wait));
        }
    }

    /// Lets in others in place of frames that are durable now.
    pub(crate) fn release(&self, frames: usize, len: usize) {
        let mut state = self.lock();
        state.frames -= frames;
        state.len -= len;
    }

    /// Waits before a commit is tried again. Returns whether the log is to close or poisoned instead.
    pub(crate) fn pause(&self) -> bool {
        let until = Instant::now() + self.options.retry_after;
        let mut state = self.lock();
        loop {
            if state.is_closing || state.poison.is_some() {
                return true;
            }
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return false;
            }
            state = self.wait(state, Some(wait));
        }
    }

    pub(crate) fn close(&self) {
        self.lock().is_closing = true;
        self.wake.notify_one();
    }

    /// The first reason stays.
    pub(crate) fn poison(&self, reason: String) {
        self.lock().poison.get_or_insert(reason);
        self.wake.notify_one();
    }

    /// Notes that the log closes though these could not be written.
    pub(crate) fn give_up(&self, frames: usize, reason: String) {
        let mut state = self.lock();
        let frames = frames + state.queue.len();
        state.unsaved = Some((frames, reason));
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        let state = self.lock();
        match (&state.poison, &state.unsaved) {
            (Some(reason), _) => Err(LogError::Poisoned(reason.clone())),
            (None, Some((frames, reason))) => {
                Err(LogError::Unsaved { frames: *frames, reason: reason.clone() })
            }
            (None, None) => Ok(()),
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.lock().is_closing
    }

    fn has_room(&self, state: &State, len: usize) -> bool {
        state.frames < self.options.buffer_frames && state.len + len <= self.options.buffer_len
    }

    /// Whether there is enough for a commit without waiting for more. Half of the buffer is: the other half fills
    /// while it is written.
    fn is_due(&self, state: &State) -> bool {
        state.queue_len >= self.options.commit_len.min(self.options.buffer_len / 2)
            || state.queue.len() >= self.options.buffer_frames.div_ceil(2)
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.is_waiting = true;
        let mut state = match limit {
            Some(limit) => {
                self.wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.is_waiting = false;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, so it is whole in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
