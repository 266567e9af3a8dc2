use std::time::Duration;

use proptest::prelude::*;

use super::*;

const LIMITS: HeatLimits = HeatLimits { warn_at: 80, unhealthy_at: 85 };
const ANY: GpuUse = GpuUse { gpu: None, memory_rule: false };
const RULED: GpuUse = GpuUse { gpu: None, memory_rule: true };

fn at(second: u64) -> UnixTime {
    UnixTime::from_millis(second * 1_000)
}

fn hot(index: u32, degrees: u32) -> GpuFacts {
    GpuFacts { index, temperature_c: Some(degrees), ..GpuFacts::default() }
}

fn full(percent: f64) -> GpuFacts {
    GpuFacts {
        memory_used_bytes: Some((percent * 1e6) as u64),
        memory_total_bytes: Some(100_000_000),
        ..GpuFacts::default()
    }
}

#[test]
fn heat_is_left_five_degrees_lower_than_it_is_entered() {
    let mut health = GpuHealth::new(LIMITS);
    let steps = [
        (79, Heat::Fine),
        (80, Heat::Warm),
        (76, Heat::Warm),
        (75, Heat::Fine),
        (84, Heat::Warm),
        (85, Heat::TooHot),
        (86, Heat::TooHot),
        (81, Heat::TooHot),
        (80, Heat::Warm),
        (84, Heat::Warm),
        (90, Heat::TooHot),
        (40, Heat::Fine),
    ];
    for (second, (degrees, heat)) in (1..).zip(steps) {
        health.observe(&[hot(0, degrees)], at(second));
        assert_eq!(health.heat(0), heat, "at {degrees}");
        assert_eq!(health.reins(ANY).hold.is_some(), heat == Heat::TooHot, "at {degrees}");
    }
}

#[test]
fn memory_steps_as_people_know_them() {
    let mut health = GpuHealth::new(LIMITS);
    let steps = [
        (69.9, None, false),
        (70.0, Some(60), false),
        (80.0, Some(20), false),
        (92.0, Some(10), false),
        (95.0, Some(10), false),
        (95.1, Some(10), true),
        (91.0, Some(10), true),
        (90.0, Some(10), false),
        (85.1, Some(10), false),
        (85.0, Some(20), false),
        (70.0, Some(60), false),
        (65.0, None, false),
    ];
    for (second, (percent, ceiling, is_held)) in (1..).zip(steps) {
        health.observe(&[full(percent)], at(second));
        let reins = health.reins(RULED);
        assert_eq!((reins.ceiling_percent, reins.hold.is_some()), (ceiling, is_held), "at {percent}");
        assert_eq!(health.reins(ANY), GpuReins::default(), "without the rule it is only shown");
    }
}

#[test]
fn an_endpoint_with_a_gpu_of_its_own_is_not_held_for_another() {
    let mut health = GpuHealth::new(LIMITS);
    health.observe(&[hot(0, 50), hot(1, 86)], at(1));
    let on = |gpu| health.reins(GpuUse { gpu: Some(gpu), memory_rule: false }).hold;
    assert_eq!(on(0), None);
    assert!(on(1).unwrap().contains("GPU 1 got to 86 °C"));
    assert_eq!(on(7), None, "what is not known holds nobody back");
    assert!(health.reins(ANY).hold.is_some(), "it may run on any");
}

#[test]
fn silence_does_not_cool_at_once_nor_hold_for_ever() {
    let mut health = GpuHealth::new(LIMITS);
    health.observe(&[hot(0, 86)], at(100));
    health.observe(&[], at(130));
    assert!(health.reins(ANY).hold.is_some());
    let silent = GpuFacts { index: 0, trouble: Some("lost".to_owned()), ..GpuFacts::default() };
    health.observe(std::slice::from_ref(&silent), at(140));
    assert!(health.reins(ANY).hold.unwrap().contains("got to 86 °C"));
    let forgotten = at(100).plus(GPU_FORGOTTEN_AFTER);
    health.observe(&[silent], forgotten);
    assert_eq!((health.heat(0), health.reins(ANY)), (Heat::Unknown, GpuReins::default()));
    health.observe(&[], forgotten.plus(Duration::from_secs(1)));
    assert!(health.watched.is_empty(), "what is gone is not kept");
}

#[test]
fn the_reason_is_that_of_the_beginning() {
    let mut health = GpuHealth::new(LIMITS);
    health.observe(&[hot(0, 86)], at(1));
    let first = health.reins(ANY).hold;
    health.observe(&[hot(0, 91)], at(2));
    assert_eq!(health.reins(ANY).hold, first);
    health.observe(&[hot(0, 70)], at(3));
    health.observe(&[hot(0, 88)], at(4));
    assert!(health.reins(ANY).hold.unwrap().contains("88 °C"));
}

#[test]
fn odd_figures_break_nothing() {
    let mut health = GpuHealth::new(LIMITS);
    let odd = GpuFacts {
        memory_used_bytes: Some(u64::MAX),
        memory_total_bytes: Some(1),
        temperature_c: Some(u32::MAX),
        ..GpuFacts::default()
    };
    let none =
        GpuFacts { memory_total_bytes: Some(0), memory_used_bytes: Some(0), ..GpuFacts::default() };
    assert_eq!(none.memory_percent(), None);
    health.observe(&[odd, none], at(1));
    assert!(health.reins(RULED).hold.is_some());
}

proptest! {
    /// Whatever came before: at the limit it is held, five below it is not, and between the two nothing changes.
    #[test]
    fn between_the_limits_nothing_changes(degrees in proptest::collection::vec(0_u32..120, 1..50)) {
        let mut health = GpuHealth::new(LIMITS);
        let mut was_held = false;
        for (second, degrees) in (1..).zip(degrees) {
            health.observe(&[hot(0, degrees)], at(second));
            let is_held = health.heat(0) == Heat::TooHot;
            let expected = degrees >= 85 || (was_held && degrees > 80);
            prop_assert_eq!(is_held, expected);
            was_held = is_held;
        }
    }
}
