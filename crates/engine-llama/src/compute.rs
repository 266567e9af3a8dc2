//! The computing thread: takes orders, computes step after step, and says what comes of it.
//!
//! It owns the model's contexts and everything about questions in progress. It waits for nobody: who listens too slowly
//! gets larger pieces, and whoever is gone is forgotten.

mod embed;
mod guide;
mod talk;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::llama::{ComputeError, Model, Session};
use crate::question::{Order, Said};
use crate::refusal;
use crate::schedule::{Layout, Schedule, Step, UNIFIED_SEQUENCES_MAX, Waiting};
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
    /// Embeddings are as exact as weights of 32 bits.
    pub(crate) embeds_exactly: bool,
    pub(crate) threads: u32,
    /// A model for embeddings has no context to generate with.
    pub(crate) generates: bool,
}

impl Resources {
    /// With more sequences each token has too many foreign cells to look past.
    const fn can_unify(&self) -> bool {
        self.streams.sequences <= UNIFIED_SEQUENCES_MAX
    }

    fn session<'model>(
        &self,
        model: &'model Model,
        layout: Layout,
    ) -> Result<Session<'model>, ComputeError> {
        Session::new(model, layout, self.step_len, self.threads)
    }
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
    /// 1 where all sequences share one pool of cells.
    pub(crate) is_unified: AtomicU64,
    /// Of the longest step lately, in milliseconds.
    pub(crate) step_millis: AtomicU64,
    /// Nothing is left to do. Somebody may still be reading what was said.
    pub(crate) is_waiting: AtomicBool,
    /// A context is being made, which is no step.
    pub(crate) is_making: AtomicBool,
}

impl Load {
    /// While a context is made.
    fn making<T>(&self, make: impl FnOnce() -> T) -> T {
        self.is_making.store(true, Ordering::Relaxed);
        let made = make();
        self.is_making.store(false, Ordering::Relaxed);
        made
    }
}

/// A step is sized to end within this: nothing can be cancelled in the middle of one.
const STEP_WITHIN: Duration = Duration::from_secs(2);
/// Of that, what a step is planned for: what it takes is known from others, which were shorter or had shorter prompts.
const STEP_PLANNED: f64 = 0.8;
/// A step is not made smaller than this.
const STEP_LEN_MIN: usize = 32;

/// Those who come together belong into one step: before the first of them is read, so much of the time that reading will
/// take is spent on looking whether there are more.
const GATHER_SHARE: f64 = 1.0 / 16.0;
const GATHER_WITHIN: Duration = Duration::from_millis(40);
const GATHER_LOOKS: u32 = 4;

/// Computes until it is to stop, or nobody can order any more. `ready` is called when the first question may come.
pub(crate) fn run(
    model: &Model,
    resources: Resources,
    mut orders: mpsc::Receiver<Order>,
    load: &Arc<Load>,
    ready: impl FnOnce(),
) -> Result<(), ComputeError> {
    let mut thread = Computing::new(model, resources, load)?;
    ready();
    loop {
        if !thread.take_orders(&mut orders) {
            thread.stop(orders);
            return Ok(());
        }
        thread.suit_layout()?;
        thread.turn()?;
    }
}

struct Computing<'model> {
    model: &'model Model,
    resources: Resources,
    /// None while one takes the place of another: there is memory for one.
    session: Option<Session<'model>>,
    schedule: Schedule,
    /// Of the schedules before this one.
    computed_before: u64,
    talks: HashMap<QuestionId, Talk>,
    /// What was said and not taken yet.
    endings: Vec<(mpsc::Sender<Said>, Vec<Said>)>,
    embeddings: Embeddings<'model>,
    load: Arc<Load>,
    pace: Pace,
    is_stopped: bool,
}

impl<'model> Computing<'model> {
    fn new(model: &'model Model, resources: Resources, load: &Arc<Load>) -> Result<Self, ComputeError> {
        // Most of what comes to a batch engine has a beginning in common.
        let layout = if resources.can_unify() { resources.unified } else { resources.streams };
        let (mut session, mut pace) = (None, Pace::default());
        if resources.generates {
            let made = session.insert(resources.session(model, layout)?);
            let started = Instant::now();
            made.warm_up()?;
            pace.note(1, started.elapsed());
        }
        Ok(Self {
            model,
            resources,
            session,
            schedule: Schedule::new(layout, resources.step_len),
            computed_before: 0,
            talks: HashMap::new(),
            endings: Vec::new(),
            embeddings: Embeddings::new(model, resources, load.clone()),
            load: load.clone(),
            pace,
            is_stopped: false,
        })
    }

    /// Takes all orders that are there, and waits for one when there is nothing else to do. False: it is to end.
    fn take_orders(&mut self, orders: &mut mpsc::Receiver<Order>) -> bool {
        self.publish();
        if self.schedule.is_idle() && self.embeddings.is_idle() && self.endings.is_empty() {
            self.load.is_waiting.store(true, Ordering::Relaxed);
            let order = orders.blocking_recv();
            self.load.is_waiting.store(false, Ordering::Relaxed);
            let Some(order) = order else { return false };
            self.take(order);
            self.gather(orders);
        }
        loop {
            match orders.try_recv() {
                Ok(order) => self.take(order),
                Err(TryRecvError::Empty) => return !self.is_stopped,
                Err(TryRecvError::Disconnected) => return !self.is_stopped && !self.schedule.is_idle(),
            }
        }
    }

    /// Looks a few times whether others come, until nobody came.
    fn gather(&mut self, orders: &mut mpsc::Receiver<Order>) {
        for _ in 0..GATHER_LOOKS {
            let reading = self.pace.row_seconds() * self.schedule.unread_len() as f64;
            let within = Duration::from_secs_f64(reading * GATHER_SHARE).min(GATHER_WITHIN);
            std::thread::sleep(within / GATHER_LOOKS);
            let waiting = self.schedule.waiting_count();
            while let Ok(order) = orders.try_recv() {
                self.take(order);
            }
            if self.schedule.waiting_count() == waiting {
                return;
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

    /// Tells all who wait to come again: what is not answered is charged to nobody.
    fn stop(self, mut orders: mpsc::Receiver<Order>) {
        orders.close();
        // What is under way to a closed channel arrives before its end.
        while let Some(order) = orders.blocking_recv() {
            // Both have room for one, and this is the one.
            match order {
                Order::Generate(_, _, said) => {
                    let _ = said.try_send(Said::Refused(refusal::stopping()));
                }
                Order::Embed(_, _, reply) => {
                    let _ = reply.try_send(Err(refusal::stopping()));
                }
                Order::Forget(_) | Order::Stop => {}
            }
        }
        let unfinished = self.talks.into_values().map(|talk| talk.refuse(refusal::stopping()));
        for (said, mut rest) in self.endings.into_iter().chain(unfinished) {
            // Who has not even taken what was said before loses the connection with the process.
            talk::deliver(&said, &mut rest);
        }
        self.embeddings.stop();
    }

    fn turn(&mut self) -> Result<(), ComputeError> {
        self.endings.retain_mut(|(said, rest)| talk::deliver(said, rest));
        if let Some(step) = self.schedule.step() {
            let started = Instant::now();
            let mut session = self.session.take().expect("it is there between two changes of layout");
            session.compute(&step)?;
            self.note_step(step.rows.len(), started.elapsed());
            self.read(&mut session, &step)?;
            self.session = Some(session);
        } else if self.embeddings.is_idle() && !self.endings.is_empty() {
            // Somebody takes nothing and there is nothing to compute: look again shortly.
            std::thread::sleep(Duration::from_millis(5));
        }
        self.embeddings.turn()?;
        self.load.steps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read(&mut self, session: &mut Session<'_>, step: &Step) -> Result<(), ComputeError> {
        for (id, row) in &step.outputs {
            let Some(talk) = self.talks.get_mut(id) else { continue };
            if !talk.has_begun() {
                let cached = self.schedule.cached_len(*id);
                self.load.cached_tokens.fetch_add(u64::from(cached), Ordering::Relaxed);
                talk.begin(cached);
            }
            let next = talk.on_logits(self.model, session, *row)?;
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
        // Whoever has an answer finds it counted.
        self.publish();
        self.endings.retain_mut(|(said, rest)| talk::deliver(said, rest));
        Ok(())
    }

    /// Makes the cells' layout the one that suits what waits. With another one in use nobody is admitted until the
    /// sequences have run empty.
    fn suit_layout(&mut self) -> Result<(), ComputeError> {
        let is_unified = self.resources.can_unify() && self.schedule.wants_unified();
        let wanted = if is_unified { self.resources.unified } else { self.resources.streams };
        let suits = wanted.is_unified == self.schedule.layout().is_unified;
        self.schedule.set_closed(!suits);
        if !suits && self.schedule.live_count() == 0 {
            let waiting = self.schedule.take_waiting();
            let session = self.load.making(|| {
                self.session = None;
                self.resources.session(self.model, wanted)
            });
            self.session = Some(session?);
            self.computed_before += self.schedule.computed();
            self.schedule = Schedule::new(wanted, self.fitting_step_len());
            for question in waiting {
                self.schedule.ask(question);
            }
        }
        Ok(())
    }

    fn note_step(&mut self, rows: usize, took: Duration) {
        self.pace.note(rows, took);
        self.schedule.set_step_len(self.fitting_step_len());
        self.load.step_millis.store(took.as_millis() as u64, Ordering::Relaxed);
    }

    fn fitting_step_len(&self) -> usize {
        // There is always room for all who are being answered.
        let least = STEP_LEN_MIN.max(self.schedule.layout().sequences as usize);
        let fitting = (STEP_WITHIN.as_secs_f64() * STEP_PLANNED / self.pace.row_seconds()) as usize;
        fitting.max(least).min(self.resources.step_len)
    }

    fn publish(&self) {
        let live = self.schedule.live_count() as u64;
        let waiting = self.schedule.waiting_count() + self.embeddings.waiting_count();
        self.load.running.store(live, Ordering::Relaxed);
        self.load.waiting.store(waiting as u64, Ordering::Relaxed);
        self.load.is_unified.store(u64::from(self.schedule.layout().is_unified), Ordering::Relaxed);
        let computed = self.computed_before + self.schedule.computed();
        self.load.computed_tokens.store(computed, Ordering::Relaxed);
    }
}

/// How long a row takes: of the last steps, long ones counting more than short ones.
#[derive(Debug, Default)]
struct Pace {
    rows: f64,
    seconds: f64,
}

impl Pace {
    /// What a step still counts after the next one.
    const KEPT: f64 = 0.9;

    fn note(&mut self, rows: usize, took: Duration) {
        self.rows = self.rows * Self::KEPT + rows as f64;
        self.seconds = self.seconds * Self::KEPT + took.as_secs_f64();
    }

    fn row_seconds(&self) -> f64 {
        (self.seconds / self.rows.max(1.0)).max(1e-9)
    }
}

#[cfg(test)]
mod tests;
