//! Errands: what the dispatcher has others wait for. Each is a task that ends with what it found out.

use std::time::Duration;

use overnight_domain::batch::{BatchState, Pause, PausedBy};
use overnight_domain::chunk::Lease;
use overnight_domain::dispatch::{ChunkSlot, EndpointNumber, Health};
use overnight_domain::engine_facts::EngineFacts;
use overnight_domain::fault::Fault;
use overnight_domain::ids::{BatchId, ChunkNumber};
use overnight_domain::limits::{LEASE_RENEW_EVERY, LEASE_TTL};
use overnight_store::{BatchPatch, Hold, Parking, StoreError};

use super::Dispatch;
use super::chunks::Loaded;
use crate::clock;
use crate::context::Context;

/// How long to wait before a store that cannot be reached is asked again.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// The models of an endpoint are asked again so often.
const MODELS_EVERY: Duration = Duration::from_secs(60);

/// What an endpoint tells of itself is asked so often.
const FACTS_EVERY: Duration = Duration::from_secs(5);

/// What an errand found out.
pub(super) enum Errand {
    Claimed(Option<Box<Loaded>>),
    /// The store could not be asked; later.
    ClaimFailed,
    /// The chunk of this batch could not be read.
    LoadFailed(BatchId),
    /// The chunk has left: it is done, put back, or was lost.
    Left(ChunkSlot, BatchId, ChunkNumber, Departure),
    Renewed(Vec<(ChunkSlot, Hold)>),
    Probed(EndpointNumber, Result<(), Fault>),
    Models(EndpointNumber, Result<Vec<String>, Fault>),
    Facts(EndpointNumber, Box<Result<EngineFacts, Fault>>),
    Batches(Vec<(BatchId, Standing)>),
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    Done,
    PutBack,
}

/// How a batch stands of which chunks are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Running { priority: i32 },
    Held,
    Ended,
}

impl Dispatch {
    pub(super) fn on_errand(&mut self, errand: Errand) -> anyhow::Result<()> {
        match errand {
            Errand::Claimed(loaded) => self.on_claimed(loaded.map(|loaded| *loaded)),
            Errand::ClaimFailed => self.claims.on_answer(false),
            Errand::LoadFailed(batch) => {
                self.claims.pass_over(batch);
                self.claims.on_answer(true);
            }
            Errand::Left(slot, batch, chunk, departure) => self.on_left(slot, &batch, chunk, departure),
            Errand::Renewed(holds) => {
                self.claims.is_renewing = false;
                for (slot, hold) in holds {
                    if hold == Hold::Lost {
                        self.lose(slot);
                    }
                }
            }
            Errand::Probed(number, result) => self.on_probed(number, result)?,
            Errand::Models(number, result) => self.on_models(number, result),
            Errand::Facts(number, result) => self.on_facts(number, *result),
            Errand::Batches(standings) => {
                self.claims.is_looking = false;
                self.on_standings(standings);
            }
            Errand::Paused => self.look_at_batches(),
        }
        Ok(())
    }

    pub(super) fn probe(&mut self, number: EndpointNumber) {
        let engine = self.endpoints[number.index()].engine.clone();
        self.errands.spawn(async move { Ok(Errand::Probed(number, engine.probe().await)) });
    }

    fn on_probed(&mut self, number: EndpointNumber, result: Result<(), Fault>) -> anyhow::Result<()> {
        let name = self.endpoints[number.index()].config.name.clone();
        match &result {
            Ok(()) => {
                tracing::info!(endpoint = name, "endpoint is up");
                self.claims.ask_models_now(number);
            }
            Err(fault) => tracing::debug!(endpoint = name, ?fault, "endpoint does not answer"),
        }
        for (recorded, failure) in self.core.probed(number, result, self.now()) {
            let started_at = clock::now();
            let token = overnight_domain::ids::DispatchToken(0);
            let facts = self.facts(recorded, token, started_at, Duration::ZERO);
            let Some(held) = self.held.get(&facts.recorded.request.chunk) else { continue };
            let frame = super::calls::failed(held, &facts, &failure);
            self.append(facts.recorded.request.chunk, frame)?;
        }
        Ok(())
    }

    /// Asks endpoints for their models where the configuration does not name them.
    pub(super) fn ask_models(&mut self) {
        for number in self.claims.models_due(self.endpoints.len(), MODELS_EVERY) {
            let endpoint = &self.endpoints[number.index()];
            if !endpoint.config.models.is_empty() || self.core.withheld(number).is_some() {
                continue;
            }
            let engine = endpoint.engine.clone();
            self.errands.spawn(async move { Ok(Errand::Models(number, engine.models().await)) });
        }
    }

    /// Asks endpoints that are in use what they have to say of themselves, one question at a time.
    pub(super) fn ask_facts(&mut self) {
        for number in self.claims.facts_due(self.endpoints.len(), FACTS_EVERY) {
            if self.core.withheld(number).is_some() || *self.core.health(number) != Health::Up {
                self.claims.on_facts(number);
                continue;
            }
            let engine = self.endpoints[number.index()].engine.clone();
            self.errands.spawn(async move { Ok(Errand::Facts(number, Box::new(engine.facts().await))) });
        }
    }

    fn on_facts(&mut self, number: EndpointNumber, result: Result<EngineFacts, Fault>) {
        self.claims.on_facts(number);
        if self.core.withheld(number).is_some() {
            // Another may have taken its place before it was asked.
            return;
        }
        match result {
            Ok(facts) => {
                let (limits, window) = self.endpoints[number.index()].note_facts(facts);
                self.core.set_pack_limits(number, limits);
                if let Some(window) = window {
                    self.core.set_window(number, window);
                }
            }
            Err(fault) => tracing::debug!(number = number.0, ?fault, "endpoint tells nothing of itself"),
        }
    }

    fn on_models(&mut self, number: EndpointNumber, result: Result<Vec<String>, Fault>) {
        if self.core.withheld(number).is_some() {
            return;
        }
        match result {
            Ok(models) => {
                let endpoint = &mut self.endpoints[number.index()];
                endpoint.set_models(models);
                let served = endpoint.served();
                self.core.set_models(number, served);
            }
            Err(Fault::Down { detail }) => self.core.note_down(number, detail, self.now()),
            // It answers, only not that question: it may serve anything.
            Err(fault) => {
                tracing::debug!(number = number.0, ?fault, "endpoint does not tell its models");
            }
        }
    }

    /// The chunk is done: its counters are committed. Until the store has said so, the chunk stays as it is.
    pub(super) fn complete(&mut self, slot: ChunkSlot) {
        let Some(held) = self.held.get(&slot) else { return };
        let (ctx, lease, tally) = (self.ctx.clone(), held.lease.clone(), held.tally);
        self.errands.spawn(async move {
            loop {
                match ctx.store.complete(&lease, tally, clock::now()).await {
                    // Lost after a reply that never came means that it had happened; a new holder would find all
                    // results in the log.
                    Ok(Hold::Held | Hold::Lost) => break,
                    Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
                    Err(error) => {
                        tracing::warn!(%error, batch = %lease.batch, "a chunk waits for the store");
                    }
                }
                tokio::time::sleep(STORE_RETRY).await;
            }
            Ok(Errand::Left(slot, lease.batch, lease.chunk, Departure::Done))
        });
    }

    /// Puts a chunk back: its batch was outranked, paused, or has ended.
    pub(super) fn park(&mut self, slot: ChunkSlot) {
        let Some(held) = self.held.get(&slot) else { return };
        let (ctx, lease) = (self.ctx.clone(), held.lease.clone());
        let parking = Parking { has_progress: held.has_progress };
        self.errands.spawn(async move {
            put_back(&ctx, &lease, parking).await?;
            Ok(Errand::Left(slot, lease.batch, lease.chunk, Departure::PutBack))
        });
    }

    fn on_left(&mut self, slot: ChunkSlot, batch: &BatchId, chunk: ChunkNumber, departure: Departure) {
        self.drop_calls(slot);
        if let Some(held) = self.held.remove(&slot) {
            self.by_lease.remove(&held.lease.token);
            self.lines_len -= held.lines_len;
        }
        if departure == Departure::Done {
            self.ctx.live.remove(batch, chunk);
        }
        self.claims.on_news();
        self.ctx.bell.ring();
    }

    /// The lease was taken away: what is in flight is for nobody.
    fn lose(&mut self, slot: ChunkSlot) {
        self.drop_calls(slot);
        if let Some(held) = self.held.remove(&slot) {
            tracing::warn!(batch = %held.batch.id, chunk = held.lease.chunk.0, "a lease was lost");
            self.by_lease.remove(&held.lease.token);
            self.lines_len -= held.lines_len;
        }
    }

    pub(super) fn renew_leases(&mut self) {
        if self.held.is_empty()
            || self.claims.is_renewing
            || !self.claims.is_renewal_due(LEASE_RENEW_EVERY)
        {
            return;
        }
        self.claims.is_renewing = true;
        let ctx = self.ctx.clone();
        let (slots, leases): (Vec<_>, Vec<_>) =
            self.held.iter().map(|(slot, held)| (*slot, held.lease.clone())).unzip();
        self.errands.spawn(async move {
            let holds = match ctx.store.renew(&leases, clock::now().plus(LEASE_TTL)).await {
                Ok(holds) => holds,
                Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "leases wait for the store");
                    Vec::new()
                }
            };
            Ok(Errand::Renewed(slots.into_iter().zip(holds).collect()))
        });
    }

    /// Asks how the batches stand of which chunks are held: paused, cancelled, expired, of another priority.
    pub(super) fn look_at_batches(&mut self) {
        if self.held.is_empty() || self.claims.is_looking {
            self.claims.is_look_due |= self.claims.is_looking;
            return;
        }
        self.claims.is_looking = true;
        let ctx = self.ctx.clone();
        let mut ids: Vec<BatchId> = self.held.values().map(|held| held.batch.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        self.errands.spawn(async move {
            let mut standings = Vec::with_capacity(ids.len());
            for id in ids {
                let standing = match ctx.store.queue_batch(&id).await {
                    Ok(Some(batch)) if batch.state != BatchState::InProgress => Standing::Ended,
                    Ok(Some(batch)) if batch.pause.is_some() => Standing::Held,
                    Ok(Some(batch)) => Standing::Running { priority: batch.options.priority },
                    Ok(None) => Standing::Ended,
                    Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
                    Err(_) => continue,
                };
                standings.push((id, standing));
            }
            Ok(Errand::Batches(standings))
        });
    }

    fn on_standings(&mut self, standings: Vec<(BatchId, Standing)>) {
        for (id, standing) in standings {
            match standing {
                Standing::Running { priority } => {
                    self.core.set_held(&id, false);
                    self.core.set_priority(&id, priority);
                }
                Standing::Held => {
                    self.core.set_held(&id, true);
                    self.leave_batch(&id);
                }
                Standing::Ended => {
                    // The cut: what was handed to the log is kept, what is in flight is dropped.
                    for slot in self.slots_of(&id) {
                        self.drop_calls(slot);
                    }
                    self.leave_batch(&id);
                }
            }
        }
        if std::mem::take(&mut self.claims.is_look_due) {
            self.look_at_batches();
        }
    }

    pub(super) fn leave_batch(&mut self, id: &BatchId) {
        for slot in self.slots_of(id) {
            if let Some(held) = self.held.get_mut(&slot) {
                held.is_leaving = true;
            }
        }
    }

    /// Pauses a batch whose first outcomes were all the same refusal.
    pub(super) fn pause_refused(&mut self) {
        let Some((id, pattern)) = self.core.take_refused() else { return };
        self.core.set_held(&id, true);
        let tenant =
            self.held.values().find(|held| held.batch.id == id).map(|held| held.batch.tenant.clone());
        let Some(tenant) = tenant else { return };
        let code = pattern.code.map(|code| format!(" (`{code}`)")).unwrap_or_default();
        let reason = format!(
            "the first {} requests were all refused with {}{code}: {}; correct the cause, then resume the batch",
            overnight_domain::limits::REFUSALS_PAUSE_COUNT,
            pattern.status,
            pattern.message
        );
        tracing::warn!(batch = %id, reason, "paused");
        let ctx = self.ctx.clone();
        self.errands.spawn(async move {
            let pause = Pause { by: PausedBy::Refusals, reason, since: clock::now() };
            let patch = BatchPatch { pause: Some(Some(pause)), ..BatchPatch::default() };
            if let Err(error) = ctx.store.update_batch(&tenant, &id, patch, clock::now()).await {
                tracing::error!(%error, batch = %id, "failed to pause a batch that is refused");
            }
            Ok(Errand::Paused)
        });
    }
}

/// Gives a lease back, however long the store takes: nobody else would while this process lives.
pub(super) async fn put_back(ctx: &Context, lease: &Lease, parking: Parking) -> anyhow::Result<()> {
    loop {
        match ctx.store.park(lease, parking).await {
            Ok(_) => return Ok(()),
            Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, batch = %lease.batch, "a chunk waits for the store");
            }
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}
