//! How long one call waits: its deadline and the longest silence, in one timer.

use std::pin::{Pin, pin};
use std::time::Duration;

use overnight_domain::fault::Fault;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::connection::Meter;

/// Longer than any wait; keeps sums of moments in range.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The waits of one call.
pub(crate) struct Patience {
    started: Instant,
    deadline: Duration,
    stall: Duration,
    /// The longest silence once the answer has begun.
    gap: Duration,
    /// Since when an answer is waited for; later than `started` by what connecting took.
    sent_at: Instant,
    first_byte_after: Option<Duration>,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    pub(crate) fn new(deadline: Duration, stall: Duration) -> Self {
        let started = Instant::now();
        let (deadline, stall) = (deadline.min(WAIT_MAX), stall.min(WAIT_MAX));
        Self {
            started,
            deadline,
            stall,
            gap: stall,
            sent_at: started,
            first_byte_after: None,
            timer: Box::pin(sleep_until(started + deadline.min(stall))),
        }
    }

    /// An answer that has begun may pause no longer than this.
    pub(crate) fn with_gap(mut self, gap: Duration) -> Self {
        self.gap = gap.min(self.stall);
        self
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_sub(self.elapsed())
    }

    pub(crate) fn first_byte_after(&self) -> Option<Duration> {
        self.first_byte_after
    }

    /// Silence counts from here.
    pub(crate) fn begin_to_wait(&mut self) {
        self.sent_at = Instant::now();
    }

    pub(crate) fn since_sent(&self) -> Duration {
        self.sent_at.elapsed()
    }

    pub(crate) fn note_first_byte(&mut self) {
        self.first_byte_after = Some(self.elapsed());
        self.timer.as_mut().reset((Instant::now() + self.gap).min(self.started + self.deadline));
    }

    /// Waits for `work` on the connection that `meter` measures.
    pub(crate) async fn wait<F: Future>(&mut self, meter: &Meter, work: F) -> Result<F::Output, Fault> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                output = &mut work => return Ok(output),
                () = self.timer.as_mut() => self.look(meter)?,
            }
        }
    }

    /// The timer is set for the earliest moment at which patience could end: bytes that came since put that moment off.
    fn look(&mut self, meter: &Meter) -> Result<(), Fault> {
        let now = Instant::now();
        let ends_at = self.started + self.deadline;
        if now >= ends_at {
            let detail = format!("no whole answer within {:?}", self.deadline);
            return Err(Fault::Timeout { detail });
        }
        let silence = if self.first_byte_after.is_some() { self.gap } else { self.stall };
        let stalls_at = self.sent_at.max(meter.last_at()) + silence;
        if now >= stalls_at {
            let awaited =
                if self.first_byte_after.is_some() { "more of the answer" } else { "an answer" };
            let detail = format!("waited {silence:?} for {awaited} and nothing came");
            return Err(Fault::Timeout { detail });
        }
        self.timer.as_mut().reset(stalls_at.min(ends_at));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Bytes every 40 ms, ten times.
    async fn trickle(meter: &Meter) {
        for _ in 0..10 {
            sleep(40 * MILLISECOND).await;
            meter.note();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_keeps_coming_does_not_stall() {
        let meter = Meter::new();
        let mut patience = Patience::new(1_000 * MILLISECOND, 50 * MILLISECOND);
        patience.wait(&meter, trickle(&meter)).await.unwrap();
        assert_eq!(patience.elapsed(), 400 * MILLISECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_even_an_answer_that_keeps_coming() {
        let meter = Meter::new();
        let mut patience = Patience::new(200 * MILLISECOND, 50 * MILLISECOND);
        patience.wait(&meter, trickle(&meter)).await.unwrap_err();
        assert!(patience.elapsed() >= 200 * MILLISECOND);
        assert!(patience.elapsed() < 210 * MILLISECOND);
    }

    /// Connecting may take longer than the longest silence: nobody was asked yet.
    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_sending() {
        let meter = Meter::new();
        let mut patience = Patience::new(1_000 * MILLISECOND, 50 * MILLISECOND);
        sleep(300 * MILLISECOND).await;
        patience.begin_to_wait();
        patience.wait(&meter, pending::<()>()).await.unwrap_err();
        assert!(patience.elapsed() >= 350 * MILLISECOND);
        assert!(patience.elapsed() < 360 * MILLISECOND);
    }

    /// An engine may think for minutes, but one that has begun to answer does not fall silent.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_has_begun_is_waited_for_less_long() {
        let meter = Meter::new();
        let mut patience =
            Patience::new(10_000 * MILLISECOND, 5_000 * MILLISECOND).with_gap(50 * MILLISECOND);
        patience.begin_to_wait();
        patience.wait(&meter, sleep(2_000 * MILLISECOND)).await.unwrap();
        meter.note();
        patience.note_first_byte();
        patience.wait(&meter, trickle(&meter)).await.unwrap();
        patience.wait(&meter, pending::<()>()).await.unwrap_err();
        assert!(patience.elapsed() >= 2_450 * MILLISECOND);
        assert!(patience.elapsed() < 2_470 * MILLISECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_waits_do_not_overflow() {
        let meter = Meter::new();
        let mut patience = Patience::new(Duration::MAX, Duration::MAX);
        patience.wait(&meter, trickle(&meter)).await.unwrap();
    }
}
