//! What the other parts and people see of the engines that we start.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overnight_domain::limits::ENGINE_STOP_GRACE;
use overnight_domain::supervision::{Lifecycle, State};
use overnight_domain::time::UnixTime;
use overnight_store::Demand;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Why nothing is sent to an engine that nobody has asked for yet.
const RESTING: &str = "its engine is not running; it is started when there is work for it";
/// Lines of an engine's output that go into the reason of its end.
pub(super) const LAST_WORDS: usize = 5;

/// One engine that we start, as people see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProcessView {
    pub(crate) state: &'static str,
    pub(crate) ready_since: Option<UnixTime>,
    /// Starts after it had ended otherwise than by our wish.
    pub(crate) restarts: u32,
    /// Starts in a row that never got ready.
    pub(crate) failures: u32,
    pub(crate) failure: Option<String>,
    /// How long it took to get ready, the last time.
    pub(crate) load_seconds: Option<f64>,
    pub(crate) last_line: Option<String>,
    pub(crate) gpu: Option<u32>,
    pub(crate) log: String,
    #[serde(skip)]
    pub(crate) is_wanted: bool,
}

impl ProcessView {
    /// It is not running because nobody needs it: nothing is wrong.
    pub(crate) fn is_resting(&self) -> bool {
        self.state == state_name(State::Stopped) && !self.is_wanted
    }
}

#[derive(Debug, Default)]
struct Board {
    views: BTreeMap<String, ProcessView>,
    demand: Vec<Demand>,
}

/// What supervision tells, and what it is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Supervision {
    board: Arc<Mutex<Board>>,
    settled: CancellationToken,
}

impl Supervision {
    pub(crate) fn of(&self, engine: &str) -> Option<ProcessView> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).views.get(engine).cloned()
    }

    /// What work there is, by model; empty where no engine is ours to start.
    pub(crate) fn demand(&self) -> Vec<Demand> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).demand.clone()
    }

    /// Cancelled when the dispatcher has ended: no call is in flight any more.
    pub(crate) fn settled(&self) -> CancellationToken {
        self.settled.clone()
    }

    pub(super) fn publish(&self, engine: &str, view: ProcessView) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.views.insert(engine.to_owned(), view);
    }

    pub(super) fn set_demand(&self, demand: Vec<Demand>) {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).demand = demand;
    }
}

pub(super) const fn state_name(state: State) -> &'static str {
    match state {
        State::Stopped => "stopped",
        State::Starting { .. } => "starting",
        State::Ready { .. } => "ready",
        State::Draining { .. } => "draining",
        State::Found { .. } => "found",
        State::Stopping { .. } => "stopping",
        State::Backoff { .. } => "backoff",
        State::GivenUp { .. } => "given_up",
    }
}

/// What the reason of an engine is made of besides its life.
pub(super) struct Circumstances<'a> {
    pub(super) slot: Option<u32>,
    /// The engine that has its slot, or that waits for it.
    pub(super) rival: Option<&'a str>,
    pub(super) is_wanted: bool,
    pub(super) load: Option<Duration>,
    pub(super) last_line: Option<&'a str>,
    pub(super) last_words: &'a [String],
    pub(super) now: Duration,
}

/// Why no calls are made to an engine; none when they may be.
pub(super) fn reason(life: &Lifecycle, words: &Circumstances<'_>) -> Option<String> {
    let slot = words.slot.unwrap_or_default();
    let left = |until: Duration| until.saturating_sub(words.now).as_secs();
    Some(match life.state() {
        State::Ready { .. } | State::Found { .. } => return None,
        State::Stopped => match words.rival {
            Some(rival) if words.is_wanted => {
                format!("its engine waits for GPU slot {slot}, which `{rival}` has")
            }
            None if words.is_wanted => "its engine is being started".to_owned(),
            _ => RESTING.to_owned(),
        },
        State::Starting { since } => {
            let mut text = format!(
                "its engine has been starting for {} s",
                words.now.saturating_sub(since).as_secs()
            );
            if let Some(load) = words.load {
                let _ = write!(text, "; the last time it took {} s", load.as_secs());
            }
            if let Some(line) = words.last_line {
                let _ = write!(text, "; it last said: {line}");
            }
            text
        }
        State::Draining { .. } => match words.rival {
            Some(rival) => format!("`{rival}` is next on GPU slot {slot}; calls in flight may end"),
            None => "its engine is stopped, because it had nothing to do".to_owned(),
        },
        State::Stopping { since, .. } => {
            let stopping_for = words.now.saturating_sub(since);
            if stopping_for > ENGINE_STOP_GRACE * 2 {
                let seconds = stopping_for.as_secs();
                format!(
                    "its engine was told to end {seconds} s ago, and a process of it cannot be ended even by force: a \
                     driver or a disk may hang"
                )
            } else {
                "its engine is being stopped".to_owned()
            }
        }
        State::Backoff { until } => {
            let failure = failure(life, words);
            format!("{failure}; its engine is started again in {} s", left(until))
        }
        State::GivenUp { until } => format!(
            "its engine was given up after {} starts that never got ready, and is tried once more in {} min: {}",
            life.failures(),
            left(until).div_ceil(60),
            failure(life, words)
        ),
    })
}

fn failure(life: &Lifecycle, words: &Circumstances<'_>) -> String {
    let failure = life.failure().unwrap_or("it failed");
    if words.last_words.is_empty() {
        return failure.to_owned();
    }
    format!("{failure}; it last said: {}", words.last_words.join(" | "))
}

#[cfg(test)]
mod tests {
    use overnight_domain::supervision::Event;

    use super::*;

    fn words(now: Duration) -> Circumstances<'static> {
        Circumstances {
            slot: None,
            rival: None,
            is_wanted: true,
            load: None,
            last_line: None,
            last_words: &[],
            now,
        }
    }

    /// A process in the kernel's hands cannot be killed; the batch waited "while its engine is being stopped" for ever.
    #[test]
    fn an_engine_that_cannot_be_ended_is_said() {
        let mut life = Lifecycle::default();
        for event in [Event::Start, Event::Answered, Event::Fail("it hung".to_owned())] {
            life.apply(event, Duration::ZERO).unwrap();
        }
        let soon = reason(&life, &words(ENGINE_STOP_GRACE)).unwrap();
        assert_eq!(soon, "its engine is being stopped");
        let late = reason(&life, &words(ENGINE_STOP_GRACE * 6)).unwrap();
        assert!(late.contains("60 s ago") && late.contains("driver"), "{late}");
    }
}
