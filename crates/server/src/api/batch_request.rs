//! What a call that creates, changes or repeats a batch asks for, parsed and checked.

use std::collections::BTreeMap;
use std::time::Duration;

use overnight_domain::batch::{BatchOptions, Order};
use overnight_domain::limits::{
    ATTEMPTS_MAX, DEADLINE_MAX, METADATA_KEY_LEN_MAX, METADATA_PAIRS_MAX, METADATA_VALUE_LEN_MAX,
};
use overnight_domain::route::Route;
use serde_json::{Map, Value};

use crate::api::auth::Caller;
use crate::api::error::{self, ApiError};
use crate::api::json::Members;
use crate::api::multipart::Fields;
use crate::api::{receive, spans};
use crate::config::Config;

const PRIORITIES: std::ops::RangeInclusive<i64> = -100..=100;
const MODEL_NAME_LEN_MAX: usize = 512;

/// The members of a creation, apart from the input.
#[derive(Debug)]
pub(super) struct NewBatch {
    pub(super) route: Route,
    pub(super) completion_window: String,
    pub(super) window: Duration,
    pub(super) metadata: Option<BTreeMap<String, String>>,
    pub(super) options: BatchOptions,
}

impl NewBatch {
    pub(super) fn parse(body: Members<'_>, caller: &Caller, config: &Config) -> Result<Self, ApiError> {
        let completion_window = body.required_text("completion_window")?.to_owned();
        let defaults = BatchOptions {
            priority: 0,
            order: Order::default(),
            attempts_max: config.dispatch.attempts_max,
            timeout: None,
            hard_expiry: config.dispatch.hard_expiry,
            large: false,
            model: None,
            output_ttl: output_life(body)?,
        };
        Ok(Self {
            route: route(body.required_text("endpoint")?)?,
            window: spans::completion_window(&completion_window)?,
            completion_window,
            metadata: metadata(body)?,
            options: options(body, caller, defaults)?,
        })
    }
}

fn route(text: &str) -> Result<Route, ApiError> {
    Route::parse(text).ok_or_else(|| {
        let known = Route::ALL.map(|route| format!("'{}'", route.path())).join(", ");
        error::invalid_value("endpoint", text, &format!("Supported values are: {known}."))
    })
}

fn output_life(body: Members<'_>) -> Result<Option<Duration>, ApiError> {
    let Some(life) = body.object("output_expires_after")? else { return Ok(None) };
    receive::anchor(&life.path("anchor"), life.required_text("anchor")?)?;
    let param = life.path("seconds");
    let seconds = life.integer("seconds", i64::MIN..=i64::MAX)?;
    let seconds = seconds.ok_or_else(|| error::missing(&param))?;
    Ok(Some(Duration::from_secs(receive::life_seconds(&param, seconds)?)))
}

fn metadata(body: Members<'_>) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    let Some(pairs) = body.object("metadata")? else { return Ok(None) };
    if pairs.len() > METADATA_PAIRS_MAX {
        return Err(error::too_many_members("metadata", pairs.len(), METADATA_PAIRS_MAX));
    }
    let mut metadata = BTreeMap::new();
    for (name, value) in pairs.iter() {
        let len = name.chars().count();
        if len > METADATA_KEY_LEN_MAX {
            return Err(error::member_name_too_long("metadata", len, METADATA_KEY_LEN_MAX));
        }
        let path = pairs.path(name);
        let text = value.as_str().ok_or_else(|| error::wrong_type(&path, "a string"))?;
        let len = text.chars().count();
        if len > METADATA_VALUE_LEN_MAX {
            return Err(error::text_too_long(&path, len, METADATA_VALUE_LEN_MAX));
        }
        metadata.insert(name.clone(), text.to_owned());
    }
    Ok(Some(metadata))
}

/// The member `overnight`, over `options`. What is not given stays as it is.
pub(super) fn options(
    body: Members<'_>,
    caller: &Caller,
    mut options: BatchOptions,
) -> Result<BatchOptions, ApiError> {
    let Some(ours) = body.object("overnight")? else { return Ok(options) };
    ours.only(&["priority", "order", "attempts", "timeout", "hard_expiry", "large", "model"])?;
    if let Some(priority) = priority(ours)? {
        options.priority = priority;
    }
    match ours.text("order")? {
        None => {}
        Some("prefix") => options.order = Order::Prefix,
        Some("file") => options.order = Order::File,
        Some(other) => {
            let param = ours.path("order");
            return Err(error::invalid_value(&param, other, "Supported values are: 'prefix', 'file'."));
        }
    }
    if let Some(attempts) = ours.integer("attempts", 1..=i64::from(ATTEMPTS_MAX))? {
        options.attempts_max = attempts as u32;
    }
    if let Some(timeout) = timeout(ours)? {
        options.timeout = Some(timeout);
    }
    if let Some(hard_expiry) = ours.flag("hard_expiry")? {
        options.hard_expiry = hard_expiry;
    }
    if let Some(large) = ours.flag("large")? {
        if large {
            caller.admin_or("a batch of any size")?;
        }
        options.large = large;
    }
    if let Some(model) = ours.text("model")? {
        if model.is_empty() || model.len() > MODEL_NAME_LEN_MAX {
            let expected = format!("A model name has 1 to {MODEL_NAME_LEN_MAX} bytes.");
            return Err(error::invalid_value(&ours.path("model"), model, &expected));
        }
        options.model = Some(model.to_owned());
    }
    Ok(options)
}

pub(super) fn priority(ours: Members<'_>) -> Result<Option<i32>, ApiError> {
    Ok(ours.integer("priority", PRIORITIES)?.map(|priority| priority as i32))
}

fn timeout(ours: Members<'_>) -> Result<Option<Duration>, ApiError> {
    let param = ours.path("timeout");
    let expected = format!(
        "Supported are seconds, or a number with `s`, `m` or `h`, up to {} s.",
        DEADLINE_MAX.as_secs()
    );
    let (span, shown) = match ours.get("timeout") {
        None => return Ok(None),
        Some(Value::Number(number)) => (number.as_u64().map(Duration::from_secs), number.to_string()),
        Some(Value::String(text)) => (spans::timeout(text), text.clone()),
        Some(_) => return Err(error::wrong_type(&param, "seconds or a text such as '30s'")),
    };
    match span {
        Some(span) if !span.is_zero() && span <= DEADLINE_MAX => Ok(Some(span)),
        _ => Err(error::invalid_value(&param, &shown, &expected)),
    }
}

/// The body that a form stands for: `metadata` and `overnight` as JSON or member by member (`overnight[priority]`),
/// `model` as the one that fills lines without, and the usual route and window where none is named.
pub(super) fn body_of_form(fields: &Fields) -> Result<Map<String, Value>, ApiError> {
    let mut body = Map::from_iter([
        ("endpoint".to_owned(), Value::from(Route::ChatCompletions.path())),
        ("completion_window".to_owned(), Value::from("24h")),
    ]);
    for (name, text) in fields.iter() {
        match name.split_once('[') {
            None if matches!(name, "metadata" | "overnight" | "output_expires_after") => {
                let value = serde_json::from_str(text).map_err(|error| error::not_json(&error))?;
                body.insert(name.to_owned(), value);
            }
            None if name == "model" => insert_into(&mut body, "overnight", "model", Value::from(text)),
            None => {
                body.insert(name.to_owned(), Value::from(text));
            }
            Some((parent, member)) => {
                let member = member.trim_end_matches(']');
                let value = match parent {
                    "metadata" => Value::from(text),
                    _ => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
                };
                insert_into(&mut body, parent, member, value);
            }
        }
    }
    Ok(body)
}

fn insert_into(body: &mut Map<String, Value>, parent: &str, member: &str, value: Value) {
    let object = body.entry(parent).or_insert_with(|| Value::Object(Map::new()));
    if let Some(object) = object.as_object_mut() {
        object.insert(member.to_owned(), value);
    }
}
