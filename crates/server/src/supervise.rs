//! Supervision: the engines that we start, from the first request for one of their models to the end of the server.
//!
//! The decisions are the domain's [`Supervisor`]; here is what they are made from and what is done about them. It meets
//! the dispatcher in the holds (an engine that is not ready gets no calls), in the views of the endpoints (what is in
//! flight, when the last answer came) and in the demand, which says what work there is while nobody can be asked.

mod measured;
mod process;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use overnight_domain::limits::{ENGINE_STOP_GRACE_LAST, SHUTDOWN_GRACE};
use overnight_domain::supervision::{Action, Event, Lifecycle, Seen, State, Supervisor};
use overnight_engine::{Occupant, child};
use overnight_store::StoreError;

pub(crate) use measured::Measured;
pub(crate) use view::{ProcessView, Supervision};

use crate::blocking::blocking;
use crate::context::Context;
use crate::holds::Holder;
use crate::pulse::Pulse;
use process::Process;

/// What nothing announces (an end, readiness, a stall) is looked at so often.
const TICK: Duration = Duration::from_millis(200);
/// The queue is asked for demand so often without news, and with news at most each tick.
const DEMAND_EVERY: Duration = Duration::from_secs(1);
/// The memory of processes is read so often: it needs a look at all processes of the machine.
const MEMORY_EVERY: Duration = Duration::from_secs(5);
/// An engine that we did not start is gone when it misses so many looks in a row.
const MISSES_MAX: u32 = 5;
/// Beyond the last grace, for the kernel to end what was killed.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Holds every engine that we start until it is ready: before anybody could call it.
pub(crate) fn hold_all(ctx: &Context, measured: &Measured) -> anyhow::Result<()> {
    for engine in &ctx.config.engines {
        let Some(process) = Process::new(engine, ctx, measured) else { continue };
        let (reason, view) = process?.tell(&Lifecycle::default(), None, Duration::ZERO);
        ctx.supervision.publish(&engine.name, view);
        ctx.holds.set(&engine.name, Holder::Supervision, reason);
    }
    Ok(())
}

/// Runs until the server stops and the processes of all engines have ended.
pub(crate) async fn run(ctx: Arc<Context>, measured: Measured, pulse: Pulse) -> anyhow::Result<()> {
    let engines = ctx.config.engines.iter().filter_map(|engine| Process::new(engine, &ctx, &measured));
    let processes = engines.collect::<anyhow::Result<Vec<Process>>>()?;
    for process in &processes {
        if let Some(added) = process.config.command.added() {
            let text = "is added to the command, which names no share of the GPU's memory";
            tracing::info!(engine = process.name, "`{added}` {text}");
        }
    }
    if processes.is_empty() {
        drop(pulse);
        ctx.stop.cancelled().await;
        return Ok(());
    }
    Supervise::new(ctx, processes, measured).run(&pulse).await
}

/// What a look at the address of an engine has shown.
enum Look {
    Before(Occupant),
    /// With its models, when it answers and tells them.
    Ready(Option<Vec<String>>),
    Silent,
}

/// A look that has ended, at which engine and in which of its starts.
struct Looked {
    number: usize,
    start: u64,
    look: Look,
}

struct Supervise {
    ctx: Arc<Context>,
    core: Supervisor,
    processes: Vec<Process>,
    measured: Measured,
    looks: FuturesUnordered<BoxFuture<'static, Looked>>,
    started: Instant,
    demand_at: Option<Instant>,
    has_news: bool,
    memory_at: Instant,
    /// Since when nothing is in flight any more and all engines are being stopped.
    stopping_since: Option<Instant>,
}

impl Supervise {
    fn new(ctx: Arc<Context>, processes: Vec<Process>, measured: Measured) -> Self {
        let now = Instant::now();
        Self {
            ctx,
            core: Supervisor::new(processes.iter().map(|process| process.config.rules).collect()),
            processes,
            measured,
            looks: FuturesUnordered::new(),
            started: now,
            demand_at: None,
            has_news: true,
            memory_at: now,
            stopping_since: None,
        }
    }

    async fn run(mut self, pulse: &Pulse) -> anyhow::Result<()> {
        let mut ear = self.ctx.bell.listen();
        let mut settled = std::pin::pin!(until_settled(self.ctx.clone()));
        loop {
            pulse.beat();
            self.turn().await?;
            if self.is_over() {
                return Ok(());
            }
            let is_stopping = self.stopping_since.is_some();
            tokio::select! {
                Some(looked) = self.looks.next() => self.on_look(looked).await,
                () = ear.heard() => self.has_news = true,
                () = &mut settled, if !is_stopping => self.stop_all(),
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        self.reap();
        if self.stopping_since.is_none() && !self.ctx.stop.is_cancelled() {
            self.ask_demand().await?;
            self.read_memory().await;
            let views = self.ctx.endpoints.view();
            let demand = self.ctx.supervision.demand();
            let is_full = self.ctx.disk.is_full();
            let holds = &self.ctx.holds;
            let see = |process: &mut Process| {
                let is_held_up = is_full || holds.is_held_by(&process.name, Holder::Gpu);
                Seen { is_held_up, ..process.see(&views, &demand) }
            };
            let seen: Vec<_> = self.processes.iter_mut().map(see).collect();
            for (number, action) in self.core.decide(&seen, self.now()) {
                let grace = self.processes[number].config.stop_grace();
                self.act(number, &action, grace);
            }
            self.look();
        }
        self.tell();
        Ok(())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn ask_demand(&mut self) -> anyhow::Result<()> {
        let every = if self.has_news { TICK } else { DEMAND_EVERY };
        if self.demand_at.is_some_and(|at| at.elapsed() < every) {
            return Ok(());
        }
        self.demand_at = Some(Instant::now());
        self.has_news = false;
        match self.ctx.store.demand().await {
            Ok(demand) => self.ctx.supervision.set_demand(demand),
            Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "supervision waits for the store"),
        }
        Ok(())
    }

    async fn read_memory(&mut self) {
        if self.memory_at.elapsed() < MEMORY_EVERY {
            return;
        }
        self.memory_at = Instant::now();
        for process in &mut self.processes {
            if process.config.rules.memory_len_max.is_some()
                && let Some(guard) = process.child.as_ref().map(child::Child::process)
            {
                // Not known for once is nothing to act on.
                process.memory_len = blocking(move || child::memory_len_below(guard)).await.unwrap_or(0);
            }
        }
    }

    /// Notices processes that have ended.
    fn reap(&mut self) {
        for number in 0..self.processes.len() {
            let now = self.now();
            let process = &mut self.processes[number];
            let Some(how) = process.has_ended() else { continue };
            let was_wanted = self.core.life(number).is_stopping();
            process.last_words = child::last_lines(&process.log, view::LAST_WORDS);
            process.memory_len = 0;
            if was_wanted {
                tracing::info!(engine = process.name, "the engine has stopped: {how}");
            } else {
                let last = process.last_words.join(" | ");
                tracing::warn!(engine = process.name, last, "the engine has ended by itself: {how}");
            }
            self.core.happened(number, Event::Ended(how), now);
        }
    }

    fn act(&mut self, number: usize, action: &Action, grace: Duration) {
        let process = &mut self.processes[number];
        match action {
            Action::Start => {
                // Its arguments may hold a key.
                let program = process.config.command.arguments().first();
                tracing::info!(engine = process.name, program, "starting the engine");
                self.looks.push(process.look_before(number));
            }
            Action::Stop | Action::End(_) => {
                if let Action::End(ended_for) = action {
                    self.ctx.holds.note_ended(&process.name, *ended_for);
                }
                let why = self.core.life(number).failure().unwrap_or("it is not needed now");
                tracing::info!(engine = process.name, why, "stopping the engine");
                if let Some(child) = &mut process.child {
                    child.stop(grace);
                } else {
                    // Its address was still being looked at.
                    let ended = Event::Ended("it was not started yet".to_owned());
                    self.core.happened(number, ended, self.started.elapsed());
                }
            }
        }
    }

    /// Looks at whoever is to become ready, or might vanish; and at the built-in engine, which always answers as long as
    /// its process is well.
    fn look(&mut self) {
        for (number, process) in
            self.processes.iter_mut().enumerate().filter(|(_, one)| !one.is_looked_at)
        {
            let look = match self.core.life(number).state() {
                State::Starting { .. } if process.child.is_some() => process.look_again(number),
                State::Found { .. } => process.look_again(number),
                State::Ready { .. } | State::Draining { .. } if process.config.command.is_builtin() => {
                    process.look_alive(number)
                }
                _ => continue,
            };
            self.looks.push(look);
        }
    }

    async fn on_look(&mut self, Looked { number, start, look }: Looked) {
        let now = self.now();
        let process = &mut self.processes[number];
        if !process.has_looked(start) {
            return;
        }
        let state = self.core.life(number).state();
        match (state, look) {
            (State::Starting { .. }, Look::Before(Occupant::Nobody)) if process.child.is_none() => {
                if let Err(error) = process.start() {
                    let why = format!("it cannot be started: {error}");
                    self.core.happened(number, Event::Blocked(why), now);
                }
            }
            (State::Starting { .. }, Look::Before(Occupant::Engine)) => {
                tracing::warn!(
                    engine = process.name,
                    url = process.url,
                    "an engine that we did not start answers already: it is used, and never stopped by us"
                );
                self.core.happened(number, Event::Found, now);
            }
            (State::Starting { .. }, Look::Before(Occupant::Stranger)) => {
                let url = &process.url;
                let why = format!(
                    "`{url}` is in use by another process; stop that, or change `url` and `command`"
                );
                tracing::warn!(engine = process.name, "{why}");
                self.core.happened(number, Event::Blocked(why), now);
            }
            (State::Starting { since }, Look::Ready(models)) if process.child.is_some() => {
                let load = now.saturating_sub(since);
                tracing::info!(engine = process.name, took = ?load, "the engine is ready");
                process.on_ready(load);
                self.measured.note(&process.name, &process.config.text, load, models).await;
                self.core.happened(number, Event::Answered, now);
            }
            (State::Ready { .. } | State::Draining { .. }, look) => {
                process.is_mute = matches!(look, Look::Silent);
            }
            (State::Found { .. }, Look::Ready(_)) => process.misses = 0,
            // It may have no time for questions: its calls tell whether it is still there.
            (State::Found { .. }, Look::Silent) if process.is_working => process.misses = 0,
            (State::Found { .. }, Look::Silent) => {
                process.misses += 1;
                if process.misses >= MISSES_MAX {
                    process.misses = 0;
                    self.core.happened(number, Event::Vanished, now);
                }
            }
            // It came too late, or there is nothing to see yet.
            _ => {}
        }
    }

    fn stop_all(&mut self) {
        self.stopping_since = Some(Instant::now());
        for (number, action) in self.core.stop_all(self.now()) {
            self.act(number, &action, ENGINE_STOP_GRACE_LAST);
        }
        // Those that were being stopped already have less time now.
        for child in self.processes.iter_mut().filter_map(|process| process.child.as_mut()) {
            child.stop(ENGINE_STOP_GRACE_LAST);
        }
    }

    /// Stopped, and no process is left; a guard that is not done goes on without us.
    fn is_over(&self) -> bool {
        self.stopping_since.is_some_and(|since| {
            self.processes.iter().all(|process| process.child.is_none())
                || since.elapsed() > ENGINE_STOP_GRACE_LAST + END_WITHIN
        })
    }

    /// Publishes how each engine is, and holds back those that are not ready.
    fn tell(&mut self) {
        let now = self.now();
        for number in 0..self.processes.len() {
            let rival = self.core.rival(number).map(|rival| self.processes[rival].name.clone());
            let (reason, view) =
                self.processes[number].tell(self.core.life(number), rival.as_deref(), now);
            let name = &self.processes[number].name;
            self.ctx.supervision.publish(name, view);
            self.ctx.holds.set(name, Holder::Supervision, reason);
        }
    }
}

/// The server stops, and its last calls have ended or had their time.
async fn until_settled(ctx: Arc<Context>) {
    ctx.stop.cancelled().await;
    // The dispatcher ends by itself within its grace; a little more, should it be late.
    let _ =
        tokio::time::timeout(SHUTDOWN_GRACE + END_WITHIN, ctx.supervision.settled().cancelled()).await;
}
