//! Engines that we end ourselves: what that means for the calls in flight.
//!
//! For its memory: nobody is charged or suspected, because what filled it may be long answered. Only who is there time
//! and again is treated as at the other ends. For its silence: one of them may be the cause, so all are suspects, as at a
//! crash.
//!
//! No request is condemned by an end of ours, which proves less than a crash. The one that was alone with the engine is
//! charged an attempt, as for any other timeout of ours; and only by an engine that has answered before: one that never
//! did is no witness against anybody, and the others are tried first.

use std::time::Duration;

use crate::fault::Fault;
use crate::limits::MEMORY_ENDS_EXCUSED;
use crate::supervision::EndedFor;

use super::{Dispatcher, EndpointNumber, Flight, Followup, RequestSlot};

impl Dispatcher {
    /// We end the engine, and the calls in flight with it. Returns how many there are.
    pub fn note_ended(&mut self, number: EndpointNumber, ended_for: EndedFor) -> usize {
        let flights = self.flights.values_mut().filter(|flight| flight.endpoint == number);
        flights.map(|flight| flight.ended_for = Some(ended_for)).count()
    }

    /// How long an answer of the endpoint may take, as far as is known: some times the slowest of late, or what a batch
    /// allows of which something is in flight.
    pub fn answer_span(&self, number: EndpointNumber) -> Duration {
        let in_flight = self
            .batches
            .values()
            .filter(|work| work.chunks.iter().any(|slot| self.chunks[slot].in_flight > 0));
        let allowed = in_flight.filter_map(|work| work.terms.timeout).max().unwrap_or_default();
        self.endpoints[number.index()].deadline.answer_span().max(allowed)
    }

    /// A call has ended as it does when its engine is ended.
    pub(super) fn ended_by_us(
        &mut self,
        flight: &Flight,
        ended_for: EndedFor,
        now: Duration,
    ) -> Followup {
        if flight.is_isolated {
            return self.ended_in_isolation(flight, ended_for, now);
        }
        for request in flight.pack.requests().rev() {
            if self.is_excused_once_more(request, ended_for) {
                if let Some(chunk) = self.chunks.get_mut(&request.chunk) {
                    chunk.ready.push_front(request.ordinal);
                }
            } else {
                self.was_in_a_crash(request);
            }
        }
        Followup::Again
    }

    fn ended_in_isolation(&mut self, flight: &Flight, ended_for: EndedFor, now: Duration) -> Followup {
        let request = flight.pack.first();
        if self.is_excused_once_more(request, ended_for) {
            self.lane.put_back(request);
            return Followup::Again;
        }
        let was_alone = self.lane.crashed(request);
        if !was_alone {
            return Followup::Again;
        }
        if self.endpoints[flight.endpoint.index()].deadline.has_seen_answers() {
            return self.charge(flight, fault_of(ended_for), now);
        }
        self.lane.postpone(request);
        Followup::Again
    }

    fn is_excused_once_more(&mut self, request: RequestSlot, ended_for: EndedFor) -> bool {
        if ended_for != EndedFor::Memory {
            return false;
        }
        let past = self.pasts.entry(request).or_default();
        past.memory_ends = past.memory_ends.saturating_add(1);
        past.memory_ends <= MEMORY_ENDS_EXCUSED
    }
}

/// What stands in the error line when it was the last attempt.
fn fault_of(ended_for: EndedFor) -> Fault {
    match ended_for {
        EndedFor::Memory => Fault::Lost {
            detail: "the engine held too much memory and was ended (engine.memory_max) while this request was the \
                     only one it had"
                .to_owned(),
        },
        EndedFor::Silence => Fault::Timeout {
            detail: "the engine said nothing and was ended (engine.stall_after) while this request was the only one \
                     it had"
                .to_owned(),
        },
    }
}

#[cfg(test)]
mod tests;
