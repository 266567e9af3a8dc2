//! When to ask the store for more, and when to put a chunk back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use overnight_domain::dispatch::{BatchTerms, ChunkSlot, EndpointNumber, NewChunk};
use overnight_domain::ids::{BatchId, LeaseToken};
use overnight_domain::limits::LEASE_TTL;
use overnight_store::{ClaimQuery, Parking, StoreError};

use super::Dispatch;
use super::chunks::{self, Loaded};
use super::errands::{Errand, put_back};
use crate::clock;

/// A batch that nobody can serve now is passed over for so long.
const UNSERVED_FOR: Duration = Duration::from_secs(5);
/// The next chunk is fetched while so many windows' worth of requests are left, so that no slot waits for it.
const WINDOWS_AHEAD: usize = 2;
/// And at least so many requests: at 30,000 answers a second 64 of them are two milliseconds.
const REQUESTS_AHEAD: usize = 1_024;

/// What is under way or due with the store.
#[derive(Default)]
pub(super) struct Claims {
    is_claiming: bool,
    /// The last claim found nothing, and nothing has happened since.
    is_dry: bool,
    /// Something happened while a claim was under way.
    has_news: bool,
    /// Ask whether a batch came that outranks those that run.
    is_urgent_due: bool,
    pub(super) is_renewing: bool,
    pub(super) is_looking: bool,
    pub(super) is_look_due: bool,
    renewed_at: Option<Instant>,
    unserved: HashMap<BatchId, Instant>,
    models_asked: HashMap<EndpointNumber, Instant>,
    /// When an endpoint was last asked what it tells of itself; none while it is being asked.
    facts_asked: HashMap<EndpointNumber, Option<Instant>>,
    /// Ticks since the last claim that found nothing.
    ticks: u32,
}

impl Claims {
    pub(super) fn on_news(&mut self) {
        self.is_dry = false;
        self.has_news = true;
        self.is_urgent_due = true;
    }

    pub(super) fn on_tick(&mut self) {
        self.ticks += 1;
        // A backstop for news that was missed: about once a second.
        if self.ticks >= 5 {
            self.ticks = 0;
            self.is_dry = false;
        }
        self.unserved.retain(|_, since| since.elapsed() < UNSERVED_FOR);
    }

    pub(super) fn on_answer(&mut self, found: bool) {
        self.is_claiming = false;
        self.is_dry = !found && !self.has_news;
    }

    /// The batch is passed over for a while.
    pub(super) fn pass_over(&mut self, batch: BatchId) {
        self.unserved.insert(batch, Instant::now());
    }

    /// The next tick renews the leases, however lately it was done.
    pub(super) fn renew_at_once(&mut self) {
        self.renewed_at = None;
    }

    pub(super) fn is_renewal_due(&mut self, every: Duration) -> bool {
        let is_due = self.renewed_at.is_none_or(|at| at.elapsed() >= every);
        if is_due {
            self.renewed_at = Some(Instant::now());
        }
        is_due
    }

    pub(super) fn models_due(&mut self, endpoints: usize, every: Duration) -> Vec<EndpointNumber> {
        let mut due = Vec::new();
        for number in (0..endpoints).map(|number| EndpointNumber(number as u16)) {
            if self.models_asked.get(&number).is_none_or(|at| at.elapsed() >= every) {
                self.models_asked.insert(number, Instant::now());
                due.push(number);
            }
        }
        due
    }

    pub(super) fn facts_due(&mut self, endpoints: usize, every: Duration) -> Vec<EndpointNumber> {
        let is_due = |asked: Option<&Option<Instant>>| match asked {
            None => true,
            Some(Some(at)) => at.elapsed() >= every,
            Some(None) => false,
        };
        let all = (0..endpoints).map(|number| EndpointNumber(number as u16));
        let due: Vec<_> = all.filter(|number| is_due(self.facts_asked.get(number))).collect();
        self.facts_asked.extend(due.iter().map(|number| (*number, None)));
        due
    }

    pub(super) fn on_facts(&mut self, number: EndpointNumber) {
        self.facts_asked.insert(number, Some(Instant::now()));
    }

    pub(super) fn ask_models_now(&mut self, number: EndpointNumber) {
        self.models_asked.remove(&number);
    }
}

impl Dispatch {
    pub(super) fn claim_if_wanted(&mut self) {
        if self.claims.is_claiming || self.claims.is_dry || !self.may_send() {
            return;
        }
        // While no endpoint is up nothing is short, but what is urgent is claimed all the same: it is first when one is
        // back.
        let capacity = self.core.capacity();
        let in_calls = capacity * self.core.pack_max();
        let wanted = (in_calls * WINDOWS_AHEAD).max(REQUESTS_AHEAD.min(capacity * 64));
        let is_short =
            self.core.unsent() < wanted && self.lines_len < self.ctx.config.dispatch.memory_len / 2;
        if !is_short && !self.claims.is_urgent_due {
            return;
        }
        // Only a batch that outranks one of those that run is urgent.
        let before = if is_short { None } else { self.lowest_running() };
        if !is_short && before.is_none() {
            self.claims.is_urgent_due = false;
            return;
        }
        self.claims.is_urgent_due = false;
        self.claims.is_claiming = true;
        self.claims.has_news = false;
        let query = ClaimQuery {
            worker: self.ctx.worker.clone(),
            token: LeaseToken((clock::new_id().as_u128() as u64) >> 2),
            ttl: LEASE_TTL,
            active_batches_max: self.active_batches_max() + self.draining(),
            except: self.claims.unserved.keys().cloned().collect(),
            unserved_models: self.unserved_models(),
            before,
            now: clock::now(),
        };
        let (ctx, log) = (self.ctx.clone(), self.log.clone());
        self.errands.spawn(async move {
            match ctx.store.claim(query).await {
                Ok(None) => Ok(Errand::Claimed(None)),
                Ok(Some(claimed)) => {
                    let lease = claimed.lease.clone();
                    match chunks::load(&ctx, &log, claimed).await {
                        Ok(loaded) => Ok(Errand::Claimed(loaded.map(Box::new))),
                        Err(error) => {
                            tracing::error!(
                                batch = %lease.batch, chunk = lease.chunk.0, error = format!("{error:#}"),
                                "a chunk cannot be read; it is put back"
                            );
                            put_back(&ctx, &lease, Parking { has_progress: true }).await?;
                            Ok(Errand::LoadFailed(lease.batch))
                        }
                    }
                }
                Err(error @ StoreError::Damaged(_)) => Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "claims wait for the store");
                    Ok(Errand::ClaimFailed)
                }
            }
        });
    }

    /// Models that are asked for and that nobody serves now. Where no engine is ours to start, nobody knows what is asked
    /// for before it is claimed.
    fn unserved_models(&self) -> Vec<String> {
        let asked = self.ctx.supervision.demand().into_iter().filter_map(|demand| demand.model);
        asked.filter(|model| !self.core.is_model_served(model)).collect()
    }

    pub(super) fn on_claimed(&mut self, loaded: Option<Loaded>) {
        self.claims.on_answer(loaded.is_some());
        let Some(Loaded { held, models, done, shapes }) = loaded else { return };
        let batch = &held.batch;
        let is_anybody_up = self.core.capacity() > 0;
        if is_anybody_up && !models.iter().any(|model| self.core.is_model_served(model)) {
            self.claims.unserved.insert(batch.id.clone(), Instant::now());
        }
        let terms = BatchTerms {
            id: batch.id.clone(),
            priority: batch.options.priority,
            created_at: batch.moments.created_at,
            total: batch.total,
            done_before: batch.tally.done() + held.tally.done(),
            attempts_max: batch.options.attempts_max,
            timeout: batch.options.timeout,
        };
        let is_done = done.len() == held.entries.len();
        let slot = self.core.open(terms, NewChunk { models, done, shapes });
        self.lines_len += held.lines_len;
        self.by_lease.insert(held.lease.token, slot);
        self.ctx.live.set(&held.batch.id, held.lease.chunk, held.tally);
        self.held.insert(slot, held);
        if is_done {
            // Every result was durable already; only the commit of the chunk was lost.
            self.complete(slot);
        }
        // What happened to the batch while its chunk was being read has rung already.
        self.look_at_batches();
    }

    /// Puts back what must leave and has nothing in flight and nothing uncommitted.
    pub(super) fn put_back_chunks(&mut self) {
        self.mark_outranked();
        self.mark_stranded();
        let leaving: Vec<ChunkSlot> = self
            .held
            .iter()
            .filter(|(_, held)| held.is_leaving && held.uncommitted == 0)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in leaving {
            if self.core.is_idle(slot) || !self.core.is_open(slot) {
                if let Some(held) = self.held.get_mut(&slot) {
                    held.is_leaving = false;
                }
                self.drop_calls(slot);
                self.park(slot);
            }
        }
    }

    /// What nobody in use can serve is given back when it takes the room of what somebody could.
    fn mark_stranded(&mut self) {
        if self.lines_len < self.ctx.config.dispatch.memory_len / 2 {
            return;
        }
        for slot in self.core.stranded() {
            if let Some(held) = self.held.get_mut(&slot) {
                held.is_leaving = true;
                self.claims.pass_over(held.batch.id.clone());
            }
        }
    }

    /// A batch beyond those that may be active, counted from the front of the queue, gives its chunks back.
    fn mark_outranked(&mut self) {
        let max = self.active_batches_max();
        if self.core.batch_count() <= max {
            return;
        }
        let outranked: Vec<BatchId> = self
            .core
            .batches()
            .filter(|(_, _, unsent)| *unsent > 0)
            .skip(max)
            .map(|(terms, _, _)| terms.id.clone())
            .collect();
        for id in outranked {
            self.core.set_held(&id, true);
            self.leave_batch(&id);
        }
    }

    fn active_batches_max(&self) -> usize {
        self.ctx.config.queue.active_batches_max.unwrap_or(self.endpoints.len()).max(1)
    }

    /// Active batches of which everything was sent: they hold up nobody.
    fn draining(&self) -> usize {
        self.core.batches().filter(|(_, _, unsent)| *unsent == 0).count()
    }

    fn lowest_running(&self) -> Option<BatchId> {
        self.core
            .batches()
            .filter(|(_, _, unsent)| *unsent > 0)
            .last()
            .map(|(terms, _, _)| terms.id.clone())
    }

    /// Gives everything back at the end.
    pub(super) async fn leave(mut self) -> anyhow::Result<()> {
        let slots: Vec<ChunkSlot> = self.held.keys().copied().collect();
        for slot in slots {
            self.drop_calls(slot);
            self.park(slot);
        }
        // A store that does not answer is left alone: recovery takes the leases back.
        let all = async { while self.errands.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(2), all).await.is_err() {
            tracing::warn!("the store did not take all chunks back in time; the next start does");
        }
        Ok(())
    }
}
