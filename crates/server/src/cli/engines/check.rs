//! `overnight engines check NAME|URL`: what a real engine can and cannot do, tried out.
//!
//! Everything goes through the driver that batches use, so that what is said here holds for them. At most two minutes:
//! what there was no time for is said to be skipped, never guessed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use overnight_domain::engine_facts::{EngineFacts, Flavour};
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;
use overnight_engine::{Answer, Call, Engine, discover, keeps_connections};
use serde_json::{Value, json};

use super::super::Ending;
use super::super::config::ConfigOptions;
use super::super::screen::Screen;
use super::cases::{self, Case, Models, Outcome, words};
use super::connect;
use crate::config::{self, EngineConfig, Environment};
use crate::dialect;
use crate::dispatch::endpoint_config;
use crate::run::DISCOVERY;

/// What a person waits for.
const TOTAL: Duration = Duration::from_secs(120);
/// The first call may load the model.
const FIRST_CALL: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(20);
/// Longer answers are cut in `--json`.
const SHOWN_LEN: usize = 2_000;

/// Try out what an engine can do, in at most two minutes
#[derive(Debug, Args)]
#[command(after_help = "\
Sends some thirty small requests. With --json each case has what was sent and what came.
Exit code 0: the basics work.

Examples:
  overnight engines check gpu0
  overnight engines check http://127.0.0.1:11434/v1 --model qwen3:8b --json")]
pub(super) struct Check {
    /// A configured engine's name, or an address
    #[arg(value_name = "NAME|URL")]
    target: String,
    /// The model to ask; without it, one that the engine serves
    #[arg(long)]
    model: Option<String>,
    /// Print JSON: one object a case
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: ConfigOptions,
}

impl Check {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let screen = Screen::new(self.json);
        let (config, _) = self.options.load(environment)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the runtime")?;
        let engine = runtime.block_on(chosen(&self.target, &config))?;
        let works = runtime.block_on(check(&engine, &config, self.model.as_deref(), screen))?;
        Ok(if works { Ending::Answered } else { Ending::Failure })
    }
}

/// The configured engine of that name or address, with its key; or whatever listens at the address. Without a
/// configuration the names are those of what is found.
async fn chosen(text: &str, config: &config::Config) -> anyhow::Result<EngineConfig> {
    let known = config.engines.iter().find(|engine| engine.name == text || engine.url == text);
    if let Some(engine) = known {
        return Ok(engine.clone());
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(EngineConfig::by_address("engine", text));
    }
    let mut names: Vec<String> = config.engines.iter().map(|engine| engine.name.clone()).collect();
    if names.is_empty() {
        for found in discover(&config.discovery.ports, DISCOVERY).await {
            if found.name == text {
                return Ok(EngineConfig::at(found.name, found.kind, found.url));
            }
            names.push(found.name);
        }
    }
    bail!(
        "no engine is called `{text}` (known: {}); give an address, as in http://127.0.0.1:8000/v1",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    )
}

async fn check(
    config: &EngineConfig,
    whole: &config::Config,
    model: Option<&str>,
    screen: Screen,
) -> anyhow::Result<bool> {
    let started = Instant::now();
    let (engine, facts) = met(config, whole).await?;
    if !screen.is_json {
        let version = facts.version.as_deref().unwrap_or("of unknown version");
        screen.print(&format!("{} {version} at {}", facts.flavour, config.url))?;
    }
    refuse_unknown(&facts, model)?;
    let models = Models::choose(&facts, model);
    let mut bench = Bench { engine, facts, models, started, screen, has_answered: false, works: false };
    bench.list_models()?;
    for case in cases::CASES {
        bench.run(case).await?;
    }
    bench.concurrency().await?;
    let setup = endpoint_config(config, &whole.dispatch, 1)?;
    bench.keep_alive(&setup).await?;
    bench.close()
}

/// A model that is none of those that the engine says it serves. It may stand there with a tag.
fn refuse_unknown(facts: &EngineFacts, model: Option<&str>) -> anyhow::Result<()> {
    let names: Vec<&str> = facts.models.iter().map(|served| served.name.as_str()).collect();
    let is_known = |model: &str| {
        names.iter().any(|name| {
            name.strip_prefix(model).is_some_and(|tag| tag.is_empty() || tag.starts_with(':'))
        })
    };
    match model {
        Some(model) if !names.is_empty() && !is_known(model) => {
            bail!("the engine does not serve `{model}`; it serves: {}", names.join(", "))
        }
        _ => Ok(()),
    }
}

/// The engine's driver, and what it told.
async fn met(
    config: &EngineConfig,
    whole: &config::Config,
) -> anyhow::Result<(Arc<dyn Engine>, EngineFacts)> {
    let mut config = config.clone();
    dialect::settle_kinds(std::slice::from_mut(&mut config), &whole.dispatch, CALL).await?;
    let engine = connect(&config, whole)?;
    let mut facts = engine.facts().await.map_err(|fault| {
        anyhow::anyhow!("the engine at `{}` cannot be asked: {}", config.url, words(&fault))
    })?;
    facts.notices.extend(dialect::notice(&config, &facts));
    Ok((engine, facts))
}

struct Bench {
    engine: Arc<dyn Engine>,
    facts: EngineFacts,
    models: Models,
    started: Instant,
    screen: Screen,
    has_answered: bool,
    /// A case that an engine must be able to do to be of use has succeeded.
    works: bool,
}

impl Bench {
    fn list_models(&mut self) -> anyhow::Result<()> {
        let names: Vec<&str> = self.facts.models.iter().map(|model| model.name.as_str()).collect();
        let outcome = if names.is_empty() {
            Outcome::Cannot("it names none".to_owned())
        } else {
            Outcome::Can(names.join(", "))
        };
        self.report("models", &outcome, &Value::Null, &Value::Null)
    }

    async fn run(&mut self, case: &Case) -> anyhow::Result<()> {
        let Some(model) = self.models.of(case.route) else {
            let why = format!("it serves no model for `{}`", case.route.path());
            return self.report(case.name, &Outcome::Skipped(why), &Value::Null, &Value::Null);
        };
        let mut sent = match (case.body)(&self.facts, model) {
            Ok(body) => body,
            Err(why) => {
                return self.report(case.name, &Outcome::Skipped(why), &Value::Null, &Value::Null);
            }
        };
        if sent.get("model").is_none() {
            sent["model"] = json!(model);
        }
        let Some(first) = self.ask(case.route, &sent).await else { return self.no_time(case.name) };
        let second = if case.asks_twice { self.ask(case.route, &sent).await } else { None };
        let first = first.map(|answer| parsed(&answer));
        let second = second.map(|second| second.map(|answer| parsed(&answer)));
        let outcome = (case.judge)(&sent, &first, second.as_ref());
        self.has_answered |= first.is_ok();
        self.works |= case.is_basic && matches!(outcome, Outcome::Can(_));
        let came = first.unwrap_or_else(|fault| json!({"fault": fault.kind(), "detail": words(&fault)}));
        self.report(case.name, &outcome, &sent, &came)
    }

    /// None: there is no time left.
    async fn ask(&self, route: Route, body: &Value) -> Option<Result<Answer, Fault>> {
        let longest = if self.has_answered { CALL } else { FIRST_CALL };
        let deadline = longest.min(TOTAL.saturating_sub(self.started.elapsed()));
        if deadline.is_zero() {
            return None;
        }
        let body = Bytes::from(body.to_string());
        let call = Call { route, body, deadline, stall: deadline, gap: deadline };
        Some(self.engine.ask(call).await.result)
    }

    /// Whether four at once take less than one after the other.
    async fn concurrency(&mut self) -> anyhow::Result<()> {
        const NAME: &str = "four at once";
        let (route, sent) = match (&self.models.chat, &self.models.embeddings) {
            (Some(model), _) => {
                let messages =
                    json!([{"role": "user", "content": "Count from one to twenty in words."}]);
                (Route::ChatCompletions, json!({"model": model, "messages": messages, "max_tokens": 48}))
            }
            (None, Some(model)) => {
                (Route::Embeddings, json!({"model": model, "input": "a passage of text ".repeat(20)}))
            }
            (None, None) => return Ok(()),
        };
        let began = Instant::now();
        let Some(alone) = self.ask(route, &sent).await else { return self.no_time(NAME) };
        let alone_took = began.elapsed();
        let began = Instant::now();
        let all = futures::future::join_all((0..4).map(|_| self.ask(route, &sent))).await;
        let took = began.elapsed();
        let answered = all.iter().filter(|answer| matches!(answer, Some(Ok(_)))).count();
        let outcome = if alone.is_ok() && answered == 4 {
            let times = took.as_secs_f64() / alone_took.as_secs_f64().max(0.001);
            Outcome::Can(format!("four took {times:.1} times as long as one"))
        } else {
            Outcome::Cannot(format!("{answered} of 4 were answered"))
        };
        self.report(
            NAME,
            &outcome,
            &sent,
            &json!({"answered": answered, "milliseconds": took.as_millis() as u64}),
        )
    }

    async fn keep_alive(&mut self, setup: &overnight_engine::EndpointConfig) -> anyhow::Result<()> {
        let outcome = match keeps_connections(setup).await? {
            Ok(true) => Outcome::Can(String::new()),
            Ok(false) => {
                Outcome::Cannot("it closes after each answer; every call connects anew".to_owned())
            }
            Err(fault) => Outcome::Cannot(words(&fault)),
        };
        self.report("kept connections", &outcome, &Value::Null, &Value::Null)
    }

    fn no_time(&self, name: &str) -> anyhow::Result<()> {
        let why = format!("no time was left after {} s", TOTAL.as_secs());
        self.report(name, &Outcome::Skipped(why), &Value::Null, &Value::Null)
    }

    fn report(&self, name: &str, outcome: &Outcome, sent: &Value, came: &Value) -> anyhow::Result<()> {
        let (word, detail) = outcome.shown();
        if self.screen.is_json {
            let line = json!({
                "case": name, "outcome": word, "detail": detail, "sent": shortened(sent), "came": shortened(came),
            });
            self.screen.print(&line.to_string())?;
        } else {
            self.screen.print(format!("{word:<8} {name:<28} {detail}").trim_end())?;
        }
        Ok(())
    }

    fn close(&self) -> anyhow::Result<bool> {
        if !self.screen.is_json {
            let verdict = match (self.works, self.facts.flavour) {
                (true, _) => "the basics work".to_owned(),
                (false, Flavour::Other) => {
                    "the basics do not work: is this an engine of the OpenAI dialect?".to_owned()
                }
                (false, flavour) => format!("the basics do not work; the log of {flavour} says more"),
            };
            self.screen.print(&verdict)?;
            for notice in &self.facts.notices {
                self.screen.print(&format!("note: {notice}"))?;
            }
        }
        Ok(self.works)
    }
}

fn parsed(answer: &Answer) -> Value {
    // The driver took it as one whole object.
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

fn shortened(value: &Value) -> Value {
    let text = value.to_string();
    if text.len() <= SHOWN_LEN {
        return value.clone();
    }
    let start: String = text.chars().take(SHOWN_LEN).collect();
    json!(format!("{start}... ({} bytes)", text.len()))
}
