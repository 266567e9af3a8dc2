//! Warnings of llama.cpp that are not true of us, and would frighten whoever reads the log.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// One pool of cells for all is as long as all sequences together. llama.cpp takes it for the length of each, and warns that
/// the model was trained with less; no sequence of ours is longer than that.
const OF_THE_POOL: &str = "possible training context overflow";

/// Leaves them out.
pub(super) struct FalseAlarms;

impl<S: Subscriber> Layer<S> for FalseAlarms {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let mut found = Found(false);
        event.record(&mut found);
        !found.0
    }
}

struct Found(bool);

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0 |= field.name() == "message" && value.contains(OF_THE_POOL);
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    struct Counting(&'static AtomicUsize);

    impl<S: Subscriber> Layer<S> for Counting {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_else_is_logged() {
        static LOGGED: AtomicUsize = AtomicUsize::new(0);
        let logger = tracing_subscriber::registry().with(Counting(&LOGGED)).with(FalseAlarms);
        tracing::subscriber::with_default(logger, || {
            let overflow =
                "n_ctx_seq (67584) > n_ctx_train (2048) -- possible training context overflow";
            // As llama-cpp-2 hands it over: a string, not a format.
            tracing::warn!(message = overflow);
            assert_eq!(LOGGED.load(Ordering::Relaxed), 0);
            tracing::warn!(message = "quality will be degraded");
            tracing::warn!("tokens: {}", 3);
        });
        assert_eq!(LOGGED.load(Ordering::Relaxed), 2);
    }
}
