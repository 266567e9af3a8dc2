//! What is known about the endpoints right now, published by the dispatcher for everybody else to read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overnight_domain::engine_facts::EngineFacts;
use overnight_domain::time::UnixTime;
use serde::Serialize;

use crate::supervise::ProcessView;

/// One endpoint as people see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct EndpointView {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) url: String,
    pub(crate) state: EndpointState,
    /// Why it is not `up`, or why nothing is sent to it though it is, in words.
    pub(crate) reason: Option<String>,
    /// What it serves. None: it has not told yet, so it may serve anything.
    pub(crate) models: Option<Vec<String>>,
    /// Names that callers may use -> names that it knows.
    #[serde(skip)]
    pub(crate) aliases: Vec<(String, String)>,
    pub(crate) window: u32,
    pub(crate) in_flight: u32,
    pub(crate) last_answer_at: Option<UnixTime>,
    /// How long an answer may take, as far as is known.
    #[serde(skip)]
    pub(crate) answer_span: Duration,
    /// What it told of itself when it was last asked.
    pub(crate) facts: Option<EngineFacts>,
    /// How its process is, where we start it.
    pub(crate) process: Option<ProcessView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EndpointState {
    Up,
    /// Nobody answers there; it is probed.
    Down,
    /// It could be asked, but somebody holds it back: its GPU is too hot, its engine is not started.
    Withheld,
    /// It answers, but refuses us or does not know what we ask for.
    Misconfigured,
}

impl EndpointView {
    /// An endpoint named `gpu0` with nothing in flight.
    #[cfg(test)]
    pub(crate) fn sample(state: EndpointState) -> Self {
        Self {
            name: "gpu0".to_owned(),
            kind: "openai".to_owned(),
            url: "http://127.0.0.1:1/v1".to_owned(),
            state,
            reason: None,
            models: None,
            aliases: Vec::new(),
            window: 8,
            in_flight: 0,
            last_answer_at: None,
            answer_span: Duration::ZERO,
            facts: None,
            process: None,
        }
    }

    /// It is not running because there is no work for it, and is started when there is.
    pub(crate) fn is_resting(&self) -> bool {
        self.process.as_ref().is_some_and(ProcessView::is_resting)
    }

    pub(crate) fn may_serve(&self, model: &str) -> bool {
        self.aliases.iter().any(|(alias, _)| alias == model)
            || self.models.as_ref().is_none_or(|models| models.iter().any(|known| known == model))
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints(Arc<Mutex<Vec<EndpointView>>>);

impl Endpoints {
    pub(crate) fn publish(&self, views: Vec<EndpointView>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = views;
    }

    pub(crate) fn view(&self) -> Vec<EndpointView> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no endpoint is in use: the first of them, with its reason.
    pub(crate) fn why_none_is_up(&self) -> Option<String> {
        let views = self.view();
        let is_any_up = views.iter().any(|view| view.state == EndpointState::Up);
        let first = views.into_iter().next().filter(|_| !is_any_up)?;
        let reason = first.reason.unwrap_or_else(|| "down".to_owned());
        Some(format!("{} ({}): {reason}", first.name, first.url))
    }

    /// All model names that a caller may use, sorted, each once.
    pub(crate) fn models(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .view()
            .into_iter()
            .flat_map(|view| {
                let aliases = view.aliases.into_iter().map(|(alias, _)| alias);
                view.models.unwrap_or_default().into_iter().chain(aliases)
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The endpoint that has said that it serves a model.
    pub(crate) fn owner_of(&self, model: &str) -> Option<String> {
        let is_alias = |view: &EndpointView| view.aliases.iter().any(|(alias, _)| alias == model);
        let owner = self
            .view()
            .into_iter()
            .find(|view| view.models.is_some() && view.may_serve(model) || is_alias(view))?;
        Some(owner.name)
    }
}
