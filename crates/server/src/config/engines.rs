//! `[[engine]]` and `[[key]]`: the repeated tables.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use overnight_domain::ids::TenantId;
use overnight_domain::limits::{GPU_DEVICES_MAX, PACK_INPUTS_MAX, PACK_TOKENS_MAX, WINDOW_MAX};
use overnight_engine::EngineKind;
use overnight_engine::child::ChildCommand;

use super::environment::Environment;
use super::file::Members;
use super::load::Shown;
use super::secret;
use super::units::{show_duration, show_size};
use super::value::{Origin, Raw};
use super::{ConfigError, EngineConfig, KeyConfig, ProcessConfig, Secret};

const MASK: &str = "***";
/// Names of engines, keys and tenants stand in paths of metrics, in logs and in tables.
const NAME_LEN_MAX: usize = 64;

pub(super) fn engines(
    tables: &[Members],
    environment: &Environment,
    shown: &mut Vec<Shown>,
) -> Result<Vec<EngineConfig>, ConfigError> {
    let mut engines: Vec<EngineConfig> = Vec::with_capacity(tables.len());
    for (number, table) in tables.iter().enumerate() {
        let mut reader = Reader { kind: "engine", number, table, environment, shown: &mut *shown };
        let engine = engine(&mut reader)?;
        if let Some(what) = engines.iter().find_map(|other| conflict(other, &engine)) {
            return Err(ConfigError::new(&table.origin, what));
        }
        engines.push(engine);
    }
    Ok(engines)
}

/// Why there cannot be both.
fn conflict(one: &EngineConfig, other: &EngineConfig) -> Option<String> {
    if one.name == other.name {
        return Some(format!("two engines have the name `{}`", one.name));
    }
    let slot = |engine: &EngineConfig| engine.process.as_ref().and_then(|process| process.rules.slot);
    // Of those that we start on one GPU only one is there at a time.
    let take_turns = slot(one).is_some() && slot(one) == slot(other);
    (one.url == other.url && !take_turns).then(|| {
        format!(
            "the engines `{}` and `{}` have the same `url`, which only engines can that Overnight starts in turns \
             (`command`, and the same `gpu`)",
            one.name, other.name
        )
    })
}

/// Engines that were given by their address alone.
pub(super) fn engines_at(
    urls: &[String],
    origin: &Origin,
    shown: &mut Vec<Shown>,
) -> Result<Vec<EngineConfig>, ConfigError> {
    let mut seen = HashSet::new();
    let mut engines = Vec::with_capacity(urls.len());
    for (number, url) in urls.iter().enumerate() {
        let refused = |what: String| ConfigError::new(origin, what);
        let parsed = check_url(url).map_err(|why| refused(format!("`{url}` {why}")))?;
        if !seen.insert(url) {
            return Err(refused(format!("`{url}` is given twice")));
        }
        let name = parsed.authority().map_or_else(|| url.clone(), ToString::to_string);
        let is_taken = engines.iter().any(|engine: &EngineConfig| engine.name == name);
        let name = if is_taken { format!("{name}-{}", number + 1) } else { name };
        shown.push(Shown::new(format!("engine[{number}].url"), url.clone(), origin.clone()));
        engines.push(EngineConfig::by_address(name, url.clone()));
    }
    Ok(engines)
}

pub(super) fn keys(
    tables: &[Members],
    environment: &Environment,
    shown: &mut Vec<Shown>,
) -> Result<Vec<KeyConfig>, ConfigError> {
    let mut keys: Vec<KeyConfig> = Vec::with_capacity(tables.len());
    for (number, table) in tables.iter().enumerate() {
        let mut reader = Reader { kind: "key", number, table, environment, shown: &mut *shown };
        let key = KeyConfig {
            name: reader.required("name", name)?,
            tenant: TenantId::new(
                reader.optional("tenant", name)?.unwrap_or_else(|| TenantId::DEFAULT.to_owned()),
            ),
            value: reader.secret("value")?.ok_or_else(|| reader.missing("value"))?,
            admin: reader.optional("admin", Raw::flag)?.unwrap_or(false),
        };
        if let Some(other) = keys.iter().find(|other| other.name == key.name || other.value == key.value)
        {
            let what = if other.name == key.name {
                format!("two keys have the name `{}`", key.name)
            } else {
                format!("the keys `{}` and `{}` have the same value", other.name, key.name)
            };
            return Err(ConfigError::new(&table.origin, what));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// One of the repeated tables, read member by member.
pub(super) struct Reader<'a> {
    pub(super) kind: &'static str,
    pub(super) number: usize,
    pub(super) table: &'a Members,
    pub(super) environment: &'a Environment,
    pub(super) shown: &'a mut Vec<Shown>,
}

impl Reader<'_> {
    fn find(&self, member: &str) -> Option<Raw> {
        self.table.find(member).cloned()
    }

    pub(super) fn optional<T: ToShow>(
        &mut self,
        member: &str,
        read: fn(&Raw) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(raw) = self.find(member) else { return Ok(None) };
        let value = read(&raw).map_err(|why| self.refused(&raw.origin, member, &why))?;
        self.show(member, value.to_show(), raw.origin);
        Ok(Some(value))
    }

    pub(super) fn required<T: ToShow>(
        &mut self,
        member: &str,
        read: fn(&Raw) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.optional(member, read)?.ok_or_else(|| self.missing(member))
    }

    fn secret(&mut self, member: &str) -> Result<Option<Secret>, ConfigError> {
        let Some(raw) = self.find(member) else { return Ok(None) };
        let reference = raw.text().map_err(|why| self.refused(&raw.origin, member, &why))?;
        let value = secret::read(&reference, self.environment)
            .map_err(|why| self.refused(&raw.origin, member, &why))?;
        self.show(member, format!("{MASK} ({reference})"), raw.origin);
        Ok(Some(value))
    }

    /// The values of headers may be secrets, so none is shown.
    fn headers(&mut self) -> Result<Vec<(String, Secret)>, ConfigError> {
        let Some(raw) = self.find("headers") else { return Ok(Vec::new()) };
        let map = raw.map().map_err(|why| self.refused(&raw.origin, "headers", &why))?;
        let mut headers = Vec::with_capacity(map.len());
        for (name, text) in map {
            let value = secret::header(&name, text, self.environment)
                .map_err(|why| self.refused(&raw.origin, &format!("headers.{name}"), &why))?;
            self.show(&format!("headers.{name}"), MASK.to_owned(), raw.origin.clone());
            headers.push((name, value));
        }
        Ok(headers)
    }

    /// What is added to the environment of the engine. The values may be secrets, so none is shown.
    fn environment(&mut self) -> Result<Vec<(String, String)>, ConfigError> {
        let Some(raw) = self.find("environment") else { return Ok(Vec::new()) };
        let map = raw.map().map_err(|why| self.refused(&raw.origin, "environment", &why))?;
        let mut variables = Vec::with_capacity(map.len());
        for (name, text) in map {
            let member = format!("environment.{name}");
            let value = if secret::is_reference(&text) {
                let value = secret::read(&text, self.environment);
                value.map_err(|why| self.refused(&raw.origin, &member, &why))?.expose().to_owned()
            } else {
                text
            };
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(self.refused(
                    &raw.origin,
                    &member,
                    "is no variable that a process could have",
                ));
            }
            self.show(&member, MASK.to_owned(), raw.origin.clone());
            variables.push((name, value));
        }
        Ok(variables)
    }

    fn show(&mut self, member: &str, value: String, origin: Origin) {
        self.shown.push(Shown::new(format!("{}[{}].{member}", self.kind, self.number), value, origin));
    }

    fn missing(&self, member: &str) -> ConfigError {
        let example = match (self.kind, member) {
            ("engine", "kind") => {
                "\"openai\" (vLLM, SGLang, llama.cpp, LM Studio, TEI and others), or \"ollama\""
            }
            ("engine", "url") => "\"http://127.0.0.1:8000/v1\"",
            _ => "\"...\"",
        };
        let text = format!("this `[[{}]]` has no `{member}`; write {member} = {example}", self.kind);
        ConfigError::new(&self.table.origin, text)
    }

    fn refused(&self, origin: &Origin, member: &str, why: &str) -> ConfigError {
        ConfigError::new(origin, format!("`{}.{member}` {why}", self.kind))
    }
}

fn engine(reader: &mut Reader<'_>) -> Result<EngineConfig, ConfigError> {
    let name = reader.required("name", name)?;
    let kind = match reader.optional("kind", kind)? {
        Some(kind) => kind,
        None if is_builtin(reader) => EngineKind::OpenAi,
        None => return Err(reader.missing("kind")),
    };
    let url = reader.required("url", url)?;
    let gpu = reader.optional("gpu", gpu)?;
    let engine = EngineConfig {
        window: reader.optional("concurrency", concurrency)?.and_then(|AutoOr(number)| number),
        inputs_per_call: reader.optional("inputs_per_call", inputs)?.and_then(|AutoOr(number)| number),
        tokens_per_call: reader.optional("tokens_per_call", tokens)?.and_then(|AutoOr(number)| number),
        api_key: reader.secret("api_key")?,
        headers: reader.headers()?,
        models: reader.optional("models", Raw::list)?.unwrap_or_default(),
        aliases: reader.optional("aliases", Raw::map)?.unwrap_or_default(),
        num_ctx: num_ctx(reader, kind)?,
        gpu,
        memory_rule: reader.optional("memory_rule", Raw::flag)?.unwrap_or(false),
        process: process(reader, gpu)?,
        ..EngineConfig::at(name, kind, url)
    };
    if engine.memory_rule && !engine.is_on_this_machine() {
        let why = "cannot be honoured: the engine is on another machine, whose GPU is not seen from here; \
                   where it is on this one after all, say which with `gpu`";
        return Err(reader.refused(&reader.table.origin, "memory_rule", why));
    }
    Ok(engine)
}

/// We know what the built-in engine speaks.
fn is_builtin(reader: &Reader<'_>) -> bool {
    let text = reader.find("command").and_then(|raw| raw.text().ok());
    text.is_some_and(|text| ChildCommand::parse(&text).is_ok_and(|command| command.is_builtin()))
}

impl EngineConfig {
    /// Whether it runs on the GPUs of this machine, as far as its settings tell.
    pub(crate) fn is_on_this_machine(&self) -> bool {
        let uri = self.url.parse::<Uri>().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address.is_unspecified(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        };
        is_local || self.gpu.is_some()
    }
}

fn num_ctx(reader: &mut Reader<'_>, kind: EngineKind) -> Result<Option<u32>, ConfigError> {
    let Some(Tokens(number)) = reader.optional("num_ctx", context_len)? else { return Ok(None) };
    if kind != EngineKind::Ollama {
        let why = "is for `kind = \"ollama\"`: other engines are started with their context";
        return Err(reader.refused(&reader.table.origin, "num_ctx", why));
    }
    Ok(Some(number))
}

/// Members that say nothing about an engine that others start.
const OF_PROCESSES: [&str; 5] =
    ["environment", "ready_within", "stall_after", "idle_after", "memory_max"];

fn process(reader: &mut Reader<'_>, slot: Option<u32>) -> Result<Option<ProcessConfig>, ConfigError> {
    let Some(text) = reader.optional("command", Raw::text)? else {
        let stray = OF_PROCESSES.into_iter().find_map(|member| Some((member, reader.find(member)?)));
        return match stray {
            None => Ok(None),
            Some((member, raw)) => {
                let why =
                    "is for engines that Overnight starts: give the `command` too, or leave it out";
                Err(reader.refused(&raw.origin, member, why))
            }
        };
    };
    let mut process = ProcessConfig::new(text)
        .map_err(|error| reader.refused(&reader.table.origin, "command", &error.to_string()))?;
    if let Some(number) = slot {
        process.command = process.command.on_gpu(number);
    }
    process.command = process.command.with_environment(reader.environment()?);
    let rules = &mut process.rules;
    rules.ready_within = reader.optional("ready_within", span)?.unwrap_or(rules.ready_within);
    rules.stall_after = reader.optional("stall_after", span)?.unwrap_or(rules.stall_after);
    rules.idle_after = reader.optional("idle_after", span)?;
    rules.memory_len_max = reader.optional("memory_max", memory)?.map(|Memory(len)| len);
    rules.slot = slot;
    Ok(Some(process))
}

fn span(raw: &Raw) -> Result<Duration, String> {
    match raw.duration()? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        span => Ok(span),
    }
}

struct Memory(u64);

fn memory(raw: &Raw) -> Result<Memory, String> {
    match raw.size()? {
        0 => Err("must not be 0".to_owned()),
        len => Ok(Memory(len)),
    }
}

fn name(raw: &Raw) -> Result<String, String> {
    let name = raw.text()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_plain) {
        return Err(format!("must be 1 to {NAME_LEN_MAX} letters, digits or `_-.:`, not `{name}`"));
    }
    Ok(name)
}

fn kind(raw: &Raw) -> Result<EngineKind, String> {
    let kind = raw.text()?;
    match kind.as_str() {
        "openai" => Ok(EngineKind::OpenAi),
        "ollama" => Ok(EngineKind::Ollama),
        _ => Err(format!(
            "must be `openai` or `ollama`, not `{kind}`: vLLM, SGLang, llama.cpp, LM Studio and TEI all speak `openai`"
        )),
    }
}

fn url(raw: &Raw) -> Result<String, String> {
    let url = raw.text()?;
    check_url(&url)?;
    Ok(url)
}

/// The refusals do not repeat the address: it may hold a password.
fn check_url(url: &str) -> Result<Uri, String> {
    let parsed: Uri = url.parse().map_err(|error| format!("is no address: {error}"))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err("must begin with `http://` or `https://`".to_owned());
    }
    match parsed.authority() {
        None => Err("names no host".to_owned()),
        Some(authority) if authority.as_str().contains('@') => {
            Err("must not hold a password: use `api_key`".to_owned())
        }
        Some(_) if parsed.query().is_some() => Err("must not have a query".to_owned()),
        Some(_) => Ok(parsed),
    }
}

/// A number, or none: found by itself.
struct AutoOr(Option<u32>);

fn concurrency(raw: &Raw) -> Result<AutoOr, String> {
    auto_or(raw, WINDOW_MAX)
}

fn inputs(raw: &Raw) -> Result<AutoOr, String> {
    auto_or(raw, PACK_INPUTS_MAX)
}

fn tokens(raw: &Raw) -> Result<AutoOr, String> {
    auto_or(raw, PACK_TOKENS_MAX)
}

fn auto_or(raw: &Raw, max: u32) -> Result<AutoOr, String> {
    if raw.text().is_ok_and(|text| text == "auto") {
        return Ok(AutoOr(None));
    }
    match raw.integer().ok().and_then(|number| u32::try_from(number).ok()) {
        Some(number) if (1..=max).contains(&number) => Ok(AutoOr(Some(number))),
        _ => Err(format!("must be \"auto\" or a number from 1 to {max}")),
    }
}

struct Tokens(u32);

fn context_len(raw: &Raw) -> Result<Tokens, String> {
    let number = raw.integer().ok().and_then(|number| u32::try_from(number).ok());
    number
        .filter(|number| *number > 0)
        .map(Tokens)
        .ok_or_else(|| "must be a number of tokens".to_owned())
}

/// The number of a GPU of this machine.
fn gpu(raw: &Raw) -> Result<u32, String> {
    match raw.integer().ok().and_then(|number| u32::try_from(number).ok()) {
        Some(number) if number < GPU_DEVICES_MAX => Ok(number),
        _ => Err(format!("must be the number of a GPU, from 0 to {}", GPU_DEVICES_MAX - 1)),
    }
}

pub(super) trait ToShow {
    fn to_show(&self) -> String;
}

impl ToShow for String {
    fn to_show(&self) -> String {
        self.clone()
    }
}

impl ToShow for EngineKind {
    fn to_show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl ToShow for u32 {
    fn to_show(&self) -> String {
        self.to_string()
    }
}

impl ToShow for bool {
    fn to_show(&self) -> String {
        self.to_string()
    }
}

impl ToShow for Duration {
    fn to_show(&self) -> String {
        show_duration(*self)
    }
}

impl ToShow for Memory {
    fn to_show(&self) -> String {
        show_size(self.0)
    }
}

impl ToShow for Tokens {
    fn to_show(&self) -> String {
        self.0.to_string()
    }
}

impl ToShow for AutoOr {
    fn to_show(&self) -> String {
        self.0.map_or_else(|| "auto".to_owned(), |number| number.to_string())
    }
}

impl ToShow for Vec<String> {
    fn to_show(&self) -> String {
        self.join(", ")
    }
}

impl ToShow for Vec<(String, String)> {
    fn to_show(&self) -> String {
        let pairs: Vec<String> = self.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        pairs.join(", ")
    }
}
