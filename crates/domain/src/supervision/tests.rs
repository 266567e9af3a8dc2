use super::*;
use crate::limits::{
    ENGINE_BACKOFF_FIRST, ENGINE_BLOCKED_RETRY, ENGINE_GIVEN_UP_RETRY, ENGINE_READY_WITHIN,
    ENGINE_SILENT_MAX, ENGINE_STALL_AFTER, ENGINE_STARTS_MAX,
};

const SECOND: Duration = Duration::from_secs(1);
const IDLE: Seen = Seen {
    demand: None,
    in_flight: 0,
    signs: 0,
    answer_span: Duration::ZERO,
    memory_len: 0,
    load: None,
    is_silent: false,
    is_held_up: false,
};
const WANTED: Seen = Seen { demand: Some(0), ..IDLE };
const BUSY: Seen = Seen { in_flight: 4, ..WANTED };
const URGENT: Seen = Seen { demand: Some(5), ..IDLE };
const HELD: Seen = Seen { is_held_up: true, ..WANTED };

fn rules(slot: Option<u32>) -> Rules {
    Rules {
        ready_within: ENGINE_READY_WITHIN,
        stall_after: ENGINE_STALL_AFTER,
        silent_after: ENGINE_SILENT_MAX,
        idle_after: None,
        memory_len_max: None,
        slot,
    }
}

/// A supervisor with its clock, to which processes do what they are told at once.
struct Scene {
    supervisor: Supervisor,
    now: Duration,
}

impl Scene {
    fn new(rules: Vec<Rules>) -> Self {
        Self { supervisor: Supervisor::new(rules), now: SECOND }
    }

    fn decide(&mut self, seen: &[Seen]) -> Vec<(usize, Action)> {
        let actions = self.supervisor.decide(seen, self.now);
        let running = (0..seen.len()).filter(|number| self.supervisor.life(*number).has_process());
        assert!(
            running.count() <= 1
                || self.supervisor.engines.iter().any(|engine| engine.rules.slot.is_none())
        );
        actions
    }

    fn tell(&mut self, number: usize, event: Event) {
        self.supervisor.happened(number, event, self.now);
    }

    fn state(&self, number: usize) -> State {
        self.supervisor.life(number).state()
    }

    /// From nothing to ready.
    fn ready(&mut self, number: usize, seen: &[Seen]) {
        assert_eq!(self.decide(seen), [(number, Action::Start)]);
        self.tell(number, Event::Answered);
        assert!(self.supervisor.life(number).is_usable());
    }
}

fn ended() -> Event {
    Event::Ended("it exited with 1".to_owned())
}

#[test]
fn an_engine_runs_only_while_there_is_work_and_then_stays() {
    let mut scene = Scene::new(vec![rules(None)]);
    assert_eq!(scene.decide(&[IDLE]), []);
    scene.ready(0, &[WANTED]);
    scene.now += SECOND * 86_400;
    assert_eq!(scene.decide(&[IDLE]), []);
    assert!(scene.supervisor.life(0).is_usable());
    assert_eq!(scene.supervisor.stop_all(scene.now), [(0, Action::Stop)]);
    assert_eq!(scene.supervisor.stop_all(scene.now), []);
    scene.tell(0, ended());
    assert_eq!(scene.state(0), State::Stopped);
}

#[test]
fn an_idle_engine_stops_when_that_is_asked_for() {
    let mut scene = Scene::new(vec![Rules { idle_after: Some(SECOND * 60), ..rules(None) }]);
    scene.ready(0, &[WANTED]);
    scene.now += SECOND * 59;
    scene.decide(&[IDLE]);
    assert!(scene.supervisor.life(0).is_usable());
    scene.now += SECOND;
    scene.decide(&[IDLE]);
    scene.now += SECOND;
    assert_eq!(scene.decide(&[IDLE]), [(0, Action::Stop)]);
    scene.tell(0, ended());
    assert_eq!(scene.state(0), State::Stopped);
    assert_eq!(scene.supervisor.life(0).failure(), None);
}

#[test]
fn starts_that_never_get_ready_are_paused_longer_and_then_given_up_but_not_for_ever() {
    let mut scene = Scene::new(vec![rules(None)]);
    let mut pauses = Vec::new();
    for _ in 1..ENGINE_STARTS_MAX {
        assert_eq!(scene.decide(&[WANTED]), [(0, Action::Start)]);
        scene.tell(0, ended());
        let State::Backoff { until } = scene.state(0) else { panic!("{:?}", scene.state(0)) };
        pauses.push(until.saturating_sub(scene.now).as_secs());
        assert_eq!(scene.decide(&[WANTED]), []);
        scene.now = until;
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
    assert_eq!(scene.decide(&[WANTED]), [(0, Action::Start)]);
    scene.tell(0, ended());
    assert_eq!(scene.state(0), State::GivenUp { until: scene.now + ENGINE_GIVEN_UP_RETRY });
    assert_eq!(scene.supervisor.life(0).failure(), Some("it exited with 1"));
    scene.now += ENGINE_GIVEN_UP_RETRY;
    assert_eq!(scene.decide(&[WANTED]), [(0, Action::Start)]);
    scene.tell(0, ended());
    assert!(matches!(scene.state(0), State::GivenUp { .. }));
    scene.now += ENGINE_GIVEN_UP_RETRY;
    scene.ready(0, &[WANTED]);
    assert_eq!(scene.supervisor.life(0).failures(), 0);
}

/// A request that kills its engine each time must end condemned, not the engine given up.
#[test]
fn an_engine_that_was_ready_is_never_given_up() {
    let mut scene = Scene::new(vec![rules(None)]);
    for crashes in 0..50 {
        scene.ready(0, &[WANTED]);
        assert_eq!(scene.supervisor.life(0).restarts(), crashes);
        scene.tell(0, Event::Ended("it was ended by signal 11".to_owned()));
        assert_eq!(scene.state(0), State::Backoff { until: scene.now + ENGINE_BACKOFF_FIRST });
        scene.now += ENGINE_BACKOFF_FIRST;
    }
}

#[test]
fn what_hangs_or_leaks_is_ended_and_started_again() {
    let limits = Rules { memory_len_max: Some(1_000_000_000), ..rules(None) };
    let end = Action::End;
    for (from_start, seen, wait, action, word) in [
        (true, WANTED, ENGINE_READY_WITHIN, Action::Stop, "ready_within"),
        (false, BUSY, ENGINE_STALL_AFTER, end(EndedFor::Silence), "stall_after"),
        (
            false,
            Seen { is_silent: true, ..WANTED },
            ENGINE_SILENT_MAX,
            end(EndedFor::Silence),
            "not answered",
        ),
        (
            false,
            Seen { memory_len: 2_000_000_000, ..BUSY },
            Duration::ZERO,
            end(EndedFor::Memory),
            "2000 MB",
        ),
    ] {
        let mut scene = Scene::new(vec![limits]);
        scene.decide(&[WANTED]);
        if !from_start {
            scene.tell(0, Event::Answered);
        }
        scene.decide(&[Seen { memory_len: 0, is_silent: false, ..seen }]);
        scene.now += wait + SECOND;
        assert_eq!(scene.decide(&[seen]), [(0, action)], "{word}");
        let failure = scene.supervisor.life(0).failure().unwrap();
        assert!(failure.contains(word), "{failure}");
        assert_eq!(scene.decide(&[WANTED]), [], "it is not started before it has ended");
        scene.tell(0, ended());
        assert!(matches!(scene.state(0), State::Backoff { .. }));
        scene.now += ENGINE_BACKOFF_FIRST;
        assert_eq!(scene.decide(&[WANTED]), [(0, Action::Start)]);
    }
}

#[test]
fn a_slow_engine_that_gives_signs_of_life_is_left_alone() {
    let mut scene = Scene::new(vec![rules(None)]);
    scene.ready(0, &[WANTED]);
    for signs in 0..20 {
        scene.now += ENGINE_STALL_AFTER / 2;
        assert_eq!(scene.decide(&[Seen { signs, ..BUSY }]), []);
    }
    // Without calls in flight silence means nothing.
    scene.now += ENGINE_STALL_AFTER * 2;
    assert_eq!(scene.decide(&[WANTED]), []);
}

#[test]
fn an_engine_that_answers_calls_and_no_questions_is_left_alone() {
    let mut scene = Scene::new(vec![rules(None)]);
    scene.ready(0, &[WANTED]);
    let silent = Seen { is_silent: true, ..BUSY };
    for signs in 1..20 {
        scene.now += ENGINE_SILENT_MAX / 2;
        assert_eq!(scene.decide(&[Seen { signs, ..silent }]), []);
    }
    let last = Seen { signs: 19, ..silent };
    scene.now += ENGINE_SILENT_MAX + SECOND;
    assert_eq!(scene.decide(&[last]), [(0, Action::End(EndedFor::Silence))]);
}

/// Answers of twenty minutes, and no counters: the engine was taken for stuck in the middle of each.
#[test]
fn an_answer_may_take_as_long_as_answers_are_known_to_take() {
    let mut scene = Scene::new(vec![rules(None)]);
    scene.ready(0, &[WANTED]);
    let slow = Seen { answer_span: ENGINE_STALL_AFTER * 3, ..BUSY };
    scene.decide(&[slow]);
    scene.now += ENGINE_STALL_AFTER * 3;
    assert_eq!(scene.decide(&[slow]), []);
    scene.now += SECOND;
    assert_eq!(scene.decide(&[slow]), [(0, Action::End(EndedFor::Silence))]);
    assert_eq!(
        scene.supervisor.life(0).failure(),
        Some("it said nothing for 30 min with 4 calls in flight (stall_after)")
    );
}

/// Its few calls ran out of time one after the other, and in the pauses between them nothing was in flight: an engine
/// that was stuck was never started again, and its requests failed.
#[test]
fn calls_that_run_out_of_time_are_no_signs_of_life() {
    let mut scene = Scene::new(vec![rules(None)]);
    scene.ready(0, &[WANTED]);
    let mut busy_for = Duration::ZERO;
    let ended = loop {
        scene.decide(&[BUSY]);
        scene.now += SECOND * 60;
        busy_for += SECOND * 60;
        match &scene.decide(&[BUSY])[..] {
            [] => {}
            ended => break ended.to_vec(),
        }
        scene.decide(&[WANTED]);
        scene.now += BACKOFF_MAX;
        assert_eq!(scene.decide(&[WANTED]), []);
    };
    assert_eq!(ended, [(0, Action::End(EndedFor::Silence))]);
    assert_eq!(busy_for, ENGINE_STALL_AFTER + SECOND * 60);
    // Whoever had nothing to do for longer begins anew.
    let mut scene = Scene::new(vec![rules(None)]);
    scene.ready(0, &[WANTED]);
    for _ in 0..20 {
        scene.decide(&[BUSY]);
        scene.now += SECOND * 300;
        assert_eq!(scene.decide(&[BUSY]), []);
        scene.now += BACKOFF_MAX + SECOND;
        assert_eq!(scene.decide(&[WANTED]), []);
    }
}

#[test]
fn an_address_that_is_taken_is_not_fought_over() {
    let mut scene = Scene::new(vec![rules(None)]);
    scene.decide(&[WANTED]);
    scene.tell(0, Event::Blocked("port 8000 is in use".to_owned()));
    assert!(matches!(scene.state(0), State::Backoff { .. }));
    assert_eq!(scene.supervisor.life(0).failures(), 0);
    scene.now += ENGINE_BLOCKED_RETRY_SURELY;
    scene.decide(&[WANTED]);
    scene.tell(0, Event::Found);
    assert!(scene.supervisor.life(0).is_usable());
    assert_eq!(scene.supervisor.stop_all(scene.now), [], "what we did not start we do not stop");
    scene.tell(0, Event::Vanished);
    assert_eq!(scene.decide(&[WANTED]), [(0, Action::Start)]);
}

const ENGINE_BLOCKED_RETRY_SURELY: Duration = Duration::from_secs(3_600);

/// Lets whoever drains stop, and the other come up.
fn change(scene: &mut Scene, from: usize, to: usize, seen: &[Seen]) {
    scene.now += ENGINE_DRAIN_MIN;
    assert_eq!(scene.decide(seen), [(from, Action::Stop)]);
    assert_eq!(scene.decide(seen), [], "both would run");
    scene.tell(from, ended());
    scene.ready(to, seen);
}

#[test]
fn one_slot_goes_to_who_has_work_and_never_to_both() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    scene.ready(0, &[BUSY, WANTED]);
    // Its work is not done: the other waits.
    scene.now += SECOND * 60;
    assert_eq!(scene.decide(&[BUSY, WANTED]), []);
    assert!(scene.supervisor.life(0).is_usable());
    assert_eq!(scene.supervisor.rival(1), Some(0));
    // Done: the other's turn.
    scene.decide(&[IDLE, WANTED]);
    change(&mut scene, 0, 1, &[IDLE, WANTED]);
    assert_eq!(scene.state(0), State::Stopped);
}

#[test]
fn a_turn_ends_after_its_time_when_calls_in_flight_have_ended() {
    let mut scene = Scene::new(vec![rules(Some(7)), rules(Some(7))]);
    scene.ready(0, &[BUSY, WANTED]);
    let busy = |signs| [Seen { signs, ..BUSY }, WANTED];
    scene.now += ENGINE_TURN_MIN.saturating_sub(SECOND);
    scene.decide(&busy(1));
    assert!(scene.supervisor.life(0).is_usable());
    scene.now += SECOND;
    scene.decide(&busy(2));
    assert!(matches!(scene.state(0), State::Draining { .. }));
    assert_eq!(scene.supervisor.rival(0), Some(1));
    scene.now += SECOND * 20;
    assert_eq!(scene.decide(&busy(3)), [], "calls in flight may end");
    change(&mut scene, 0, 1, &[WANTED, WANTED]);
    // And back, by the same rule.
    scene.now += ENGINE_TURN_MIN;
    scene.decide(&[WANTED, Seen { signs: 9, ..BUSY }]);
    change(&mut scene, 1, 0, &[WANTED, WANTED]);
}

#[test]
fn a_long_load_makes_turns_longer() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    let load = Some(ENGINE_TURN_MIN);
    scene.ready(0, &[Seen { load, ..BUSY }, WANTED]);
    for signs in 1..u64::from(ENGINE_LOADS_PER_TURN) {
        scene.now += ENGINE_TURN_MIN;
        scene.decide(&[Seen { signs, load, ..BUSY }, WANTED]);
        assert!(scene.supervisor.life(0).is_usable(), "{signs}");
    }
    scene.now += ENGINE_TURN_MIN;
    scene.decide(&[Seen { signs: 99, load, ..BUSY }, WANTED]);
    assert!(matches!(scene.state(0), State::Draining { .. }));
}

#[test]
fn urgent_work_takes_the_slot_at_once_and_keeps_it() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    scene.ready(0, &[BUSY, IDLE]);
    scene.decide(&[BUSY, URGENT]);
    change(&mut scene, 0, 1, &[WANTED, URGENT]);
    scene.now += ENGINE_TURN_MIN * 10;
    assert_eq!(scene.decide(&[WANTED, Seen { in_flight: 1, signs: 1, ..URGENT }]), []);
    assert!(scene.supervisor.life(1).is_usable());
}

#[test]
fn work_that_does_not_move_does_not_keep_a_slot() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    scene.ready(0, &[WANTED, WANTED]);
    scene.now += ENGINE_TURN_IDLE;
    scene.decide(&[WANTED, WANTED]);
    change(&mut scene, 0, 1, &[WANTED, WANTED]);
}

#[test]
fn whoever_waited_and_has_gone_gives_the_slot_back() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    scene.ready(0, &[BUSY, WANTED]);
    scene.now += ENGINE_TURN_MIN;
    scene.decide(&[Seen { signs: 1, ..BUSY }, WANTED]);
    assert!(matches!(scene.state(0), State::Draining { .. }));
    scene.decide(&[BUSY, IDLE]);
    assert!(scene.supervisor.life(0).is_usable());
}

#[test]
fn other_slots_and_engines_without_one_run_beside_each_other() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(1)), rules(None)]);
    let actions = scene.decide(&[WANTED; 3]);
    assert_eq!(actions, [(0, Action::Start), (1, Action::Start), (2, Action::Start)]);
}

#[test]
fn a_failing_engine_leaves_its_slot_to_the_other_while_it_waits() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    scene.decide(&[WANTED, WANTED]);
    scene.tell(0, ended());
    scene.ready(1, &[WANTED, WANTED]);
}

fn blocked() -> Event {
    Event::Blocked("port 8000 is in use".to_owned())
}

/// An engine with urgent work whose port a stranger had took the slot back from the other as soon as that was ready,
/// every time: neither ever made a call.
#[test]
fn an_engine_that_cannot_start_takes_the_slot_only_at_its_turn() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    let busy = |signs| [URGENT, Seen { signs, ..BUSY }];
    assert_eq!(scene.decide(&[URGENT, WANTED]), [(0, Action::Start)]);
    scene.tell(0, blocked());
    assert_eq!(scene.decide(&[URGENT, WANTED]), [(1, Action::Start)]);
    scene.now += ENGINE_BLOCKED_RETRY * 2;
    scene.tell(1, Event::Answered);
    assert_eq!(scene.decide(&[URGENT, WANTED]), []);
    assert!(scene.supervisor.life(1).is_usable(), "it has loaded for nothing");
    scene.now += ENGINE_TURN_MIN.saturating_sub(SECOND);
    scene.decide(&busy(1));
    assert!(scene.supervisor.life(1).is_usable());
    scene.now += SECOND;
    scene.decide(&busy(2));
    assert!(matches!(scene.state(1), State::Draining { .. }), "nobody waits for ever");
    change(&mut scene, 1, 0, &[URGENT, WANTED]);
    // From now on it is as good as any.
    scene.decide(&[IDLE, WANTED]);
    change(&mut scene, 0, 1, &[IDLE, WANTED]);
    scene.decide(&[URGENT, BUSY]);
    assert!(matches!(scene.state(1), State::Draining { .. }));
}

#[test]
fn urgent_work_takes_the_slot_past_one_that_cannot_start() {
    let mut scene = Scene::new(vec![rules(Some(0)); 3]);
    let most_urgent = Seen { demand: Some(9), ..IDLE };
    scene.decide(&[most_urgent, WANTED, IDLE]);
    scene.tell(0, blocked());
    scene.ready(1, &[most_urgent, WANTED, IDLE]);
    scene.now += ENGINE_BLOCKED_RETRY;
    scene.decide(&[most_urgent, BUSY, IDLE]);
    assert!(scene.supervisor.life(1).is_usable());
    scene.decide(&[most_urgent, BUSY, URGENT]);
    assert!(matches!(scene.state(1), State::Draining { .. }));
}

/// In the second before an engine with urgent work was started again, the other took the slot, loaded for minutes, and
/// had to go at once.
#[test]
fn an_engine_that_was_ready_keeps_its_slot_for_urgent_work_until_it_is_started_again() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    scene.ready(0, &[URGENT, WANTED]);
    scene.tell(0, ended());
    assert_eq!(scene.decide(&[URGENT, WANTED]), []);
    scene.now += ENGINE_BACKOFF_FIRST;
    assert_eq!(scene.decide(&[URGENT, WANTED]), [(0, Action::Start)]);
    // Not ready this time: the other need not wait.
    scene.tell(0, ended());
    scene.ready(1, &[URGENT, WANTED]);
}

#[test]
fn an_engine_that_has_ended_keeps_its_slot_from_nobody_with_equal_work() {
    for seen in [[WANTED, WANTED], [IDLE, WANTED], [Seen { is_held_up: true, ..URGENT }, WANTED]] {
        let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
        scene.ready(0, &[WANTED, WANTED]);
        scene.tell(0, ended());
        scene.ready(1, &seen);
    }
}

/// While a GPU was too hot, its engines changed places every five seconds.
#[test]
fn while_nothing_can_be_sent_engines_stay_where_they_are() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    assert_eq!(scene.decide(&[HELD, HELD]), []);
    scene.ready(0, &[WANTED, WANTED]);
    for _ in 0..10 {
        scene.now += ENGINE_TURN_MIN;
        let urgent = Seen { is_held_up: true, ..URGENT };
        assert_eq!(scene.decide(&[HELD, urgent]), []);
        assert!(scene.supervisor.life(0).is_usable());
    }
    scene.now += ENGINE_TURN_IDLE.saturating_sub(SECOND);
    scene.decide(&[WANTED, HELD]);
    scene.decide(&[BUSY, WANTED]);
    assert!(matches!(scene.state(0), State::Draining { .. }), "its turn is long over");
    scene.decide(&[HELD, HELD]);
    assert!(scene.supervisor.life(0).is_usable(), "the hold came while it drained");
}

/// The memory of the engine that has the slot may be what holds the other up.
#[test]
fn an_engine_without_work_makes_room_for_one_that_is_held_up() {
    let mut scene = Scene::new(vec![rules(Some(0)), rules(Some(0))]);
    scene.ready(0, &[WANTED, IDLE]);
    scene.decide(&[IDLE, HELD]);
    scene.now += ENGINE_DRAIN_MIN;
    assert_eq!(scene.decide(&[IDLE, HELD]), [(0, Action::Stop)]);
    scene.tell(0, ended());
    assert_eq!(scene.decide(&[IDLE, HELD]), []);
    scene.ready(1, &[IDLE, WANTED]);
}

#[test]
fn what_comes_too_late_changes_nothing() {
    let states = [Event::Answered, Event::Drain, Event::Stop, Event::Vanished, Event::Resume];
    for event in states {
        let mut scene = Scene::new(vec![rules(None)]);
        scene.tell(0, event);
        assert_eq!(scene.state(0), State::Stopped);
    }
}
