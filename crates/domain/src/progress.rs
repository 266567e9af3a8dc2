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
