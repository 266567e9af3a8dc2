//! JSON bodies: read whatever type they are declared with, and looked into member by member.
//!
//! The documented `curl` commands send JSON as `application/x-www-form-urlencoded`, so the declared type says nothing.
//! A member that is `null` is absent.

use std::ops::RangeInclusive;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use overnight_domain::limits::JSON_BODY_LEN_MAX;
use serde_json::{Map, Value};

use crate::api::body;
use crate::api::error::{self, ApiError};

/// Reads a whole body of bounded length.
pub(super) async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, JSON_BODY_LEN_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(error::body_too_large(JSON_BODY_LEN_MAX)),
        Err(error) => Err(body::broken(&*error)),
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| error::not_json(&error))
}

/// As [`parse`], where a body may be left out.
pub(super) fn parse_optional(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if bytes.trim_ascii().is_empty() { Ok(Map::new()) } else { parse(bytes) }
}

/// An object and its place in the body, which errors name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members<'a> {
    map: &'a Map<String, Value>,
    parent: Option<&'a str>,
}

impl<'a> Members<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, parent: None }
    }

    pub(super) fn path(&self, name: &str) -> String {
        match self.parent {
            Some(parent) => format!("{parent}.{name}"),
            None => name.to_owned(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(error::wrong_type(&self.path(name), "a string")),
        }
    }

    pub(super) fn required_text(&self, name: &str) -> Result<&'a str, ApiError> {
        self.text(name)?.ok_or_else(|| error::missing(&self.path(name)))
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(error::wrong_type(&self.path(name), "true or false")),
        }
    }

    pub(super) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let path = self.path(name);
        let number = value.as_i64().ok_or_else(|| error::wrong_type(&path, "an integer"))?;
        if range.contains(&number) {
            Ok(Some(number))
        } else {
            Err(error::out_of_range(&path, number, &range))
        }
    }

    /// An object among the members of the body itself.
    pub(super) fn object(&self, name: &'a str) -> Result<Option<Self>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { map, parent: Some(name) })),
            Some(_) => Err(error::wrong_type(&self.path(name), "an object")),
        }
    }

    /// Refuses what is not in the list: a setting that cannot be honoured must not look as if it were.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.map.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(error::unknown_setting(&self.path(name), known)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_place() {
        let map = parse(br#"{"overnight":{"priority":"high","x":1},"endpoint":3,"a":null}"#).unwrap();
        let body = Members::new(&map);
        assert!(body.required_text("endpoint").unwrap_err().message().contains("'endpoint'"));
        assert_eq!(body.text("a").unwrap(), None);
        let ours = body.object("overnight").unwrap().unwrap();
        let error = ours.integer("priority", -100..=100).unwrap_err();
        assert!(error.message().contains("'overnight.priority'"), "{}", error.message());
        assert!(ours.only(&["priority"]).unwrap_err().message().contains("`overnight.x`"));
    }

    #[test]
    fn an_empty_body_is_an_empty_object_only_where_it_may_be() {
        assert!(parse_optional(b" \r\n").unwrap().is_empty());
        assert!(parse(b"").is_err());
        assert!(parse(b"{").is_err());
        assert!(parse(b"[1]").is_err());
    }
}
