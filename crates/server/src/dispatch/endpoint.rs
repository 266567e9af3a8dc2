//! An endpoint that calls are made to: the engine behind it and what is published about it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use overnight_domain::dispatch::{Dispatcher, EndpointNumber, EndpointSettings, Health};
use overnight_domain::engine_facts::EngineFacts;
use overnight_domain::limits::WINDOW_DEFAULT;
use overnight_domain::pack::PackLimits;
use overnight_domain::time::UnixTime;
use overnight_domain::window::first_window;
use overnight_engine::{EndpointConfig, Engine};

use crate::config::{DispatchConfig, EngineConfig};
use crate::context::Context;
use crate::dialect;
use crate::endpoints::{EndpointState, EndpointView};
use crate::supervise::{Measured, Supervision};

pub(crate) struct Endpoint {
    pub(super) config: EngineConfig,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) aliases: Vec<(String, String)>,
    /// What it serves, aliases not counted. None: it has not told.
    pub(super) models: Option<Vec<String>>,
    pub(super) last_answer_at: Option<UnixTime>,
    pub(super) facts: Option<EngineFacts>,
    supervision: Supervision,
    /// What result frames carry for it.
    pub(super) frame_number: u16,
}

/// How long the endpoints are asked what they are before the server begins to serve.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// Asks all endpoints what they are and what they serve, so that the first batch is already checked against it and the
/// first window fits.
pub(crate) async fn ask_all(ctx: &Context, endpoints: &mut [Endpoint]) {
    let is_asked = |endpoint: &&mut Endpoint| endpoint.is_asked_at_start();
    let asked = endpoints.iter_mut().filter(is_asked).map(|endpoint| async {
        let told = async { tokio::join!(endpoint.engine.facts(), endpoint.engine.models()) };
        let name = endpoint.config.name.clone();
        let Ok((facts, models)) = tokio::time::timeout(ASK_WITHIN, told).await else {
            tracing::warn!(endpoint = name, "endpoint is slow to tell what it is");
            return;
        };
        match facts {
            Ok(facts) => {
                endpoint.note_facts(facts);
            }
            Err(fault) => tracing::warn!(endpoint = name, ?fault, "endpoint does not tell what it is"),
        }
        match models {
            Ok(models) if endpoint.models.is_none() => endpoint.set_models(models),
            Ok(_) => {}
            Err(fault) => tracing::warn!(endpoint = name, ?fault, "endpoint does not tell its models"),
        }
    });
    futures::future::join_all(asked).await;
    let mut core = Dispatcher::new(endpoints.iter().map(Endpoint::settings).collect(), 0);
    for (number, endpoint) in (0_u16..).zip(&*endpoints) {
        core.set_withheld(EndpointNumber(number), ctx.holds.of(&endpoint.config.name).0);
    }
    let views = (0_u16..)
        .zip(&*endpoints)
        .map(|(number, endpoint)| endpoint.view(EndpointNumber(number), &core));
    ctx.endpoints.publish(views.collect());
}

impl Endpoint {
    pub(crate) fn new(
        config: &EngineConfig,
        ctx: &Context,
        measured: &Measured,
    ) -> anyhow::Result<Self> {
        let setup = endpoint_config(config, &ctx.config.dispatch, ctx.config.engines.len())?;
        let known = config.process.as_ref().and_then(|process| measured.of(&config.name, &process.text));
        let known = known.and_then(|measure| measure.models.clone());
        let models = if config.models.is_empty() { known } else { Some(config.models.clone()) };
        Ok(Self {
            engine: overnight_engine::connect(config.kind, &setup)?,
            config: config.clone(),
            aliases: aliases(config, models.as_deref()),
            models,
            last_answer_at: None,
            facts: None,
            supervision: ctx.supervision.clone(),
            frame_number: ctx.endpoint_names.number(&config.name),
        })
    }

    /// One that we start has nothing to tell before it runs.
    fn is_asked_at_start(&self) -> bool {
        self.config.process.is_none()
    }

    pub(super) fn settings(&self) -> EndpointSettings {
        let window = match (self.config.window, &self.facts) {
            (Some(window), _) => window,
            (None, Some(facts)) => first_window(facts),
            (None, None) => WINDOW_DEFAULT,
        };
        let (pack_limits, _) = self.pack_limits(self.facts.as_ref());
        EndpointSettings { window, models: self.served(), pack_limits }
    }

    /// Keeps what the engine told, with what its owner should know of his own settings. Gives how much one call to it
    /// may carry; and the window that follows, when nobody set one and the engine is not the one that it was before, or
    /// has another capacity.
    pub(super) fn note_facts(&mut self, mut facts: EngineFacts) -> (PackLimits, Option<u32>) {
        let (limits, mut notices) = self.pack_limits(Some(&facts));
        notices.extend(dialect::notice(&self.config, &facts));
        let known = self.facts.as_ref().map_or(&[][..], |facts| &facts.notices);
        for notice in notices.iter().filter(|notice| !known.contains(notice)) {
            tracing::warn!(endpoint = self.config.name, "{notice}");
        }
        facts.notices.extend(notices);
        let window = first_window(&facts);
        let before = self.facts.replace(facts).as_ref().map(first_window);
        let is_new = self.config.window.is_none() && before != Some(window);
        (limits, is_new.then_some(window))
    }

    /// What it told, and what was found out about the calls that it takes.
    fn facts_with_ceiling(&self, ceiling: Option<u32>) -> Option<EngineFacts> {
        let mut facts = self.facts.clone()?;
        facts.notices.extend(ceiling.map(|ceiling| {
            format!(
                "calls with more than {ceiling} inputs failed one after the other, so no larger ones are sent; if the \
                 engine takes no more, set `inputs_per_call = {ceiling}`"
            )
        }));
        Some(facts)
    }

    fn pack_limits(&self, facts: Option<&EngineFacts>) -> (PackLimits, Vec<String>) {
        PackLimits::of(self.config.inputs_per_call, self.config.tokens_per_call, facts)
    }

    pub(super) fn set_models(&mut self, models: Vec<String>) {
        self.aliases = aliases(&self.config, Some(&models));
        self.models = Some(models);
    }

    /// Every name that a request may use for a model of this endpoint.
    pub(super) fn served(&self) -> Option<Vec<String>> {
        let aliases = self.aliases.iter().map(|(alias, _)| alias.clone());
        self.models.as_ref().map(|models| models.iter().cloned().chain(aliases).collect())
    }

    pub(super) fn view(&self, number: EndpointNumber, core: &Dispatcher) -> EndpointView {
        let (state, reason) = match core.health(number) {
            Health::Up => (EndpointState::Up, None),
            Health::Doubted { detail } | Health::Down { detail } => {
                (EndpointState::Down, Some(detail.clone()))
            }
            Health::Misconfigured { detail, .. } => (EndpointState::Misconfigured, Some(detail.clone())),
        };
        let (state, reason) = match core.withheld(number) {
            Some(held) => (EndpointState::Withheld, Some(held.to_owned())),
            None => (state, reason),
        };
        let (window, in_flight) = core.load(number);
        EndpointView {
            name: self.config.name.clone(),
            kind: self.config.kind.as_str().to_owned(),
            url: self.config.url.clone(),
            state,
            reason,
            models: self.models.clone(),
            aliases: self.aliases.clone(),
            window,
            in_flight,
            last_answer_at: self.last_answer_at,
            answer_span: core.answer_span(number),
            facts: self.facts_with_ceiling(core.pack_ceiling(number)),
            process: self.supervision.of(&self.config.name),
        }
    }
}

/// The engine's own, and those of `[[model]]` for what it has. As long as it has not told, it may have anything.
fn aliases(config: &EngineConfig, models: Option<&[String]>) -> Vec<(String, String)> {
    let has = |model: &String| models.is_none_or(|models| models.contains(model));
    let shared = config.shared_aliases.iter().filter(|(_, serves)| has(serves));
    config.aliases.iter().chain(shared).cloned().collect()
}

/// How to reach an engine that is configured so, one of `engines`.
pub(crate) fn endpoint_config(
    config: &EngineConfig,
    limits: &DispatchConfig,
    engines: usize,
) -> anyhow::Result<EndpointConfig> {
    let mut setup = EndpointConfig::new(config.name.clone(), config.url.clone());
    setup.api_key = config.api_key.as_ref().map(|key| overnight_engine::Secret::new(key.expose()));
    setup.num_ctx = config.num_ctx;
    setup.answer_len_max = limits.answer_len_max;
    // Half of the budget, for all endpoints together, is for answers that nobody expected to be so long.
    let long_answers = limits.memory_len / 2 / limits.answer_len_max.max(1);
    setup.long_answers_max = long_answers as usize / engines.max(1);
    for (name, value) in &config.headers {
        let header = || format!("engine `{}` has a header `{name}` that HTTP cannot carry", config.name);
        let mut value = http::HeaderValue::from_str(value.expose()).with_context(header)?;
        value.set_sensitive(true);
        setup.headers.push((http::HeaderName::try_from(name).with_context(header)?, value));
    }
    Ok(setup)
}
