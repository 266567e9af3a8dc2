//! Saying why nothing moves, now and then: what people are told changes by the second.

use std::time::Duration;

/// What passes at once is not worth a line.
const AT_ONCE: Duration = Duration::from_millis(500);
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Waits {
    said: Option<String>,
    /// When something may be said next, and the pause behind that. None: nothing waits.
    next: Option<(Duration, Duration)>,
}

impl Waits {
    /// What is to be said of a reason that was found `now`.
    pub(super) fn say(&mut self, now: Duration, reason: Option<String>) -> Option<String> {
        if reason.is_none() {
            *self = Self::default();
            return None;
        }
        let (next, pause) = *self.next.get_or_insert((now + AT_ONCE, PAUSE_FIRST));
        if now < next || reason == self.said {
            return None;
        }
        self.next = Some((now + pause, (pause * 2).min(PAUSE_MAX)));
        self.said.clone_from(&reason);
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_said_once_and_what_changes_ever_less_often() {
        let mut waits = Waits::default();
        let mut say = |millis, reason: Option<&str>| {
            waits.say(Duration::from_millis(millis), reason.map(str::to_owned)).is_some()
        };
        assert!(!say(0, Some("a")) && !say(200, None), "it has passed at once");
        assert!(!say(1_000, Some("a")) && !say(1_400, Some("b")) && say(1_600, Some("c")));
        assert!(!say(9_000, Some("c")), "it was said");
        assert!(say(9_000, Some("d")) && !say(12_000, Some("e")) && say(13_000, Some("e")));
        let ten_minutes = (20_000..620_000).step_by(1_000);
        let lines = ten_minutes.filter(|at| say(*at, Some(&at.to_string()))).count();
        assert!((10..14).contains(&lines), "{lines}");
        assert!(!say(700_000, None) && !say(701_000, Some("a")) && say(702_000, Some("a")));
    }
}
