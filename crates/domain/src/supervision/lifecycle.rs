//! The life of one engine that we start.

use std::time::Duration;

use serde::Serialize;

use crate::limits::{
    ENGINE_BACKOFF_FIRST, ENGINE_BACKOFF_MAX, ENGINE_BLOCKED_RETRY, ENGINE_GIVEN_UP_RETRY,
    ENGINE_STARTS_MAX,
};

/// Where an engine is. Moments are spans since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Stopped,
    /// Its process runs, and it does not answer yet.
    Starting {
        since: Duration,
    },
    Ready {
        since: Duration,
    },
    /// It gets nothing new, and is stopped when nothing is in flight.
    Draining {
        since: Duration,
    },
    /// It answers, but we did not start it and do not stop it.
    Found {
        since: Duration,
    },
    /// Its processes are being ended.
    Stopping {
        since: Duration,
        has_failed: bool,
    },
    /// It failed and is started again then.
    Backoff {
        until: Duration,
    },
    /// It never got ready in several starts. It is tried once more then.
    GivenUp {
        until: Duration,
    },
}

/// What happens to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Start,
    /// Somebody else's engine answers at its address.
    Found,
    /// Something else has its address, or it could not even be started: said, and looked at again later.
    Blocked(String),
    Answered,
    /// It is to get nothing new and then to stop.
    Drain,
    Resume,
    Stop,
    /// It is to be ended for what it did or did not do.
    Fail(String),
    /// None of its processes is left, and how that came.
    Ended(String),
    /// The engine that we did not start answers no more.
    Vanished,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an engine that is {from:?} cannot take {event:?}")]
pub struct IllegalTransition {
    from: State,
    event: Event,
}

/// The state of an engine and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    state: State,
    /// Starts in a row that never got ready.
    failures: u32,
    /// How often it was started again after it had ended otherwise than by our wish.
    restarts: u32,
    /// Why it last failed, until it is ready again.
    failure: Option<String>,
    /// The start that runs now follows a failure.
    is_restart: bool,
    /// The last start that came to an end got ready.
    got_ready: bool,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            state: State::Stopped,
            failures: 0,
            restarts: 0,
            failure: None,
            is_restart: false,
            got_ready: false,
        }
    }
}

impl Lifecycle {
    pub const fn state(&self) -> State {
        self.state
    }

    pub const fn failures(&self) -> u32 {
        self.failures
    }

    pub const fn restarts(&self) -> u32 {
        self.restarts
    }

    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Calls may be made to it.
    pub const fn is_usable(&self) -> bool {
        matches!(self.state, State::Ready { .. } | State::Found { .. })
    }

    /// Something runs at its address: its slot is taken.
    pub const fn has_process(&self) -> bool {
        self.is_ours() || matches!(self.state, State::Found { .. })
    }

    /// A process of it runs that we have started.
    pub const fn is_ours(&self) -> bool {
        matches!(
            self.state,
            State::Starting { .. }
                | State::Ready { .. }
                | State::Draining { .. }
                | State::Stopping { .. }
        )
    }

    pub const fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. })
    }

    pub fn may_start(&self, now: Duration) -> bool {
        match self.state {
            State::Stopped => true,
            State::Backoff { until } | State::GivenUp { until } => until <= now,
            _ => false,
        }
    }

    /// Nothing speaks against it: a start would get ready. Not so while something else has its address, for instance.
    pub const fn is_trusted(&self) -> bool {
        self.failure.is_none() || self.got_ready
    }

    /// It was ready, has ended, and is started again in a moment.
    pub const fn is_recovering(&self) -> bool {
        matches!(self.state, State::Backoff { .. }) && self.got_ready
    }

    /// Since when it is where it is; zero where that does not matter.
    pub const fn since(&self) -> Duration {
        match self.state {
            State::Starting { since }
            | State::Ready { since }
            | State::Draining { since }
            | State::Found { since }
            | State::Stopping { since, .. } => since,
            State::Stopped | State::Backoff { .. } | State::GivenUp { .. } => Duration::ZERO,
        }
    }

    /// The only way from one state to another.
    pub fn apply(&mut self, event: Event, now: Duration) -> Result<(), IllegalTransition> {
        self.state = match (self.state, event) {
            (State::Stopped | State::Backoff { .. } | State::GivenUp { .. }, Event::Start) => {
                self.is_restart = !matches!(self.state, State::Stopped);
                State::Starting { since: now }
            }
            (State::Starting { .. }, Event::Found) => {
                self.failures = 0;
                self.failure = None;
                self.got_ready = true;
                State::Found { since: now }
            }
            (State::Starting { .. }, Event::Blocked(why)) => {
                self.failure = Some(why);
                self.got_ready = false;
                State::Backoff { until: now + ENGINE_BLOCKED_RETRY }
            }
            (State::Starting { .. }, Event::Answered) => {
                self.restarts += u32::from(self.is_restart);
                self.failures = 0;
                self.failure = None;
                self.got_ready = true;
                State::Ready { since: now }
            }
            (State::Ready { .. }, Event::Drain) => State::Draining { since: now },
            (State::Draining { .. }, Event::Resume) => State::Ready { since: now },
            (State::Starting { .. } | State::Ready { .. } | State::Draining { .. }, Event::Stop) => {
                State::Stopping { since: now, has_failed: false }
            }
            (State::Starting { .. }, Event::Fail(why)) => {
                self.failures += 1;
                self.got_ready = false;
                self.failure = Some(why);
                State::Stopping { since: now, has_failed: true }
            }
            (State::Ready { .. } | State::Draining { .. }, Event::Fail(why)) => {
                self.failure = Some(why);
                State::Stopping { since: now, has_failed: true }
            }
            (State::Starting { .. }, Event::Ended(how)) => {
                self.failures += 1;
                self.got_ready = false;
                self.failure = Some(how);
                self.after_failure(now)
            }
            (State::Ready { .. } | State::Draining { .. }, Event::Ended(how)) => {
                self.failure = Some(how);
                self.after_failure(now)
            }
            (State::Stopping { has_failed: true, .. }, Event::Ended(_)) => self.after_failure(now),
            (State::Stopping { has_failed: false, .. }, Event::Ended(_))
            | (State::Found { .. }, Event::Vanished) => State::Stopped,
            (from, event) => return Err(IllegalTransition { from, event }),
        };
        Ok(())
    }

    fn after_failure(&self, now: Duration) -> State {
        if self.failures >= ENGINE_STARTS_MAX {
            return State::GivenUp { until: now + ENGINE_GIVEN_UP_RETRY };
        }
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause = ENGINE_BACKOFF_FIRST.saturating_mul(1 << doublings).min(ENGINE_BACKOFF_MAX);
        State::Backoff { until: now + pause }
    }
}
