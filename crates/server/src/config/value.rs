//! A value as a layer of the configuration holds it, with where it came from, before anybody knows what it means.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Profile;
use super::units::{parse_duration, parse_size};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// The default of a profile.
    Profile(Profile),
    File {
        path: PathBuf,
        line: usize,
    },
    /// The variable's name.
    Environment(String),
    /// The flag, as it is typed.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(profile) => write!(f, "default of profile `{}`", profile.as_str()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A variable or a flag holds text, whatever it means.
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<String>),
    Map(Vec<(String, String)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl Raw {
    pub(super) fn text(&self) -> Result<String, String> {
        match &self.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("must be text in quotes".to_owned()),
        }
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        match &self.value {
            Value::Flag(flag) => Ok(*flag),
            Value::Text(text) if self.is_untyped() => match text.as_str() {
                "true" | "1" | "yes" => Ok(true),
                "false" | "0" | "no" => Ok(false),
                _ => Err(format!("must be true or false, not `{text}`")),
            },
            _ => Err("must be true or false, without quotes".to_owned()),
        }
    }

    pub(super) fn integer(&self) -> Result<u64, String> {
        let number = match &self.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Text(text) if self.is_untyped() => text.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| "must be a whole number, not negative and without quotes".to_owned())
    }

    /// A list; a variable separates its elements by commas.
    pub(super) fn list(&self) -> Result<Vec<String>, String> {
        match &self.value {
            Value::List(list) => Ok(list.clone()),
            Value::Text(text) if self.is_untyped() => Ok(text
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect()),
            _ => Err("must be a list of texts, as in [\"a\", \"b\"]".to_owned()),
        }
    }

    pub(super) fn map(&self) -> Result<Vec<(String, String)>, String> {
        match &self.value {
            Value::Map(map) => Ok(map.clone()),
            _ => Err("must be a table of texts, as in { a = \"b\" }".to_owned()),
        }
    }

    pub(super) fn duration(&self) -> Result<Duration, String> {
        match &self.value {
            Value::Text(text) => parse_duration(text),
            _ => Err("needs a unit, as in \"10ms\" or \"30d\"".to_owned()),
        }
    }

    pub(super) fn size(&self) -> Result<u64, String> {
        match &self.value {
            Value::Text(text) => parse_size(text),
            _ => Err("needs a unit, as in \"200MB\" or \"16GiB\"".to_owned()),
        }
    }

    /// Variables and flags have no types: `5` and `true` arrive as text.
    fn is_untyped(&self) -> bool {
        matches!(self.origin, Origin::Environment(_) | Origin::Flag(_))
    }
}
