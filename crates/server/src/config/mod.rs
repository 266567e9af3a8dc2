//! The resolved configuration: what the rest of the server reads. It is parsed once, at the start, and then trusted.
//!
//! Where a value came from (default, file, environment, flag) is kept for `overnight config` alone.

mod engines;
mod environment;
mod file;
pub(crate) mod keys;
mod load;
mod models;
mod notify;
pub(crate) mod secret;
pub(crate) mod units;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use overnight_domain::ids::TenantId;
use overnight_domain::limits::{
    AdmissionLimits, BUILTIN_SILENT_MAX, BUILTIN_STOP_GRACE, ENGINE_READY_WITHIN, ENGINE_SILENT_MAX,
    ENGINE_STALL_AFTER, ENGINE_STOP_GRACE,
};
use overnight_domain::supervision;
use overnight_engine::EngineKind;
use overnight_engine::child::{ChildCommand, CommandError};

pub use environment::Environment;
pub(crate) use load::FILE_NAME;
pub use load::{ConfigError, FlagValue, Origins, Shown, Sources, load};
pub use notify::{NotifyConfig, NotifyUrl};
pub use value::Origin;

/// A value that must never be shown or logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The defaults of section limits and retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Desktop,
    Server,
}

impl Profile {
    pub const fn limits(self) -> AdmissionLimits {
        match self {
            Self::Desktop => AdmissionLimits::DESKTOP,
            Self::Server => AdmissionLimits::SERVER,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Server => "server",
        }
    }
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    pub profile: Profile,
    /// The data directory: database, blobs, segments and the lock.
    pub data: PathBuf,
    /// The SQLite database.
    pub database: PathBuf,
    /// The folder of the blobs.
    pub blobs: PathBuf,
    /// What is logged, as `tracing` filters say it.
    pub log: String,
    pub server: ServerConfig,
    pub limits: AdmissionLimits,
    pub queue: QueueConfig,
    pub retention: RetentionConfig,
    pub dispatch: DispatchConfig,
    pub gpu: GpuConfig,
    pub notify: NotifyConfig,
    /// Empty: look for engines on the usual local ports.
    pub engines: Vec<EngineConfig>,
    pub discovery: DiscoveryConfig,
    pub models: Vec<ModelConfig>,
}

/// One name for a model, whatever the engines call it.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// What people call it.
    pub name: String,
    /// What the engines call it.
    pub serves: String,
    /// None: every engine that has it.
    pub engines: Option<Vec<String>>,
}

/// Where engines are looked for when none is configured.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    /// Ports of this machine, in the order in which engines found there are used.
    pub ports: Vec<u16>,
}

#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    /// Names that `Host` may carry besides loopback and the listen address.
    pub hosts: Vec<String>,
    pub keys: Vec<KeyConfig>,
    /// Allows to listen off loopback without a key.
    pub insecure: bool,
    /// A part of ours that does nothing for so long ends the process.
    pub stuck_after: Duration,
    /// The machine is kept awake while work may run.
    pub inhibit_sleep: bool,
}

/// Who holds the key, and what it allows.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    pub name: String,
    pub tenant: TenantId,
    pub value: Secret,
    /// May send batches of any size and sees the whole server.
    pub admin: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct QueueConfig {
    /// None: one per endpoint.
    pub active_batches_max: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub struct RetentionConfig {
    /// Life of uploaded files that name none. None: until they are deleted.
    pub files: Option<Duration>,
    /// Life of output and error files that name none. None: until they are deleted.
    pub outputs: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub struct DispatchConfig {
    /// Bodies and answers in memory together.
    pub memory_len: u64,
    pub request_len_max: u64,
    pub answer_len_max: u64,
    pub attempts_max: u32,
    /// Ends batches at their `expires_at` unless they say otherwise.
    pub hard_expiry: bool,
    /// Group commit.
    pub commit_after: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuConfig {
    /// The library of NVIDIA's driver, as the system's loader finds it.
    pub library: String,
    /// In °C.
    pub warn_at: u32,
    pub unhealthy_at: u32,
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self { library: "libnvidia-ml.so.1".to_owned(), warn_at: 80, unhealthy_at: 85 }
    }
}

#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub name: String,
    /// The dialect that it is spoken to in.
    pub kind: EngineKind,
    /// Nobody said so: what it is, it is asked at the start.
    pub is_kind_open: bool,
    pub url: String,
    /// Requests in flight. None: the default, until the window is found by itself.
    pub window: Option<u32>,
    /// Embedding inputs and their tokens in one call. None: what the engine is known to take.
    pub inputs_per_call: Option<u32>,
    pub tokens_per_call: Option<u32>,
    pub api_key: Option<Secret>,
    pub headers: Vec<(String, Secret)>,
    /// What it serves; asked from the engine when empty.
    pub models: Vec<String>,
    /// What people call a model -> what this engine calls it.
    pub aliases: Vec<(String, String)>,
    /// The same, but only while the engine has that model.
    pub shared_aliases: Vec<(String, String)>,
    /// The context that is asked for where a request does not say; of an Ollama.
    pub num_ctx: Option<u32>,
    /// The GPU of this machine that it runs on. None: any of them where it is local.
    pub gpu: Option<u32>,
    /// Whether full GPU memory narrows its window.
    pub memory_rule: bool,
    /// How we start it. None: it is started by others.
    pub process: Option<ProcessConfig>,
}

/// An engine that we start.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// As it was written.
    pub text: String,
    pub command: ChildCommand,
    pub rules: supervision::Rules,
}

impl Config {
    /// Uses these engines. Names for models that concern all engines concern them as well.
    pub(crate) fn use_engines(&mut self, engines: Vec<EngineConfig>) -> Result<(), String> {
        self.engines = engines;
        models::apply(&self.models, &mut self.engines)
    }
}

impl ProcessConfig {
    /// With the default of every rule.
    pub(crate) fn new(text: String) -> Result<Self, CommandError> {
        let command = ChildCommand::parse(&text)?;
        let is_builtin = command.is_builtin();
        let rules = supervision::Rules {
            ready_within: ENGINE_READY_WITHIN,
            stall_after: ENGINE_STALL_AFTER,
            silent_after: if is_builtin { BUILTIN_SILENT_MAX } else { ENGINE_SILENT_MAX },
            idle_after: None,
            memory_len_max: None,
            slot: None,
        };
        Ok(Self { text, command, rules })
    }

    /// From the request to end to the end by force.
    pub(crate) fn stop_grace(&self) -> Duration {
        if self.command.is_builtin() { BUILTIN_STOP_GRACE } else { ENGINE_STOP_GRACE }
    }
}

impl EngineConfig {
    /// An engine of which only the address is known.
    pub(crate) fn by_address(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self { is_kind_open: true, ..Self::at(name, EngineKind::OpenAi, url) }
    }

    /// An engine of which only name, kind and address are known.
    pub fn at(name: impl Into<String>, kind: EngineKind, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            is_kind_open: false,
            url: url.into(),
            window: None,
            inputs_per_call: None,
            tokens_per_call: None,
            api_key: None,
            headers: Vec::new(),
            models: Vec::new(),
            aliases: Vec::new(),
            num_ctx: None,
            gpu: None,
            memory_rule: false,
            shared_aliases: Vec::new(),
            process: None,
        }
    }
}

#[cfg(test)]
mod tests;
