//! Packs: which requests travel in one call, and what becomes of them when the call fails.
//!
//! A pack is a call like any other: one place in the window, one token. Its requests are of one chunk. When it ends in
//! something that a request could have caused, nobody is charged: its requests are sent again by halves, and what one
//! of them does alone is its own. An engine that fails one pack after the other is sent smaller ones: it has a limit of
//! which it does not tell.

use std::time::Duration;

use crate::fault::Fault;
use crate::limits::{PACK_LEN_MAX, PACKS_ANSWERED_RECOVER, PACKS_FAILED_MAX};
use crate::pack::{PackLimits, PackShape};
use crate::several::Several;

use super::chunk::OpenChunk;
use super::{ChunkSlot, Dispatcher, EndpointNumber, Flight, Followup, Past, RequestSlot};

/// The requests of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    pub chunk: ChunkSlot,
    /// Their places in the chunk's plan order.
    pub ordinals: Several<u32>,
}

impl Pack {
    pub const fn alone(request: RequestSlot) -> Self {
        Self { chunk: request.chunk, ordinals: Several::one(request.ordinal) }
    }

    pub const fn first(&self) -> RequestSlot {
        RequestSlot { chunk: self.chunk, ordinal: self.ordinals.first }
    }

    pub fn requests(&self) -> impl DoubleEndedIterator<Item = RequestSlot> {
        let chunk = self.chunk;
        self.ordinals.iter().map(move |ordinal| RequestSlot { chunk, ordinal: *ordinal })
    }
}

impl Past {
    /// With how many requests it may share a call, itself included.
    pub(super) fn pack_max(&self) -> u32 {
        // What was charged to it alone is answered for alone.
        if self.attempts > 0 { 1 } else { self.halved_to.unwrap_or(u32::MAX) }
    }
}

/// How much one call to an endpoint may carry: what was set, as far as it has proved right.
#[derive(Debug)]
pub(super) struct Packing {
    set: PackLimits,
    /// Calls with more inputs failed one after the other.
    ceiling: Option<u32>,
    failed_in_a_row: u32,
    answered_in_a_row: u32,
}

impl Packing {
    pub(super) const fn new(set: PackLimits) -> Self {
        Self { set, ceiling: None, failed_in_a_row: 0, answered_in_a_row: 0 }
    }

    fn set(&mut self, limits: PackLimits) {
        if limits != self.set {
            *self = Self::new(limits);
        }
    }

    fn limits(&self) -> PackLimits {
        PackLimits { inputs: self.ceiling.unwrap_or(u32::MAX).min(self.set.inputs), ..self.set }
    }

    fn on_failure(&mut self, inputs: u32) {
        self.answered_in_a_row = 0;
        self.failed_in_a_row += 1;
        if self.failed_in_a_row >= PACKS_FAILED_MAX {
            self.lower(inputs);
        }
    }

    /// Calls with so many inputs are too large.
    fn lower(&mut self, inputs: u32) {
        self.failed_in_a_row = 0;
        self.answered_in_a_row = 0;
        self.ceiling = Some((inputs.min(self.limits().inputs) / 2).max(1));
    }

    /// Now and then more is tried again.
    fn on_answer(&mut self) {
        self.failed_in_a_row = 0;
        let Some(ceiling) = self.ceiling else { return };
        self.answered_in_a_row += 1;
        if self.answered_in_a_row >= PACKS_ANSWERED_RECOVER {
            self.answered_in_a_row = 0;
            self.ceiling = Some(ceiling.saturating_mul(2)).filter(|ceiling| *ceiling < self.set.inputs);
        }
    }
}

/// What a call may still take.
struct Room {
    requests: u32,
    inputs: u32,
    tokens: u64,
    len: u64,
}

impl Room {
    fn beside(first: &PackShape, limits: PackLimits, requests_max: u32) -> Self {
        Self {
            requests: requests_max - 1,
            inputs: limits.inputs.saturating_sub(first.inputs),
            tokens: limits.tokens.saturating_sub(u64::from(first.tokens)),
            len: PACK_LEN_MAX.saturating_sub(u64::from(first.len)),
        }
    }

    const fn is_full(&self) -> bool {
        self.requests == 0 || self.inputs == 0
    }

    fn take(&mut self, shape: &PackShape) -> bool {
        let (tokens, len) = (u64::from(shape.tokens), u64::from(shape.len));
        let fits =
            !self.is_full() && shape.inputs <= self.inputs && tokens <= self.tokens && len <= self.len;
        if fits {
            self.requests -= 1;
            self.inputs -= shape.inputs;
            self.tokens -= tokens;
            self.len -= len;
        }
        fits
    }
}

impl Dispatcher {
    pub fn set_pack_limits(&mut self, number: EndpointNumber, limits: PackLimits) {
        self.endpoints[number.index()].packing.set(limits);
    }

    /// The most inputs that a call is sent with now, where it is less than what was set: larger ones failed.
    pub fn pack_ceiling(&self, number: EndpointNumber) -> Option<u32> {
        self.endpoints[number.index()].packing.ceiling
    }

    /// How many requests one call may be, wherever it goes; 1 while nothing is open that could be packed.
    pub fn pack_max(&self) -> usize {
        if !self.chunks.values().any(OpenChunk::has_shapes) {
            return 1;
        }
        let in_use = self.endpoints.iter().filter(|endpoint| endpoint.is_in_use());
        in_use.map(|endpoint| endpoint.packing.set.inputs as usize).max().unwrap_or(1).max(1)
    }

    /// Who travels with the request that was picked: first those that wait to be sent again, then fresh ones.
    pub(super) fn fill(&self, number: EndpointNumber, first: RequestSlot) -> Pack {
        let mut pack = Pack::alone(first);
        let limits = self.endpoints[number.index()].packing.limits();
        let chunk = &self.chunks[&first.chunk];
        let Some(shape) = chunk.shape_of(first.ordinal).filter(|_| limits.inputs > 1) else {
            return pack;
        };
        let pack_max = |ordinal: u32| {
            let past = self.pasts.get(&RequestSlot { chunk: first.chunk, ordinal });
            past.map_or(u32::MAX, Past::pack_max)
        };
        let requests_max = pack_max(first.ordinal);
        // Those of a pack that failed keep among themselves: others would only share their trouble.
        let is_halved = requests_max < u32::MAX;
        let mut room = Room::beside(shape, limits, requests_max);
        let others = &mut pack.ordinals.others;
        for ordinal in chunk.ready.iter().copied().filter(|ordinal| *ordinal != first.ordinal) {
            if room.is_full() {
                return pack;
            }
            let max = pack_max(ordinal);
            let is_alike = (max < u32::MAX) == is_halved && others.len() as u64 + 2 <= u64::from(max);
            let other = chunk.shape_of(ordinal).filter(|other| is_alike && other.key == shape.key);
            if other.is_some_and(|other| room.take(other)) {
                others.push(ordinal);
            }
        }
        if !is_halved {
            let fresh = chunk.fresh_of_model(first.ordinal).filter(|ordinal| *ordinal != first.ordinal);
            others.extend(fresh.take_while(|ordinal| {
                let other = chunk.shape_of(*ordinal).filter(|other| other.key == shape.key);
                other.is_some_and(|other| room.take(other))
            }));
        }
        pack
    }

    /// A call was answered that could have been a pack, or was one.
    pub(super) fn note_answered(&mut self, flight: &Flight) {
        let Some(chunk) = self.chunks.get(&flight.pack.chunk).filter(|chunk| chunk.has_shapes()) else {
            return;
        };
        let first = flight.pack.first();
        let is_plain = self.pasts.get(&first).is_none_or(|past| past.pack_max() == u32::MAX);
        if is_plain && chunk.shape_of(first.ordinal).is_some() {
            self.endpoints[flight.endpoint.index()].packing.on_answer();
        }
    }

    /// A pack has ended in what one of its requests may have caused. Nobody is charged before it stands alone.
    pub(super) fn halve_after(&mut self, flight: &Flight, fault: &Fault, now: Duration) -> Followup {
        let waited = now.saturating_sub(flight.sent_at);
        let endpoint = &mut self.endpoints[flight.endpoint.index()];
        match fault {
            Fault::Refused { .. } | Fault::TooLongPrompt { .. } => endpoint.on_answer(now, waited),
            Fault::Timeout { .. } => endpoint.on_timeout(waited),
            _ => {}
        }
        // What is halved already tells of its requests, not of the engine.
        let first = flight.pack.first();
        if self.pasts.get(&first).is_none_or(|past| past.halved_to.is_none()) {
            let inputs = self.inputs_of(&flight.pack);
            self.endpoints[flight.endpoint.index()].packing.on_failure(inputs);
        }
        self.halve(&flight.pack);
        Followup::Again
    }

    /// The engine is busy whenever it has this pack, and with nothing else of ours: it has no room for so much at once.
    pub(super) fn halve_as_too_large(&mut self, flight: &Flight) {
        let inputs = self.inputs_of(&flight.pack);
        self.endpoints[flight.endpoint.index()].packing.lower(inputs);
        self.halve(&flight.pack);
    }

    fn inputs_of(&self, pack: &Pack) -> u32 {
        let Some(chunk) = self.chunks.get(&pack.chunk) else { return 0 };
        let shapes = pack.ordinals.iter().filter_map(|ordinal| chunk.shape_of(*ordinal));
        shapes.map(|shape| shape.inputs).sum()
    }

    /// Back to the head of their chunk, to be sent by halves.
    pub(super) fn halve(&mut self, pack: &Pack) {
        let Some(chunk) = self.chunks.get_mut(&pack.chunk) else { return };
        let half = (pack.ordinals.len() as u32).div_ceil(2);
        for request in pack.requests().rev() {
            self.pasts.entry(request).or_default().halved_to = Some(half);
            chunk.ready.push_front(request.ordinal);
        }
    }
}

#[cfg(test)]
mod tests;
