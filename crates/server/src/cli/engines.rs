//! `overnight engines`

mod cases;
mod check;
mod shown;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use overnight_domain::window::first_window;
use overnight_engine::{Engine, Found, discover};

use super::client::{Client, ClientError};
use super::config::ConfigOptions;
use super::screen::Screen;
use super::{ClientOptions, Ending};
use crate::config::{self, EngineConfig, Environment};
use crate::dispatch::endpoint_config;
use crate::run::{DISCOVERY, nothing_found};
use crate::{builtin, dialect};
use shown::EngineShown;

/// How long an engine is asked about itself, when no server has done so.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// Show the engines: what they are, what they serve and take, and how they are
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
A running server is asked. Without one, or with an option under Configuration (--engine URL, ...),
the engines of the configuration are, or what listens on this machine's usual ports.

Examples:
  overnight engines
  overnight engines --json | jq .name
  overnight engines check gpu0
  overnight engines check http://127.0.0.1:8000/v1 --model qwen3:8b"
)]
pub(super) struct Engines {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    client: ClientOptions,
    #[command(flatten)]
    options: ConfigOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
}

impl Engines {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        if let Some(Command::Check(check)) = self.command {
            return check.run(environment);
        }
        let screen = self.client.screen();
        let engines = if let Some(engines) = self.of_server(environment)? {
            engines
        } else {
            let (config, _) = self.options.load(environment)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("failed to start the runtime")?.block_on(of_config(&config))?
        };
        print(screen, &engines)?;
        Ok(Ending::Answered)
    }

    /// What the server knows of its engines; none where they are to be asked directly.
    fn of_server(&self, environment: &Environment) -> anyhow::Result<Option<Vec<EngineShown>>> {
        let is_configured = self.options.is_any_given();
        self.client.refuse_both(is_configured)?;
        if is_configured {
            return Ok(None);
        }
        match of_server(&self.client.client(environment)?) {
            Err(ClientError::Unreachable { .. }) if self.client.named(environment).is_none() => {
                self.client
                    .screen()
                    .note("no server is running here, so the engines are asked directly");
                Ok(None)
            }
            engines => Ok(Some(engines?)),
        }
    }
}

fn of_server(client: &Client) -> Result<Vec<EngineShown>, ClientError> {
    #[derive(serde::Deserialize)]
    struct Health {
        engines: Vec<EngineShown>,
    }
    // An unhealthy server says so with 503, and has as much to tell.
    let response = client.get_once("/health")?;
    let (_, health) = client.read_json::<Health>(response)?;
    Ok(health.engines)
}

/// The configured engines, or those that are found.
async fn of_config(config: &config::Config) -> anyhow::Result<Vec<EngineShown>> {
    if config.engines.is_empty() {
        let ports = &config.discovery.ports;
        let found = discover(ports, DISCOVERY).await;
        if found.is_empty() {
            let engine = builtin::engine(&config.data);
            let engine = engine.map_err(|why| anyhow::anyhow!(nothing_found(ports, &why)))?;
            return Ok(vec![of_first_run(&engine)]);
        }
        return Ok(found.into_iter().map(of_found).collect());
    }
    let mut engines = config.engines.clone();
    dialect::settle_kinds(&mut engines, &config.dispatch, ASK_WITHIN).await?;
    let asked = engines.iter().map(|engine| ask(engine, config));
    futures::future::join_all(asked).await.into_iter().collect()
}

fn of_found(found: Found) -> EngineShown {
    let Found { name, kind, url, facts } = found;
    EngineShown {
        name,
        kind: kind.as_str().to_owned(),
        url,
        state: "up".to_owned(),
        reason: None,
        models: None,
        window: first_window(&facts),
        in_flight: None,
        facts: Some(facts),
    }
}

/// It is started with the server.
fn of_first_run(engine: &EngineConfig) -> EngineShown {
    EngineShown {
        name: engine.name.clone(),
        kind: engine.kind.as_str().to_owned(),
        url: engine.url.clone(),
        state: "stopped".to_owned(),
        reason: Some(builtin::words()),
        models: Some(engine.models.clone()),
        window: overnight_domain::limits::WINDOW_DEFAULT,
        in_flight: None,
        facts: None,
    }
}

async fn ask(engine: &EngineConfig, config: &config::Config) -> anyhow::Result<EngineShown> {
    let driver = connect(engine, config)?;
    let told = tokio::time::timeout(ASK_WITHIN, driver.facts()).await;
    let (facts, reason) = match told {
        Ok(Ok(mut facts)) => {
            facts.notices.extend(dialect::notice(engine, &facts));
            (Some(facts), None)
        }
        Ok(Err(fault)) => (None, Some(cases::words(&fault))),
        Err(_) => (None, Some(format!("it says nothing for {} s", ASK_WITHIN.as_secs()))),
    };
    let window = engine.window.or_else(|| facts.as_ref().map(first_window));
    Ok(EngineShown {
        name: engine.name.clone(),
        kind: engine.kind.as_str().to_owned(),
        url: engine.url.clone(),
        state: if facts.is_some() { "up" } else { "down" }.to_owned(),
        reason,
        models: (!engine.models.is_empty()).then(|| engine.models.clone()),
        window: window.unwrap_or(overnight_domain::limits::WINDOW_DEFAULT),
        in_flight: None,
        facts,
    })
}

fn connect(
    engine: &EngineConfig,
    config: &config::Config,
) -> anyhow::Result<std::sync::Arc<dyn Engine>> {
    let setup = endpoint_config(engine, &config.dispatch, config.engines.len())?;
    Ok(overnight_engine::connect(engine.kind, &setup)?)
}

fn print(screen: Screen, engines: &[EngineShown]) -> anyhow::Result<()> {
    if screen.is_json {
        for engine in engines {
            screen.print(&serde_json::to_string(engine)?)?;
        }
        return Ok(());
    }
    let head = ["NAME", "ENGINE", "VERSION", "STATE", "WINDOW", "LOAD", "TAKES", "MODELS"];
    let lines: Vec<Vec<String>> = engines.iter().map(EngineShown::line).collect();
    screen.print_table(&head, &lines)?;
    for engine in engines {
        if let Some(reason) = &engine.reason {
            screen.print(&format!("{}: {reason}", engine.name))?;
        }
        for notice in engine.facts.iter().flat_map(|facts| &facts.notices) {
            screen.print(&format!("{}: {notice}", engine.name))?;
        }
    }
    Ok(())
}
