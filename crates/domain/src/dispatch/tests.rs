use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::fault::Fault;
use crate::ids::BatchId;
use crate::pack::PackLimits;
use crate::time::UnixTime;

pub(super) fn terms(number: u128, priority: i32, total: u64) -> BatchTerms {
    BatchTerms {
        id: BatchId::from_uuid(Uuid::from_u128(number)),
        priority,
        created_at: UnixTime::from_millis(number as u64),
        total,
        done_before: 0,
        attempts_max: 3,
        timeout: None,
    }
}

pub(super) fn chunk(requests: u32) -> NewChunk {
    let models = vec![Arc::from("m"); requests as usize];
    NewChunk { models, done: HashSet::new(), shapes: Vec::new() }
}

const fn plain(window: u32, models: Option<Vec<String>>) -> EndpointSettings {
    EndpointSettings { window, models, pack_limits: PackLimits::NONE }
}

pub(super) fn dispatcher(windows: &[u32]) -> Dispatcher {
    let settings = windows.iter().map(|window| plain(*window, None)).collect();
    Dispatcher::new(settings, 1)
}

pub(super) fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn refused(code: &str) -> Fault {
    let body = format!(r#"{{"error":{{"message":"no","code":"{code}"}}}}"#).into_bytes();
    Fault::Refused { status: 400, body }
}

pub(super) fn lost() -> Fault {
    Fault::Lost { detail: "reset".to_owned() }
}

pub(super) fn down() -> Fault {
    Fault::Down { detail: "refused".to_owned() }
}

#[test]
fn the_window_is_filled_across_chunk_borders() {
    let mut dispatcher = dispatcher(&[4]);
    let first = dispatcher.open(terms(1, 0, 5), chunk(3));
    let second = dispatcher.open(terms(1, 0, 5), chunk(2));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    let slots: Vec<_> =
        sent.iter().map(|send| (send.pack.first().chunk, send.pack.first().ordinal)).collect();
    assert_eq!(slots, [(first, 0), (first, 1), (first, 2), (second, 0)]);
    assert!(dispatcher.answered(sent[1].token, at(5)).is_some());
    assert_eq!(dispatcher.next(at(5)).expect("a free slot").pack.first().ordinal, 1);
    assert!(dispatcher.answered(sent[1].token, at(6)).is_none(), "a token counts once");
}

#[test]
fn higher_priority_takes_the_next_free_slot() {
    let mut dispatcher = dispatcher(&[1]);
    let low = dispatcher.open(terms(1, 0, 10), chunk(10));
    let running = dispatcher.next(at(0)).expect("room");
    assert_eq!(running.pack.chunk, low);
    let urgent = dispatcher.open(terms(2, 5, 1), chunk(1));
    dispatcher.answered(running.token, at(1)).expect("known");
    assert_eq!(dispatcher.next(at(1)).expect("room").pack.chunk, urgent);
}

#[test]
fn only_the_requests_own_fault_uses_up_attempts() {
    let mut dispatcher = dispatcher(&[1]);
    dispatcher.open(terms(1, 0, 1), chunk(1));
    let mut now = at(0);
    for _ in 0..20 {
        let send = dispatcher.next(now).expect("room");
        let busy = Fault::Busy { status: 429, retry_after: Some(at(10)), detail: String::new() };
        assert_eq!(dispatcher.faulted(send.token, busy, now), Followup::Again);
        assert_eq!(dispatcher.next(now), None, "the engine asked for a pause");
        now = dispatcher.wake_at(now).expect("the pause ends");
    }
    for attempt in 1..=3 {
        let send = dispatcher.next(now).expect("room");
        let fault = Fault::EngineError { status: 500, body: b"boom".to_vec() };
        match dispatcher.faulted(send.token, fault, now) {
            Followup::Again => now = dispatcher.wake_at(now).expect("the backoff ends"),
            Followup::Failed { recorded, failure } => {
                assert_eq!((attempt, recorded.attempts), (3, 3));
                assert!(matches!(failure, Failure::Answered { status: 500, .. }));
                return;
            }
            Followup::Late => panic!("it was in flight"),
        }
    }
    panic!("three attempts were allowed");
}

#[test]
fn an_endpoint_that_refuses_us_fails_nothing_and_is_tried_again() {
    let mut dispatcher = dispatcher(&[4]);
    dispatcher.open(terms(1, 0, 4), chunk(4));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    for send in &sent {
        let fault = Fault::Misconfigured { status: 401, detail: "no key".to_owned() };
        assert_eq!(dispatcher.faulted(send.token, fault, at(1)), Followup::Again);
    }
    assert_eq!(dispatcher.next(at(2)), None);
    let later = dispatcher.wake_at(at(2)).expect("a trial");
    let trial = dispatcher.next(later).expect("one request tries");
    assert_eq!(dispatcher.next(later), None, "only one");
    assert_eq!(
        dispatcher.answered(trial.token, later).expect("known").first.attempts,
        1,
        "nothing was charged"
    );
    assert!(dispatcher.next(later).is_some());
}

#[test]
fn a_batch_that_is_refused_from_the_start_is_reported_once() {
    let mut dispatcher = dispatcher(&[200]);
    dispatcher.open(terms(1, 0, 2_000), chunk(2_000));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    for send in &sent[..99] {
        assert!(matches!(
            dispatcher.faulted(send.token, refused("bad"), at(1)),
            Followup::Failed { .. }
        ));
    }
    assert_eq!(dispatcher.take_refused(), None);
    dispatcher.faulted(sent[99].token, refused("bad"), at(1));
    assert_eq!(dispatcher.take_refused().map(|(_, pattern)| pattern.code), Some(Some("bad".to_owned())));
    assert_eq!(dispatcher.take_refused(), None);
}

#[test]
fn over_long_prompts_do_not_pause_a_batch() {
    let mut dispatcher = dispatcher(&[300]);
    dispatcher.open(terms(1, 0, 2_000), chunk(2_000));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    for send in &sent {
        dispatcher.faulted(send.token, refused("context_length_exceeded"), at(1));
    }
    assert_eq!(dispatcher.take_refused(), None);
}

#[test]
fn a_lost_connection_of_a_living_engine_is_charged() {
    let mut dispatcher = dispatcher(&[8]);
    dispatcher.open(terms(1, 0, 8), chunk(8));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    assert_eq!(dispatcher.faulted(sent[0].token, lost(), at(1)), Followup::Again);
    let probe_at = dispatcher.wake_at(at(1)).expect("a probe");
    assert_eq!(dispatcher.probes(probe_at), [EndpointNumber(0)]);
    assert_eq!(dispatcher.probes(probe_at), [], "one at a time");
    assert!(dispatcher.probed(EndpointNumber(0), Ok(()), probe_at).is_empty());
    let due = dispatcher.wake_at(probe_at).expect("the backoff ends");
    let again = dispatcher.next(due).expect("sent again");
    assert_eq!(again.pack, sent[0].pack);
    assert_eq!(dispatcher.answered(again.token, due).expect("known").first.attempts, 2);
}

#[test]
fn what_a_suspend_broke_is_charged_to_nobody() {
    let broken = [
        lost(),
        Fault::Timeout { detail: "deadline".to_owned() },
        Fault::Garbage { detail: "cut short".to_owned() },
        Fault::EngineError { status: 500, body: b"CUDA error".to_vec() },
    ];
    let mut dispatcher = dispatcher(&[4]);
    dispatcher.open(terms(1, 0, 4), chunk(4));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    assert_eq!(dispatcher.note_suspend(), 4);
    for (send, fault) in sent.iter().zip(broken.clone()) {
        assert_eq!(dispatcher.faulted(send.token, fault, at(1)), Followup::Again);
    }
    assert_eq!(dispatcher.health(EndpointNumber(0)), &Health::Up, "the engine is not blamed either");
    let again: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(1))).collect();
    assert_eq!(again.len(), 4, "at once, without a backoff");
    // The next attempt is one like any other.
    assert_eq!(dispatcher.faulted(again[0].token, broken[1].clone(), at(2)), Followup::Again);
    assert_eq!(dispatcher.next(at(2)), None, "it waits for its backoff");
    for send in &again[1..] {
        let recorded = dispatcher.answered(send.token, at(3)).expect("known");
        assert_eq!(recorded.first.attempts, 1, "only the attempt that was answered counts");
    }
}

#[test]
fn what_the_engine_says_to_a_request_holds_across_a_suspend() {
    let mut dispatcher = dispatcher(&[2]);
    dispatcher.open(terms(1, 0, 2), chunk(2));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    dispatcher.note_suspend();
    assert!(dispatcher.answered(sent[0].token, at(1)).is_some());
    let refused = dispatcher.faulted(sent[1].token, refused("invalid"), at(1));
    assert!(matches!(refused, Followup::Failed { .. }), "{refused:?}");
}

#[test]
fn connections_lost_on_the_way_into_a_suspend_are_no_crash() {
    let mut dispatcher = dispatcher(&[2]);
    dispatcher.open(terms(1, 0, 2), chunk(2));
    // Twice, as two crashes would put the requests into isolation.
    for round in 0..2 {
        let now = at(round * 10_000);
        let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(now)).collect();
        assert_eq!(sent.len(), 2, "both at once, so neither is isolated");
        for send in sent {
            assert_eq!(dispatcher.faulted(send.token, lost(), now), Followup::Again);
        }
        assert_eq!(dispatcher.note_suspend(), 0);
        let probe_at = dispatcher.wake_at(now).expect("a probe");
        assert_eq!(dispatcher.probes(probe_at), [EndpointNumber(0)]);
        assert!(dispatcher.probed(EndpointNumber(0), Ok(()), probe_at).is_empty());
    }
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(20_000))).collect();
    assert_eq!(sent.len(), 2);
    for send in sent {
        assert_eq!(dispatcher.answered(send.token, at(20_001)).expect("known").first.attempts, 1);
    }
}

#[test]
fn a_suspect_that_was_alone_in_a_suspend_stays_one() {
    let mut dispatcher = dispatcher(&[1]);
    dispatcher.open(terms(1, 0, 1), chunk(1));
    let mut now = at(0);
    let crash = |dispatcher: &mut Dispatcher, now: &mut Duration| {
        let sent = dispatcher.next(*now).expect("sent");
        let followup = dispatcher.faulted(sent.token, lost(), *now);
        *now = dispatcher.wake_at(*now).expect("a probe");
        dispatcher.probes(*now);
        dispatcher.probed(EndpointNumber(0), Err(down()), *now);
        *now = dispatcher.wake_at(*now).expect("another probe");
        dispatcher.probes(*now);
        dispatcher.probed(EndpointNumber(0), Ok(()), *now);
        followup
    };
    for _ in 0..3 {
        assert_eq!(crash(&mut dispatcher, &mut now), Followup::Again);
    }
    // Alone in the lane, it has crashed the engine once. A sleep does not count as the second time ...
    let sent = dispatcher.next(now).expect("sent from the lane");
    dispatcher.note_suspend();
    assert_eq!(dispatcher.faulted(sent.token, lost(), now), Followup::Again);
    // ... and is no acquittal.
    assert!(matches!(crash(&mut dispatcher, &mut now), Followup::Failed { .. }));
}

/// An engine that dies whenever one of the poisoned requests is with it, and needs a second to come back.
struct CrashyEngine {
    poison: HashSet<u32>,
    crashes: u32,
}

impl CrashyEngine {
    /// Runs everything to its end; returns the failed requests.
    fn run(&mut self, dispatcher: &mut Dispatcher, slot: ChunkSlot) -> HashMap<u32, Failure> {
        let mut failed = HashMap::new();
        let mut now = at(0);
        let mut down_until = at(0);
        for _ in 0..100_000 {
            for number in dispatcher.probes(now) {
                let result = if now >= down_until { Ok(()) } else { Err(down()) };
                assert!(dispatcher.probed(number, result, now).is_empty());
            }
            let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(now)).collect();
            now += at(10);
            if !sent.is_empty() && now < down_until {
                for send in sent {
                    dispatcher.faulted(send.token, down(), now);
                }
            } else if sent.iter().any(|send| self.poison.contains(&send.pack.first().ordinal)) {
                self.crashes += 1;
                down_until = now + at(1_000);
                for send in sent {
                    if let Followup::Failed { recorded, failure } =
                        dispatcher.faulted(send.token, lost(), now)
                    {
                        failed.insert(recorded.request.ordinal, failure);
                        dispatcher.durable(slot);
                    }
                }
            } else {
                for send in sent {
                    dispatcher.answered(send.token, now).expect("known");
                    if dispatcher.durable(slot).expect("open").is_done() {
                        return failed;
                    }
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
fn two_requests_that_crash_the_engine_are_found_and_nobody_else_fails() {
    let mut dispatcher = dispatcher(&[64]);
    let slot = dispatcher.open(terms(1, 0, 2_000), chunk(2_000));
    let mut engine = CrashyEngine { poison: HashSet::from([17, 1_003]), crashes: 0 };
    let failed = engine.run(&mut dispatcher, slot);
    assert_eq!(failed.keys().copied().collect::<HashSet<_>>(), engine.poison);
    assert!(
        failed
            .values()
            .all(|failure| matches!(failure, Failure::Unanswered { code: "engine_crash", .. }))
    );
    assert!(engine.crashes <= 2 * 11, "by halves, not one by one: {} crashes", engine.crashes);
}

#[test]
fn closing_a_chunk_forgets_its_calls() {
    let mut dispatcher = dispatcher(&[4]);
    let slot = dispatcher.open(terms(1, 0, 4), chunk(4));
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(at(0))).collect();
    let mut dropped = dispatcher.close(slot);
    dropped.sort();
    assert_eq!(dropped, sent.iter().map(|send| send.token).collect::<Vec<_>>());
    assert!(dispatcher.answered(sent[0].token, at(1)).is_none());
    assert_eq!(dispatcher.faulted(sent[1].token, lost(), at(1)), Followup::Late);
    assert_eq!((dispatcher.in_flight(), dispatcher.unsent()), (0, 0));
}

#[test]
fn requests_with_a_result_are_not_sent_again() {
    let mut dispatcher = dispatcher(&[10]);
    let new = NewChunk { done: HashSet::from([0, 2]), ..chunk(4) };
    let slot = dispatcher.open(terms(1, 0, 4), new);
    let sent: Vec<u32> =
        std::iter::from_fn(|| dispatcher.next(at(0))).map(|send| send.pack.first().ordinal).collect();
    assert_eq!(sent, [1, 3]);
    assert!(!dispatcher.durable(slot).expect("open").is_done());
    assert!(dispatcher.durable(slot).expect("open").is_done());
}

fn of_models(models: &[&str]) -> NewChunk {
    let models = models.iter().map(|model| Arc::from(*model)).collect();
    NewChunk { models, done: HashSet::new(), shapes: Vec::new() }
}

/// Sends what can be sent and loses it with the engine, which is back soon after.
fn crash_with_all(dispatcher: &mut Dispatcher, now: &mut Duration) {
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(*now)).collect();
    for send in &sent {
        assert_eq!(dispatcher.faulted(send.token, lost(), *now), Followup::Again);
    }
    *now = dispatcher.wake_at(*now).expect("a probe is due");
    for number in dispatcher.probes(*now) {
        assert_eq!(dispatcher.probed(number, Err(down()), *now), []);
    }
    *now = dispatcher.wake_at(*now).expect("another probe is due") + at(100);
    for number in dispatcher.probes(*now) {
        assert_eq!(dispatcher.probed(number, Ok(()), *now), []);
    }
}

/// Suspects of two models were once put into one group, which no endpoint served as a whole: both batches hung.
#[test]
fn suspects_of_two_models_are_each_run_where_they_are_served() {
    let serves = |model: &str| plain(2, Some(vec![model.to_owned()]));
    let mut dispatcher = Dispatcher::new(vec![serves("a"), serves("b")], 1);
    dispatcher.open(terms(1, 0, 4), of_models(&["a", "a", "b", "b"]));
    let mut now = at(0);
    crash_with_all(&mut dispatcher, &mut now);
    crash_with_all(&mut dispatcher, &mut now);
    let mut answered = 0;
    while let Some(send) = dispatcher.next(now) {
        now += at(1);
        assert!(dispatcher.answered(send.token, now).is_some());
        answered += 1;
    }
    assert_eq!(answered, 4);
}

/// An engine whose GPU is too hot may be kept back for hours.
#[test]
fn suspects_go_to_another_endpoint_when_theirs_is_withheld() {
    let mut dispatcher = dispatcher(&[2, 2]);
    dispatcher.set_withheld(EndpointNumber(1), Some("elsewhere".to_owned()));
    dispatcher.open(terms(1, 0, 2), chunk(2));
    let mut now = at(0);
    crash_with_all(&mut dispatcher, &mut now);
    crash_with_all(&mut dispatcher, &mut now);
    let send = dispatcher.next(now).expect("a suspect");
    assert_eq!(send.endpoint, EndpointNumber(0));
    dispatcher.set_withheld(EndpointNumber(0), Some("hot".to_owned()));
    dispatcher.set_withheld(EndpointNumber(1), None);
    assert!(dispatcher.answered(send.token, now).is_some());
    dispatcher.set_withheld(EndpointNumber(0), Some("hot".to_owned()));
    let send = dispatcher.next(now).expect("the other suspect");
    assert_eq!(send.endpoint, EndpointNumber(1));
}

/// Nothing was open when it was corrected: only a request that is claimed can find out.
#[test]
fn an_endpoint_that_refuses_us_has_room_for_one_trial() {
    let mut dispatcher = dispatcher(&[4]);
    let slot = dispatcher.open(terms(1, 0, 1), chunk(1));
    let send = dispatcher.next(at(0)).expect("room");
    let wrong = Fault::Misconfigured { status: 401, detail: "no key".to_owned() };
    assert_eq!(dispatcher.faulted(send.token, wrong, at(0)), Followup::Again);
    dispatcher.close(slot);
    assert_eq!((dispatcher.capacity(), dispatcher.is_model_served("m")), (1, true));
    dispatcher.set_withheld(EndpointNumber(0), Some("hot".to_owned()));
    assert_eq!((dispatcher.capacity(), dispatcher.is_model_served("m")), (0, false));
}

/// A batch whose model nobody has kept the engine from all others, because its requests counted as work.
#[test]
fn what_nobody_serves_is_no_work_though_every_endpoint_is_up() {
    let mut dispatcher = Dispatcher::new(vec![plain(4, Some(vec!["a".to_owned()]))], 1);
    let stranded = dispatcher.open(terms(1, 0, 2), of_models(&["gone", "gone"]));
    assert_eq!((dispatcher.unsent(), dispatcher.stranded()), (0, vec![stranded]));
    dispatcher.open(terms(2, 0, 1), of_models(&["a"]));
    assert_eq!(dispatcher.unsent(), 1);
}

#[test]
fn a_model_goes_to_an_endpoint_that_serves_it() {
    let settings = ["a", "b"].map(|model| plain(2, Some(vec![model.to_owned()])));
    let mut dispatcher = Dispatcher::new(settings.into(), 1);
    let models = ["a", "a", "a", "b"].map(Arc::from).to_vec();
    dispatcher.open(terms(1, 0, 4), NewChunk { models, done: HashSet::new(), shapes: Vec::new() });
    let sent: HashSet<(u16, u32)> = std::iter::from_fn(|| dispatcher.next(at(0)))
        .map(|send| (send.endpoint.0, send.pack.first().ordinal))
        .collect();
    assert_eq!(
        sent,
        HashSet::from([(0, 0), (0, 1), (1, 3)]),
        "the second endpoint does not wait behind the first"
    );
}

proptest! {
    /// Whatever happens to the calls, every request ends in exactly one result.
    #[test]
    fn every_request_is_recorded_once(
        fates in proptest::collection::vec(0_u8..10, 400..2_000),
        windows in proptest::collection::vec(1_u32..9, 1..4),
        requests in 1_u32..120,
        poison in proptest::collection::hash_set(0_u32..120, 0..3),
    ) {
        let mut dispatcher = dispatcher(&windows);
        let slot = dispatcher.open(terms(1, 0, u64::from(requests)), chunk(requests));
        let mut recorded: HashSet<u32> = HashSet::new();
        let mut fates = fates.into_iter();
        let mut flying: Vec<Send> = Vec::new();
        let mut now = at(0);
        for _ in 0..1_000_000 {
            for number in dispatcher.probes(now) {
                let result = if fates.next().unwrap_or(9) < 3 { Err(down()) } else { Ok(()) };
                for (failed, _) in dispatcher.probed(number, result, now) {
                    prop_assert!(recorded.insert(failed.request.ordinal));
                    dispatcher.durable(slot);
                }
            }
            flying.extend(std::iter::from_fn(|| dispatcher.next(now)));
            if flying.is_empty() {
                if dispatcher.chunks[&slot].progress().is_done() {
                    break;
                }
                now = now.max(dispatcher.wake_at(now).expect("unfinished work wakes up by itself"));
                continue;
            }
            now += at(1);
            let send = flying.swap_remove(usize::from(fates.next().unwrap_or(0)) % flying.len());
            let fault = match fates.next().unwrap_or(9) {
                _ if poison.contains(&send.pack.first().ordinal) => lost(),
                0 => Fault::Busy { status: 503, retry_after: None, detail: String::new() },
                1 => down(),
                2 => lost(),
                3 => Fault::Garbage { detail: "half".to_owned() },
                4 => Fault::Misconfigured { status: 404, detail: "no model".to_owned() },
                5 => refused("bad"),
                _ => {
                    let answered = dispatcher.answered(send.token, now).expect("it is in flight");
                    prop_assert!(recorded.insert(answered.first.request.ordinal));
                    dispatcher.durable(slot);
                    continue;
                }
            };
            if let Followup::Failed { recorded: failed, .. } = dispatcher.faulted(send.token, fault, now) {
                prop_assert!(recorded.insert(failed.request.ordinal));
                dispatcher.durable(slot);
            }
        }
        prop_assert_eq!(recorded.len(), requests as usize);
        prop_assert_eq!(dispatcher.in_flight(), 0);
    }
}
