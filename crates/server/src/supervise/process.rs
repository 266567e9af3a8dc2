//! One engine that we start: its child process, and what is seen of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use overnight_domain::supervision::{Lifecycle, Seen, State};
use overnight_domain::time::UnixTime;
use overnight_engine::child::{Child, last_lines};
use overnight_engine::{Engine, Readiness};
use overnight_store::Demand;

use super::measured::Measure;
use super::view::{self, ProcessView};
use super::{Look, Looked, Measured};
use crate::clock;
use crate::config::{EngineConfig, ProcessConfig};
use crate::context::Context;
use crate::dispatch::endpoint_config;
use crate::endpoints::{EndpointState, EndpointView};

/// The last line of an engine that is starting is read so often.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at an engine that is to become ready.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The same at one that is ready, and how long its answer is waited for.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Process {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) config: ProcessConfig,
    engine: Arc<dyn Engine>,
    readiness: Arc<Readiness>,
    pub(super) child: Option<Child>,
    pub(super) log: PathBuf,
    /// The number of its start, by which a look that took too long is known.
    start: u64,
    /// A look is under way.
    pub(super) is_looked_at: bool,
    pub(super) misses: u32,
    /// It was ready, and has not answered the last look.
    pub(super) is_mute: bool,
    /// Calls are in flight at it, and nobody has found it gone.
    pub(super) is_working: bool,
    pub(super) memory_len: u64,
    /// What it said before it last ended.
    pub(super) last_words: Vec<String>,
    /// How long it took to get ready.
    load: Option<Duration>,
    ready_at: Option<UnixTime>,
    /// Whether there is work for it.
    is_wanted: bool,
    progress: Progress,
    signs: u64,
    line: Option<(Instant, Option<String>)>,
    /// The last line of the process before.
    said_before: Option<String>,
}

/// What changes while an engine works.
type Progress = (Option<UnixTime>, Option<u64>, Option<u64>);

impl Process {
    /// None for an engine that others start.
    pub(super) fn new(
        engine: &EngineConfig,
        ctx: &Context,
        measured: &Measured,
    ) -> Option<anyhow::Result<Self>> {
        let config = engine.process.clone()?;
        Some(Self::connected(engine, config, ctx, measured))
    }

    fn connected(
        engine: &EngineConfig,
        config: ProcessConfig,
        ctx: &Context,
        measured: &Measured,
    ) -> anyhow::Result<Self> {
        let setup = endpoint_config(engine, &ctx.config.dispatch, ctx.config.engines.len())?;
        Ok(Self {
            name: engine.name.clone(),
            url: engine.url.clone(),
            engine: overnight_engine::connect(engine.kind, &setup)?,
            readiness: Arc::new(Readiness::new(&setup)?),
            load: measured.of(&engine.name, &config.text).map(Measure::load),
            log: ctx.config.data.join("engines").join(format!("{}.log", engine.name)),
            config,
            child: None,
            start: 0,
            is_looked_at: false,
            misses: 0,
            is_mute: false,
            is_working: false,
            memory_len: 0,
            last_words: Vec::new(),
            ready_at: None,
            is_wanted: false,
            progress: (None, None, None),
            signs: 0,
            line: None,
            said_before: None,
        })
    }

    pub(super) fn start(&mut self) -> std::io::Result<()> {
        self.said_before = last_lines(&self.log, 1).pop();
        self.child = Some(Child::start(&self.config.command, &self.log)?);
        self.is_mute = false;
        self.line = None;
        Ok(())
    }

    pub(super) fn on_ready(&mut self, load: Duration) {
        self.load = Some(load);
        self.ready_at = Some(clock::now());
        self.last_words.clear();
    }

    /// How it ended, once, when it has.
    pub(super) fn has_ended(&mut self) -> Option<String> {
        let how = match self.child.as_mut()?.has_ended() {
            Ok(None) => return None,
            Ok(Some(how)) => how,
            Err(error) => format!("its guard cannot be watched: {error}"),
        };
        self.child = None;
        self.ready_at = None;
        Some(how)
    }

    /// What is known of it for the next decision, but for what holds it up.
    pub(super) fn see(&mut self, views: &[EndpointView], demand: &[Demand]) -> Seen {
        let Some(view) = views.iter().find(|view| view.name == self.name) else {
            return Seen::default();
        };
        let load = view.facts.as_ref().map(|facts| facts.load).unwrap_or_default();
        // One that counts its tokens shows while it works that it does.
        let has_counters = load.prompt_tokens_total.is_some() || load.generated_tokens_total.is_some();
        let progress = (view.last_answer_at, load.prompt_tokens_total, load.generated_tokens_total);
        if progress != self.progress {
            self.progress = progress;
            self.signs += 1;
        }
        let wanted = demand.iter().filter(|demand| is_for(demand, view, views));
        let demand = wanted.map(|demand| demand.priority).max();
        self.is_wanted = demand.is_some();
        self.is_working = view.in_flight > 0 && view.state != EndpointState::Down;
        Seen {
            demand,
            in_flight: view.in_flight,
            signs: self.signs,
            answer_span: if has_counters { Duration::ZERO } else { view.answer_span },
            memory_len: self.memory_len,
            load: self.load,
            is_silent: view.state == EndpointState::Down || self.is_mute,
            is_held_up: false,
        }
    }

    /// The first thing of a start.
    pub(super) fn look_before(&mut self, number: usize) -> BoxFuture<'static, Looked> {
        self.start += 1;
        let (engine, readiness) = (self.engine.clone(), self.readiness.clone());
        self.look(number, async move { Look::Before(readiness.occupant(&*engine).await) })
    }

    pub(super) fn look_again(&mut self, number: usize) -> BoxFuture<'static, Looked> {
        let (engine, readiness) = (self.engine.clone(), self.readiness.clone());
        self.look(number, async move {
            tokio::time::sleep(LOOK_EVERY).await;
            if readiness.is_ready(&*engine).await {
                Look::Ready(engine.models().await.ok())
            } else {
                Look::Silent
            }
        })
    }

    /// Whether an engine that was ready still answers; soon, for its silence counts from when the look ends.
    pub(super) fn look_alive(&mut self, number: usize) -> BoxFuture<'static, Looked> {
        let (engine, readiness) = (self.engine.clone(), self.readiness.clone());
        self.look(number, async move {
            tokio::time::sleep(ALIVE_EVERY).await;
            let answered = tokio::time::timeout(ALIVE_WITHIN, readiness.is_ready(&*engine)).await;
            if answered == Ok(true) { Look::Ready(None) } else { Look::Silent }
        })
    }

    /// One look is under way at a time, and belongs to the start in which it began.
    fn look(
        &mut self,
        number: usize,
        look: impl Future<Output = Look> + Send + 'static,
    ) -> BoxFuture<'static, Looked> {
        self.is_looked_at = true;
        let start = self.start;
        look.map(move |look| Looked { number, start, look }).boxed()
    }

    /// A look of this start has ended. False when it took longer than the start that it belongs to: nothing of it holds
    /// for the one that runs now.
    pub(super) const fn has_looked(&mut self, start: u64) -> bool {
        let is_current = start == self.start;
        if is_current {
            self.is_looked_at = false;
        }
        is_current
    }

    /// Why no calls may be made to it, if so, and what people see of it.
    pub(super) fn tell(
        &mut self,
        life: &Lifecycle,
        rival: Option<&str>,
        now: Duration,
    ) -> (Option<String>, ProcessView) {
        let last_line = match life.state() {
            State::Starting { .. } => self.last_line(),
            State::Backoff { .. } | State::GivenUp { .. } => self.last_words.last().cloned(),
            _ => None,
        };
        let slot = self.config.rules.slot;
        let words = view::Circumstances {
            slot,
            rival,
            is_wanted: self.is_wanted,
            load: self.load,
            last_line: last_line.as_deref(),
            last_words: &self.last_words,
            now,
        };
        let reason = view::reason(life, &words);
        let view = ProcessView {
            state: view::state_name(life.state()),
            ready_since: self.ready_at.filter(|_| life.is_usable()),
            restarts: life.restarts(),
            failures: life.failures(),
            failure: life.failure().map(str::to_owned),
            load_seconds: self.load.map(|load| (load.as_secs_f64() * 10.0).round() / 10.0),
            last_line,
            gpu: slot,
            log: self.log.display().to_string(),
            is_wanted: self.is_wanted,
        };
        (reason, view)
    }

    fn last_line(&mut self) -> Option<String> {
        self.child.as_ref()?;
        if self.line.as_ref().is_none_or(|(at, _)| at.elapsed() >= LINE_EVERY) {
            let line =
                last_lines(&self.log, 1).pop().filter(|line| Some(line) != self.said_before.as_ref());
            self.line = Some((Instant::now(), line));
        }
        self.line.as_ref().and_then(|(_, line)| line.clone())
    }
}

/// Whether the work is for this engine: it serves the model, or it has not told yet what it serves, or had no model when
/// it did, and nobody who is up serves it.
fn is_for(demand: &Demand, view: &EndpointView, views: &[EndpointView]) -> bool {
    let Some(model) = &demand.model else { return true };
    if view.models.as_ref().is_some_and(|models| !models.is_empty()) {
        return view.may_serve(model);
    }
    let is_served = |other: &EndpointView| {
        other.state == EndpointState::Up && other.models.is_some() && other.may_serve(model)
    };
    !views.iter().any(is_served)
}

#[cfg(test)]
mod tests {
    use overnight_engine::{EndpointConfig, EngineKind};

    use super::*;

    /// Nobody is at its address.
    fn process() -> Process {
        let setup = EndpointConfig::new("gpu0", "http://127.0.0.1:1/v1");
        Process {
            name: "gpu0".to_owned(),
            url: "http://127.0.0.1:1/v1".to_owned(),
            config: ProcessConfig::new("true".to_owned()).unwrap(),
            engine: overnight_engine::connect(EngineKind::OpenAi, &setup).unwrap(),
            readiness: Arc::new(Readiness::new(&setup).unwrap()),
            child: None,
            log: PathBuf::new(),
            start: 0,
            is_looked_at: false,
            misses: 0,
            is_mute: false,
            is_working: false,
            memory_len: 0,
            last_words: Vec::new(),
            load: None,
            ready_at: None,
            is_wanted: false,
            progress: (None, None, None),
            signs: 0,
            line: None,
            said_before: None,
        }
    }

    /// A start was given up while its address was still being looked at, and the next began: both looks found nobody,
    /// and each started a process.
    #[tokio::test]
    async fn a_look_of_an_earlier_start_counts_for_nothing() {
        let mut process = process();
        let (first, second) = (process.look_before(0), process.look_before(0));
        let (first, second) = (first.await, second.await);
        assert!(!process.has_looked(first.start));
        assert!(process.is_looked_at, "the look of this start is still under way");
        assert!(process.has_looked(second.start));
        assert!(!process.is_looked_at);
    }

    #[test]
    fn an_engine_that_had_no_model_is_asked_for_what_nobody_serves() {
        let view = |name: &str, models: &[&str]| EndpointView {
            name: name.to_owned(),
            models: Some(models.iter().map(|&model| model.to_owned()).collect()),
            ..EndpointView::sample(EndpointState::Up)
        };
        let demand = |model: &str| Demand { model: Some(model.to_owned()), priority: 0 };
        let views = [view("empty", &[]), view("full", &["a"])];
        assert!(is_for(&demand("b"), &views[0], &views));
        assert!(!is_for(&demand("b"), &views[1], &views));
        assert!(!is_for(&demand("a"), &views[0], &views), "another serves it");
        assert!(is_for(&demand("a"), &views[1], &views));
    }
}
