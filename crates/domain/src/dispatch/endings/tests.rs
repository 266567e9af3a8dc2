use std::collections::{BTreeMap, BTreeSet};

use crate::dispatch::tests::{at, chunk, dispatcher, lost, terms};
use crate::dispatch::{Failure, Health, Send};

use super::*;

const ENGINE: EndpointNumber = EndpointNumber(0);

fn send_all(dispatcher: &mut Dispatcher, now: Duration) -> Vec<Send> {
    std::iter::from_fn(|| dispatcher.next(now)).collect()
}

/// As the server does it: the engine is held back, ended, and let go when another is ready.
fn end(dispatcher: &mut Dispatcher, sent: &[Send], ended_for: EndedFor, now: Duration) -> Vec<Followup> {
    dispatcher.note_ended(ENGINE, ended_for);
    dispatcher.set_withheld(ENGINE, Some("it is being stopped".to_owned()));
    let followups = sent.iter().map(|send| dispatcher.faulted(send.token, lost(), now)).collect();
    assert_eq!(dispatcher.next(now), None, "nobody is there");
    dispatcher.set_withheld(ENGINE, None);
    followups
}

/// Each end once put all that were in flight nearer to the isolation lane, though the engine was ended by a rule of ours
/// that says nothing about them.
#[test]
fn an_engine_that_leaks_makes_nobody_a_suspect() {
    let mut dispatcher = dispatcher(&[4]);
    dispatcher.open(terms(1, 0, 5), chunk(5));
    for _ in 0..2 {
        let sent = send_all(&mut dispatcher, at(0));
        assert_eq!(sent.len(), 4);
        for followup in end(&mut dispatcher, &sent, EndedFor::Memory, at(0)) {
            assert_eq!(followup, Followup::Again);
        }
        assert_eq!(dispatcher.health(ENGINE), &Health::Up);
    }
    assert_eq!(dispatcher.attempts_charged(), 0);
    let mut sent = send_all(&mut dispatcher, at(1));
    let first = dispatcher.answered(sent.remove(0).token, at(2)).expect("known").first;
    assert_eq!(first.attempts, 1);
    sent.push(dispatcher.next(at(2)).expect("another runs beside them: nobody is isolated"));
    for send in sent {
        assert_eq!(dispatcher.answered(send.token, at(3)).expect("known").first.attempts, 1);
    }
    assert_eq!(dispatcher.attempts_charged(), 5);
}

#[test]
fn what_ends_otherwise_while_its_engine_is_ended_counts() {
    let mut dispatcher = dispatcher(&[3]);
    dispatcher.open(terms(1, 0, 3), chunk(3));
    let sent = send_all(&mut dispatcher, at(0));
    dispatcher.note_ended(ENGINE, EndedFor::Silence);
    assert!(dispatcher.answered(sent[0].token, at(1)).is_some());
    let refusal = Fault::Refused { status: 400, body: Vec::new() };
    assert!(matches!(dispatcher.faulted(sent[1].token, refusal, at(1)), Followup::Failed { .. }));
    // An engine that is told to end may answer with an error before it does: that is no word about the request.
    let error = Fault::EngineError { status: 500, body: Vec::new() };
    assert_eq!(dispatcher.faulted(sent[2].token, error, at(1)), Followup::Again);
    assert!(dispatcher.next(at(1)).is_some(), "at once, without a backoff");
}

/// An engine that has to be ended whenever one of the poisoned requests is with it.
struct SickEngine {
    poison: BTreeSet<u32>,
    ended_for: EndedFor,
    ends: u32,
}

impl SickEngine {
    /// Runs everything to its end; returns the failed requests.
    fn run(&mut self, dispatcher: &mut Dispatcher, requests: u32) -> BTreeMap<u32, Failure> {
        let slot = dispatcher.open(terms(1, 0, u64::from(requests)), chunk(requests));
        let (mut now, mut failed) = (at(0), BTreeMap::new());
        for _ in 0..10_000 {
            let sent = send_all(dispatcher, now);
            now += at(10);
            if sent.iter().any(|send| self.poison.contains(&send.pack.first().ordinal)) {
                self.ends += 1;
                for followup in end(dispatcher, &sent, self.ended_for, now) {
                    if let Followup::Failed { recorded, failure } = followup {
                        failed.insert(recorded.request.ordinal, failure);
                        dispatcher.durable(slot);
                    }
                }
            } else {
                for send in sent {
                    let recorded = dispatcher.answered(send.token, now).expect("known").first;
                    assert_eq!(recorded.attempts, 1, "nobody else is charged");
                    dispatcher.durable(slot);
                }
            }
            if dispatcher.chunks[&slot].progress().is_done() {
                return failed;
            }
            if dispatcher.in_flight() == 0 {
                now = now.max(dispatcher.wake_at(now).unwrap_or(now));
            }
        }
        panic!("it never ends: {dispatcher:?}");
    }
}

#[test]
fn whoever_is_the_cause_each_time_is_found_and_fails_alone() {
    for (ended_for, expected) in
        [(EndedFor::Memory, "connection_lost"), (EndedFor::Silence, "request_timeout")]
    {
        // Also the very first, when the engine has never answered anything.
        let poison = BTreeSet::from([0, 117]);
        let mut engine = SickEngine { poison: poison.clone(), ended_for, ends: 0 };
        let failed = engine.run(&mut dispatcher(&[16]), 200);
        assert_eq!(failed.keys().copied().collect::<BTreeSet<_>>(), poison);
        for failure in failed.values() {
            let Failure::Unanswered { code, message } = failure else { panic!("{failure:?}") };
            assert_eq!(*code, expected);
            assert!(message.contains("the only one it had"), "{message}");
        }
        assert!(engine.ends < 60, "by halves, not one by one: {} ends", engine.ends);
    }
}

/// The limit is lower than the model needs, or the GPU hangs: the requests would have failed one after the other.
#[test]
fn an_engine_that_never_answers_is_no_witness_against_anybody() {
    for ended_for in [EndedFor::Memory, EndedFor::Silence] {
        let mut dispatcher = dispatcher(&[8]);
        dispatcher.open(terms(1, 0, 20), chunk(20));
        let mut were_alone = BTreeSet::new();
        for round in 0..400 {
            let sent = send_all(&mut dispatcher, at(round));
            assert!(!sent.is_empty(), "all are tried again and again");
            if let [alone] = &sent[..] {
                were_alone.insert(alone.pack.first().ordinal);
            }
            for followup in end(&mut dispatcher, &sent, ended_for, at(round)) {
                assert_eq!(followup, Followup::Again);
            }
        }
        assert_eq!(dispatcher.attempts_charged(), 0);
        assert!(were_alone.len() > 1, "one after the other, and not the same one each time");
    }
}

#[test]
fn an_answer_may_take_some_times_the_slowest_or_what_its_batch_allows() {
    let mut dispatcher = dispatcher(&[1]);
    let slot = dispatcher.open(terms(1, 0, 2), chunk(2));
    assert_eq!(dispatcher.answer_span(ENGINE), Duration::ZERO, "nothing is known");
    let sent = dispatcher.next(at(0)).expect("sent");
    dispatcher.answered(sent.token, at(900_000));
    assert_eq!(dispatcher.answer_span(ENGINE), at(3_600_000));
    dispatcher.close(slot);
    let patient = crate::dispatch::BatchTerms { timeout: Some(at(7_200_000)), ..terms(2, 0, 1) };
    dispatcher.open(patient, chunk(1));
    assert_eq!(dispatcher.answer_span(ENGINE), at(3_600_000), "nothing of it is in flight");
    dispatcher.next(at(900_000)).expect("sent");
    assert_eq!(dispatcher.answer_span(ENGINE), at(7_200_000));
}
