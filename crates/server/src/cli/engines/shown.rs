//! An engine as it is shown: a line of the table, or an object.

use overnight_domain::engine_facts::{Capacity, EngineFacts, Load};
use serde::{Deserialize, Serialize};

/// As `GET /health` has it. What it does not say is unknown.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct EngineShown {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) url: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) models: Option<Vec<String>>,
    pub(super) window: u32,
    /// None: nobody works with it.
    pub(super) in_flight: Option<u32>,
    pub(super) facts: Option<EngineFacts>,
}

/// More models than these are counted.
const MODELS_SHOWN: usize = 3;

impl EngineShown {
    pub(super) fn line(&self) -> Vec<String> {
        let facts = self.facts.clone().unwrap_or_default();
        let unknown = || "-".to_owned();
        vec![
            self.name.clone(),
            self.facts.as_ref().map_or_else(|| self.kind.clone(), |facts| facts.flavour.to_string()),
            facts.version.clone().unwrap_or_else(unknown),
            self.state.clone(),
            match self.in_flight {
                Some(in_flight) => format!("{in_flight} of {}", self.window),
                None => self.window.to_string(),
            },
            or_dash(&load(&facts.load)),
            or_dash(&capacity(&facts.capacity)),
            self.models_shown(&facts),
        ]
    }

    fn models_shown(&self, facts: &EngineFacts) -> String {
        let names: Vec<String> = match &self.models {
            Some(models) => models.clone(),
            None => facts.models.iter().map(|model| model.name.clone()).collect(),
        };
        let with_context = |name: &String| {
            let known = facts.models.iter().find(|model| model.name == *name);
            match known.and_then(|model| model.context_len) {
                Some(len) => format!("{name} ({len} tokens)"),
                None => name.clone(),
            }
        };
        let mut shown: Vec<String> = names.iter().take(MODELS_SHOWN).map(with_context).collect();
        if names.len() > MODELS_SHOWN {
            shown.push(format!("and {} more", names.len() - MODELS_SHOWN));
        }
        or_dash(&shown)
    }
}

fn load(load: &Load) -> Vec<String> {
    let mut parts = Vec::new();
    let mut push = |what: &str, number: Option<u32>| {
        parts.extend(number.map(|number| format!("{number} {what}")));
    };
    push("running", load.running);
    push("waiting", load.waiting);
    parts.extend(load.kv_usage.map(|usage| format!("{:.0}% of its cache", usage * 100.0)));
    parts
}

fn capacity(capacity: &Capacity) -> Vec<String> {
    let mut parts = Vec::new();
    let mut push = |what: &str, number: Option<u64>| {
        parts.extend(number.map(|number| format!("{number} {what}")));
    };
    push("slots", capacity.slots.map(u64::from));
    push("permits", capacity.permits.map(u64::from));
    push("cache tokens", capacity.kv_tokens);
    push("inputs a call", capacity.inputs_per_call.map(u64::from));
    parts
}

fn or_dash(parts: &[String]) -> String {
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}
