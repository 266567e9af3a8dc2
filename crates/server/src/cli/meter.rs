//! Progress: a bar on a terminal, a plain line every few seconds in a pipe, nothing with `--json`.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::screen::Screen;

/// Between two plain lines: a log of a night stays readable.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Meter {
    shape: Shape,
    screen: Screen,
}

enum Shape {
    Bar(ProgressBar),
    Lines { last: Option<Instant>, text: String },
    Silent,
}

impl Meter {
    /// Counts bytes on their way.
    pub(super) fn of_bytes(screen: Screen, label: &str, len: u64) -> Self {
        let template = "{prefix} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        Self::new(screen, label, len, template).quiet_at_first()
    }

    /// Counts files that are looked at.
    pub(super) fn of_files(screen: Screen, label: &str) -> Self {
        Self::new(screen, label, 0, "{prefix} {bar:30} {msg}").quiet_at_first()
    }

    /// What is over in a moment needs no line.
    fn quiet_at_first(mut self) -> Self {
        if let Shape::Lines { last, .. } = &mut self.shape {
            *last = Some(Instant::now());
        }
        self
    }

    /// Counts requests; the message says the rest.
    pub(super) fn of_requests(screen: Screen, label: &str) -> Self {
        Self::new(screen, label, 0, "{prefix} {bar:30} {msg}")
    }

    fn new(screen: Screen, label: &str, len: u64, template: &str) -> Self {
        let shape = if screen.is_json {
            Shape::Silent
        } else if screen.is_terminal {
            let style = ProgressStyle::with_template(template).expect("our templates are valid");
            let bar = ProgressBar::new(len).with_style(style.progress_chars("=> "));
            Shape::Bar(bar.with_prefix(label.to_owned()))
        } else {
            Shape::Lines { last: None, text: label.to_owned() }
        };
        Self { shape, screen }
    }

    pub(super) fn set(&mut self, done: u64, total: u64, message: impl FnOnce() -> String) {
        match &mut self.shape {
            Shape::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(message());
            }
            Shape::Lines { last, text } => {
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    self.screen.note(&format!("{text} {}", message()));
                }
            }
            Shape::Silent => {}
        }
    }

    /// A line that stays, above the bar.
    pub(super) fn note(&self, text: &str) {
        match &self.shape {
            Shape::Bar(bar) => bar.suspend(|| self.screen.note(text)),
            Shape::Lines { .. } | Shape::Silent => self.screen.note(text),
        }
    }

    pub(super) fn finish(self) {
        if let Shape::Bar(bar) = self.shape {
            bar.finish_and_clear();
        }
    }
}
