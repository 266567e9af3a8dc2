//! What Ollama tells of itself: version, models, what is loaded.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use overnight_domain::engine_facts::{Capacity, EngineFacts, Flavour, Load, ModelFacts};
use overnight_domain::fault::Fault;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::version::Version;
use super::{Known, Ollama, SHOWN_MAX};
use crate::classify;
use crate::patience::Patience;

/// A model in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    name: String,
    /// Told since 0.11.
    context: Option<u64>,
}

/// What `/api/show` says of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// The parameter of its Modelfile.
    pub(super) num_ctx: Option<u64>,
    /// What it was made for.
    pub(super) trained: Option<u64>,
}

/// A name without a tag means `:latest`.
pub(super) fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

impl Known {
    /// The context that a model is loaded with, where that is known.
    pub(super) fn context_of(&self, model: &str) -> Option<u64> {
        let name = tagged(model);
        self.loaded.iter().find(|loaded| loaded.name == name)?.context
    }
}

impl Ollama {
    /// As it was last told, or asked for now.
    pub(super) async fn version(&self, within: Duration) -> Result<Version, Fault> {
        let known = self.known().version.clone();
        match known {
            Some(version) => Ok(Version::parse(&version)),
            None => self.ask_version(within).await.map(|version| Version::parse(&version)),
        }
    }

    pub(super) async fn ask_version(&self, within: Duration) -> Result<String, Fault> {
        #[derive(Deserialize)]
        struct Told {
            version: String,
        }
        let told = self.tell::<Told>(Method::GET, "/api/version", Bytes::new(), within).await;
        let told = told.map_err(|fault| match fault {
            Fault::Misconfigured { status: 404, .. } | Fault::Garbage { .. } => Fault::Misconfigured {
                status: 404,
                detail: "no Ollama answers at /api/version; other engines are of `kind = \"openai\"`"
                    .to_owned(),
            },
            other => other,
        })?;
        self.known().version = Some(told.version.clone());
        Ok(told.version)
    }

    /// Names with tags, and digests.
    pub(super) async fn ask_tags(
        &self,
        within: Duration,
    ) -> Result<Vec<(String, Option<String>)>, Fault> {
        #[derive(Deserialize)]
        struct Model {
            name: String,
            #[serde(default)]
            digest: Option<String>,
        }
        #[derive(Deserialize)]
        struct Told {
            models: Option<Vec<Model>>,
        }
        let told = self.tell::<Told>(Method::GET, "/api/tags", Bytes::new(), within).await?;
        let models = told.models.unwrap_or_default();
        Ok(models.into_iter().map(|model| (tagged(&model.name), model.digest)).collect())
    }

    pub(super) async fn ask_loaded(&self, within: Duration) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Model {
            name: String,
            #[serde(default)]
            context_length: Option<u64>,
        }
        #[derive(Deserialize)]
        struct Told {
            models: Option<Vec<Model>>,
        }
        let told = self.tell::<Told>(Method::GET, "/api/ps", Bytes::new(), within).await?;
        let loaded = told.models.unwrap_or_default().into_iter().map(|model| Loaded {
            name: tagged(&model.name),
            context: model.context_length.filter(|context| *context > 0),
        });
        self.known().loaded = loaded.collect();
        Ok(())
    }

    /// What a model says of itself, asked for once.
    pub(super) async fn shown(&self, model: &str, within: Duration) -> Result<Shown, Fault> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(default)]
            parameters: String,
            #[serde(default)]
            model_info: serde_json::Map<String, Value>,
        }
        if let Some(shown) = self.known().shown.get(model) {
            return Ok(*shown);
        }
        let body = serde_json::json!({"model": model}).to_string();
        let told = self.tell::<Told>(Method::POST, "/api/show", body.into(), within).await?;
        let mut words = told.parameters.lines().map(str::split_whitespace);
        let num_ctx = words.find_map(|mut line| match (line.next(), line.next()) {
            (Some("num_ctx"), Some(number)) => number.parse().ok(),
            _ => None,
        });
        let trained = told.model_info.iter().find(|(name, _)| name.ends_with(".context_length"));
        let shown = Shown { num_ctx, trained: trained.and_then(|(_, length)| length.as_u64()) };
        let mut known = self.known();
        if known.shown.len() >= SHOWN_MAX {
            known.shown.clear();
        }
        known.shown.insert(model.to_owned(), shown);
        Ok(shown)
    }

    pub(super) async fn all_facts(&self) -> Result<EngineFacts, Fault> {
        let within = self.probe_timeout;
        let version = self.ask_version(within).await?;
        let tags = self.ask_tags(within).await?;
        self.ask_loaded(within).await?;
        let known = self.known();
        let models = tags.into_iter().map(|(name, digest)| ModelFacts {
            context_len: known.context_of(&name),
            is_loaded: Some(known.loaded.iter().any(|loaded| loaded.name == name)),
            digest,
            name,
        });
        let models = models.collect();
        let mut notices = known.habits.notices();
        if !Version::parse(&version).obeys_flags() {
            notices.push(format!(
                "Ollama {version} cuts prompts that are too long and cannot be told not to; what was cut is found out and \
                 refused, at the cost of counting where it is in doubt: 0.13 or later spares that"
            ));
        }
        let in_flight = self.in_flight.load(std::sync::atomic::Ordering::Relaxed);
        let slots = known.habits.serves_one_at_a_time().then_some(1);
        let load = slots.map_or(Load::default(), |slots| Load {
            running: Some(in_flight.min(slots)),
            waiting: Some(in_flight.saturating_sub(slots)),
            ..Load::default()
        });
        let capacity = Capacity { slots, ..Capacity::default() };
        let version = Some(version);
        Ok(EngineFacts { flavour: Flavour::Ollama, version, models, capacity, load, notices })
    }

    async fn tell<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, Fault> {
        let within = within.min(self.probe_timeout);
        let mut patience = Patience::new(within, within);
        let uri = self.client.address.native(path);
        let reply = self.client.exchange(method, uri, body, &mut patience).await?;
        let (_, body) = classify::read_success(reply, self.answer_len_max)
            .map_err(|fault| classify::hide_key(self.api_key.as_ref(), fault))?;
        serde_json::from_slice(&body)
            .map_err(|error| Fault::Garbage { detail: format!("`{path}` of an Ollama: {error}") })
    }
}
