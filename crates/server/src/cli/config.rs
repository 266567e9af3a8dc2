//! `overnight config`, and the flags of all commands that read the configuration.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;
use serde_json::json;

use super::Ending;
use super::screen::Screen;
use crate::config::keys::{SECRET_SETTINGS, SETTINGS};
use crate::config::secret::is_reference;
use crate::config::{self, ConfigError, Environment, FILE_NAME, FlagValue, Origin, Origins, Sources};

/// Show the configuration, each value with where it came from
#[derive(Debug, Args)]
#[command(after_help = "\
Later wins: defaults, overnight.toml, OVERNIGHT_* variables, flags. Secrets are masked.

Examples:
  overnight config
  overnight config --config /etc/overnight.toml --profile server
  OVERNIGHT_DATA=/big/disk overnight config --json")]
pub(super) struct Config {
    #[command(flatten)]
    options: ConfigOptions,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Flags that are settings, for a command that does without a server: its state lies beside its output.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct RunOptions {
    /// The configuration [default: overnight.toml, when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// desktop or server: the defaults of limits and retention
    #[arg(long)]
    profile: Option<String>,
    /// What is logged: error, warn, info, debug, trace [default: info; warn for `run` and `classify`]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// An engine, as in http://127.0.0.1:8000/v1; may be given several times, and replaces those of the file
    #[arg(long, value_name = "URL")]
    engine: Vec<String>,
    /// Any other setting, as in dispatch.commit_after=5ms; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// All flags that are settings.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct ConfigOptions {
    /// Where the API listens; an address that others can reach needs a key [default: 127.0.0.1:8642]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The data directory [default: overnight-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Listen off loopback without a key
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    others: RunOptions,
}

impl Config {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let (_, Origins(shown)) = self.options.load(environment)?;
        let screen = Screen::new(self.json);
        if self.json {
            let members = shown.into_iter().map(|setting| {
                let value = json!({"value": setting.value, "origin": setting.origin.to_string()});
                (setting.key, value)
            });
            screen.print(&serde_json::Value::Object(members.collect()).to_string())?;
        } else {
            let lines: Vec<Vec<String>> = shown
                .into_iter()
                .map(|setting| vec![setting.key, setting.value, setting.origin.to_string()])
                .collect();
            screen.print_table(&["KEY", "VALUE", "FROM"], &lines)?;
        }
        Ok(Ending::Answered)
    }
}

impl RunOptions {
    /// Whether any of them was typed.
    pub(super) fn is_any_given(&self) -> bool {
        let Self { config, profile, log, engine, set } = self;
        config.is_some() || profile.is_some() || log.is_some() || !engine.is_empty() || !set.is_empty()
    }

    /// For a run: its state lies in `folder`, whatever the configuration says for a server. Also what `--log` asks for.
    pub(super) fn load_for_run(
        mut self,
        environment: &Environment,
        folder: &Path,
    ) -> anyhow::Result<(config::Config, Option<String>)> {
        let log = self.log.take();
        let (mut config, _) = self.load(Vec::new(), environment)?;
        folder.clone_into(&mut config.data);
        config.database = folder.join("overnight.db");
        config.blobs = folder.join("blobs");
        Ok((config, log))
    }

    fn load(
        self,
        mut flags: Vec<FlagValue>,
        environment: &Environment,
    ) -> anyhow::Result<(config::Config, Origins)> {
        for text in &self.set {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            let Some(key) = SETTINGS.iter().copied().find(|known| *known == key) else {
                let what = format!("`{key}` is no setting; `overnight config` lists them");
                bail!(ConfigError::new(&Origin::Flag("--set"), what));
            };
            flags.push(FlagValue { key, name: "--set", value: value.to_owned() });
        }
        for (key, name, value) in [("profile", "--profile", self.profile), ("log", "--log", self.log)] {
            flags.extend(value.map(|value| FlagValue { key, name, value }));
        }
        Ok(config::load(Sources {
            file: self.config,
            folder: PathBuf::new(),
            environment: environment.clone(),
            flags,
            engines: self.engine,
        })?)
    }
}

impl ConfigOptions {
    /// Whether any of them was typed.
    pub(super) fn is_any_given(&self) -> bool {
        let Self { listen, data, insecure, others } = self;
        listen.is_some() || data.is_some() || *insecure || others.is_any_given()
    }

    /// The flags as they would be typed in any folder: paths are absolute. The file that is read because it lies in the
    /// working directory is named.
    pub(super) fn to_arguments(&self) -> anyhow::Result<Vec<String>> {
        let absolute = |path: &Path| {
            let path = std::path::absolute(path)?;
            path.into_os_string().into_string().map_err(|path| anyhow!("{} is no text", path.display()))
        };
        let here = Path::new(FILE_NAME);
        let config = self.others.config.as_deref().or_else(|| here.exists().then_some(here));
        let values = [
            ("--config", config.map(absolute).transpose()?),
            ("--listen", self.listen.clone()),
            ("--data", self.data.as_deref().map(|data| absolute(Path::new(data))).transpose()?),
            ("--profile", self.others.profile.clone()),
            ("--log", self.others.log.clone()),
        ];
        let mut arguments = Vec::new();
        for (flag, value) in values {
            arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        }
        arguments.extend(self.insecure.then(|| "--insecure".to_owned()));
        for (flag, values) in [("--engine", &self.others.engine), ("--set", &self.others.set)] {
            arguments.extend(values.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
        }
        Ok(arguments)
    }

    /// The first setting among the flags that is given a secret itself, and not the name of one.
    pub(super) fn literal_secret(&self) -> Option<&'static str> {
        let settings = self.others.set.iter().filter_map(|text| text.split_once('='));
        let mut literal = settings.filter(|(_, value)| !is_reference(value));
        literal.find_map(|(key, _)| SECRET_SETTINGS.iter().copied().find(|secret| *secret == key))
    }

    pub(super) fn load(self, environment: &Environment) -> anyhow::Result<(config::Config, Origins)> {
        let named = [
            ("server.listen", "--listen", self.listen),
            ("data", "--data", self.data),
            ("server.insecure", "--insecure", self.insecure.then(|| "true".to_owned())),
        ];
        let flags = named
            .into_iter()
            .filter_map(|(key, name, value)| value.map(|value| FlagValue { key, name, value }));
        self.others.load(flags.collect(), environment)
    }
}
