//! The members of a body: each is taken once, and what nobody took is refused.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::refusal::{self, Refusal};

/// Members that change nothing about an answer: who asks, and what for.
const WITHOUT_EFFECT: [&str; 4] = ["user", "metadata", "safety_identifier", "prompt_cache_key"];

pub(super) struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body).map(Self).map_err(|error| refusal::not_json(&error))
    }

    /// The member's own text; a null is none.
    pub(super) fn raw(&mut self, name: &str) -> Option<Box<RawValue>> {
        self.0.remove(name).filter(|raw| raw.get() != "null")
    }

    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|_| refusal::wrong_type(name, expected))
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f32>, Refusal> {
        let Some(number) = self.take::<f64>(name, "a number")? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number as f32));
        }
        let expected = format!("a number from {} to {}", range.start(), range.end());
        Err(refusal::out_of_range(name, &expected))
    }

    /// Takes a member that may only say what happens anyway.
    pub(super) fn only(&mut self, name: &str, allowed: &[&str]) -> Result<(), Refusal> {
        let Some(raw) = self.raw(name) else { return Ok(()) };
        let said: String = raw.get().chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        if allowed.contains(&said.as_str()) {
            return Ok(());
        }
        let why = if allowed.is_empty() {
            String::new()
        } else {
            format!(", except as {}", allowed.join(" or "))
        };
        Err(refusal::not_honoured(name, &why))
    }

    /// Refuses what nobody took.
    pub(super) fn end(mut self) -> Result<(), Refusal> {
        self.0.retain(|name, raw| !WITHOUT_EFFECT.contains(&name.as_str()) && raw.get() != "null");
        match self.0.keys().next() {
            Some(name) => Err(refusal::not_honoured(name, "")),
            None => Ok(()),
        }
    }
}
