//! The vigil: when silence is news. A plain function of what is seen and of time.
//!
//! A batch is silent while it could run and no new result of it becomes durable. One that only waits for its turn behind
//! others that move is not. While no endpoint is up, that is the news, and the silence of each batch is none beside it.
//! A stretch of silence and an outage are told once each; both are counted from the start of this process at the
//! earliest. An endpoint that is up for less than a look has not ended an outage.

use std::collections::HashMap;
use std::time::Duration;

use overnight_domain::ids::BatchId;

/// How long is too long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) no_progress_after: Duration,
    pub(crate) no_endpoint_after: Duration,
}

/// A batch that is in progress and that nobody has paused.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) id: BatchId,
    /// Durable results.
    pub(crate) done: u64,
    /// Something is known to hold it up.
    pub(crate) is_held_up: bool,
}

/// What the endpoints let one expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supply {
    SomeUp,
    NoneUp,
    /// None is up, and one is held back by us, as an engine that is being started: that may take as long as a batch may
    /// be silent.
    HeldBack,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    Silent {
        id: BatchId,
        span: Duration,
        /// Batches before it in the queue move, and nothing is known to hold it up: it is news only if it is being
        /// worked on.
        is_behind: bool,
    },
    NoEndpoint {
        span: Duration,
    },
}

#[derive(Debug)]
pub(crate) struct Vigil {
    bounds: Bounds,
    batches: HashMap<BatchId, Stretch>,
    outage: Option<Stretch>,
}

/// Of silence or of an outage. Moments are counted from any fixed one.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    since: Duration,
    done: u64,
    was_told: bool,
}

impl Stretch {
    const fn new(since: Duration, done: u64) -> Self {
        Self { since, done, was_told: false }
    }

    fn span(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }
}

impl Vigil {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, batches: HashMap::new(), outage: None }
    }

    /// Batches in the order of the queue. A finding comes back until it is noted as told.
    pub(crate) fn look(&mut self, now: Duration, batches: &[Seen], supply: Supply) -> Vec<Finding> {
        self.batches.retain(|id, _| batches.iter().any(|seen| seen.id == *id));
        if batches.is_empty() || supply == Supply::SomeUp {
            self.outage = None;
            return self.silence(now, batches);
        }
        // Silence counts anew from when an endpoint is up again.
        for seen in batches {
            self.batches.insert(seen.id.clone(), Stretch::new(now, seen.done));
        }
        let outage = *self.outage.get_or_insert(Stretch::new(now, 0));
        let Bounds { no_progress_after, no_endpoint_after } = self.bounds;
        let after = match supply {
            Supply::HeldBack => no_progress_after.max(no_endpoint_after),
            _ => no_endpoint_after,
        };
        let span = outage.span(now);
        let is_news = span >= after && !outage.was_told;
        is_news.then_some(Finding::NoEndpoint { span }).into_iter().collect()
    }

    fn silence(&mut self, now: Duration, batches: &[Seen]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut is_any_moving = false;
        for Seen { id, done, is_held_up } in batches {
            let stretch = self.batches.entry(id.clone()).or_insert(Stretch::new(now, *done));
            if stretch.done != *done {
                *stretch = Stretch::new(now, *done);
            }
            let span = stretch.span(now);
            if span < self.bounds.no_progress_after {
                is_any_moving = true;
            } else if !stretch.was_told {
                let is_behind = is_any_moving && !is_held_up;
                findings.push(Finding::Silent { id: id.clone(), span, is_behind });
            }
        }
        findings
    }

    pub(crate) fn note_told(&mut self, finding: &Finding) {
        let stretch = match finding {
            Finding::Silent { id, .. } => self.batches.get_mut(id),
            Finding::NoEndpoint { .. } => self.outage.as_mut(),
        };
        if let Some(stretch) = stretch {
            stretch.was_told = true;
        }
    }

    /// It only waits for its turn: its silence begins now.
    pub(crate) fn begin_anew(&mut self, now: Duration, id: &BatchId) {
        if let Some(stretch) = self.batches.get_mut(id) {
            stretch.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        no_progress_after: Duration::from_secs(600),
        no_endpoint_after: Duration::from_secs(60),
    };

    fn id(number: u128) -> BatchId {
        BatchId::from_uuid(Uuid::from_u128(number))
    }

    fn seen(number: u128, done: u64) -> Seen {
        Seen { id: id(number), done, is_held_up: false }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks once a second, tells everything, and returns when what was found.
    fn watch(
        vigil: &mut Vigil,
        span: std::ops::Range<u64>,
        batches: impl Fn(u64) -> Vec<Seen>,
        supply: impl Fn(u64) -> Supply,
    ) -> Vec<(u64, Finding)> {
        let mut found = Vec::new();
        for second in span {
            for finding in vigil.look(seconds(second), &batches(second), supply(second)) {
                vigil.note_told(&finding);
                found.push((second, finding));
            }
        }
        found
    }

    fn silent(number: u128, span: u64, is_behind: bool) -> Finding {
        Finding::Silent { id: id(number), span: seconds(span), is_behind }
    }

    #[test]
    fn each_stretch_of_silence_is_told_once() {
        let mut vigil = Vigil::new(BOUNDS);
        let results = |second| vec![seen(1, if second < 2_000 { 5 } else { 6 })];
        let found = watch(&mut vigil, 0..4_000, results, |_| Supply::SomeUp);
        assert_eq!(found, [(600, silent(1, 600, false)), (2_600, silent(1, 600, false))]);
    }

    #[test]
    fn slow_results_are_no_silence() {
        let mut vigil = Vigil::new(BOUNDS);
        let found =
            watch(&mut vigil, 0..6_000, |second| vec![seen(1, second / 599)], |_| Supply::SomeUp);
        assert_eq!(found, []);
    }

    #[test]
    fn what_is_not_told_is_found_again() {
        let mut vigil = Vigil::new(BOUNDS);
        vigil.look(seconds(0), &[seen(1, 0)], Supply::SomeUp);
        for second in [600, 601] {
            let found = vigil.look(seconds(second), &[seen(1, 0)], Supply::SomeUp);
            assert_eq!(found, [silent(1, second, false)]);
        }
        vigil.begin_anew(seconds(601), &id(1));
        assert_eq!(vigil.look(seconds(602), &[seen(1, 0)], Supply::SomeUp), []);
    }

    #[test]
    fn who_waits_behind_others_that_move_is_told_apart() {
        let mut vigil = Vigil::new(BOUNDS);
        let held_up = Seen { is_held_up: true, ..seen(3, 0) };
        let batches = |second| vec![seen(1, second), seen(2, 0), held_up.clone()];
        let found = watch(&mut vigil, 0..700, batches, |_| Supply::SomeUp);
        assert_eq!(found, [(600, silent(2, 600, true)), (600, silent(3, 600, false))]);
        // The first in the queue is stuck, what is behind it moves.
        let mut vigil = Vigil::new(BOUNDS);
        let found =
            watch(&mut vigil, 0..700, |second| vec![seen(1, 0), seen(2, second)], |_| Supply::SomeUp);
        assert_eq!(found, [(600, silent(1, 600, false))]);
    }

    #[test]
    fn each_outage_is_told_once_and_no_silence_beside_it() {
        let mut vigil = Vigil::new(BOUNDS);
        let supply = |second| match second {
            100..2_000 | 3_000..3_050 | 4_000..4_100 => Supply::NoneUp,
            _ => Supply::SomeUp,
        };
        let results = |second| vec![seen(1, if second < 1_990 { 0 } else { second })];
        let found = watch(&mut vigil, 0..5_000, results, supply);
        let outage = Finding::NoEndpoint { span: seconds(60) };
        assert_eq!(found, [(160, outage.clone()), (4_060, outage)]);
        // Without work nobody misses an endpoint.
        let found = watch(&mut vigil, 5_000..6_000, |_| Vec::new(), |_| Supply::NoneUp);
        assert_eq!(found, []);
    }

    #[test]
    fn an_engine_that_is_being_started_is_given_longer() {
        let mut vigil = Vigil::new(BOUNDS);
        let found = watch(&mut vigil, 0..700, |_| vec![seen(1, 0)], |_| Supply::HeldBack);
        assert_eq!(found, [(600, Finding::NoEndpoint { span: seconds(600) })]);
    }
}
