//! The vigil: when silence is news. A plain function of what is seen and of time.
//!
//! A batch is silent while it could run and no new result of it becomes durable. One that only waits for its turn behind
//! others that move is not. While no endpoint is up, that is the news: silence is not told then and stands still.
//!
//! A stretch of silence and an outage are told once each; both are counted from the start of this process at the
//! earliest. Silence ends with a result. An outage ends with a result too, or when an endpoint has stayed up for as long
//! as none has to be up to be news: one that comes and goes all night is told once, though each time were long enough.

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
    outage: Option<Outage>,
}

/// Of silence. Moments are counted from any fixed one.
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

#[derive(Debug, Clone, Copy)]
struct Outage {
    /// The last look that saw no endpoint up.
    seen_at: Duration,
    /// For how long none was up, all in all.
    down_for: Duration,
    /// One is up again, and may not stay.
    up_since: Option<Duration>,
    was_told: bool,
}

impl Outage {
    const fn new(now: Duration) -> Self {
        Self { seen_at: now, down_for: Duration::ZERO, up_since: None, was_told: false }
    }
}

impl Vigil {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, batches: HashMap::new(), outage: None }
    }

    /// Batches in the order of the queue. A finding comes back until it is noted as told.
    pub(crate) fn look(&mut self, now: Duration, batches: &[Seen], supply: Supply) -> Vec<Finding> {
        self.batches.retain(|id, _| batches.iter().any(|seen| seen.id == *id));
        let is_any_new = self.take_in(now, batches);
        if is_any_new || batches.is_empty() {
            self.outage = None;
        }
        if batches.is_empty() {
            return Vec::new();
        }
        if supply == Supply::SomeUp {
            self.end_outage(now);
            return self.silence(now, batches);
        }
        let outage = self.extend_outage(now);
        let Bounds { no_progress_after, no_endpoint_after } = self.bounds;
        let after = match supply {
            Supply::HeldBack => no_progress_after.max(no_endpoint_after),
            _ => no_endpoint_after,
        };
        let is_news = outage.down_for >= after && !outage.was_told;
        is_news.then_some(Finding::NoEndpoint { span: outage.down_for }).into_iter().collect()
    }

    /// Begins the silence of each batch anew that has other results than before. Whether one has more.
    fn take_in(&mut self, now: Duration, batches: &[Seen]) -> bool {
        let mut is_any_new = false;
        for Seen { id, done, .. } in batches {
            let stretch = self.batches.entry(id.clone()).or_insert(Stretch::new(now, *done));
            is_any_new |= *done > stretch.done;
            if stretch.done != *done {
                *stretch = Stretch::new(now, *done);
            }
        }
        is_any_new
    }

    /// An endpoint is up: the outage has ended when one was for long enough.
    fn end_outage(&mut self, now: Duration) {
        let Some(outage) = &mut self.outage else { return };
        let up_since = *outage.up_since.get_or_insert(now);
        if now.saturating_sub(up_since) >= self.bounds.no_endpoint_after {
            self.outage = None;
        }
    }

    /// No endpoint is up. The time since the last look counts when none was up then either, and silence stands still.
    fn extend_outage(&mut self, now: Duration) -> Outage {
        let outage = self.outage.get_or_insert(Outage::new(now));
        if outage.up_since.take().is_none() {
            let span = now.saturating_sub(outage.seen_at);
            outage.down_for += span;
            for stretch in self.batches.values_mut() {
                stretch.since = (stretch.since + span).min(now);
            }
        }
        outage.seen_at = now;
        *outage
    }

    fn silence(&self, now: Duration, batches: &[Seen]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut is_any_moving = false;
        for Seen { id, is_held_up, .. } in batches {
            let stretch = self.batches.get(id).expect("`take_in` has put every batch there");
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
        let was_told = match finding {
            Finding::Silent { id, .. } => self.batches.get_mut(id).map(|stretch| &mut stretch.was_told),
            Finding::NoEndpoint { .. } => self.outage.as_mut().map(|outage| &mut outage.was_told),
        };
        if let Some(was_told) = was_told {
            *was_told = true;
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
        let results = |second| match second {
            0..1_990 => vec![seen(1, 0)],
            3_000..3_050 => vec![seen(1, 3_000)],
            4_000..4_100 => vec![seen(1, 4_000)],
            _ => vec![seen(1, second)],
        };
        let found = watch(&mut vigil, 0..5_000, results, supply);
        let outage = Finding::NoEndpoint { span: seconds(60) };
        assert_eq!(found, [(160, outage.clone()), (4_060, outage)]);
        // Without work nobody misses an endpoint.
        let found = watch(&mut vigil, 5_000..6_000, |_| Vec::new(), |_| Supply::NoneUp);
        assert_eq!(found, []);
    }

    /// Up for `up` seconds and then down for `down`, again and again, for ten hours.
    fn flap(up: u64, down: u64, results: impl Fn(u64) -> u64) -> Vec<(u64, Finding)> {
        let supply = |second| if second % (up + down) < up { Supply::SomeUp } else { Supply::NoneUp };
        let mut vigil = Vigil::new(BOUNDS);
        watch(&mut vigil, 0..36_000, |second| vec![seen(1, results(second))], supply)
    }

    /// An engine that came back for a look and died again was a new outage each time: a message a minute, all night.
    #[test]
    fn an_engine_that_comes_and_goes_is_told_once() {
        let outage = |span| Finding::NoEndpoint { span: seconds(span) };
        // What stands still in between adds up: 600 s of being up without a result are silence.
        assert_eq!(flap(2, 70, |_| 0), [(62, outage(60)), (200 * 72, silent(1, 600, false))]);
        // None of its outages is long, and nothing is done all the same.
        assert_eq!(flap(5, 31, |_| 0)[0], (36 + 5 + 30, outage(60)));
        assert_eq!(flap(5, 31, |_| 0).len(), 2);
        // Nearly always up, and useless.
        let found = flap(70, 2, |_| 0);
        assert!(matches!(found[..], [(_, Finding::Silent { .. })]), "{found:?}");
        // What works in between is another outage each time, and no silence.
        let found = flap(10, 3_590, |second| second / 3_600 + u64::from(second % 3_600 > 5));
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|(_, finding)| *finding == outage(60)), "{found:?}");
    }

    #[test]
    fn who_stays_up_has_ended_an_outage() {
        let mut vigil = Vigil::new(BOUNDS);
        let supply = |second| match second {
            0..100 | 130..200 | 261..400 => Supply::NoneUp,
            _ => Supply::SomeUp,
        };
        let found = watch(&mut vigil, 0..400, |_| vec![seen(1, 0)], supply);
        let outage = Finding::NoEndpoint { span: seconds(60) };
        assert_eq!(found, [(60, outage.clone()), (321, outage)]);
    }

    #[test]
    fn an_engine_that_is_being_started_is_given_longer() {
        let mut vigil = Vigil::new(BOUNDS);
        let found = watch(&mut vigil, 0..700, |_| vec![seen(1, 0)], |_| Supply::HeldBack);
        assert_eq!(found, [(600, Finding::NoEndpoint { span: seconds(600) })]);
    }
}
