//! Dispatch: the window of calls in flight, from claimed chunks to durable results.
//!
//! One task owns all state; it runs on a thread of its own, so that a busy API never delays a call. `select!` only names
//! the event; the decisions are the domain's [`Dispatcher`], what is done about them is here. It meets the API only in
//! the store and in the bell.

mod calls;
mod chunks;
mod claims;
mod endpoint;
mod errands;
mod recording;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overnight_domain::dispatch::{ChunkSlot, Dispatcher, EndpointNumber, Followup, Recorded};
use overnight_domain::fault::Fault;
use overnight_domain::ids::{BatchId, DispatchToken, LeaseToken};
use overnight_domain::limits::SHUTDOWN_GRACE;
use overnight_domain::time::UnixTime;
use overnight_segment::{Frame, LogHandle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(crate) use chunks::{durable_of, recover_live};
pub(crate) use endpoint::{Endpoint, ask_all, endpoint_config};
pub(crate) use recording::CommitInbox;

use crate::clock;
use crate::context::Context;
use crate::counters::{add, set};
use crate::pulse::Pulse;
use crate::suspend::SuspendWatch;
use calls::{Begun, Ended, FrameFacts};
use chunks::Held;
use claims::Claims;
use errands::Errand;

/// Ended calls that are handled in one go.
const ENDED_AT_ONCE: usize = 1_024;
/// Duties that nothing announces (views, leases, claims that found nothing) are looked at so often.
const TICK: Duration = Duration::from_millis(200);
/// An answer is expected to be no longer than the longest seen lately, and at first than this.
const ANSWER_LEN_EXPECTED: u64 = 64 << 10;

/// What the dispatcher is made of.
pub(crate) struct Parts {
    pub(crate) ctx: Arc<Context>,
    pub(crate) log: LogHandle,
    pub(crate) commits: CommitInbox,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) pulse: Pulse,
    /// Beats as long as what was appended becomes durable.
    pub(crate) results: Pulse,
}

/// Runs until the first signal, and then until what is in flight has ended or its grace is over.
pub(crate) async fn run(parts: Parts) -> anyhow::Result<()> {
    Dispatch::new(parts).run().await
}

struct Dispatch {
    ctx: Arc<Context>,
    log: LogHandle,
    commits: CommitInbox,
    endpoints: Vec<Endpoint>,
    pulse: Pulse,
    results: Pulse,
    core: Dispatcher,
    started: Instant,
    held: HashMap<ChunkSlot, Held>,
    by_lease: HashMap<LeaseToken, ChunkSlot>,
    calls: HashMap<DispatchToken, (Begun, UnixTime)>,
    ended_tx: mpsc::Sender<Ended>,
    ended_rx: mpsc::Receiver<Ended>,
    errands: JoinSet<anyhow::Result<Errand>>,
    claims: Claims,
    /// Frames that the log had no room for, in order; nothing is sent meanwhile.
    overflow: VecDeque<Frame>,
    /// When the oldest frame was appended that may not be durable yet.
    oldest_append: Option<Instant>,
    /// The disk takes nothing.
    is_stalled: bool,
    /// Since when the process is stopping.
    stopping_since: Option<Instant>,
    lines_len: u64,
    /// Bodies of packs in flight: copies of what stands in the lines.
    copies_len: u64,
    answer_len: u64,
    next_tick: Instant,
    suspends: SuspendWatch,
}

enum Event {
    Ended,
    Commits,
    Errand(Option<Result<anyhow::Result<Errand>, tokio::task::JoinError>>),
    News,
    Time,
    Stop,
}

impl Dispatch {
    fn new(parts: Parts) -> Self {
        let Parts { ctx, log, commits, endpoints, pulse, results } = parts;
        let settings = endpoints.iter().map(Endpoint::settings).collect();
        // The upper half differs between processes, the lower counts.
        let first_token = (clock::new_id().as_u128() as u64) << 32;
        let (ended_tx, ended_rx) = mpsc::channel(ENDED_AT_ONCE);
        let now = Instant::now();
        Self {
            core: Dispatcher::new(settings, first_token),
            pulse,
            results,
            ctx,
            log,
            commits,
            endpoints,
            started: now,
            held: HashMap::new(),
            by_lease: HashMap::new(),
            calls: HashMap::new(),
            ended_tx,
            ended_rx,
            errands: JoinSet::new(),
            claims: Claims::default(),
            overflow: VecDeque::new(),
            oldest_append: None,
            is_stalled: false,
            stopping_since: None,
            lines_len: 0,
            copies_len: 0,
            answer_len: ANSWER_LEN_EXPECTED,
            next_tick: now,
            suspends: SuspendWatch::new(),
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut ear = self.ctx.bell.listen();
        let stop = self.ctx.stop.clone();
        let mut ended = Vec::with_capacity(ENDED_AT_ONCE);
        loop {
            self.turn()?;
            if self.is_over() {
                return self.leave().await;
            }
            let wake = self.wake_at();
            let event = tokio::select! {
                biased;
                _ = self.ended_rx.recv_many(&mut ended, ENDED_AT_ONCE) => Event::Ended,
                () = self.commits.arrived() => Event::Commits,
                Some(errand) = self.errands.join_next() => Event::Errand(Some(errand)),
                () = ear.heard() => Event::News,
                () = stop.cancelled(), if self.stopping_since.is_none() => Event::Stop,
                () = tokio::time::sleep_until(wake.into()) => Event::Time,
            };
            self.handle(event, &mut ended)?;
        }
    }

    fn handle(&mut self, event: Event, ended: &mut Vec<Ended>) -> anyhow::Result<()> {
        // Before what a sleep may have broken is looked at.
        self.notice_suspend();
        match event {
            Event::Ended => ended.drain(..).try_for_each(|call| self.on_ended(call)),
            Event::Commits => self.on_commits(),
            Event::Errand(Some(errand)) => {
                let errand = errand
                    .map_err(|error| anyhow::anyhow!("a task of the dispatcher died: {error}"))??;
                self.on_errand(errand)
            }
            Event::Errand(None) | Event::Time => Ok(()),
            Event::News => {
                self.claims.on_news();
                self.obey_holds();
                self.look_at_batches();
                Ok(())
            }
            Event::Stop => {
                tracing::info!(in_flight = self.core.in_flight(), "stopping: calls in flight may end");
                self.stopping_since = Some(Instant::now());
                Ok(())
            }
        }
    }

    /// Does what can be done now.
    fn turn(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        if Instant::now() >= self.next_tick {
            self.next_tick = Instant::now() + TICK;
            self.tick();
        }
        set(&self.ctx.counters.attempts_charged, self.core.attempts_charged());
        self.core.set_stopped(!self.may_send());
        while self.has_memory()
            && let Some(send) = self.core.next(now)
        {
            let endpoint = &self.endpoints[send.endpoint.index()];
            let held = self.held.get(&send.pack.chunk).expect("the core sends only for held chunks");
            let begun = calls::start(endpoint, held, &send, &self.ended_tx)?;
            self.copies_len += begun.copy_len;
            self.calls.insert(send.token, (begun, clock::now()));
            add(&self.ctx.counters.attempts, 1);
        }
        for number in self.core.probes(now) {
            self.probe(number);
        }
        self.claim_if_wanted();
        self.put_back_chunks();
        Ok(())
    }

    fn on_ended(&mut self, ended: Ended) -> anyhow::Result<()> {
        let now = self.now();
        let Ended { token, result, duration } = ended;
        let Some((begun, started_at)) = self.calls.remove(&token) else {
            let dropped = result.map_or(1, |answers| answers.len() as u64);
            add(&self.ctx.counters.late_results_dropped, dropped);
            return Ok(());
        };
        self.copies_len -= begun.copy_len;
        match result {
            Ok(answers) => {
                let len = answers.iter().map(|answer| answer.body.len() as u64).sum();
                self.answer_len =
                    if len > self.answer_len { len } else { (self.answer_len * 255 + len) / 256 };
                let Some(recorded) = self.core.answered(token, now) else { return Ok(()) };
                self.endpoints[recorded.first.endpoint.index()].last_answer_at = Some(clock::now());
                for (recorded, answer) in recorded.into_iter().zip(answers) {
                    let slot = recorded.request.chunk;
                    let facts = self.facts(recorded, token, started_at, duration);
                    let held = self.held.get(&slot).expect("recorded for a held chunk");
                    let frame = calls::answered(held, &facts, &answer);
                    self.append(slot, frame)?;
                }
                Ok(())
            }
            Err(fault) => {
                tracing::debug!(?fault, "a call ended without an answer");
                if fault.is_inconclusive() {
                    // It may have ended with its engine, which we have ended.
                    self.notice_ends();
                }
                // It was in memory up to the limit, and others like it may come.
                if let Fault::TooLong { limit } = &fault {
                    self.answer_len = self.answer_len.max(*limit);
                }
                if matches!(fault, Fault::Busy { .. }) {
                    add(&self.ctx.counters.engine_busy, 1);
                }
                match self.core.faulted(token, fault, now) {
                    Followup::Late | Followup::Again => Ok(()),
                    Followup::Failed { recorded, failure } => {
                        let facts = self.facts(recorded, token, started_at, duration);
                        let held = self
                            .held
                            .get(&facts.recorded.request.chunk)
                            .expect("recorded for a held chunk");
                        let frame = calls::failed(held, &facts, &failure);
                        self.append(facts.recorded.request.chunk, frame)?;
                        self.pause_refused();
                        Ok(())
                    }
                }
            }
        }
    }

    fn facts(
        &self,
        recorded: Recorded,
        token: DispatchToken,
        started_at: UnixTime,
        duration: Duration,
    ) -> FrameFacts {
        let endpoint = self.endpoints[recorded.endpoint.index()].frame_number;
        FrameFacts { recorded, endpoint, token, started_at, duration }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn may_send(&self) -> bool {
        self.overflow.is_empty()
            && !self.is_stalled
            && self.stopping_since.is_none()
            && !self.ctx.disk.is_full()
    }

    /// Bodies and answers in memory have one budget. One call is always let through.
    fn has_memory(&self) -> bool {
        let in_flight = self.core.in_flight() as u64;
        let used = self.lines_len + self.copies_len + (in_flight + 1) * self.answer_len;
        in_flight == 0 || used <= self.ctx.config.dispatch.memory_len
    }

    fn wake_at(&self) -> Instant {
        let due = self.core.wake_at(self.now()).map(|due| self.started + due);
        due.map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    fn tick(&mut self) {
        self.pulse.beat();
        // A disk that says that it takes nothing is waited for; one that says nothing at all is not.
        if self.oldest_append.is_none() || self.is_stalled {
            self.results.beat();
        }
        set(&self.ctx.counters.dispatcher_seen_at, clock::now().millis());
        set(
            &self.ctx.counters.memory_used,
            self.lines_len + self.copies_len + self.core.in_flight() as u64 * self.answer_len,
        );
        self.obey_holds();
        let views = (0_u16..)
            .zip(&self.endpoints)
            .map(|(number, endpoint)| endpoint.view(EndpointNumber(number), &self.core))
            .collect();
        self.ctx.endpoints.publish(views);
        self.claims.on_tick();
        self.renew_leases();
        self.ask_models();
        self.ask_facts();
        if self.stopping_since.is_some_and(|since| since.elapsed() > SHUTDOWN_GRACE) {
            self.abort_all();
        }
    }

    /// After a sleep: what was in flight is excused, and the leases, which the wall clock has ended, are renewed.
    fn notice_suspend(&mut self) {
        if let Some(slept) = self.suspends.slept() {
            let in_flight = self.core.note_suspend();
            tracing::info!(
                ?slept,
                in_flight,
                "the machine has slept; what that broke is asked again, uncharged"
            );
            self.claims.renew_at_once();
        }
    }

    /// Engines that supervision ends: their calls in flight are not lost to a crash.
    fn notice_ends(&mut self) {
        for (number, endpoint) in (0_u16..).zip(&self.endpoints) {
            let name = &endpoint.config.name;
            if let Some(ended_for) = self.ctx.holds.take_ended(name) {
                let in_flight = self.core.note_ended(EndpointNumber(number), ended_for);
                tracing::info!(
                    engine = name,
                    in_flight,
                    ?ended_for,
                    "the engine is ended by us; what it has in flight is asked again, uncharged"
                );
            }
        }
    }

    fn obey_holds(&mut self) {
        self.notice_ends();
        for (number, endpoint) in (0_u16..).zip(&self.endpoints) {
            let (reason, ceiling_percent) = self.ctx.holds.of(&endpoint.config.name);
            if reason.is_none() && self.core.withheld(EndpointNumber(number)).is_some() {
                // It was not asked meanwhile, and may be another engine by now.
                self.claims.ask_models_now(EndpointNumber(number));
            }
            self.core.set_withheld(EndpointNumber(number), reason);
            self.core.set_ceiling(EndpointNumber(number), ceiling_percent);
        }
    }

    /// Stopping, and nothing is in flight or waits for the commit.
    fn is_over(&self) -> bool {
        self.stopping_since.is_some()
            && self.core.in_flight() == 0
            && (self.held.values().all(|held| held.uncommitted == 0) || self.is_stalled)
    }

    fn abort_all(&mut self) {
        for slot in self.held.keys().copied().collect::<Vec<_>>() {
            self.drop_calls(slot);
        }
    }

    /// Forgets a chunk in the core and ends its calls.
    fn drop_calls(&mut self, slot: ChunkSlot) {
        for token in self.core.close(slot) {
            if let Some((begun, _)) = self.calls.remove(&token) {
                begun.abort.abort();
                self.copies_len -= begun.copy_len;
            }
        }
    }

    fn slots_of(&self, batch: &BatchId) -> Vec<ChunkSlot> {
        self.held.iter().filter(|(_, held)| held.batch.id == *batch).map(|(slot, _)| *slot).collect()
    }
}
