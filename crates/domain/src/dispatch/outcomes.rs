//! Calls that have ended: what follows for their requests and for the endpoint.

use std::time::Duration;

use crate::fault::Fault;
use crate::ids::DispatchToken;
use crate::patience::attempt_backoff;
use crate::several::Several;

use super::endpoint::{EndpointNumber, LostCall};
use super::packing::Pack;
use super::refusals::RefusalPattern;
use super::{Dispatcher, Flight, RequestSlot};

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

impl Dispatcher {
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
        if let Some(ended_for) = flight.ended_for
            && fault.is_inconclusive()
        {
            return self.ended_by_us(&flight, ended_for, now);
        }
        if !flight.pack.ordinals.is_one() && fault.may_be_the_request() {
            return self.halve_after(&flight, &fault, now);
        }
        let request = flight.pack.first();
        let endpoint = &mut self.endpoints[flight.endpoint.index()];
        match fault {
            Fault::Busy { retry_after, .. } => {
                endpoint.on_busy(now, retry_after, token.0);
                if !flight.pack.ordinals.is_one() && endpoint.is_busy_with_one() {
                    self.halve_as_too_large(&flight);
                } else {
                    self.put_back(&flight);
                }
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

    /// Attempts that were charged to their requests so far, in all.
    pub const fn attempts_charged(&self) -> u64 {
        self.charged
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

    /// The outcome of a request that was alone in its call.
    fn record_flight(&mut self, flight: &Flight) -> Recorded {
        self.record(flight.pack.first(), flight.endpoint, flight.sent_at)
    }

    fn record(&mut self, request: RequestSlot, endpoint: EndpointNumber, sent_at: Duration) -> Recorded {
        let past = self.pasts.remove(&request).unwrap_or_default();
        self.charged += 1;
        self.lane.cleared(request);
        if let Some(chunk) = self.chunks.get_mut(&request.chunk) {
            chunk.recorded += 1;
        }
        Recorded { request, endpoint, attempts: past.attempts + 1, sent_at }
    }

    /// Back to the head of their chunk, uncharged.
    pub(super) fn put_back(&mut self, flight: &Flight) {
        if flight.is_isolated {
            self.lane.put_back(flight.pack.first());
        } else {
            self.put_back_pack(&flight.pack);
        }
    }

    pub(super) fn put_back_pack(&mut self, pack: &Pack) {
        if let Some(chunk) = self.chunks.get_mut(&pack.chunk) {
            for ordinal in pack.ordinals.iter().rev() {
                chunk.ready.push_front(*ordinal);
            }
        }
    }

    pub(super) fn charge(&mut self, flight: &Flight, fault: Fault, now: Duration) -> Followup {
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
        self.charged += 1;
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
        if !self.chunks.contains_key(&call.pack.chunk) {
            return None;
        }
        if was_crash {
            call.pack.requests().rev().for_each(|request| self.was_in_a_crash(request));
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
            ended_for: None,
        };
        let detail =
            "the connection was lost before an answer came, though the engine is well".to_owned();
        match self.charge(&flight, Fault::Lost { detail }, now) {
            Followup::Failed { recorded, failure } => Some((recorded, failure)),
            Followup::Late | Followup::Again => None,
        }
    }

    /// It was in flight when its engine went: once may be an accident.
    pub(super) fn was_in_a_crash(&mut self, request: RequestSlot) {
        let Some(chunk) = self.chunks.get_mut(&request.chunk) else { return };
        let past = self.pasts.entry(request).or_default();
        past.crashes = past.crashes.saturating_add(1);
        if past.crashes >= 2 {
            self.lane.suspect(request, &chunk.shared_model_of(request.ordinal));
        } else {
            chunk.ready.push_front(request.ordinal);
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
