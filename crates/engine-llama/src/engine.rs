//! The engine as its callers see it: questions go in, what is said comes out, and whoever hangs up is forgotten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use overnight_domain::time::UnixTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use crate::compute::Load;
use crate::dialect::generation::FormAsked;
use crate::forms::Forms;
use crate::llama::Model;
use crate::memory::Plan;
use crate::question::{Embedded, Ending, Generation, Order, Piece, Said};
use crate::refusal::{self, Refusal};
use crate::template::Template;
use crate::token::{QuestionId, Token};

/// For each slot so many may wait: more than anybody wants to sort by, and each costs memory.
const WAITING_PER_SLOT: usize = 64;
/// For each slot so many should wait: what is not here cannot be sorted.
const WANTED_PER_SLOT: u32 = 8;
/// Orders on their way: each question makes two, its asking and its forgetting.
pub(crate) const ORDERS_MAX: usize = 16_384;
/// Pieces that wait for a slow listener; after that they are put together.
const PIECES_MAX: usize = 16;

/// Shared by all connections.
pub(crate) struct Engine {
    pub(crate) name: Arc<str>,
    pub(crate) now: fn() -> UnixTime,
    pub(crate) load: Arc<Load>,
    orders: mpsc::Sender<Order>,
    ready: OnceLock<Ready>,
    questions: AtomicU64,
}

/// What is there once the model is loaded.
pub(crate) struct Ready {
    pub(crate) model: Arc<Model>,
    pub(crate) template: Option<Result<Template, String>>,
    pub(crate) plan: Plan,
    /// A model for embeddings does not.
    pub(crate) generates: bool,
    forms: Forms,
    permits: Arc<Semaphore>,
    permits_max: usize,
}

impl Ready {
    pub(crate) fn new(model: Arc<Model>, plan: Plan, generates: bool) -> Self {
        let compile = |source| Template::new(source, model.start_text(), model.end_text());
        let template = model.template().map(compile);
        let slots = plan.streams.sequences as usize;
        let permits_max = slots * (1 + WAITING_PER_SLOT);
        let (forms, permits) = (Forms::default(), Arc::new(Semaphore::new(permits_max)));
        Self { model, template, plan, generates, forms, permits, permits_max }
    }

    pub(crate) fn form(
        &self,
        asked: &FormAsked,
        takes_choices: bool,
    ) -> Result<crate::question::Form, Refusal> {
        self.forms.of(&self.model, asked, takes_choices)
    }

    /// How many it answers at once.
    pub(crate) const fn slots(&self) -> u32 {
        self.plan.streams.sequences
    }

    /// How many it would like to have, in all.
    pub(crate) const fn wanted(&self) -> u32 {
        self.slots() * (1 + WANTED_PER_SLOT)
    }

    pub(crate) const fn permits_max(&self) -> usize {
        self.permits_max
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|error| match error {
            TryAcquireError::NoPermits => refusal::queue_full(self.permits_max),
            TryAcquireError::Closed => refusal::stopping(),
        })
    }
}

impl Engine {
    pub(crate) fn new(name: Arc<str>, now: fn() -> UnixTime, orders: mpsc::Sender<Order>) -> Self {
        let (ready, questions) = (OnceLock::new(), AtomicU64::new(0));
        Self { name, now, load: Arc::default(), orders, ready, questions }
    }

    pub(crate) fn set_ready(&self, ready: Ready) {
        assert!(self.ready.set(ready).is_ok(), "one model is loaded once");
    }

    pub(crate) fn ready(&self) -> Result<&Ready, Refusal> {
        self.ready.get().ok_or_else(refusal::loading)
    }

    pub(crate) async fn ask(&self, generation: Generation) -> Result<Asking, Refusal> {
        let permit = self.ready()?.permit()?;
        let (tx, said) = mpsc::channel(PIECES_MAX);
        let hold = self.hold(permit);
        self.order(Order::Generate(hold.id, generation, tx)).await?;
        Ok(Asking { hold, said })
    }

    pub(crate) async fn embed(&self, inputs: Vec<Arc<[Token]>>) -> Result<Vec<Vec<f32>>, Refusal> {
        let permit = self.ready()?.permit()?;
        let (tx, mut reply) = mpsc::channel::<Embedded>(1);
        let mut hold = self.hold(permit);
        self.order(Order::Embed(hold.id, inputs, tx)).await?;
        let Some(embedded) = reply.recv().await else { return end_of_process().await };
        hold.is_over = true;
        embedded
    }

    /// The computing is to end with its step. Whoever waits, and whoever asks from now on, is told to come again.
    pub(crate) async fn stop(&self) {
        if let Some(ready) = self.ready.get() {
            ready.permits.close();
        }
        // Where nobody takes orders it has ended.
        let _ = self.orders.send(Order::Stop).await;
    }

    async fn order(&self, order: Order) -> Result<(), Refusal> {
        if self.orders.send(order).await.is_ok() {
            return Ok(());
        }
        let is_stopping = self.ready.get().is_some_and(|ready| ready.permits.is_closed());
        if is_stopping { Err(refusal::stopping()) } else { end_of_process().await }
    }

    fn hold(&self, permit: OwnedSemaphorePermit) -> Hold {
        let id = QuestionId(self.questions.fetch_add(1, Ordering::Relaxed));
        Hold { id, orders: self.orders.clone(), is_over: false, _permit: permit }
    }
}

/// The computing has failed, and the process ends with it: `serve` returns what went wrong. Until then nothing is
/// answered: an answer would charge an attempt to all who were in flight, a lost connection charges nobody.
async fn end_of_process<T>() -> T {
    std::future::pending().await
}

/// A question's place in the engine. Dropped before its end, it is forgotten there.
struct Hold {
    id: QuestionId,
    orders: mpsc::Sender<Order>,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.is_over {
            // Where there is no room, the thread finds the listener gone with the next piece.
            let _ = self.orders.try_send(Order::Forget(self.id));
        }
    }
}

/// A question that was asked.
pub(crate) struct Asking {
    hold: Hold,
    said: mpsc::Receiver<Said>,
}

/// What comes next of an answer.
pub(crate) enum Next {
    Piece(Piece),
    End(Ending),
}

impl Asking {
    pub(crate) async fn next(&mut self) -> Result<Next, Refusal> {
        match self.said.recv().await {
            Some(Said::Piece(piece)) => Ok(Next::Piece(piece)),
            Some(Said::End(ending)) => {
                self.hold.is_over = true;
                Ok(Next::End(ending))
            }
            Some(Said::Refused(refusal)) => {
                self.hold.is_over = true;
                Err(refusal)
            }
            None => end_of_process().await,
        }
    }

    /// The whole answer.
    pub(crate) async fn all(mut self) -> Result<(Piece, Ending), Refusal> {
        let mut all = Piece::default();
        loop {
            match self.next().await? {
                Next::Piece(piece) => {
                    all.text.push_str(&piece.text);
                    all.logprobs.extend(piece.logprobs);
                }
                Next::End(ending) => return Ok((all, ending)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn asking(said: mpsc::Receiver<Said>, orders: &mpsc::Sender<Order>) -> Asking {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let hold = Hold { id: QuestionId(0), orders: orders.clone(), is_over: false, _permit: permit };
        Asking { hold, said }
    }

    /// A failed step was answered with a 500 to all in flight, each of whom it cost an attempt.
    #[test]
    fn nobody_is_answered_when_the_computing_fails() {
        let (orders, taken) = mpsc::channel(4);
        let (tx, said) = mpsc::channel(4);
        let mut asking = asking(said, &orders);
        let piece = Piece { text: "a".to_owned(), ..Piece::default() };
        tx.try_send(Said::Piece(piece)).unwrap();
        drop((tx, taken));
        assert!(matches!(asking.next().now_or_never(), Some(Ok(Next::Piece(_)))));
        assert!(asking.next().now_or_never().is_none());
        let engine = Engine::new("m".into(), || UnixTime::from_millis(0), orders);
        assert!(engine.order(Order::Forget(QuestionId(0))).now_or_never().is_none());
    }

    #[test]
    fn a_stop_is_a_refusal_that_passes() {
        let (orders, _taken) = mpsc::channel(4);
        let (tx, said) = mpsc::channel(4);
        tx.try_send(Said::Refused(refusal::stopping())).unwrap();
        let refused = asking(said, &orders).all().now_or_never().unwrap().unwrap_err();
        assert!(refused.is_passing() && refused.status == 503);
    }
}
