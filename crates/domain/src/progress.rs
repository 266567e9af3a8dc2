//! How fast a batch goes, and when it will be done.
//!
//! The rate is that of the last minutes: what an engine does now, not what it did while it loaded a model.

use std::collections::VecDeque;
use std::time::Duration;

/// Rates are looked at over so long.
const SPAN: Duration = Duration::from_secs(120);
/// Two observations are at least so far apart: more would say nothing.
const STEP: Duration = Duration::from_millis(900);
/// The error bars come from the rates of pieces of this length.
const PIECE: Duration = Duration::from_secs(10);

/// The results of one batch over time. `now` is the time since any fixed moment.
#[derive(Debug, Clone, Default)]
pub struct Pace(VecDeque<(Duration, u64)>);

/// When it will be done, from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eta {
    pub soonest: Duration,
    pub expected: Duration,
    pub latest: Duration,
}

impl Pace {
    pub fn observe(&mut self, now: Duration, done: u64) {
        if self.0.back().is_some_and(|(at, _)| now.saturating_sub(*at) < STEP) {
            return;
        }
        self.0.push_back((now, done));
        while self.0.len() > 2 && self.0.front().is_some_and(|(at, _)| now.saturating_sub(*at) > SPAN) {
            self.0.pop_front();
        }
    }

    /// Results a second. None before there is something to go by.
    pub fn rate(&self) -> Option<f64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        rate_between(*first, *last)
    }

    /// None while nothing moves.
    pub fn eta(&self, left: u64) -> Option<Eta> {
        let rate = self.rate().filter(|rate| *rate > 0.0)?;
        let (mut slowest, mut fastest) = (rate, rate);
        let mut from = *self.0.front()?;
        for sample in &self.0 {
            if sample.0.saturating_sub(from.0) >= PIECE {
                let piece = rate_between(from, *sample).unwrap_or(rate);
                (slowest, fastest) = (slowest.min(piece), fastest.max(piece));
                from = *sample;
            }
        }
        // A piece in which nothing came says that it may take long, not that it never ends.
        let slowest = slowest.max(rate / 10.0);
        let after = |rate: f64| Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX);
        Some(Eta { soonest: after(fastest), expected: after(rate), latest: after(slowest) })
    }
}

/// A step of the course at first. It doubles whenever the steps are used up.
const COURSE_STEP: Duration = Duration::from_secs(2);
const COURSE_STEPS_MAX: usize = 120;
/// Seventeen hours then fit: a night, and the evening before it. What is older is forgotten.
const COURSE_STEP_MAX: Duration = Duration::from_secs(512);

/// How much was done in each step of time since the beginning. The steps grow with the time, so that a minute and a
/// night both fit into a few numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    step: Duration,
    /// Of steps that are over, the oldest first.
    counts: VecDeque<u64>,
    /// When the step that runs began, and how much was done before it.
    began: Duration,
    before: u64,
}

impl Default for Course {
    fn default() -> Self {
        Self { step: COURSE_STEP, counts: VecDeque::new(), began: Duration::ZERO, before: 0 }
    }
}

impl Course {
    /// `done` only ever grows. What came within a long silence counts for its first step.
    pub fn observe(&mut self, now: Duration, done: u64) {
        while now.saturating_sub(self.began) >= self.step {
            self.counts.push_back(done.saturating_sub(self.before));
            self.before = self.before.max(done);
            self.began += self.step;
            if self.counts.len() > COURSE_STEPS_MAX {
                self.make_room();
            }
        }
    }

    pub fn step(&self) -> Duration {
        self.step
    }

    pub fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().copied()
    }

    fn make_room(&mut self) {
        if self.step >= COURSE_STEP_MAX {
            self.counts.pop_front();
            return;
        }
        // The newest becomes the first half of the step that runs.
        if self.counts.len() % 2 == 1 {
            let newest = self.counts.pop_back().unwrap_or_default();
            self.before -= newest;
            self.began -= self.step;
        }
        self.step *= 2;
        let (left, right) = (self.counts.iter().step_by(2), self.counts.iter().skip(1).step_by(2));
        self.counts = left.zip(right).map(|(left, right)| left + right).collect();
    }
}

fn rate_between(from: (Duration, u64), to: (Duration, u64)) -> Option<f64> {
    let span = to.0.saturating_sub(from.0).as_secs_f64();
    (span > 0.0).then(|| to.1.saturating_sub(from.1) as f64 / span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_steady_pace_has_narrow_bounds() {
        let mut pace = Pace::default();
        assert_eq!(pace.rate(), None);
        for second in 0..60 {
            pace.observe(seconds(second), second * 10);
        }
        assert_eq!(pace.rate(), Some(10.0));
        let eta = pace.eta(1_000).unwrap();
        assert_eq!((eta.soonest, eta.expected, eta.latest), (seconds(100), seconds(100), seconds(100)));
    }

    #[test]
    fn a_stumbling_pace_has_wide_bounds() {
        let mut pace = Pace::default();
        for second in 0..60 {
            pace.observe(seconds(second), if second < 30 { second * 10 } else { 300 });
        }
        let eta = pace.eta(1_000).unwrap();
        assert!(eta.soonest < eta.expected && eta.expected < eta.latest, "{eta:?}");
    }

    #[test]
    fn a_course_says_what_was_done_when_and_stays_short() {
        for seconds_seen in [1_u64, 7, 240, 241, 243, 1_000, 5_000, 61_000] {
            let mut course = Course::default();
            for second in 0..=seconds_seen {
                course.observe(seconds(second), second.min(1_000) * 10);
            }
            let counts: Vec<u64> = course.counts().collect();
            assert!(counts.len() <= COURSE_STEPS_MAX, "{}", counts.len());
            assert!(counts.len() >= COURSE_STEPS_MAX / 2 || seconds_seen < 240, "{}", counts.len());
            // Whole steps only, and together they reach up to now.
            let span = course.step().as_secs() * counts.len() as u64;
            assert!(span <= seconds_seen && seconds_seen - span < course.step().as_secs());
            assert_eq!(counts.iter().sum::<u64>(), span.min(1_000) * 10, "{seconds_seen}");
        }
    }

    #[test]
    fn a_course_forgets_what_is_older_than_a_night() {
        let mut course = Course::default();
        course.observe(seconds(10), 70);
        course.observe(seconds(1_000_000), 70);
        assert_eq!(course.step(), COURSE_STEP_MAX);
        assert_eq!(course.counts().sum::<u64>(), 0);
        course.observe(seconds(1_000_000 + 512), 100);
        assert_eq!(course.counts().sum::<u64>(), 30);
        assert_eq!(course.counts().count(), COURSE_STEPS_MAX);
    }

    #[test]
    fn only_the_last_minutes_count_and_memory_is_bounded() {
        let mut pace = Pace::default();
        for second in 0..10_000 {
            pace.observe(seconds(second), second.min(5_000) * 100);
        }
        assert_eq!(pace.rate(), Some(0.0));
        assert_eq!(pace.eta(1), None);
        assert!(pace.0.len() < 150);
    }
}
