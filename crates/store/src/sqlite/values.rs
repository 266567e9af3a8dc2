//! How values of the domain stand in columns: ids, digests and states as text, moments as milliseconds, small values
//! that are only read whole as JSON.

use std::fmt::Display;

use overnight_domain::file::{Purpose, UploadStatus};
use overnight_domain::time::UnixTime;
use rusqlite::types::Type;
use rusqlite::{Error as SqlError, Result as SqlResult, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;

/// Reads a text that its type can refuse.
pub(super) fn text<T>(row: &Row<'_>, column: &str) -> SqlResult<T>
where
    T: TryFrom<String>,
    T::Error: Display,
{
    T::try_from(row.get::<_, String>(column)?).map_err(|error| unreadable(row, column, &error))
}

pub(super) fn optional_text<T>(row: &Row<'_>, column: &str) -> SqlResult<Option<T>>
where
    T: TryFrom<String>,
    T::Error: Display,
{
    row.get::<_, Option<String>>(column)?
        .map(|value| T::try_from(value).map_err(|error| unreadable(row, column, &error)))
        .transpose()
}

/// Reads one of a closed list of words.
pub(super) fn word<T>(row: &Row<'_>, column: &str, parse: impl Fn(&str) -> Option<T>) -> SqlResult<T> {
    let value = row.get::<_, String>(column)?;
    parse(&value).ok_or_else(|| unreadable(row, column, &format!("`{value}` is not known")))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> SqlResult<T> {
    let value = row.get::<_, String>(column)?;
    serde_json::from_str(&value).map_err(|error| unreadable(row, column, &error))
}

pub(super) fn optional_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> SqlResult<Option<T>> {
    row.get::<_, Option<String>>(column)?
        .map(|value| serde_json::from_str(&value).map_err(|error| unreadable(row, column, &error)))
        .transpose()
}

pub(super) fn time(row: &Row<'_>, column: &str) -> SqlResult<UnixTime> {
    row.get(column).map(UnixTime::from_millis)
}

pub(super) fn optional_time(row: &Row<'_>, column: &str) -> SqlResult<Option<UnixTime>> {
    Ok(row.get::<_, Option<u64>>(column)?.map(UnixTime::from_millis))
}

pub(super) fn purpose(row: &Row<'_>) -> SqlResult<Purpose> {
    word(row, "purpose", Purpose::parse)
}

pub(super) fn upload_status(row: &Row<'_>) -> SqlResult<UploadStatus> {
    word(row, "status", |value| UploadStatus::ALL.into_iter().find(|status| status.as_str() == value))
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Damaged(format!("failed to write JSON: {error}")))
}

/// A limit, as large as SQLite can count.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn unreadable(row: &Row<'_>, column: &str, error: &dyn Display) -> SqlError {
    let at = row.as_ref().column_index(column).unwrap_or_default();
    SqlError::FromSqlConversionFailure(at, Type::Text, format!("column `{column}`: {error}").into())
}
