//! The dispatcher's decisions: what is sent next, to whom, and what follows from an outcome.
//!
//! A plain state machine without I/O or clock; `now` is the time since the process began. The server feeds it claimed
//! chunks and outcomes and does what it returns. It guarantees that a request has at most one call in flight and at most
//! one recorded result per lease, that only the request's own fault uses up its attempts, and that a call which it has
//! forgotten changes nothing when it comes back late.
//!
//! Absent on purpose: bodies, answers, leases, the disk.

mod chunk;
mod endpoint;
mod isolation;
mod packing;
mod refusals;
mod suspend;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::fault::Fault;
use crate::ids::{BatchId, DispatchToken};
use crate::patience::attempt_backoff;
use crate::several::Several;
use crate::time::UnixTime;

pub use chunk::{ChunkProgress, ChunkSlot, NewChunk};
pub use endpoint::{EndpointNumber, EndpointSettings, Health};
pub use packing::Pack;
pub use refusals::RefusalPattern;

use chunk::OpenChunk;
use endpoint::{Endpoint, LostCall};
use isolation::Lane;
use refusals::RefusalWatch;

/// One request of an open chunk: its place in the chunk's plan order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestSlot {
    pub chunk: ChunkSlot,
    pub ordinal: u32,
}

/// The order of the queue: higher priority first, then older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    descending_priority: i64,
    created_at: UnixTime,
    id: BatchId,
}

impl Rank {
    pub fn new(priority: i32, created_at: UnixTime, id: BatchId) -> Self {
        Self { descending_priority: -i64::from(priority), created_at, id }
    }
}

/// What the dispatcher knows about a batch of which it holds chunks.
#[derive(Debug, Clone)]
pub struct BatchTerms {
    pub id: BatchId,
    pub priority: i32,
    pub created_at: UnixTime,
    pub total: u64,
    /// Results that were committed before: a batch that has some is past its first outcomes.
    pub done_before: u64,
    pub attempts_max: u32,
    pub timeout: Option<Duration>,
}

/// A call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    pub token: DispatchToken,
    pub endpoint: EndpointNumber,
    pub pack: Pack,
    pub deadline: Duration,
}

/// An outcome that is to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub request: RequestSlot,
    pub endpoint: EndpointNumber,
    /// Attempts that were charged, this one included.
    pub attempts: u16,
    pub sent_at: Duration,
}

/// What follows from a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followup {
    /// The call was forgotten meanwhile; nothing changes.
    Late,
    /// The request waits for another attempt; those of a pack are sent by halves.
    Again,
    /// The request has failed.
    Failed { recorded: Recorded, failure: Failure },
}

/// Why a request has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The engine refused it, or answered with an error to the last attempt.
    Answered { kind: &'static str, status: u16, body: Vec<u8> },
    /// There is no answer to show.
    Unanswered { code: &'static str, message: String },
}

#[derive(Debug)]
struct Flight {
    pack: Pack,
    endpoint: EndpointNumber,
    sent_at: Duration,
    /// Sent from the isolation lane.
    is_isolated: bool,
    /// The machine has slept since it was sent.
    spans_suspend: bool,
}

/// What a request has been through. Only requests with a past have one.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    attempts: u16,
    crashes: u8,
    crashes_alone: u8,
    avoid: Option<EndpointNumber>,
    /// It was in a pack that failed, and goes with so many at most.
    halved_to: Option<u32>,
}

#[derive(Debug)]
struct BatchWork {
    terms: BatchTerms,
    chunks: Vec<ChunkSlot>,
    /// Nothing of it is sent.
    is_held: bool,
    refusals: RefusalWatch,
}

/// See the module.
#[derive(Debug)]
pub struct Dispatcher {
    endpoints: Vec<Endpoint>,
    batches: BTreeMap<Rank, BatchWork>,
    chunks: HashMap<ChunkSlot, OpenChunk>,
    flights: HashMap<DispatchToken, Flight>,
    pasts: HashMap<RequestSlot, Past>,
    /// Requests that wait for their next attempt, by when it is due.
    waiting: BTreeMap<(Duration, u64), RequestSlot>,
    lane: Lane,
    next_token: u64,
    next_slot: u32,
    /// The endpoint that is asked first next time, so that equals share alike.
    turn: usize,
    /// The commit buffer, the memory or the disk has no room: nothing is sent.
    is_stopped: bool,
}

impl Dispatcher {
    /// `first_token` differs between processes, so that a token of an earlier one is never taken for one of ours.
    pub fn new(endpoints: Vec<EndpointSettings>, first_token: u64) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Endpoint::new).collect(),
            batches: BTreeMap::new(),
            chunks: HashMap::new(),
            flights: HashMap::new(),
            pasts: HashMap::new(),
            waiting: BTreeMap::new(),
            lane: Lane::default(),
            next_token: first_token,
            next_slot: 0,
            turn: 0,
            is_stopped: false,
        }
    }

    /// Takes in a chunk whose lease is held. `new` says which of its requests have results already.
    pub fn open(&mut self, terms: BatchTerms, new: NewChunk) -> ChunkSlot {
        let slot = ChunkSlot(self.next_slot);
        self.next_slot = self.next_slot.wrapping_add(1);
        let rank = Rank::new(terms.priority, terms.created_at, terms.id.clone());
        let batch = self.batches.entry(rank.clone()).or_insert_with(|| BatchWork {
            refusals: RefusalWatch::new(terms.total, terms.done_before),
            terms,
            chunks: Vec::new(),
            is_held: false,
        });
        batch.chunks.push(slot);
        self.chunks.insert(slot, OpenChunk::new(rank, new));
        slot
    }

    /// Forgets a chunk: it is done, parked or lost. Calls that are still in flight for it are returned, to be dropped.
    pub fn close(&mut self, slot: ChunkSlot) -> Vec<DispatchToken> {
        let Some(chunk) = self.chunks.remove(&slot) else { return Vec::new() };
        if let Some(batch) = self.batches.get_mut(&chunk.rank) {
            batch.chunks.retain(|other| *other != slot);
            if batch.chunks.is_empty() {
                self.batches.remove(&chunk.rank);
            }
        }
        self.pasts.retain(|request, _| request.chunk != slot);
        self.waiting.retain(|_, request| request.chunk != slot);
        let tokens: Vec<_> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.pack.chunk == slot)
            .map(|(token, _)| *token)
            .collect();
        for token in &tokens {
            self.take_flight(*token);
        }
        self.lane.forget(slot);
        tokens
    }

    /// The next call to make, if any may be made now.
    pub fn next(&mut self, now: Duration) -> Option<Send> {
        if self.is_stopped {
            return None;
        }
        self.release_due(now);
        for step in 0..self.endpoints.len() {
            let number = (self.turn + step) % self.endpoints.len();
            if !self.endpoints[number].has_room(now) {
                continue;
            }
            let endpoint = EndpointNumber(number as u16);
            if let Some((request, is_isolated)) = self.pick(endpoint, now) {
                self.turn = (number + 1) % self.endpoints.len();
                // A suspect has nobody with it.
                let pack = if is_isolated { Pack::alone(request) } else { self.fill(endpoint, request) };
                return Some(self.send(endpoint, pack, is_isolated, now));
            }
        }
        None
    }

    /// An answer has come, for each request of the call. None when the call was forgotten meanwhile: the answer is
    /// dropped.
    pub fn answered(&mut self, token: DispatchToken, now: Duration) -> Option<Several<Recorded>> {
        let flight = self.take_flight(token)?;
        let endpoint = &mut self.endpoints[flight.endpoint.index()];
        endpoint.on_answer(now, now.saturating_sub(flight.sent_at));
        self.watch_outcome(flight.pack.first(), None);
        self.note_answered(&flight);
        let Flight { pack: Pack { chunk, ordinals }, endpoint, sent_at, .. } = flight;
        let record = |ordinal| self.record(RequestSlot { chunk, ordinal }, endpoint, sent_at);
        Some(ordinals.map(record))
    }

    /// A call has ended without an answer.
    pub fn faulted(&mut self, token: DispatchToken, fault: Fault, now: Duration) -> Followup {
        let Some(flight) = self.take_flight(token) else { return Followup::Late };
        if Self::is_excused(&flight, &fault) {
            self.put_back(&flight);
            return Followup::Again;
        }
        if !flight.pack.ordinals.is_one() && fault.may_be_the_request() {
            return self.halve_after(&flight, &fault, now);
        }
        let request = flight.pack.first();
        let endpoint = &mut self.endpoints[flight.endpoint.index()];
        match fault {
            Fault::Busy { retry_after, .. } => {
                endpoint.on_busy(now, retry_after, token.0);
                self.put_back(&flight);
                Followup::Again
            }
            Fault::Down { detail } => {
                // While the engine is gone for a crash, a refused connection is the same event, not a new one; the
                // request never reached it.
                endpoint.on_down(now, detail);
                self.put_back(&flight);
                self.lane.release(flight.endpoint);
                Followup::Again
            }
            Fault::Stale { .. } => {
                self.put_back(&flight);
                Followup::Again
            }
            Fault::Misconfigured { status, detail } => {
                let model = self.chunks.get(&request.chunk).map(|chunk| chunk.model_of(request.ordinal));
                endpoint.on_misconfigured(now, status, detail, model);
                self.put_back(&flight);
                self.lane.release(flight.endpoint);
                Followup::Again
            }
            Fault::Lost { detail } => self.lost(flight, detail, now),
            Fault::Refused { status, body } => {
                endpoint.on_answer(now, now.saturating_sub(flight.sent_at));
                self.watch_outcome(request, Some(RefusalPattern::read(status, &body)));
                let failure = Failure::Answered { kind: "request_refused", status, body };
                Followup::Failed { recorded: self.record_flight(&flight), failure }
            }
            Fault::TooLongPrompt { .. } => {
                endpoint.on_answer(now, now.saturating_sub(flight.sent_at));
                self.watch_outcome(request, None);
                Followup::Failed {
                    recorded: self.record_flight(&flight),
                    failure: too_long_prompt(&fault),
                }
            }
            Fault::Timeout { .. } => {
                endpoint.on_timeout(now.saturating_sub(flight.sent_at));
                self.charge(&flight, fault, now)
            }
            Fault::EngineError { .. } | Fault::Garbage { .. } | Fault::TooLong { .. } => {
                self.charge(&flight, fault, now)
            }
        }
    }

    /// A recorded result of a chunk is durable.
    pub fn durable(&mut self, slot: ChunkSlot) -> Option<ChunkProgress> {
        let chunk = self.chunks.get_mut(&slot)?;
        chunk.durable += 1;
        Some(chunk.progress())
    }

    /// Endpoints to be probed now; each is probed once at a time.
    pub fn probes(&mut self, now: Duration) -> Vec<EndpointNumber> {
        let mut due = Vec::new();
        for (number, endpoint) in (0_u16..).zip(&mut self.endpoints) {
            if endpoint.begin_probe(now) {
                due.push(EndpointNumber(number));
            }
        }
        due
    }

    /// What a probe found. Requests that were lost with their connections learn what that means for them; those whose
    /// last attempt it was have failed.
    pub fn probed(
        &mut self,
        number: EndpointNumber,
        result: Result<(), Fault>,
        now: Duration,
    ) -> Vec<(Recorded, Failure)> {
        let is_up = self.endpoints[number.index()].on_probe(now, result);
        if !is_up {
            self.lane.release(number);
        }
        let (lost, was_crash) = self.endpoints[number.index()].take_lost(is_up);
        lost.into_iter().filter_map(|call| self.settle_lost(number, &call, was_crash, now)).collect()
    }

    /// Nobody answers at the endpoint, as was found out otherwise than by a call.
    pub fn note_down(&mut self, number: EndpointNumber, detail: String, now: Duration) {
        self.endpoints[number.index()].on_down(now, detail);
        self.lane.release(number);
    }

    /// When something changes by the passing of time alone.
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        let attempt = self.waiting.keys().next().map(|(due, _)| *due);
        let endpoint = self.endpoints.iter().filter_map(|endpoint| endpoint.wake_at(now)).min();
        attempt.into_iter().chain(endpoint).min()
    }

    pub fn set_stopped(&mut self, is_stopped: bool) {
        self.is_stopped = is_stopped;
    }

    /// Nothing more of the batch is sent until it is let go; calls in flight may end.
    pub fn set_held(&mut self, batch: &BatchId, is_held: bool) {
        for work in self.batches.values_mut().filter(|work| work.terms.id == *batch) {
            work.is_held = is_held;
        }
    }

    /// The batch was given another priority: its place in the order changes at once.
    pub fn set_priority(&mut self, batch: &BatchId, priority: i32) {
        let moved = self
            .batches
            .iter()
            .find(|(_, work)| work.terms.id == *batch && work.terms.priority != priority);
        let Some(rank) = moved.map(|(rank, _)| rank.clone()) else { return };
        let mut work = self.batches.remove(&rank).expect("it was just found");
        work.terms.priority = priority;
        let rank = Rank::new(priority, work.terms.created_at, work.terms.id.clone());
        for slot in &work.chunks {
            self.chunks.get_mut(slot).expect("a batch lists open chunks").rank = rank.clone();
        }
        self.batches.insert(rank, work);
    }

    pub fn batch_count(&self) -> usize {
        self.batches.len()
    }

    pub fn is_open(&self, slot: ChunkSlot) -> bool {
        self.chunks.contains_key(&slot)
    }

    /// The first outcomes of the batch were all the same refusal; asked once, after it became so.
    pub fn take_refused(&mut self) -> Option<(BatchId, RefusalPattern)> {
        self.batches
            .values_mut()
            .find_map(|work| work.refusals.take().map(|pattern| (work.terms.id.clone(), pattern)))
    }

    pub fn set_models(&mut self, number: EndpointNumber, models: Option<Vec<String>>) {
        self.endpoints[number.index()].set_models(models);
    }

    /// Somebody keeps the endpoint from being used, and why; none lets it go. Calls in flight may end.
    pub fn set_withheld(&mut self, number: EndpointNumber, reason: Option<String>) {
        if reason.is_some() {
            // Its suspects are another's to take: nobody knows for how long it is withheld.
            self.lane.release(number);
        }
        self.endpoints[number.index()].set_withheld(reason);
    }

    pub fn withheld(&self, number: EndpointNumber) -> Option<&str> {
        self.endpoints[number.index()].withheld()
    }

    /// The window may be no wider than so many per cent of its setting.
    pub fn set_ceiling(&mut self, number: EndpointNumber, percent: Option<u32>) {
        self.endpoints[number.index()].window.set_ceiling(percent);
    }

    /// Another window, for an endpoint of which more is known now.
    pub fn set_window(&mut self, number: EndpointNumber, window: u32) {
        self.endpoints[number.index()].window.set(window);
    }

    pub fn health(&self, number: EndpointNumber) -> &Health {
        &self.endpoints[number.index()].health
    }

    /// The window now, and the calls in flight.
    pub fn load(&self, number: EndpointNumber) -> (u32, u32) {
        let endpoint = &self.endpoints[number.index()];
        (endpoint.window.limit(), endpoint.in_flight)
    }

    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Requests that could be sent if there were room, over batches that are not held. Those that wait for an endpoint
    /// which is not in use are not counted.
    pub fn unsent(&self) -> usize {
        self.batches
            .values()
            .filter(|work| !work.is_held)
            .flat_map(|work| &work.chunks)
            .map(|slot| self.sendable(*slot))
            .sum()
    }

    /// Chunks of which something is left to send and nothing can be sent by an endpoint that is in use.
    pub fn stranded(&self) -> Vec<ChunkSlot> {
        let waits = |slot: &ChunkSlot| self.chunks[slot].unsent() > 0 && self.sendable(*slot) == 0;
        self.chunks.keys().copied().filter(waits).collect()
    }

    /// What is left to send of a chunk, as far as an endpoint that is in use could serve it: what waits for another model
    /// must not keep work away from those who are there. While nobody is in use all of it counts.
    fn sendable(&self, slot: ChunkSlot) -> usize {
        let chunk = &self.chunks[&slot];
        if !self.endpoints.iter().any(Endpoint::may_be_tried) {
            return chunk.unsent();
        }
        chunk.sendable(|model| self.is_model_served(model))
    }

    /// How many calls could be in flight at endpoints that are in use. One that refuses us has room for the request that
    /// tries whether it still does.
    pub fn capacity(&self) -> usize {
        let room = |endpoint: &Endpoint| {
            if endpoint.is_on_trial() { 1 } else { endpoint.window.limit() as usize }
        };
        self.endpoints.iter().filter(|endpoint| endpoint.may_be_tried()).map(room).sum()
    }

    pub fn is_model_served(&self, model: &str) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.may_be_tried() && endpoint.may_serve(model))
    }

    /// The batches of which chunks are open, first in the queue first, with their open chunks and what could be sent.
    pub fn batches(&self) -> impl Iterator<Item = (&BatchTerms, &[ChunkSlot], usize)> {
        self.batches.values().map(|work| {
            let unsent = work.chunks.iter().map(|slot| self.sendable(*slot)).sum();
            (&work.terms, work.chunks.as_slice(), unsent)
        })
    }

    /// A chunk that may be put back now: nothing of it is in flight or waits for the commit.
    pub fn is_idle(&self, slot: ChunkSlot) -> bool {
        self.chunks
            .get(&slot)
            .is_some_and(|chunk| chunk.in_flight == 0 && chunk.recorded == chunk.durable)
    }

    fn release_due(&mut self, now: Duration) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let request = entry.remove();
            if let Some(chunk) = self.chunks.get_mut(&request.chunk) {
                chunk.ready.push_back(request.ordinal);
            }
        }
    }

    fn pick(&mut self, number: EndpointNumber, now: Duration) -> Option<(RequestSlot, bool)> {
        let chunks = &self.chunks;
        let endpoint = &self.endpoints[number.index()];
        let can_serve = |request: &RequestSlot| {
            chunks
                .get(&request.chunk)
                .is_some_and(|chunk| endpoint.serves(chunk.model_of(request.ordinal), now))
        };
        if self.lane.wants(number, can_serve) {
            return self.lane.next(number, endpoint.in_flight).map(|request| (request, true));
        }
        if self.endpoints[number.index()].is_on_trial() && self.endpoints[number.index()].in_flight > 0 {
            return None;
        }
        for work in self.batches.values().filter(|work| !work.is_held) {
            for slot in &work.chunks {
                if let Some(ordinal) = self.pick_from(*slot, number, now) {
                    return Some((RequestSlot { chunk: *slot, ordinal }, false));
                }
            }
        }
        None
    }

    /// Retries that are due first, then fresh requests in the order of the plan.
    fn pick_from(&self, slot: ChunkSlot, number: EndpointNumber, now: Duration) -> Option<u32> {
        let chunk = &self.chunks[&slot];
        let endpoint = &self.endpoints[number.index()];
        let due = chunk.ready.iter().copied().find(|ordinal| {
            let model = chunk.model_of(*ordinal);
            let avoid = self
                .pasts
                .get(&RequestSlot { chunk: slot, ordinal: *ordinal })
                .and_then(|past| past.avoid);
            endpoint.serves(model, now) && (avoid != Some(number) || !self.has_other(number, model, now))
        });
        due.or_else(|| chunk.fresh(|model| endpoint.serves(model, now)))
    }

    fn has_other(&self, number: EndpointNumber, model: &str, now: Duration) -> bool {
        self.endpoints.iter().enumerate().any(|(at, endpoint)| {
            at != number.index() && endpoint.is_in_use() && endpoint.serves(model, now)
        })
    }

    fn send(&mut self, number: EndpointNumber, pack: Pack, is_isolated: bool, now: Duration) -> Send {
        let token = DispatchToken(self.next_token);
        self.next_token = self.next_token.wrapping_add(1);
        let endpoint = &mut self.endpoints[number.index()];
        endpoint.in_flight += 1;
        let chunk = self.chunks.get_mut(&pack.chunk).expect("only requests of open chunks are picked");
        if !is_isolated {
            pack.ordinals.iter().for_each(|ordinal| chunk.take(*ordinal));
        }
        chunk.in_flight += 1;
        let timeout = self.batches.get(&chunk.rank).and_then(|work| work.terms.timeout);
        let deadline = timeout.unwrap_or_else(|| endpoint.deadline.current());
        let flight = Flight {
            pack: pack.clone(),
            endpoint: number,
            sent_at: now,
            is_isolated,
            spans_suspend: false,
        };
        self.flights.insert(token, flight);
        Send { token, endpoint: number, pack, deadline }
    }

    fn take_flight(&mut self, token: DispatchToken) -> Option<Flight> {
        let flight = self.flights.remove(&token)?;
        self.endpoints[flight.endpoint.index()].in_flight -= 1;
        if let Some(chunk) = self.chunks.get_mut(&flight.pack.chunk) {
            chunk.in_flight -= 1;
        }
        if flight.is_isolated {
            self.lane.left(flight.pack.first());
        }
        Some(flight)
    }

    /// The outcome of a request that was alone in its call.
    fn record_flight(&mut self, flight: &Flight) -> Recorded {
        self.record(flight.pack.first(), flight.endpoint, flight.sent_at)
    }

    fn record(&mut self, request: RequestSlot, endpoint: EndpointNumber, sent_at: Duration) -> Recorded {
        let past = self.pasts.remove(&request).unwrap_or_default();
        self.lane.cleared(request);
        if let Some(chunk) = self.chunks.get_mut(&request.chunk) {
            chunk.recorded += 1;
        }
        Recorded { request, endpoint, attempts: past.attempts + 1, sent_at }
    }

    /// Back to the head of their chunk, uncharged.
    fn put_back(&mut self, flight: &Flight) {
        if flight.is_isolated {
            self.lane.put_back(flight.pack.first());
        } else {
            self.put_back_pack(&flight.pack);
        }
    }

    fn put_back_pack(&mut self, pack: &Pack) {
        if let Some(chunk) = self.chunks.get_mut(&pack.chunk) {
            for ordinal in pack.ordinals.iter().rev() {
                chunk.ready.push_front(*ordinal);
            }
        }
    }

    fn charge(&mut self, flight: &Flight, fault: Fault, now: Duration) -> Followup {
        let request = flight.pack.first();
        let attempts_max = self
            .chunks
            .get(&request.chunk)
            .and_then(|chunk| self.batches.get(&chunk.rank))
            .map_or(1, |work| work.terms.attempts_max);
        let past = self.pasts.entry(request).or_default();
        if u32::from(past.attempts) + 1 >= attempts_max {
            self.watch_outcome(request, None);
            return Followup::Failed { recorded: self.record_flight(flight), failure: used_up(fault) };
        }
        past.attempts += 1;
        past.avoid = Some(flight.endpoint);
        let attempts = u32::from(past.attempts);
        // An isolated request that was answered, however badly, has not crashed the engine.
        self.lane.cleared(request);
        let seed = self.next_token ^ (u64::from(request.chunk.0) << 32) ^ u64::from(request.ordinal);
        self.wait(request, now + attempt_backoff(attempts, seed));
        Followup::Again
    }

    fn wait(&mut self, request: RequestSlot, mut due: Duration) {
        if self.chunks.contains_key(&request.chunk) {
            let number = (u64::from(request.chunk.0) << 32) | u64::from(request.ordinal);
            while self.waiting.contains_key(&(due, number)) {
                due += Duration::from_nanos(1);
            }
            self.waiting.insert((due, number), request);
        }
    }

    /// A connection was lost with requests in flight. Whether the engine is gone is asked before anybody is blamed:
    /// until then nothing is sent there.
    fn lost(&mut self, flight: Flight, detail: String, now: Duration) -> Followup {
        let endpoint = &mut self.endpoints[flight.endpoint.index()];
        if flight.is_isolated {
            endpoint.on_down(now, detail);
            return self.crashed_in_isolation(&flight);
        }
        endpoint.on_lost(now, LostCall { pack: flight.pack, sent_at: flight.sent_at }, detail);
        Followup::Again
    }

    fn settle_lost(
        &mut self,
        number: EndpointNumber,
        call: &LostCall,
        was_crash: bool,
        now: Duration,
    ) -> Option<(Recorded, Failure)> {
        let chunk = self.chunks.get_mut(&call.pack.chunk)?;
        if was_crash {
            for request in call.pack.requests().rev() {
                let past = self.pasts.entry(request).or_default();
                past.crashes = past.crashes.saturating_add(1);
                if past.crashes >= 2 {
                    self.lane.suspect(request, &chunk.shared_model_of(request.ordinal));
                } else {
                    chunk.ready.push_front(request.ordinal);
                }
            }
            return None;
        }
        // Only this connection was lost, and the engine is well: it may be the request's doing.
        if !call.pack.ordinals.is_one() {
            self.halve(&call.pack);
            return None;
        }
        let flight = Flight {
            pack: call.pack.clone(),
            endpoint: number,
            sent_at: call.sent_at,
            is_isolated: false,
            spans_suspend: false,
        };
        let detail =
            "the connection was lost before an answer came, though the engine is well".to_owned();
        match self.charge(&flight, Fault::Lost { detail }, now) {
            Followup::Failed { recorded, failure } => Some((recorded, failure)),
            Followup::Late | Followup::Again => None,
        }
    }

    fn crashed_in_isolation(&mut self, flight: &Flight) -> Followup {
        let request = flight.pack.first();
        let was_alone = self.lane.crashed(request);
        if !was_alone {
            return Followup::Again;
        }
        let past = self.pasts.entry(request).or_default();
        past.crashes_alone += 1;
        if past.crashes_alone < 2 {
            return Followup::Again;
        }
        self.watch_outcome(request, None);
        let failure = Failure::Unanswered {
            code: "engine_crash",
            message: "the engine crashed twice while this request was the only one it had".to_owned(),
        };
        Followup::Failed { recorded: self.record_flight(flight), failure }
    }

    fn watch_outcome(&mut self, request: RequestSlot, refusal: Option<RefusalPattern>) {
        let rank = self.chunks.get(&request.chunk).map(|chunk| &chunk.rank);
        if let Some(work) = rank.and_then(|rank| self.batches.get_mut(rank)) {
            work.refusals.note(refusal);
        }
    }
}

fn too_long_prompt(fault: &Fault) -> Failure {
    let Fault::TooLongPrompt { prompt_tokens, context_len, detail } = fault else {
        unreachable!("asked for this fault only")
    };
    let known = |count: &Option<u64>| count.map_or("unknown".to_owned(), |count| count.to_string());
    let message = format!(
        "the prompt does not fit into the engine's context ({} tokens of {}): {detail}",
        known(prompt_tokens),
        known(context_len)
    );
    Failure::Unanswered { code: fault.kind(), message }
}

fn used_up(fault: Fault) -> Failure {
    match fault {
        Fault::EngineError { status, body } => Failure::Answered { kind: "engine_error", status, body },
        Fault::Timeout { ref detail } | Fault::Garbage { ref detail } | Fault::Lost { ref detail } => {
            Failure::Unanswered { code: fault.kind(), message: detail.clone() }
        }
        Fault::TooLong { limit } => Failure::Unanswered {
            code: fault.kind(),
            message: format!("the answer is longer than {limit} bytes (dispatch.answer_len_max)"),
        },
        other => Failure::Unanswered { code: other.kind(), message: "every attempt failed".to_owned() },
    }
}

#[cfg(test)]
mod tests;
