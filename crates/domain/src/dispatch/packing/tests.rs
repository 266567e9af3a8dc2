use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::dispatch::tests::{at, chunk, dispatcher, down, lost, refused, terms};
use crate::dispatch::{Failure, NewChunk, Recorded, Send};

const fn shape(key: u128, inputs: u32, tokens: u32) -> PackShape {
    PackShape { key, inputs, tokens, len: tokens * 3 }
}

fn embeddings(shapes: impl IntoIterator<Item = PackShape>) -> NewChunk {
    let shapes: Vec<_> = shapes.into_iter().map(Some).collect();
    NewChunk { shapes, ..chunk(0) }.with_models()
}

impl NewChunk {
    fn with_models(mut self) -> Self {
        self.models = vec!["m".into(); self.shapes.len()];
        self
    }
}

fn packing(windows: &[u32], inputs: u32, tokens: u64) -> Dispatcher {
    let mut dispatcher = dispatcher(windows);
    for number in 0..windows.len() {
        dispatcher.set_pack_limits(EndpointNumber(number as u16), PackLimits { inputs, tokens });
    }
    dispatcher
}

fn packs(dispatcher: &mut Dispatcher, now: Duration) -> (Vec<Send>, Vec<Vec<u32>>) {
    let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(now)).collect();
    let ordinals = sent.iter().map(|send| send.pack.ordinals.iter().copied().collect()).collect();
    (sent, ordinals)
}

#[test]
fn a_call_takes_up_to_the_limits_and_is_one_place_in_the_window() {
    let mut dispatcher = packing(&[2], 4, 1_000);
    dispatcher.open(terms(1, 0, 20), embeddings((0..20).map(|_| shape(1, 1, 10))));
    assert_eq!(dispatcher.pack_max(), 4);
    let (sent, packed) = packs(&mut dispatcher, at(0));
    assert_eq!(packed, [[0, 1, 2, 3], [4, 5, 6, 7]]);
    assert_eq!((dispatcher.in_flight(), dispatcher.unsent()), (2, 12));
    let recorded = dispatcher.answered(sent[0].token, at(1)).expect("known");
    let ordinals: Vec<u32> = recorded.iter().map(|recorded| recorded.request.ordinal).collect();
    assert_eq!(ordinals, [0, 1, 2, 3]);
    assert!(recorded.iter().all(|recorded| recorded.attempts == 1));
}

/// TEI has a permit for each input: a pack of more inputs than it has permits is "overloaded" for ever.
#[test]
fn a_pack_that_an_idle_engine_has_no_room_for_is_sent_by_halves() {
    const PERMITS: usize = 5;
    let mut dispatcher = packing(&[4], 32, 100_000);
    let slot = dispatcher.open(terms(1, 0, 200), embeddings((0..200).map(|_| shape(1, 1, 10))));
    let (mut now, mut refusals) = (at(0), 0);
    while !dispatcher.chunks[&slot].progress().is_done() {
        now = now.max(dispatcher.wake_at(now).unwrap_or(now));
        let (sent, _) = packs(&mut dispatcher, now);
        // What is there at once shares the permits.
        let mut permits = PERMITS;
        for send in sent {
            let inputs = send.pack.ordinals.len();
            if inputs <= permits {
                permits -= inputs;
                for recorded in dispatcher.answered(send.token, now).expect("known").iter() {
                    assert_eq!(recorded.attempts, 1, "nobody is charged");
                    dispatcher.durable(slot);
                }
            } else {
                refusals += 1;
                assert!(refusals < 100, "it never ends");
                let busy = Fault::Busy { status: 429, retry_after: None, detail: String::new() };
                assert_eq!(dispatcher.faulted(send.token, busy, now), Followup::Again);
            }
        }
    }
    assert_eq!(dispatcher.pack_ceiling(EndpointNumber(0)), Some(4));
}

#[test]
fn inputs_tokens_and_bytes_are_counted_over_the_whole_call() {
    let first_pack = |limits: (u32, u64), shapes: &[PackShape]| {
        let mut dispatcher = packing(&[1], limits.0, limits.1);
        dispatcher.open(terms(1, 0, 9), embeddings(shapes.iter().copied()));
        packs(&mut dispatcher, at(0)).1[0].len()
    };
    assert_eq!(
        first_pack((8, 1_000), &[shape(1, 3, 10); 9]),
        2,
        "three and three and three are too many"
    );
    assert_eq!(first_pack((8, 45), &[shape(1, 1, 10); 9]), 4);
    assert_eq!(first_pack((8, 5), &[shape(1, 1, 10); 9]), 1, "one goes however long it is");
    assert_eq!(first_pack((2, 1_000), &[shape(1, 9, 10); 9]), 1);
    assert_eq!(
        first_pack((8, u64::MAX), &[shape(1, 1, 150_000); 9]),
        2,
        "the body has a limit of its own"
    );
    assert_eq!(first_pack((1, 1_000), &[shape(1, 1, 1); 9]), 1);
}

#[test]
fn only_what_is_alike_travels_together() {
    let mut dispatcher = packing(&[9], 8, 1_000);
    let mut new = embeddings((0..8).map(|at| shape(at % 2, 1, 1)));
    new.shapes[4] = None;
    dispatcher.open(terms(1, 0, 8), new);
    assert_eq!(packs(&mut dispatcher, at(0)).1, [vec![0, 2, 6], vec![1, 3, 5, 7], vec![4]]);
}

#[test]
fn chunks_without_shapes_and_engines_without_lists_know_no_packs() {
    let mut plain = packing(&[3], 32, 1_000);
    plain.open(terms(1, 0, 3), chunk(3));
    assert_eq!((plain.pack_max(), packs(&mut plain, at(0)).1), (1, vec![vec![0], vec![1], vec![2]]));
    let mut unable = dispatcher(&[2]);
    unable.open(terms(1, 0, 2), embeddings([shape(1, 1, 1); 2]));
    assert_eq!((unable.pack_max(), packs(&mut unable, at(0)).1), (1, vec![vec![0], vec![1]]));
}

#[test]
fn what_comes_back_uncharged_is_packed_as_before() {
    let mut dispatcher = packing(&[1], 4, 1_000);
    dispatcher.open(terms(1, 0, 6), embeddings([shape(1, 1, 1); 6]));
    let (sent, _) = packs(&mut dispatcher, at(0));
    let busy = Fault::Busy { status: 429, retry_after: Some(at(10)), detail: String::new() };
    dispatcher.faulted(sent[0].token, busy, at(0));
    assert_eq!(dispatcher.unsent(), 6);
    assert_eq!(packs(&mut dispatcher, at(10)).1, [[0, 1, 2, 3]]);
}

#[test]
fn closing_a_chunk_forgets_its_packs() {
    let mut dispatcher = packing(&[2], 4, 1_000);
    let slot = dispatcher.open(terms(1, 0, 6), embeddings([shape(1, 1, 1); 6]));
    let (sent, _) = packs(&mut dispatcher, at(0));
    assert_eq!(dispatcher.close(slot).len(), 2);
    assert_eq!(dispatcher.answered(sent[0].token, at(1)), None);
    assert_eq!(dispatcher.faulted(sent[1].token, refused("bad"), at(1)), Followup::Late);
    assert_eq!((dispatcher.in_flight(), dispatcher.unsent()), (0, 0));
}

#[test]
fn an_engine_that_fails_pack_after_pack_is_sent_smaller_ones() {
    let mut dispatcher = packing(&[1], 32, 100_000);
    dispatcher.open(terms(1, 0, 4_000), embeddings(std::iter::repeat_n(shape(1, 1, 1), 4_000)));
    // It takes ten inputs, and does not tell.
    let (mut refused_calls, mut calls, mut done) = (0, 0, 0);
    while done < 4_000 {
        let send = dispatcher.next(at(0)).expect("one after the other");
        calls += 1;
        if send.pack.ordinals.len() > 10 {
            refused_calls += 1;
            assert_eq!(dispatcher.faulted(send.token, refused("too many"), at(0)), Followup::Again);
        } else {
            done += dispatcher.answered(send.token, at(0)).expect("known").len();
        }
    }
    // 32 and 16 three times each before it is known, their halves, and now and then a new trial.
    assert!(refused_calls <= 20, "{refused_calls} of {calls} calls were refused");
    assert!(calls <= 4_000 / 8 + 40, "{calls} calls");
    assert_eq!(dispatcher.pack_ceiling(EndpointNumber(0)), Some(8));
    dispatcher.set_pack_limits(EndpointNumber(0), PackLimits { inputs: 10, tokens: 1_000 });
    assert_eq!(dispatcher.pack_ceiling(EndpointNumber(0)), None, "what is set anew counts");
}

#[test]
fn packs_grow_again_when_what_failed_them_is_over() {
    let mut dispatcher = packing(&[1], 8, 100_000);
    dispatcher.open(terms(1, 0, 5_000), embeddings(std::iter::repeat_n(shape(1, 1, 1), 5_000)));
    let mut failures = 9;
    let mut sizes = Vec::new();
    while let Some(send) = dispatcher.next(at(0)) {
        sizes.push(send.pack.ordinals.len());
        if failures > 0 && send.pack.ordinals.len() > 1 {
            failures -= 1;
            dispatcher.faulted(send.token, refused("bad night"), at(0));
        } else {
            dispatcher.answered(send.token, at(0)).expect("known");
        }
    }
    assert!(sizes.iter().any(|size| *size < 8));
    assert_eq!((dispatcher.pack_ceiling(EndpointNumber(0)), dispatcher.unsent()), (None, 0));
    assert_eq!(sizes[sizes.len() - 2], 8);
}

/// Runs a chunk to its end in front of an engine that fails every call with a poisoned request in it. Returns who has
/// failed, how often each was charged, and the number of calls.
fn run(
    dispatcher: &mut Dispatcher,
    slot: ChunkSlot,
    requests: u32,
    poison: &HashSet<u32>,
    fault: &Fault,
) -> (HashMap<u32, Failure>, HashMap<u32, u16>, u32) {
    let (mut failed, mut charged, mut calls) = (HashMap::new(), HashMap::new(), 0);
    let mut now = at(0);
    let note = |dispatcher: &mut Dispatcher, recorded: &Recorded, charged: &mut HashMap<u32, u16>| {
        assert_eq!(charged.insert(recorded.request.ordinal, recorded.attempts), None, "recorded twice");
        dispatcher.durable(slot);
    };
    while charged.len() < requests as usize {
        for number in dispatcher.probes(now) {
            for (recorded, failure) in dispatcher.probed(number, Ok(()), now) {
                note(dispatcher, &recorded, &mut charged);
                failed.insert(recorded.request.ordinal, failure);
            }
        }
        let sent: Vec<Send> = std::iter::from_fn(|| dispatcher.next(now)).collect();
        if sent.is_empty() && charged.len() < requests as usize {
            now = now.max(dispatcher.wake_at(now).expect("unfinished work wakes up by itself"));
        }
        for send in sent {
            calls += 1;
            assert!(calls < 100_000, "it never ends");
            now += at(1);
            if send.pack.ordinals.iter().any(|ordinal| poison.contains(ordinal)) {
                if let Followup::Failed { recorded, failure } =
                    dispatcher.faulted(send.token, fault.clone(), now)
                {
                    note(dispatcher, &recorded, &mut charged);
                    failed.insert(recorded.request.ordinal, failure);
                }
            } else {
                for recorded in dispatcher.answered(send.token, now).expect("in flight") {
                    note(dispatcher, &recorded, &mut charged);
                }
            }
        }
    }
    (failed, charged, calls)
}

#[test]
fn a_poisoned_request_of_a_pack_fails_alone_and_nobody_else_is_charged() {
    let too_long =
        Fault::TooLongPrompt { prompt_tokens: None, context_len: None, detail: String::new() };
    let faults = [
        refused("bad"),
        too_long,
        Fault::Garbage { detail: "31 embeddings for 32 inputs".to_owned() },
        Fault::TooLong { limit: 1 },
        Fault::Timeout { detail: String::new() },
        Fault::EngineError { status: 500, body: Vec::new() },
        lost(),
    ];
    for fault in faults {
        let mut dispatcher = packing(&[2], 32, 1_000);
        let slot = dispatcher.open(terms(1, 0, 64), embeddings([shape(1, 1, 1); 64]));
        let poison = HashSet::from([17]);
        let (failed, charged, calls) = run(&mut dispatcher, slot, 64, &poison, &fault);
        assert_eq!(failed.keys().copied().collect::<HashSet<_>>(), poison, "{fault:?}");
        let innocent = charged.iter().filter(|(ordinal, _)| !poison.contains(ordinal));
        assert!(innocent.clone().all(|(_, attempts)| *attempts == 1), "{fault:?}");
        // The other pack, five halvings with a good half each, and the attempts of the one alone.
        assert!(calls <= 1 + 1 + 5 * 2 + 3, "{calls} calls after {fault:?}");
    }
}

#[test]
fn a_pack_that_crashes_the_engine_is_taken_apart_in_the_lane() {
    let mut dispatcher = packing(&[4], 8, 1_000);
    let slot = dispatcher.open(terms(1, 0, 100), embeddings([shape(1, 1, 1); 100]));
    let (mut now, mut failed, mut done) = (at(0), HashSet::new(), 0);
    for _ in 0..10_000 {
        for number in dispatcher.probes(now) {
            assert!(dispatcher.probed(number, Ok(()), now).is_empty(), "a crash charges nobody");
        }
        let (sent, packed) = packs(&mut dispatcher, now);
        now += at(10);
        let crashes = packed.iter().flatten().any(|ordinal| *ordinal == 42);
        for send in sent {
            if crashes {
                if let Followup::Failed { recorded, .. } = dispatcher.faulted(send.token, lost(), now) {
                    failed.insert(recorded.request.ordinal);
                    dispatcher.durable(slot);
                    done += 1;
                }
            } else {
                done += dispatcher.answered(send.token, now).expect("in flight").iter().count();
            }
        }
        if crashes {
            // Nobody is there until a probe finds it again.
            let probe_at = dispatcher.wake_at(now).expect("a probe");
            for number in dispatcher.probes(now.max(probe_at)) {
                assert!(dispatcher.probed(number, Err(down()), now.max(probe_at)).is_empty());
            }
        }
        if done == 100 {
            assert_eq!(failed, HashSet::from([42]));
            return;
        }
        if dispatcher.in_flight() == 0 {
            now = now.max(dispatcher.wake_at(now).unwrap_or(now));
        }
    }
    panic!("it never ends: {dispatcher:?}");
}

proptest! {
    /// Whatever the shapes and limits, only the poisoned fail; a call keeps to the limits; nobody is in two calls.
    #[test]
    fn only_the_poisoned_fail(
        shapes in proptest::collection::vec((0_u128..3, 1_u32..5, 1_u32..50), 1..150),
        windows in proptest::collection::vec(1_u32..5, 1..3),
        limits in (1_u32..40, 1_u64..400),
        poison in proptest::collection::hash_set(0_u32..150, 0..4),
        by_500: bool,
    ) {
        let mut dispatcher = packing(&windows, limits.0, limits.1);
        let requests = shapes.len() as u32;
        let poison: HashSet<u32> = poison.into_iter().filter(|ordinal| *ordinal < requests).collect();
        let shapes = shapes.into_iter().map(|(key, inputs, tokens)| shape(key, inputs, tokens));
        let slot = dispatcher.open(terms(1, 0, u64::from(requests)), embeddings(shapes));
        let fault = if by_500 { Fault::EngineError { status: 500, body: Vec::new() } } else { refused("bad") };
        let (failed, charged, _) = run(&mut dispatcher, slot, requests, &poison, &fault);
        prop_assert_eq!(failed.keys().copied().collect::<HashSet<_>>(), poison.clone());
        prop_assert!(charged.iter().all(|(ordinal, attempts)| *attempts == 1 || poison.contains(ordinal)));
    }

    /// Whatever happens to the calls, every request ends in exactly one result and is in one call at a time.
    #[test]
    fn every_request_of_a_pack_is_recorded_once(
        fates in proptest::collection::vec(0_u8..12, 200..1_500),
        windows in proptest::collection::vec(1_u32..5, 1..3),
        shapes in proptest::collection::vec((0_u128..2, 1_u32..4), 1..120),
        inputs in 1_u32..20,
    ) {
        let mut dispatcher = packing(&windows, inputs, 1_000);
        let requests = shapes.len();
        let shaped = shapes.iter().map(|(key, inputs)| shape(*key, *inputs, 1));
        let slot = dispatcher.open(terms(1, 0, requests as u64), embeddings(shaped));
        let mut recorded: HashSet<u32> = HashSet::new();
        let mut fates = fates.into_iter();
        let mut flying: Vec<Send> = Vec::new();
        let mut now = at(0);
        while recorded.len() < requests {
            for number in dispatcher.probes(now) {
                let result = if fates.next().unwrap_or(9) < 3 { Err(down()) } else { Ok(()) };
                for (failed, _) in dispatcher.probed(number, result, now) {
                    prop_assert!(recorded.insert(failed.request.ordinal));
                }
            }
            flying.extend(std::iter::from_fn(|| dispatcher.next(now)));
            let mut in_calls = HashSet::new();
            for send in &flying {
                let ordinals: Vec<u32> = send.pack.ordinals.iter().copied().collect();
                prop_assert!(ordinals.iter().all(|ordinal| in_calls.insert(*ordinal)), "in two calls");
                prop_assert!(ordinals.iter().all(|ordinal| !recorded.contains(ordinal)), "sent when done");
                let key = shapes[ordinals[0] as usize].0;
                prop_assert!(ordinals.iter().all(|ordinal| shapes[*ordinal as usize].0 == key));
                let sum: u32 = ordinals.iter().map(|ordinal| shapes[*ordinal as usize].1).sum();
                prop_assert!(ordinals.len() == 1 || sum <= inputs);
            }
            if flying.is_empty() && recorded.len() == requests {
                break;
            }
            if flying.is_empty() {
                now = now.max(dispatcher.wake_at(now).expect("unfinished work wakes up by itself"));
                continue;
            }
            now += at(1);
            let send = flying.swap_remove(usize::from(fates.next().unwrap_or(0)) % flying.len());
            let fault = match fates.next().unwrap_or(11) {
                0 => Fault::Busy { status: 503, retry_after: None, detail: String::new() },
                1 => down(),
                2 => lost(),
                3 => Fault::Garbage { detail: "half".to_owned() },
                4 => Fault::Misconfigured { status: 404, detail: "no model".to_owned() },
                5 => refused("bad"),
                6 => Fault::Timeout { detail: "slow".to_owned() },
                _ => {
                    for answered in dispatcher.answered(send.token, now).expect("it is in flight") {
                        prop_assert!(recorded.insert(answered.request.ordinal));
                    }
                    continue;
                }
            };
            if let Followup::Failed { recorded: failed, .. } = dispatcher.faulted(send.token, fault, now) {
                prop_assert_eq!(send.pack.ordinals.len(), 1, "only alone does one fail");
                prop_assert!(recorded.insert(failed.request.ordinal));
            }
        }
        prop_assert_eq!((dispatcher.in_flight(), dispatcher.unsent()), (0, 0));
        prop_assert!(dispatcher.is_open(slot));
    }
}
