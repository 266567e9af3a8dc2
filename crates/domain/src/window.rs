//! The window: how many calls may be in flight at an endpoint.
//!
//! Here it is a setting that gives way when the engine says that it is busy and comes back slowly. The controller that
//! finds the window by itself will stand behind the same methods.

/// The window of one endpoint.
#[derive(Debug, Clone)]
pub struct Window {
    setting: u32,
    limit: u32,
    /// Set from outside, such as by a rule about the memory of the GPU.
    ceiling: Option<u32>,
    answers_since_change: u32,
}

impl Window {
    pub fn new(setting: u32) -> Self {
        let setting = setting.max(1);
        Self { setting, limit: setting, ceiling: None, answers_since_change: 0 }
    }

    pub fn limit(&self) -> u32 {
        self.ceiling.map_or(self.limit, |ceiling| self.limit.min(ceiling.max(1)))
    }

    /// What the setting says, before anything made it narrower.
    pub const fn setting(&self) -> u32 {
        self.setting
    }

    pub const fn set_ceiling(&mut self, ceiling: Option<u32>) {
        self.ceiling = ceiling;
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
    fn a_ceiling_narrows_it_and_is_forgotten() {
        let mut window = Window::new(8);
        window.set_ceiling(Some(2));
        assert_eq!(window.limit(), 2);
        window.set_ceiling(Some(0));
        assert_eq!(window.limit(), 1, "one is always tried");
        window.set_ceiling(None);
        assert_eq!(window.limit(), 8);
    }
}
