//! `overnight.toml`: TOML to raw values, each with its line. What a value means is not decided here.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::keys::{ENGINE, KEY, MODEL, SETTINGS, TABLES, refusal};
use super::value::{Origin, Raw, Value};

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) settings: Vec<(String, Raw)>,
    pub(super) engines: Vec<Members>,
    pub(super) keys: Vec<Members>,
    pub(super) models: Vec<Members>,
}

/// One `[[engine]]`, `[[key]]` or `[[model]]`.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) origin: Origin,
    pub(super) list: Vec<(String, Raw)>,
}

impl Members {
    pub(super) fn find(&self, member: &str) -> Option<&Raw> {
        self.list.iter().find(|(name, _)| name == member).map(|(_, raw)| raw)
    }
}

pub(super) fn read(path: &Path, text: &str) -> Result<Document, ConfigError> {
    let reader = Reader { path, text };
    let root = DeTable::parse(text).map_err(|error| {
        let origin = reader.origin(error.span().map_or(0, |span| span.start));
        ConfigError::new(&origin, format!("not valid TOML: {}", error.message()))
    })?;
    let mut document = Document::default();
    for (name, value) in root.get_ref() {
        match (name.get_ref().as_ref(), value.get_ref()) {
            ("engine", DeValue::Array(tables)) => {
                document.engines = reader.tables("engine", ENGINE, tables)?;
            }
            ("key", DeValue::Array(tables)) => document.keys = reader.tables("key", KEY, tables)?,
            ("model", DeValue::Array(tables)) => {
                document.models = reader.tables("model", MODEL, tables)?;
            }
            ("engine" | "key" | "model", _) => {
                let origin = reader.origin(name.span().start);
                let name = name.get_ref();
                return Err(ConfigError::new(
                    &origin,
                    format!("`{name}` is a list: write `[[{name}]]`, with two brackets"),
                ));
            }
            (key, _) => reader.setting(key, name, value, &mut document.settings)?,
        }
    }
    Ok(document)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

type Name<'a> = Spanned<std::borrow::Cow<'a, str>>;

impl Reader<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Origin::File { path: self.path.to_owned(), line: memchr::memchr_iter(b'\n', before).count() + 1 }
    }

    /// A setting, or a table of settings.
    fn setting(
        &self,
        key: &str,
        name: &Name<'_>,
        value: &Spanned<DeValue<'_>>,
        settings: &mut Vec<(String, Raw)>,
    ) -> Result<(), ConfigError> {
        let origin = self.origin(name.span().start);
        match value.get_ref() {
            DeValue::Table(table) if TABLES.contains(&key) => {
                for (name, value) in table {
                    self.setting(&format!("{key}.{}", name.get_ref()), name, value, settings)?;
                }
                Ok(())
            }
            _ if SETTINGS.contains(&key) => {
                let value = self.value(key, value)?;
                settings.push((key.to_owned(), Raw { value, origin }));
                Ok(())
            }
            _ => Err(ConfigError::new(&origin, refusal(key, SETTINGS.iter().chain(TABLES).copied()))),
        }
    }

    fn tables(
        &self,
        kind: &str,
        known: &'static [&'static str],
        tables: &[Spanned<DeValue<'_>>],
    ) -> Result<Vec<Members>, ConfigError> {
        let mut read = Vec::with_capacity(tables.len());
        for table in tables {
            let origin = self.origin(table.span().start);
            let Some(members) = table.get_ref().as_table() else {
                return Err(ConfigError::new(&origin, format!("each `[[{kind}]]` is a table")));
            };
            let mut list = Vec::with_capacity(members.len());
            for (name, value) in members {
                let origin = self.origin(name.span().start);
                let key = name.get_ref().as_ref();
                if !known.contains(&key) {
                    let whole: Vec<String> = known.iter().map(|name| format!("{kind}.{name}")).collect();
                    let refusal = refusal(&format!("{kind}.{key}"), whole.iter().map(String::as_str));
                    return Err(ConfigError::new(&origin, refusal));
                }
                let value = self.value(&format!("{kind}.{key}"), value)?;
                list.push((key.to_owned(), Raw { value, origin }));
            }
            read.push(Members { origin, list });
        }
        Ok(read)
    }

    fn value(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        let wrong = |offset: usize, what: &str| {
            ConfigError::new(&self.origin(offset), format!("`{key}` {what}"))
        };
        let text_of = |value: &Spanned<DeValue<'_>>| {
            match value.get_ref() {
                DeValue::String(text) => Ok(text.as_ref().to_owned()),
                // Such as a port. Whoever reads the list says whether a number may stand there.
                DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
                _ => Err(wrong(value.span().start, "may only hold texts in quotes, or numbers")),
            }
        };
        Ok(match value.get_ref() {
            DeValue::String(text) => Value::Text(text.as_ref().to_owned()),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                Value::Integer(parsed.map_err(|_| wrong(value.span().start, "is too large a number"))?)
            }
            DeValue::Array(list) => Value::List(list.iter().map(text_of).collect::<Result<_, _>>()?),
            DeValue::Table(table) => Value::Map(
                table
                    .iter()
                    .map(|(name, value)| Ok((name.get_ref().as_ref().to_owned(), text_of(value)?)))
                    .collect::<Result<_, _>>()?,
            ),
            other => {
                let what = format!("cannot be a {}", other.type_str());
                return Err(wrong(value.span().start, &what));
            }
        })
    }
}
