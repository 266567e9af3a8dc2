//! Who keeps an endpoint from being used, and why: its GPU is too hot, its engine is being started, another model has
//! the GPU. The dispatcher obeys; calls in flight may end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use overnight_domain::supervision::EndedFor;

use crate::bell::Bell;

/// Whoever may hold an endpoint. Each has a hold of its own: the endpoint is free when none is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// The health of the GPU.
    Gpu,
    /// The supervision of an engine that we start.
    Supervision,
}

#[derive(Debug, Clone, Default)]
struct Reins {
    reasons: BTreeMap<Holder, String>,
    ceiling_percent: Option<u32>,
    /// Its engine is being ended by us, which the dispatcher was not told yet.
    ended_for: Option<EndedFor>,
}

/// The holds of all endpoints, by name.
#[derive(Debug, Clone)]
pub(crate) struct Holds {
    bell: Bell,
    reins: Arc<Mutex<BTreeMap<String, Reins>>>,
}

impl Holds {
    pub(crate) fn new(bell: Bell) -> Self {
        Self { bell, reins: Arc::default() }
    }

    /// Holds the endpoint back, or lets it go.
    pub(crate) fn set(&self, endpoint: &str, holder: Holder, reason: Option<String>) {
        let mut reins = self.reins.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons = &mut reins.entry(endpoint.to_owned()).or_default().reasons;
        let before = reasons.get(&holder).is_some();
        let is_held = reason.is_some();
        match reason {
            Some(reason) => reasons.insert(holder, reason),
            None => reasons.remove(&holder),
        };
        drop(reins);
        if before != is_held {
            self.bell.ring();
        }
    }

    /// Its engine is about to be ended by us: to be said before it is, so that nobody takes it for a crash.
    pub(crate) fn note_ended(&self, endpoint: &str, ended_for: EndedFor) {
        let mut reins = self.reins.lock().unwrap_or_else(PoisonError::into_inner);
        reins.entry(endpoint.to_owned()).or_default().ended_for = Some(ended_for);
        drop(reins);
        self.bell.ring();
    }

    /// For the dispatcher, which is told once.
    pub(crate) fn take_ended(&self, endpoint: &str) -> Option<EndedFor> {
        let mut reins = self.reins.lock().unwrap_or_else(PoisonError::into_inner);
        reins.get_mut(endpoint)?.ended_for.take()
    }

    pub(crate) fn is_held_by(&self, endpoint: &str, holder: Holder) -> bool {
        let reins = self.reins.lock().unwrap_or_else(PoisonError::into_inner);
        reins.get(endpoint).is_some_and(|reins| reins.reasons.contains_key(&holder))
    }

    /// The window of the endpoint may be no wider than so many per cent of its setting, which only the dispatcher knows.
    pub(crate) fn set_ceiling(&self, endpoint: &str, percent: Option<u32>) {
        let mut reins = self.reins.lock().unwrap_or_else(PoisonError::into_inner);
        reins.entry(endpoint.to_owned()).or_default().ceiling_percent = percent;
    }

    /// Why it is held back, all reasons in one text, and its ceiling in per cent.
    pub(crate) fn of(&self, endpoint: &str) -> (Option<String>, Option<u32>) {
        let reins = self.reins.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reins) = reins.get(endpoint) else { return (None, None) };
        let reasons: Vec<&str> = reins.reasons.values().map(String::as_str).collect();
        ((!reasons.is_empty()).then(|| reasons.join("; ")), reins.ceiling_percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_free_when_nobody_holds_it() {
        let holds = Holds::new(Bell::new());
        assert_eq!(holds.of("a"), (None, None));
        holds.set("a", Holder::Gpu, Some("too hot".to_owned()));
        assert!(holds.is_held_by("a", Holder::Gpu) && !holds.is_held_by("a", Holder::Supervision));
        holds.set("a", Holder::Supervision, Some("starting".to_owned()));
        holds.set_ceiling("a", Some(60));
        assert_eq!(holds.of("a"), (Some("too hot; starting".to_owned()), Some(60)));
        holds.set("a", Holder::Gpu, None);
        holds.set("a", Holder::Supervision, None);
        assert_eq!(holds.of("a"), (None, Some(60)));
    }
}
