//! How long to wait: for an answer, before the next attempt, before the next probe.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::limits::{
    BACKOFF_FIRST, BACKOFF_MAX, DEADLINE_FACTOR, DEADLINE_FIRST, DEADLINE_MAX, DEADLINE_MIN,
};

/// The deadline of calls to one endpoint: it follows the slowest latency seen lately.
#[derive(Debug, Clone, Default)]
pub struct Deadline {
    slowest: Option<Duration>,
    /// Without those that ran out of time.
    slowest_answer: Option<Duration>,
}

impl Deadline {
    /// A slower answer counts at once; faster ones let the figure sink by a part in 256 each, so that one short answer
    /// does not make the next long one look stuck.
    pub fn on_answer(&mut self, latency: Duration) {
        for slowest in [&mut self.slowest, &mut self.slowest_answer] {
            *slowest = Some(match *slowest {
                Some(slowest) if latency < slowest => (slowest * 255 + latency) / 256,
                _ => latency,
            });
        }
    }

    /// A call that ran out of time says that the engine is slower than was thought.
    pub fn on_timeout(&mut self, waited: Duration) {
        self.slowest = Some(self.slowest.unwrap_or_default().max(waited / 2));
    }

    pub const fn has_seen_answers(&self) -> bool {
        self.slowest_answer.is_some()
    }

    /// What an answer may take, as answers show; nothing before there was one.
    pub fn answer_span(&self) -> Duration {
        (self.slowest_answer.unwrap_or_default() * DEADLINE_FACTOR).min(DEADLINE_MAX)
    }

    pub fn current(&self) -> Duration {
        self.slowest.map_or(DEADLINE_FIRST, |slowest| {
            (slowest * DEADLINE_FACTOR).clamp(DEADLINE_MIN, DEADLINE_MAX)
        })
    }
}

/// Exponential backoff with jitter: between a half and all of the doubling step. `seed` makes it repeatable.
pub fn backoff(first: Duration, max: Duration, failures: u32, seed: u64) -> Duration {
    let step = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(max);
    let fraction = (xxh3_64(&seed.to_le_bytes()) >> 40) as u32;
    step / 2 + (step / 2).mul_f64(f64::from(fraction) / f64::from(1_u32 << 24))
}

/// Before attempt `attempt + 1` of a request.
pub fn attempt_backoff(attempt: u32, seed: u64) -> Duration {
    backoff(BACKOFF_FIRST, BACKOFF_MAX, attempt, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_follows_latency_within_bounds() {
        let mut deadline = Deadline::default();
        assert_eq!(deadline.current(), DEADLINE_FIRST);
        assert_eq!(deadline.answer_span(), Duration::ZERO);
        deadline.on_answer(Duration::from_millis(20));
        assert_eq!(deadline.answer_span(), Duration::from_millis(80));
        deadline.on_timeout(Duration::from_secs(60));
        assert_eq!(deadline.current(), Duration::from_secs(120));
        assert_eq!(deadline.answer_span(), Duration::from_millis(80), "a timeout is no answer");
        let mut deadline = Deadline::default();
        deadline.on_answer(Duration::from_millis(20));
        assert_eq!(deadline.current(), DEADLINE_MIN);
        deadline.on_answer(Duration::from_secs(100));
        assert_eq!(deadline.current(), Duration::from_secs(400));
        deadline.on_answer(Duration::from_secs(1));
        assert!(deadline.current() > Duration::from_secs(390), "one fast answer changes little");
        deadline.on_answer(Duration::from_secs(100_000));
        assert_eq!(deadline.current(), DEADLINE_MAX);
    }

    #[test]
    fn backoff_doubles_up_to_its_end_and_repeats() {
        for failures in 1..40 {
            let step = BACKOFF_FIRST.saturating_mul(1 << (failures - 1).min(20)).min(BACKOFF_MAX);
            for seed in 0..50 {
                let wait = attempt_backoff(failures, seed);
                assert!(wait >= step / 2 && wait <= step, "{failures} {wait:?}");
                assert_eq!(wait, attempt_backoff(failures, seed));
            }
        }
    }
}
