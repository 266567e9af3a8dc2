//! The computing thread: takes orders, computes step after step, and says what comes of it.
//!
//! It owns the model's contexts and everything about questions in progress. It waits for nobody: who listens too slowly
//! gets larger pieces, and whoever is gone is forgotten.

mod embed;
mod guide;
mod talk;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::llama::{ComputeError, Model, Session};
use crate::question::{Order, Said};
use crate::refusal;
use crate::schedule::{Layout, Schedule, Step, Waiting};
use crate::token::QuestionId;
use embed::Embeddings;
use talk::{Next, Talk};

/// What the thread is given; the layouts are what memory allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resources {
    pub(crate) unified: Layout,
    pub(crate) streams: Layout,
    /// Tokens of one step at most.
    pub(crate) step_len: usize,
    /// Tokens of one step of embeddings, and so the longest input.
    pub(crate) embed_len: usize,
    pub(crate) threads: u32,
}

/// What the thread publishes.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) running: AtomicU64,
    pub(crate) waiting: AtomicU64,
    /// Steps that have ended. One that does not come is a stall.
    pub(crate) steps: AtomicU64,
    /// Prompt tokens that were computed, and those that were copied.
    pub(crate) computed_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) answer_tokens: AtomicU64,
    /// Of the answers' tokens, those that had to follow and were not asked of the model.
    pub(crate) forced_tokens: AtomicU64,
    pub(crate) embedded_tokens: AtomicU64,
    /// Of the longest step lately, in milliseconds.
    pub(crate) step_millis: AtomicU64,
}

/// A step is sized to end within this: nothing can be cancelled in the middle of one.
const STEP_WITHIN: Duration = Duration::from_secs(2);
/// A step is not made smaller than this.
const STEP_LEN_MIN: usize = 32;

/// Computes until it is to stop, or nobody can order any more.
pub(crate) fn run(
    model: &Model,
    resources: Resources,
    mut orders: mpsc::Receiver<Order>,
    load: &Arc<Load>,
) -> Result<(), ComputeError> {
    let mut layout = resources.streams;
    let mut thread = Computing::new(model, resources, layout, load)?;
    loop {
        if !thread.take_orders(&mut orders) {
            return Ok(());
        }
        let wanted = thread.wanted_layout();
        if wanted != layout && thread.talks.values().all(Talk::is_untouched) {
            layout = wanted;
            thread.change_layout(layout)?;
        }
        thread.turn()?;
    }
}

struct Computing<'model> {
    model: &'model Model,
    resources: Resources,
    session: Session<'model>,
    schedule: Schedule,
    talks: HashMap<QuestionId, Talk>,
    /// What was said and not taken yet.
    endings: Vec<(mpsc::Sender<Said>, Vec<Said>)>,
    embeddings: Embeddings<'model>,
    load: Arc<Load>,
    /// Seconds for one row, averaged.
    row_seconds: f64,
    is_stopped: bool,
}

impl<'model> Computing<'model> {
    fn new(
        model: &'model Model,
        resources: Resources,
        layout: Layout,
        load: &Arc<Load>,
    ) -> Result<Self, ComputeError> {
        Ok(Self {
            model,
            resources,
            session: Session::new(model, layout, resources.step_len, resources.threads)?,
            schedule: Schedule::new(layout, resources.step_len),
            talks: HashMap::new(),
            endings: Vec::new(),
            embeddings: Embeddings::new(model, resources),
            load: load.clone(),
            row_seconds: 0.0,
            is_stopped: false,
        })
    }

    /// Takes all orders that are there, and waits for one when there is nothing else to do. False: it is to end.
    fn take_orders(&mut self, orders: &mut mpsc::Receiver<Order>) -> bool {
        self.publish();
        if self.schedule.is_idle() && self.embeddings.is_idle() && self.endings.is_empty() {
            match orders.blocking_recv() {
                Some(order) => self.take(order),
                None => return false,
            }
        }
        loop {
            match orders.try_recv() {
                Ok(order) => self.take(order),
                Err(TryRecvError::Empty) => return !self.is_stopped,
                Err(TryRecvError::Disconnected) => return !self.is_stopped && !self.schedule.is_idle(),
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Generate(id, generation, said) => match Talk::new(self.model, generation, said) {
                Ok((talk, prompt)) if self.schedule.fits(prompt.len()) => {
                    let answer_len_max = talk.answer_len_left();
                    self.schedule.ask(Waiting { id, prompt, answer_len_max });
                    self.talks.insert(id, talk);
                }
                Ok((talk, prompt)) => {
                    let what = format!("a prompt of {} tokens does not fit", prompt.len());
                    self.endings.push(talk.refuse(refusal::failed(&what)));
                }
                Err((said, refusal)) => self.endings.push((said, vec![Said::Refused(refusal)])),
            },
            Order::Embed(id, inputs, reply) => self.embeddings.ask(id, inputs, reply),
            Order::Stop => self.is_stopped = true,
            Order::Forget(id) => {
                self.schedule.forget(id);
                self.talks.remove(&id);
                self.embeddings.forget(id);
            }
        }
    }

    fn turn(&mut self) -> Result<(), ComputeError> {
        self.endings.retain_mut(|(said, rest)| talk::deliver(said, rest));
        if let Some(step) = self.schedule.step() {
            let started = Instant::now();
            self.session.compute(&step)?;
            self.size_steps(step.rows.len(), started.elapsed());
            self.read(&step)?;
        } else if self.embeddings.is_idle() && !self.endings.is_empty() {
            // Somebody takes nothing and there is nothing to compute: look again shortly.
            std::thread::sleep(Duration::from_millis(5));
        }
        let tokens = self.embeddings.turn()?;
        self.load.embedded_tokens.fetch_add(tokens, Ordering::Relaxed);
        self.load.steps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read(&mut self, step: &Step) -> Result<(), ComputeError> {
        for (id, row) in &step.outputs {
            let Some(talk) = self.talks.get_mut(id) else { continue };
            if !talk.has_begun() {
                let cached = self.schedule.cached_len(*id);
                self.load.cached_tokens.fetch_add(u64::from(cached), Ordering::Relaxed);
                talk.begin(cached);
            }
            let next = talk.on_logits(self.model, &mut self.session, *row)?;
            let counts = talk.take_counts();
            self.load.answer_tokens.fetch_add(counts.all, Ordering::Relaxed);
            self.load.forced_tokens.fetch_add(counts.forced, Ordering::Relaxed);
            if let Next::GoOn(tokens) = next {
                self.schedule.go_on(*id, &tokens);
                continue;
            }
            self.schedule.forget(*id);
            let talk = self.talks.remove(id).expect("it was just read");
            match next {
                Next::Ended => self.endings.push(talk.end()),
                Next::Refused(refusal) => self.endings.push(talk.refuse(refusal)),
                Next::Gone | Next::GoOn(_) => {}
            }
        }
        self.endings.retain_mut(|(said, rest)| talk::deliver(said, rest));
        Ok(())
    }

    /// The cells' layout that suits what waits, while nothing is in progress.
    fn wanted_layout(&self) -> Layout {
        if self.schedule.live_count() > 0 || self.schedule.waiting_count() < 2 {
            return self.schedule.layout();
        }
        if self.schedule.wants_unified() { self.resources.unified } else { self.resources.streams }
    }

    fn change_layout(&mut self, layout: Layout) -> Result<(), ComputeError> {
        let waiting = self.schedule.take_waiting();
        self.schedule = Schedule::new(layout, self.resources.step_len);
        self.session =
            Session::new(self.model, layout, self.resources.step_len, self.resources.threads)?;
        for question in waiting {
            self.schedule.ask(question);
        }
        Ok(())
    }

    fn size_steps(&mut self, rows: usize, took: Duration) {
        let seconds = took.as_secs_f64() / rows as f64;
        self.row_seconds =
            if self.row_seconds == 0.0 { seconds } else { self.row_seconds * 0.9 + seconds * 0.1 };
        let fitting = (STEP_WITHIN.as_secs_f64() / self.row_seconds.max(1e-9)) as usize;
        self.schedule.set_step_len(fitting.clamp(STEP_LEN_MIN, self.resources.step_len));
        self.load.step_millis.store(took.as_millis() as u64, Ordering::Relaxed);
    }

    fn publish(&self) {
        let live = self.schedule.live_count() as u64;
        let waiting = self.schedule.waiting_count() + self.embeddings.waiting_count();
        self.load.running.store(live, Ordering::Relaxed);
        self.load.waiting.store(waiting as u64, Ordering::Relaxed);
        self.load.computed_tokens.store(self.schedule.computed(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
