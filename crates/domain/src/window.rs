//! The window: how many calls may be in flight at an endpoint.
//!
//! Here it is a setting that gives way when the engine says that it is busy and comes back slowly. Where nobody set it,
//! [`first_window`] takes it from what the engine tells of itself. The controller that finds the window by itself will
//! stand behind the same methods.

use crate::engine_facts::{EngineFacts, Flavour};
use crate::limits::{WINDOW_DEFAULT, WINDOW_MAX};

/// Engines that batch as they go and queue without limit: enough to see what batching gains, and little enough that the
/// smallest card has room for it.
const BATCHING: u32 = 16;
/// TEI puts inputs together into one step; with this many calls the next step is full before the last one ends.
const TEI_MAX: u32 = 32;
/// Left to other clients of an engine that refuses those beyond its permits.
const PERMITS_LEFT: u32 = 8;
/// The built-in engine would like to have so many waiting for each slot.
const SORTED_PER_SLOT: u32 = 8;
/// Ollama and LM Studio do one to four at once, and do not tell: one more waits while another is answered.
const DESKTOP: u32 = 4;

/// The window that an engine begins with when none was set.
pub fn first_window(facts: &EngineFacts) -> u32 {
    let slots = facts.capacity.slots.filter(|slots| *slots > 0);
    let permits = facts.capacity.permits.filter(|permits| *permits > 0);
    let window = match (facts.flavour, slots) {
        // Its slots, and so many more that the next request is there when one becomes free.
        (Flavour::LlamaCpp, Some(slots)) => slots.saturating_add((slots / 4).max(2)),
        (Flavour::Tei, _) => {
            permits.map_or(TEI_MAX, |permits| permits.saturating_sub(PERMITS_LEFT).min(TEI_MAX))
        }
        (Flavour::Vllm | Flavour::Sglang, slots) => slots.map_or(BATCHING, |slots| slots.min(BATCHING)),
        // It sorts what waits by beginnings and lengths, and can only sort what it has been given.
        (Flavour::Overnight, Some(slots)) => slots.saturating_mul(1 + SORTED_PER_SLOT),
        (Flavour::Ollama | Flavour::LmStudio, _) => DESKTOP,
        (Flavour::LlamaCpp | Flavour::Overnight | Flavour::Other, _) => WINDOW_DEFAULT,
    };
    window.min(permits.unwrap_or(WINDOW_MAX)).clamp(1, WINDOW_MAX)
}

/// The window of one endpoint.
#[derive(Debug, Clone)]
pub struct Window {
    setting: u32,
    limit: u32,
    /// How much of the setting may be used, in per cent: set from outside, such as by a rule about the memory of the GPU.
    ceiling_percent: Option<u32>,
    answers_since_change: u32,
}

impl Window {
    pub fn new(setting: u32) -> Self {
        let setting = setting.max(1);
        Self { setting, limit: setting, ceiling_percent: None, answers_since_change: 0 }
    }

    pub fn limit(&self) -> u32 {
        let ceiling = self.ceiling_percent.map(|percent| share_of(self.setting, percent));
        self.limit.min(ceiling.unwrap_or(self.setting))
    }

    /// Begins anew with another setting.
    pub const fn set(&mut self, setting: u32) {
        let setting = if setting == 0 { 1 } else { setting };
        self.setting = setting;
        self.limit = setting;
        self.answers_since_change = 0;
    }

    /// What the setting says, before anything made it narrower.
    pub const fn setting(&self) -> u32 {
        self.setting
    }

    /// It may be no wider than so many per cent of its setting, whatever the setting is then.
    pub const fn set_ceiling(&mut self, percent: Option<u32>) {
        self.ceiling_percent = percent;
    }

    /// The engine refused a call while `in_flight` others were with it: it has room for no more than those.
    pub fn on_busy(&mut self, in_flight: u32) {
        self.limit = in_flight.clamp(1, self.limit);
        self.answers_since_change = 0;
    }

    /// After a full round of answers without a refusal, one more is tried.
    pub const fn on_answer(&mut self) {
        if self.limit >= self.setting {
            return;
        }
        self.answers_since_change += 1;
        if self.answers_since_change >= self.limit {
            self.limit += 1;
            self.answers_since_change = 0;
        }
    }
}

/// `percent` of a window, never none of it and never more than all.
fn share_of(window: u32, percent: u32) -> u32 {
    let share = u64::from(window) * u64::from(percent.min(100)) / 100;
    u32::try_from(share).expect("it is no more than the window").max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_way_and_comes_back() {
        let mut window = Window::new(8);
        window.on_busy(3);
        assert_eq!(window.limit(), 3);
        for _ in 0..3 {
            window.on_answer();
        }
        assert_eq!(window.limit(), 4);
        for _ in 0..100 {
            window.on_answer();
        }
        assert_eq!(window.limit(), 8, "never above the setting");
        window.on_busy(0);
        assert_eq!(window.limit(), 1, "one is always tried");
    }

    #[test]
    fn the_first_window_follows_what_the_engine_tells() {
        use Flavour::{LlamaCpp, LmStudio, Ollama, Other, Overnight, Sglang, Tei, Vllm};
        for (flavour, slots, permits, expected) in [
            (LlamaCpp, Some(1), None, 3),
            (LlamaCpp, Some(4), None, 6),
            (LlamaCpp, Some(32), None, 40),
            (LlamaCpp, Some(u32::MAX), None, WINDOW_MAX),
            (LlamaCpp, None, None, WINDOW_DEFAULT),
            (LlamaCpp, Some(0), None, WINDOW_DEFAULT),
            (Tei, None, Some(512), 32),
            (Tei, None, Some(20), 12),
            (Tei, None, Some(4), 1),
            (Tei, Some(4), None, 32),
            (Vllm, None, None, 16),
            (Sglang, Some(200), None, 16),
            (Sglang, Some(4), Some(8), 4),
            (Ollama, None, None, 4),
            (LmStudio, None, None, 4),
            (Overnight, Some(4), Some(260), 36),
            (Other, None, None, WINDOW_DEFAULT),
            (Other, None, Some(3), 3),
        ] {
            let mut facts = EngineFacts { flavour, ..EngineFacts::default() };
            facts.capacity.slots = slots;
            facts.capacity.permits = permits;
            assert_eq!(
                first_window(&facts),
                expected,
                "{flavour} with {slots:?} slots, {permits:?} permits"
            );
        }
    }

    /// The ceiling was once worked out beside the window, from a setting that it did not have: an engine of 64 slots
    /// whose window nobody had set was narrowed to 4 of 80, not to 48.
    #[test]
    fn the_ceiling_follows_the_setting() {
        let mut facts = EngineFacts { flavour: Flavour::LlamaCpp, ..EngineFacts::default() };
        facts.capacity.slots = Some(64);
        let mut window = Window::new(WINDOW_DEFAULT);
        window.set_ceiling(Some(60));
        assert_eq!(window.limit(), 4);
        window.set(first_window(&facts));
        assert_eq!((window.setting(), window.limit()), (80, 48));
        window.on_busy(50);
        assert_eq!(window.limit(), 48);
        window.on_busy(2);
        assert_eq!(window.limit(), 2, "the engine knows better");
        window.set(0);
        assert_eq!(window.limit(), 1, "one is always tried");
    }

    #[test]
    fn a_ceiling_narrows_it_and_is_forgotten() {
        let mut window = Window::new(8);
        for (percent, limit) in [(60, 4), (20, 1), (0, 1), (100, 8), (u32::MAX, 8)] {
            window.set_ceiling(Some(percent));
            assert_eq!(window.limit(), limit, "{percent} per cent");
        }
        window.set_ceiling(None);
        assert_eq!(window.limit(), 8);
        let mut window = Window::new(5_000);
        for (percent, limit) in [(60, 3_000), (20, 1_000), (10, 500)] {
            window.set_ceiling(Some(percent));
            assert_eq!(window.limit(), limit, "{percent} per cent");
        }
    }
}
