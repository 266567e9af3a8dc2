//! Cursors and limits of lists, and the shape that all of them have.

use std::ops::RangeInclusive;

use serde::Serialize;

use crate::api::error::{self, ApiError};

/// The query of a call: names and values, decoded. Names that we do not know are ignored, as other versions of the
/// clients know others.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn limit(&self, range: RangeInclusive<usize>, default: usize) -> Result<usize, ApiError> {
        let Some(text) = self.one("limit") else { return Ok(default) };
        let limit: i64 = text.parse().map_err(|_| error::wrong_type("limit", "an integer"))?;
        match usize::try_from(limit) {
            Ok(limit) if range.contains(&limit) => Ok(limit),
            _ => {
                let range = *range.start() as i64..=*range.end() as i64;
                Err(error::out_of_range("limit", limit, &range))
            }
        }
    }

    /// `after`, as an id of the list. Only ids as we make them sort by creation, and only they are a place in the list
    /// when their object is gone: any other text could make a client read the first page for ever.
    pub(super) fn after<I>(&self, parse: impl FnOnce(&str) -> Option<I>) -> Result<Option<I>, ApiError> {
        let Some(text) = self.one("after").filter(|text| !text.is_empty()) else { return Ok(None) };
        let is_ours = text.len() > 32
            && text.is_char_boundary(text.len() - 32)
            && text[text.len() - 32..].bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match parse(text) {
            Some(id) if is_ours => Ok(Some(id)),
            _ => Err(error::bad_cursor(text)),
        }
    }
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub(super) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> List<T> {
    pub(super) fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> String) -> Self {
        let (first_id, last_id) = (data.first().map(&id), data.last().map(&id));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

#[cfg(test)]
mod tests {
    use overnight_domain::ids::FileId;

    use super::*;

    fn after(text: &str) -> Result<Option<FileId>, ApiError> {
        Query::parse(Some(text)).after(|text| FileId::parse(text).ok())
    }

    #[test]
    fn limits_are_held_to_their_range() {
        let limit = |text| Query::parse(Some(text)).limit(1..=100, 20).ok();
        assert_eq!(limit("limit=5&foo=bar"), Some(5));
        assert_eq!(limit("foo=bar"), Some(20));
        for text in ["limit=0", "limit=101", "limit=-1", "limit=x", "limit="] {
            assert_eq!(limit(text), None, "`{text}` was taken");
        }
    }

    #[test]
    fn a_cursor_that_no_list_can_contain_is_refused() {
        let id = format!("file-{}", "0".repeat(32));
        assert_eq!(after(&format!("after={id}")).unwrap().unwrap().as_str(), id);
        assert_eq!(after("").unwrap(), None);
        for text in ["after=file-unknown", "after=7", "after=batch_00000000000000000000000000000000"] {
            assert!(after(text).is_err(), "`{text}` was taken");
        }
    }
}
