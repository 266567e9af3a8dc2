//! From the layers to the one configuration: defaults, then the file, then the environment, then flags.
//!
//! A key that is unknown, a value that cannot be read and a setting that cannot be honoured end the load: nothing is
//! ignored in silence.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use overnight_domain::limits::{
    ANSWER_LEN_MAX, ATTEMPTS_DEFAULT, ATTEMPTS_MAX, AdmissionLimits, COMMIT_AFTER, DISCOVERY_PORTS_MAX,
    MEMORY_BUDGET, REQUEST_LEN_MAX, STUCK_AFTER, STUCK_AFTER_MIN,
};
use overnight_engine::USUAL_PORTS;

use super::environment::Environment;
use super::file::{self, Document};
use super::keys::{ENGINE_VARIABLE, SETTINGS, refusal, setting_of_variable, variable};
use super::units::{show_duration, show_size};
use super::value::{Origin, Raw, Value};
use super::{
    Config, DiscoveryConfig, DispatchConfig, GpuConfig, NotifyConfig, Profile, QueueConfig,
    RetentionConfig, ServerConfig, engines, models, notify,
};

/// The file that is read when none is named.
pub(crate) const FILE_NAME: &str = "overnight.toml";
const DATA: &str = "overnight-data";
const LISTEN: &str = "127.0.0.1:8642";
/// What profile `server` keeps files for; contract and habit say 30 days.
const SERVER_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// Shorter, and people would lose what they have not fetched yet; it is also what the wire allows.
const RETENTION_MIN: Duration = Duration::from_secs(3_600);
/// An answer waits so long at most before it is durable.
const COMMIT_AFTER_MAX: Duration = Duration::from_secs(1);
/// Degrees below the limit at which its owner is warned.
const WARNED_BEFORE: u32 = 5;
/// No GPU gets there: it switches itself off before.
const DEGREES_MAX: u64 = 150;

/// A configuration that cannot be used: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    place: String,
    message: String,
    is_of_flag: bool,
}

impl ConfigError {
    pub(crate) fn new(origin: &Origin, message: impl Into<String>) -> Self {
        let is_of_flag = matches!(origin, Origin::Flag(_));
        Self { place: origin.to_string(), message: message.into(), is_of_flag }
    }

    /// The command line is wrong, rather than a file or a variable.
    pub(crate) const fn is_of_flag(&self) -> bool {
        self.is_of_flag
    }
}

/// Where values may come from.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`; without it `overnight.toml` in `folder`, where there is one.
    pub file: Option<PathBuf>,
    pub folder: PathBuf,
    pub environment: Environment,
    pub flags: Vec<FlagValue>,
    /// `--engine`, any number: they replace the engines of the file.
    pub engines: Vec<String>,
}

/// A setting that was given as a flag.
#[derive(Debug, Clone)]
pub struct FlagValue {
    /// The setting's key.
    pub key: &'static str,
    /// The flag, as it is typed.
    pub name: &'static str,
    pub value: String,
}

/// Every value with where it came from: what `overnight config` prints. Secrets are masked.
#[derive(Debug, Clone, Default)]
pub struct Origins(pub Vec<Shown>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub key: String,
    pub value: String,
    pub origin: Origin,
}

impl Shown {
    pub(super) fn new(key: String, value: String, origin: Origin) -> Self {
        Self { key, value, origin }
    }
}

pub fn load(sources: Sources) -> Result<(Config, Origins), ConfigError> {
    let document = read_file(&sources)?;
    let mut resolver = Resolver { layers: HashMap::new(), shown: Vec::new() };
    resolver.layers.extend(document.settings);
    let mut engine_urls = None;
    for (name, value) in sources.environment.settings() {
        let origin = Origin::Environment(name.to_owned());
        let raw = Raw { value: Value::Text(value.to_owned()), origin };
        if name == ENGINE_VARIABLE {
            engine_urls = Some((raw.list().unwrap_or_default(), raw.origin));
        } else if let Some(key) = setting_of_variable(name) {
            resolver.layers.insert(key.to_owned(), raw);
        } else {
            let variables: Vec<String> = SETTINGS.iter().map(|key| variable(key)).collect();
            let known = variables.iter().map(String::as_str).chain([ENGINE_VARIABLE]);
            return Err(ConfigError::new(&raw.origin, refusal(name, known)));
        }
    }
    for FlagValue { key, name, value } in sources.flags {
        let raw = Raw { value: Value::Text(value), origin: Origin::Flag(name) };
        resolver.layers.insert(key.to_owned(), raw);
    }
    if !sources.engines.is_empty() {
        engine_urls = Some((sources.engines, Origin::Flag("--engine")));
    }

    let mut config = settings(&mut resolver)?;
    let environment = &sources.environment;
    config.notify = notify::notify(&mut resolver, environment)?;
    let mut shown = resolver.shown;
    config.server.keys = engines::keys(&document.keys, environment, &mut shown)?;
    config.models = models::models(&document.models, &document.engines, environment, &mut shown)?;
    let engines = match engine_urls {
        Some((urls, origin)) => engines::engines_at(&urls, &origin, &mut shown)?,
        None => engines::engines(&document.engines, environment, &mut shown)?,
    };
    let origin = document.models.first().map_or(Origin::Default, |table| table.origin.clone());
    config.use_engines(engines).map_err(|what| ConfigError::new(&origin, what))?;
    check(&config, &shown)?;
    Ok((config, Origins(shown)))
}

fn read_file(sources: &Sources) -> Result<Document, ConfigError> {
    let path = match &sources.file {
        Some(path) => path.clone(),
        None if sources.folder.as_os_str().is_empty() => PathBuf::from(FILE_NAME),
        None => sources.folder.join(FILE_NAME),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => file::read(&path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && sources.file.is_none() => {
            Ok(Document::default())
        }
        Err(error) => Err(ConfigError {
            place: path.display().to_string(),
            message: format!("the configuration cannot be read: {error}"),
            is_of_flag: false,
        }),
    }
}

pub(super) struct Resolver {
    /// The winning layer's value of each key.
    layers: HashMap<String, Raw>,
    pub(super) shown: Vec<Shown>,
}

impl Resolver {
    pub(super) fn value<T>(
        &mut self,
        key: &str,
        default: (T, Origin),
        read: impl Fn(&Raw) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Result<T, ConfigError> {
        let (value, origin) = match self.layers.remove(key) {
            None => default,
            Some(raw) => match read(&raw) {
                Ok(value) => (value, raw.origin),
                Err(why) => {
                    return Err(ConfigError::new(&raw.origin, format!("`{key}` {why}")));
                }
            },
        };
        self.shown.push(Shown::new(key.to_owned(), show(&value), origin));
        Ok(value)
    }

    fn text(
        &mut self,
        key: &str,
        default: &str,
        check: impl Fn(String) -> Result<String, String>,
    ) -> Result<String, ConfigError> {
        let default = (default.to_owned(), Origin::Default);
        self.value(key, default, |raw| check(raw.text()?), Clone::clone)
    }

    fn flag(&mut self, key: &str) -> Result<bool, ConfigError> {
        self.flag_or(key, (false, Origin::Default))
    }

    fn flag_or(&mut self, key: &str, default: (bool, Origin)) -> Result<bool, ConfigError> {
        self.value(key, default, Raw::flag, ToString::to_string)
    }

    fn count(&mut self, key: &str, default: (u64, Origin), max: u64) -> Result<u64, ConfigError> {
        let read = |raw: &Raw| match raw.integer()? {
            number if (1..=max).contains(&number) => Ok(number),
            number => Err(format!("must be from 1 to {max}, not {number}")),
        };
        self.value(key, default, read, ToString::to_string)
    }

    fn size(&mut self, key: &str, default: (u64, Origin)) -> Result<u64, ConfigError> {
        let read = |raw: &Raw| match raw.size()? {
            0 => Err("must not be 0".to_owned()),
            len => Ok(len),
        };
        self.value(key, default, read, |len| show_size(*len))
    }
}

fn settings(resolver: &mut Resolver) -> Result<Config, ConfigError> {
    let profile = resolver.value(
        "profile",
        (Profile::Desktop, Origin::Default),
        |raw| match raw.text()?.as_str() {
            "desktop" => Ok(Profile::Desktop),
            "server" => Ok(Profile::Server),
            other => Err(format!("must be `desktop` or `server`, not `{other}`")),
        },
        |profile| profile.as_str().to_owned(),
    )?;
    let data = PathBuf::from(resolver.text("data", DATA, not_empty)?);
    let database =
        resolver.text("store", &format!("sqlite:{}/overnight.db", data.display()), |text| {
            local(&text, "sqlite", "PostgreSQL").map(|()| text)
        })?;
    let blobs = resolver.text("blobs", &format!("file:{}/blobs", data.display()), |text| {
        local(&text, "file", "object storage").map(|()| text)
    })?;
    let path = |text: &str| text.split_once(':').map_or_else(PathBuf::new, |(_, path)| path.into());
    Ok(Config {
        profile,
        database: path(&database),
        blobs: path(&blobs),
        data,
        log: resolver.text("log", "info", not_empty)?,
        server: server(resolver, profile)?,
        limits: limits(resolver, profile)?,
        queue: QueueConfig { active_batches_max: active_batches_max(resolver)? },
        retention: RetentionConfig {
            files: retention(resolver, profile, "retention.files")?,
            outputs: retention(resolver, profile, "retention.outputs")?,
        },
        dispatch: dispatch(resolver)?,
        gpu: gpu(resolver)?,
        notify: NotifyConfig::nobody(),
        engines: Vec::new(),
        discovery: DiscoveryConfig { ports: ports(resolver)? },
        models: Vec::new(),
    })
}

fn ports(resolver: &mut Resolver) -> Result<Vec<u16>, ConfigError> {
    resolver.value(
        "discovery.ports",
        (USUAL_PORTS.to_vec(), Origin::Default),
        |raw| {
            let ports = raw.list()?;
            if ports.is_empty() || ports.len() > DISCOVERY_PORTS_MAX {
                return Err(format!("must name 1 to {DISCOVERY_PORTS_MAX} ports"));
            }
            let port = |text: &String| match text.parse::<u16>() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(format!("may only hold ports, 1 to 65535, not `{text}`")),
            };
            ports.iter().map(port).collect()
        },
        |ports| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    )
}

fn not_empty(text: String) -> Result<String, String> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text) }
}

/// The path of a local store. Anything else is for a later version, and is said so.
fn local(text: &str, scheme: &str, others: &str) -> Result<(), String> {
    match text.split_once(':') {
        Some((given, path)) if given == scheme && !path.is_empty() && !path.starts_with("//") => Ok(()),
        Some((given, path)) if given != scheme && path.starts_with("//") => Err(format!(
            "`{given}:` is not in this build yet: {others} comes later; use `{scheme}:PATH`"
        )),
        _ => Err(format!("must be `{scheme}:PATH`, not `{text}`")),
    }
}

fn server(resolver: &mut Resolver, profile: Profile) -> Result<ServerConfig, ConfigError> {
    let parse = |text: &str| {
        let address = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        address.as_deref().unwrap_or(text).parse::<SocketAddr>()
    };
    let listen = resolver.text("server.listen", LISTEN, |text| {
        let parsed = parse(&text).map_err(|_| {
            format!("must be an address and a port, as in `{LISTEN}` or `0.0.0.0:8642`, not `{text}`")
        });
        parsed.map(|address| address.to_string())
    })?;
    Ok(ServerConfig {
        listen: parse(&listen).expect("it was parsed and written by us"),
        hosts: resolver
            .value("server.hosts", (Vec::new(), Origin::Default), Raw::list, |hosts| hosts.join(", "))?,
        keys: Vec::new(),
        insecure: resolver.flag("server.insecure")?,
        stuck_after: resolver.value(
            "server.stuck_after",
            (STUCK_AFTER, Origin::Default),
            |raw| match raw.duration()? {
                span if span >= STUCK_AFTER_MIN => Ok(span),
                _ => Err(format!("must be at least {}", show_duration(STUCK_AFTER_MIN))),
            },
            |span| show_duration(*span),
        )?,
        inhibit_sleep: resolver
            .flag_or("server.inhibit_sleep", (profile == Profile::Desktop, Origin::Profile(profile)))?,
    })
}

fn limits(resolver: &mut Resolver, profile: Profile) -> Result<AdmissionLimits, ConfigError> {
    let AdmissionLimits { requests_per_batch, unfinished_batches, queued_requests, file_len } =
        profile.limits();
    let of = |number: u64| (number, Origin::Profile(profile));
    Ok(AdmissionLimits {
        // A request's index has 32 bits.
        requests_per_batch: resolver.count(
            "limits.requests_per_batch",
            of(requests_per_batch),
            u64::from(u32::MAX),
        )?,
        unfinished_batches: resolver.count(
            "limits.unfinished_batches",
            of(unfinished_batches),
            u64::MAX,
        )?,
        queued_requests: resolver.count("limits.queued_requests", of(queued_requests), u64::MAX)?,
        file_len: resolver.size("limits.file_len", of(file_len))?,
    })
}

fn active_batches_max(resolver: &mut Resolver) -> Result<Option<usize>, ConfigError> {
    resolver.value(
        "queue.max_active_batches",
        (None, Origin::Default),
        |raw| {
            if raw.text().is_ok_and(|text| text == "auto") {
                return Ok(None);
            }
            match raw.integer().ok().and_then(|number| usize::try_from(number).ok()) {
                Some(number) if number > 0 => Ok(Some(number)),
                _ => Err("must be \"auto\" or a number from 1".to_owned()),
            }
        },
        |number| number.map_or_else(|| "auto".to_owned(), |number| number.to_string()),
    )
}

fn retention(
    resolver: &mut Resolver,
    profile: Profile,
    key: &str,
) -> Result<Option<Duration>, ConfigError> {
    let default = match profile {
        Profile::Desktop => None,
        Profile::Server => Some(SERVER_RETENTION),
    };
    resolver.value(
        key,
        (default, Origin::Profile(profile)),
        |raw| {
            if raw.text().is_ok_and(|text| text == "never") {
                return Ok(None);
            }
            match raw.duration()? {
                life if life >= RETENTION_MIN => Ok(Some(life)),
                _ => Err("must be \"never\" or at least \"1h\"".to_owned()),
            }
        },
        |life| life.map_or_else(|| "never".to_owned(), show_duration),
    )
}

fn dispatch(resolver: &mut Resolver) -> Result<DispatchConfig, ConfigError> {
    let attempts = (u64::from(ATTEMPTS_DEFAULT), Origin::Default);
    let attempts = resolver.count("dispatch.attempts_max", attempts, u64::from(ATTEMPTS_MAX))?;
    Ok(DispatchConfig {
        memory_len: resolver.size("dispatch.memory_len", (MEMORY_BUDGET, Origin::Default))?,
        request_len_max: resolver
            .size("dispatch.request_len_max", (REQUEST_LEN_MAX, Origin::Default))?,
        answer_len_max: resolver.size("dispatch.answer_len_max", (ANSWER_LEN_MAX, Origin::Default))?,
        attempts_max: u32::try_from(attempts).unwrap_or(ATTEMPTS_MAX),
        hard_expiry: resolver.flag("dispatch.hard_expiry")?,
        commit_after: resolver.value(
            "dispatch.commit_after",
            (COMMIT_AFTER, Origin::Default),
            |raw| match raw.duration()? {
                span if span <= COMMIT_AFTER_MAX => Ok(span),
                _ => Err(format!("must be at most {}", show_duration(COMMIT_AFTER_MAX))),
            },
            |span| show_duration(*span),
        )?,
    })
}

fn gpu(resolver: &mut Resolver) -> Result<GpuConfig, ConfigError> {
    let GpuConfig { library, unhealthy_at, .. } = GpuConfig::default();
    let mut degrees = |key: &str, default: u32| {
        let read = resolver.count(key, (u64::from(default), Origin::Default), DEGREES_MAX);
        read.map(|degrees| degrees as u32)
    };
    let unhealthy_at = degrees("gpu.unhealthy_at", unhealthy_at)?;
    let warn_at = degrees("gpu.warn_at", unhealthy_at.saturating_sub(WARNED_BEFORE).max(1))?;
    let library = resolver.text("gpu.library", &library, not_empty)?;
    Ok(GpuConfig { library, warn_at, unhealthy_at })
}

/// What only several settings together can get wrong.
fn check(config: &Config, shown: &[Shown]) -> Result<(), ConfigError> {
    let origin = |key: &str| {
        shown
            .iter()
            .find(|setting| setting.key == key)
            .map_or(Origin::Default, |found| found.origin.clone())
    };
    let ServerConfig { listen, keys, insecure, .. } = &config.server;
    if !listen.ip().is_loopback() && keys.is_empty() && !insecure {
        return Err(ConfigError::new(
            &origin("server.listen"),
            format!(
                "`server.listen` is {listen}, which others can reach, and there is no key: add a `[[key]]`, or allow it with --insecure"
            ),
        ));
    }
    let GpuConfig { warn_at, unhealthy_at, .. } = config.gpu;
    if warn_at > unhealthy_at {
        return Err(ConfigError::new(
            &origin("gpu.warn_at"),
            format!("`gpu.warn_at` is {warn_at}, above `gpu.unhealthy_at`, which is {unhealthy_at}"),
        ));
    }
    let dispatch = &config.dispatch;
    if dispatch.request_len_max.saturating_add(dispatch.answer_len_max) > dispatch.memory_len {
        return Err(ConfigError::new(
            &origin("dispatch.memory_len"),
            format!(
                "`dispatch.memory_len` is {}, less than one request and one answer of the greatest length together ({} and {})",
                show_size(dispatch.memory_len),
                show_size(dispatch.request_len_max),
                show_size(dispatch.answer_len_max),
            ),
        ));
    }
    Ok(())
}
