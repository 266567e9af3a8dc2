//! Engines that we start: when each is started, stopped, started again or given up, and which of several has a GPU.
//!
//! A plain state machine without I/O or clock; `now` is the time since the process began. The server tells it what it
//! [sees](Seen) and what happened, and does what [`Supervisor::decide`] returns. It guarantees that of the engines that
//! share a slot at most one has a process, that an engine which never gets ready is tried ever more slowly, and that
//! one which was ready is always started again while there is work for it: a request that kills its engine is the
//! dispatcher's to condemn.
//!
//! Absent on purpose: planning which model goes next over the whole queue. Here whoever waits gets its turn.

mod lifecycle;

use std::cmp::Ordering;
use std::time::Duration;

pub use lifecycle::{Event, IllegalTransition, Lifecycle, State};

use crate::limits::{
    BACKOFF_MAX, ENGINE_DRAIN_MIN, ENGINE_LOADS_PER_TURN, ENGINE_TURN_IDLE, ENGINE_TURN_MIN,
};

/// How one engine is to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A start takes no longer, or it has failed.
    pub ready_within: Duration,
    /// Calls are in flight and it has said nothing for so long, nor for as long as an answer may take: it is stuck.
    pub stall_after: Duration,
    /// Its process runs and nobody answers for so long: a part of it has died.
    pub silent_after: Duration,
    /// Without work for so long it is stopped. None: it stays until its slot is needed.
    pub idle_after: Option<Duration>,
    /// Its processes hold more memory than this: it leaks.
    pub memory_len_max: Option<u64>,
    /// Engines with the same number never run at the same time.
    pub slot: Option<u32>,
}

/// What is known of an engine at the moment of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The highest priority of the work that it could do. None: there is none.
    pub demand: Option<i32>,
    pub in_flight: u32,
    /// Changes with every sign of life.
    pub signs: u64,
    /// How long it may work on an answer, as far as is known, before it gives the first sign of life.
    pub answer_span: Duration,
    pub memory_len: u64,
    /// How long it took to get ready, the last time.
    pub load: Option<Duration>,
    /// Connections to it are refused, or probes and looks find nobody.
    pub is_silent: bool,
    /// Nothing would be sent to it even if it were ready: its GPU is too hot, the disk is full.
    pub is_held_up: bool,
}

/// What is to be done with an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// See whether its address is free, and start it.
    Start,
    /// End it with all its processes.
    Stop,
    /// The same, with calls in flight perhaps, for what it did or did not do.
    End(EndedFor),
}

/// Why we end an engine that works: what it means for the calls in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedFor {
    /// Its processes held too much memory. What filled it may be long answered.
    Memory,
    /// It said nothing any more, perhaps for one of them.
    Silence,
}

#[derive(Debug)]
struct Engine {
    rules: Rules,
    life: Lifecycle,
    seen: Seen,
    /// Since when there has been work for it without a break.
    wanted_since: Option<Duration>,
    /// When it last had a call in flight, or could not have one, or changed its state.
    busy_at: Duration,
    /// When it last had work.
    useful_at: Duration,
    /// For how long calls were in flight since it last gave a sign of life.
    silent_for: Duration,
    /// When it was last looked at, and when it had calls in flight then.
    looked_at: Duration,
    in_flight_at: Option<Duration>,
    /// When it was last found to answer.
    heard_at: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor {
    engines: Vec<Engine>,
}

impl Supervisor {
    pub fn new(rules: Vec<Rules>) -> Self {
        let engine = |rules| Engine {
            rules,
            life: Lifecycle::default(),
            seen: Seen::default(),
            wanted_since: None,
            busy_at: Duration::ZERO,
            useful_at: Duration::ZERO,
            silent_for: Duration::ZERO,
            looked_at: Duration::ZERO,
            in_flight_at: None,
            heard_at: Duration::ZERO,
        };
        Self { engines: rules.into_iter().map(engine).collect() }
    }

    pub fn life(&self, number: usize) -> &Lifecycle {
        &self.engines[number].life
    }

    /// Something happened to an engine. What its state does not allow came too late and changes nothing.
    pub fn happened(&mut self, number: usize, event: Event, now: Duration) {
        let engine = &mut self.engines[number];
        if engine.life.apply(event, now).is_ok() {
            engine.begin_anew(now);
        }
    }

    /// The engine for which this one has to make room, or waits.
    pub fn rival(&self, number: usize) -> Option<usize> {
        let slot = self.engines[number].rules.slot?;
        let others = self.of_slot(slot).filter(|other| *other != number);
        match self.engines[number].life.state() {
            State::Draining { .. } => others.min_by_key(|other| self.place(*other)),
            _ => others.into_iter().find(|other| self.engines[*other].life.has_process()),
        }
    }

    /// What is to be done now, given what is seen of each engine.
    pub fn decide(&mut self, seen: &[Seen], now: Duration) -> Vec<(usize, Action)> {
        let mut actions = Vec::new();
        for (number, seen) in seen.iter().enumerate() {
            self.engines[number].look(*seen, now);
            if let Some(action) = self.engines[number].watch(now) {
                actions.push((number, action));
            }
        }
        for number in 0..self.engines.len() {
            let is_first = self.engines[number]
                .rules
                .slot
                .is_none_or(|slot| self.first_in_line(slot, now) == Some(number));
            if is_first && self.engines[number].may_start(now) && self.is_slot_free(number) {
                self.engines[number].apply(Event::Start, now);
                actions.push((number, Action::Start));
            }
        }
        actions.extend(self.yield_slots(now));
        for (number, engine) in self.engines.iter_mut().enumerate() {
            if engine.is_drained(now) {
                engine.apply(Event::Stop, now);
                // It had its turn: from now on it waits behind those who have not.
                engine.wanted_since = None;
                actions.push((number, Action::Stop));
            }
        }
        actions
    }

    /// The process is ending: everything stops. Engines that we did not start stay.
    pub fn stop_all(&mut self, now: Duration) -> Vec<(usize, Action)> {
        let mut actions = Vec::new();
        for (number, engine) in self.engines.iter_mut().enumerate() {
            if engine.life.is_ours() && !engine.life.is_stopping() {
                engine.apply(Event::Stop, now);
                actions.push((number, Action::Stop));
            }
        }
        actions
    }

    fn of_slot(&self, slot: u32) -> impl Iterator<Item = usize> {
        (0..self.engines.len()).filter(move |number| self.engines[*number].rules.slot == Some(slot))
    }

    fn is_slot_free(&self, number: usize) -> bool {
        let engine = &self.engines[number];
        let Some(slot) = engine.rules.slot else { return true };
        let mut others = self.of_slot(slot).map(|other| &self.engines[other]);
        others.all(|other| !other.life.has_process() && !other.keeps_slot_from(engine))
    }

    /// The order of those who wait for a slot: higher priority first, then who has waited longest.
    fn place(&self, number: usize) -> impl Ord + use<> {
        let engine = &self.engines[number];
        let priority = engine.seen.demand.map_or(i64::MAX, |priority| -i64::from(priority));
        (priority, engine.wanted_since.unwrap_or(Duration::MAX), number)
    }

    fn first_in_line(&self, slot: u32, now: Duration) -> Option<usize> {
        self.of_slot(slot)
            .filter(|number| self.engines[*number].may_start(now))
            .min_by_key(|number| self.place(*number))
    }

    /// Whoever has a slot that another waits for gives it up: at once when it has no work or work of lower priority;
    /// when nothing has moved for a while; and when its turn is over. Each who waits is asked for, not only the first:
    /// that one may be somebody who has to wait for a turn.
    fn yield_slots(&mut self, now: Duration) -> Vec<(usize, Action)> {
        let mut stopped = Vec::new();
        for number in 0..self.engines.len() {
            let Some(slot) = self.engines[number].rules.slot else { continue };
            let waiting: Vec<usize> =
                self.of_slot(slot).filter(|other| self.is_waiting_for(number, *other, now)).collect();
            let wants = waiting.iter().any(|next| self.is_turn_over(number, *next, now));
            let engine = &mut self.engines[number];
            match engine.life.state() {
                State::Ready { .. } if wants => engine.apply(Event::Drain, now),
                State::Starting { .. } if wants && engine.seen.demand.is_none() => {
                    engine.apply(Event::Stop, now);
                    stopped.push((number, Action::Stop));
                }
                // Whoever waited has gone.
                State::Draining { .. } if waiting.is_empty() && engine.seen.demand.is_some() => {
                    engine.apply(Event::Resume, now);
                }
                _ => {}
            }
        }
        stopped
    }

    /// Who is held up cannot use the slot of one who has work. It does get that of one who has none: it may be this
    /// one's memory that holds it up.
    fn is_waiting_for(&self, number: usize, other: usize, now: Duration) -> bool {
        let (engine, other) = (&self.engines[number], &self.engines[other]);
        other.is_waiting(now) && (!other.seen.is_held_up || engine.seen.demand.is_none())
    }

    fn is_turn_over(&self, number: usize, next: usize, now: Duration) -> bool {
        let (engine, next) = (&self.engines[number], &self.engines[next]);
        let Some(demand) = engine.seen.demand else { return engine.seen.in_flight == 0 };
        let waited_for = next.seen.demand.unwrap_or(i32::MIN);
        match waited_for.cmp(&demand) {
            Ordering::Less => return false,
            // One whose last start failed might never use what it takes at once: it waits for its turn.
            Ordering::Greater if next.life.is_trusted() => return true,
            Ordering::Greater | Ordering::Equal => {}
        }
        let load = engine.seen.load.unwrap_or_default().max(next.seen.load.unwrap_or_default());
        let turn = ENGINE_TURN_MIN.max(load * ENGINE_LOADS_PER_TURN);
        let since = engine.life.since().max(next.wanted_since.unwrap_or(now));
        let is_idle = now.saturating_sub(engine.busy_at) >= ENGINE_TURN_IDLE;
        is_idle || now.saturating_sub(since) >= turn
    }
}

impl Engine {
    /// For transitions that this file has just found to be legal.
    fn apply(&mut self, event: Event, now: Duration) {
        let applied = self.life.apply(event, now);
        assert!(applied.is_ok(), "supervision broke its own rules: {applied:?}");
        self.begin_anew(now);
    }

    /// Its state has changed: what was waited for is waited for from now on.
    const fn begin_anew(&mut self, now: Duration) {
        self.busy_at = now;
        self.useful_at = now;
        self.heard_at = now;
        self.silent_for = Duration::ZERO;
        self.looked_at = now;
        self.in_flight_at = None;
    }

    fn look(&mut self, seen: Seen, now: Duration) {
        self.wanted_since = seen.demand.and(self.wanted_since.or(Some(now)));
        if seen.in_flight > 0 || seen.is_held_up {
            self.busy_at = now;
        }
        if seen.demand.is_some() || seen.in_flight > 0 {
            self.useful_at = now;
        }
        self.listen(seen, now);
        // One that answers calls is there, also when it has no time for questions.
        if !seen.is_silent || seen.signs != self.seen.signs {
            self.heard_at = now;
        }
        self.seen = seen;
    }

    /// Adds up its silence. A pause in which nothing is in flight neither adds to it nor ends it, unless it is longer
    /// than any before another attempt: calls that ran out of time are no sign of life.
    fn listen(&mut self, seen: Seen, now: Duration) {
        let was_in_flight = self.in_flight_at == Some(self.looked_at);
        let is_idle = self.in_flight_at.is_none_or(|at| now.saturating_sub(at) > BACKOFF_MAX);
        if seen.signs != self.seen.signs || (seen.in_flight == 0 && is_idle) {
            self.silent_for = Duration::ZERO;
        } else if seen.in_flight > 0 && was_in_flight {
            self.silent_for += now.saturating_sub(self.looked_at);
        }
        self.looked_at = now;
        if seen.in_flight > 0 {
            self.in_flight_at = Some(now);
        }
    }

    /// What is wrong with it alone.
    fn watch(&mut self, now: Duration) -> Option<Action> {
        let mut action = Action::Stop;
        let failure = match self.life.state() {
            State::Starting { since } if now.saturating_sub(since) > self.rules.ready_within => {
                format!("it was not ready within {} (ready_within)", in_words(self.rules.ready_within))
            }
            State::Starting { .. } | State::Ready { .. } | State::Draining { .. }
                if self.rules.memory_len_max.is_some_and(|max| self.seen.memory_len > max) =>
            {
                action = Action::End(EndedFor::Memory);
                let held = self.seen.memory_len / 1_000_000;
                format!("its processes held {held} MB of memory (memory_max)")
            }
            State::Ready { .. } | State::Draining { .. }
                if self.silent_for > self.rules.stall_after.max(self.seen.answer_span) =>
            {
                action = Action::End(EndedFor::Silence);
                let span = in_words(self.silent_for);
                format!(
                    "it said nothing for {span} with {} calls in flight (stall_after)",
                    self.seen.in_flight
                )
            }
            State::Ready { .. } | State::Draining { .. }
                if now.saturating_sub(self.heard_at) > self.rules.silent_after =>
            {
                action = Action::End(EndedFor::Silence);
                format!("it runs and has not answered for {}", in_words(self.rules.silent_after))
            }
            State::Ready { .. } => {
                let idle = now.saturating_sub(self.useful_at);
                if self.rules.idle_after.is_some_and(|idle_after| idle >= idle_after) {
                    self.apply(Event::Drain, now);
                }
                return None;
            }
            _ => return None,
        };
        self.apply(Event::Fail(failure), now);
        Some(action)
    }

    fn is_waiting(&self, now: Duration) -> bool {
        self.seen.demand.is_some() && self.life.may_start(now)
    }

    fn may_start(&self, now: Duration) -> bool {
        self.is_waiting(now) && !self.seen.is_held_up
    }

    /// It would take the slot back as soon as it is started again: the other would load for nothing.
    fn keeps_slot_from(&self, other: &Self) -> bool {
        self.life.is_recovering() && !self.seen.is_held_up && self.seen.demand > other.seen.demand
    }

    /// Nothing is in flight, and what the dispatcher sent before it saw the hold would be by now.
    fn is_drained(&self, now: Duration) -> bool {
        match self.life.state() {
            State::Draining { since } => {
                self.seen.in_flight == 0 && now.saturating_sub(since) >= ENGINE_DRAIN_MIN
            }
            _ => false,
        }
    }
}

fn in_words(span: Duration) -> String {
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests;
