//! `[notify]`: who is told, of what, and after how long.

use std::time::Duration;

use http::Uri;
use overnight_domain::limits::{NO_ENDPOINT_AFTER, NO_PROGRESS_AFTER};
use overnight_domain::notice::{NoticeEvent, Receiver, Subscription};

use super::environment::Environment;
use super::load::Resolver;
use super::units::show_duration;
use super::value::{Origin, Raw};
use super::{ConfigError, Secret, secret};

const MASK: &str = "***";
/// What is looked at once a second cannot be told sooner.
const AFTER_MIN: Duration = Duration::from_secs(1);

/// Who is told what happens while nobody watches.
#[derive(Debug, Clone)]
pub struct NotifyConfig {
    /// The program and its arguments.
    pub command: Option<Vec<String>>,
    pub url: Option<NotifyUrl>,
    pub headers: Vec<(String, Secret)>,
    pub events: Vec<NoticeEvent>,
    pub no_progress_after: Duration,
    pub no_endpoint_after: Duration,
}

/// An address that is told. Whoever knows it may be able to write to people, so it is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyUrl {
    pub address: Secret,
    /// Scheme and host: what may be seen of it.
    pub shown: String,
}

impl NotifyConfig {
    /// Nobody is told anything.
    pub fn nobody() -> Self {
        Self {
            command: None,
            url: None,
            headers: Vec::new(),
            events: NoticeEvent::ALL.to_vec(),
            no_progress_after: NO_PROGRESS_AFTER,
            no_endpoint_after: NO_ENDPOINT_AFTER,
        }
    }

    pub fn subscriptions(&self) -> Vec<Subscription> {
        let command = self.command.as_ref().map(|_| Receiver::Command);
        let url = self.url.as_ref().map(|_| Receiver::Url);
        let subscribe = |receiver| Subscription { receiver, events: self.events.clone() };
        command.into_iter().chain(url).map(subscribe).collect()
    }
}

pub(super) fn notify(
    resolver: &mut Resolver,
    environment: &Environment,
) -> Result<NotifyConfig, ConfigError> {
    let NotifyConfig { events, no_progress_after, no_endpoint_after, .. } = NotifyConfig::nobody();
    let config = NotifyConfig {
        command: resolver.value(
            "notify.command",
            (None, Origin::Default),
            |raw| command(raw).map(Some),
            |words| {
                let words = words.iter().flatten().map(String::as_str);
                shlex::try_join(words).expect("a word with a NUL was refused")
            },
        )?,
        url: resolver.value(
            "notify.url",
            (None, Origin::Default),
            |raw| url(raw, environment),
            |url| url.as_ref().map_or_else(String::new, |url| url.shown.clone()),
        )?,
        headers: resolver.value(
            "notify.headers",
            (Vec::new(), Origin::Default),
            |raw| headers(raw, environment),
            |headers| {
                let shown: Vec<String> =
                    headers.iter().map(|(name, _)| format!("{name} = {MASK}")).collect();
                shown.join(", ")
            },
        )?,
        events: resolver.value("notify.events", (events, Origin::Default), read_events, |events| {
            names(events, ", ")
        })?,
        no_progress_after: after(resolver, "notify.no_progress_after", no_progress_after)?,
        no_endpoint_after: after(resolver, "notify.no_endpoint_after", no_endpoint_after)?,
    };
    if config.url.is_none() && !config.headers.is_empty() {
        let headers = resolver.shown.iter().find(|shown| shown.key == "notify.headers");
        let origin = headers.map_or(Origin::Default, |shown| shown.origin.clone());
        let why =
            "`notify.headers` are sent to `notify.url`, and there is none: set it, or leave them out";
        return Err(ConfigError::new(&origin, why));
    }
    Ok(config)
}

/// Split as a shell would, and run without one.
fn command(raw: &Raw) -> Result<Vec<String>, String> {
    let text = raw.text()?;
    match shlex::split(&text) {
        _ if text.contains('\0') => Err("must not hold a NUL".to_owned()),
        Some(words) if words.first().is_some_and(|program| !program.is_empty()) => Ok(words),
        Some(_) => Err("names no program: leave it out when none shall be run".to_owned()),
        None => Err("ends inside quotes or behind a backslash".to_owned()),
    }
}

/// The refusals do not repeat the address.
fn url(raw: &Raw, environment: &Environment) -> Result<Option<NotifyUrl>, String> {
    let text = raw.text()?;
    let address =
        if secret::is_reference(&text) { secret::read(&text, environment)? } else { Secret::new(text) };
    let parsed: Uri = address.expose().parse().map_err(|error| format!("is no address: {error}"))?;
    let scheme = parsed.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
    let scheme = scheme.ok_or("must begin with `http://` or `https://`")?;
    let authority = parsed.authority().ok_or("names no host")?;
    if authority.as_str().contains('@') {
        return Err("must not hold a password: use `notify.headers`, as in \
                    { Authorization = \"env:NOTIFY_AUTHORIZATION\" }"
            .to_owned());
    }
    let shown = format!("{scheme}://{authority}/{MASK}");
    Ok(Some(NotifyUrl { address, shown }))
}

fn headers(raw: &Raw, environment: &Environment) -> Result<Vec<(String, Secret)>, String> {
    raw.map()?
        .into_iter()
        .map(|(name, text)| {
            let value = secret::header(&name, text, environment);
            value.map(|value| (name.clone(), value)).map_err(|why| format!("has `{name}`, which {why}"))
        })
        .collect()
}

fn read_events(raw: &Raw) -> Result<Vec<NoticeEvent>, String> {
    let read = |name: &String| {
        NoticeEvent::parse(name)
            .ok_or_else(|| format!("may hold {}, not `{name}`", names(&NoticeEvent::ALL, ", ")))
    };
    let events = raw.list()?.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if events.is_empty() {
        return Err("names no event: leave it out to be told of all".to_owned());
    }
    Ok(events)
}

fn names(events: &[NoticeEvent], between: &str) -> String {
    events.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(between)
}

fn after(resolver: &mut Resolver, key: &str, default: Duration) -> Result<Duration, ConfigError> {
    resolver.value(
        key,
        (default, Origin::Default),
        |raw| match raw.duration()? {
            span if span >= AFTER_MIN => Ok(span),
            _ => Err(format!("must be at least {}", show_duration(AFTER_MIN))),
        },
        |span| show_duration(*span),
    )
}
