//! The dispatcher's decisions: what is sent next, to whom, and what follows from an outcome.
//!
//! A plain state machine without I/O or clock; `now` is the time since the process began. The server feeds it claimed
//! chunks and outcomes and does what it returns. It guarantees that a request has at most one call in flight and at most
//! one recorded result per lease, that only the request's own fault uses up its attempts, and that a call which it has
//! forgotten changes nothing when it comes back late.
//!
//! Absent on purpose: bodies, answers, leases, the disk.

mod batches;
mod chunk;
mod endings;
mod endpoint;
mod isolation;
mod outcomes;
mod packing;
mod refusals;
mod suspend;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::ids::DispatchToken;
use crate::supervision::EndedFor;

pub use batches::{BatchTerms, Rank};
pub use chunk::{ChunkProgress, ChunkSlot, NewChunk};
pub use endpoint::{EndpointNumber, EndpointSettings, Health};
pub use outcomes::{Failure, Followup, Recorded};
pub use packing::Pack;
pub use refusals::RefusalPattern;

use batches::BatchWork;
use chunk::OpenChunk;
use endpoint::{Endpoint, LostCall};
use isolation::Lane;

/// One request of an open chunk: its place in the chunk's plan order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestSlot {
    pub chunk: ChunkSlot,
    pub ordinal: u32,
}

/// A call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    pub token: DispatchToken,
    pub endpoint: EndpointNumber,
    pub pack: Pack,
    pub deadline: Duration,
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
    /// Its engine is being ended by us.
    ended_for: Option<EndedFor>,
}

/// What a request has been through. Only requests with a past have one.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    attempts: u16,
    crashes: u8,
    crashes_alone: u8,
    /// How often it was in flight when its engine was ended for its memory.
    memory_ends: u8,
    avoid: Option<EndpointNumber>,
    /// It was in a pack that failed, and goes with so many at most.
    halved_to: Option<u32>,
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
    /// Attempts that counted, of all requests.
    charged: u64,
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
            charged: 0,
            next_token: first_token,
            next_slot: 0,
            turn: 0,
            is_stopped: false,
        }
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

    /// How many calls could be in flight at endpoints that are in use. One that refuses us has room for the request that
    /// tries whether it still does.
    pub fn capacity(&self) -> usize {
        let room = |endpoint: &Endpoint| {
            if endpoint.is_on_trial() { 1 } else { endpoint.window.limit() as usize }
        };
        self.endpoints.iter().filter(|endpoint| endpoint.may_be_tried()).map(room).sum()
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
            ended_for: None,
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
}

#[cfg(test)]
mod tests;
