//! Multipart forms as a stream of fields, in whatever order the client sends them.

use axum::body::Body;
use axum::extract::Request;
use http::header::{CONTENT_TYPE, HeaderMap};
use multer::{Constraints, Field, Multipart, SizeLimit};

use crate::api::body;
use crate::api::error::{self, ApiError};

/// Fields of one form. What we know of are fewer than ten, and metadata may add 16.
const FIELDS_MAX: usize = 64;
/// A text field: metadata as JSON is the longest.
const TEXT_LEN_MAX: usize = 64 * 1024;
const FILENAME_LEN_MAX: usize = overnight_domain::limits::FILENAME_LEN_MAX;

pub(super) fn is_form(headers: &HeaderMap) -> bool {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    declared.is_some_and(|text| {
        text.trim_start().get(..20).is_some_and(|head| head.eq_ignore_ascii_case("multipart/form-data;"))
            || text.trim().eq_ignore_ascii_case("multipart/form-data")
    })
}

/// The text fields read so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The last one wins, as in a query.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().filter(|(known, _)| *known == name).last().map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

pub(super) struct Form {
    parts: Multipart<'static>,
    seen: usize,
}

impl Form {
    pub(super) fn of(request: Request) -> Result<Self, ApiError> {
        let declared = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let boundary = declared.and_then(|text| multer::parse_boundary(text).ok());
        let boundary = boundary.ok_or_else(error::not_multipart)?;
        let body: Body = request.into_body();
        // Lengths are counted where the fields are read: only there it is known which limit holds.
        let limits = SizeLimit::new().whole_stream(u64::MAX).per_field(u64::MAX);
        let parts = Multipart::with_constraints(
            body.into_data_stream(),
            boundary,
            Constraints::new().size_limit(limits),
        );
        Ok(Self { parts, seen: 0 })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Field<'static>>, ApiError> {
        self.seen += 1;
        if self.seen > FIELDS_MAX + 1 {
            return Err(error::form_too_large("fields", FIELDS_MAX));
        }
        self.parts.next_field().await.map_err(broken)
    }
}

/// Reads a text field to its end.
pub(super) async fn text(mut field: Field<'static>, fields: &mut Fields) -> Result<(), ApiError> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        if bytes.len() + piece.len() > TEXT_LEN_MAX {
            return Err(error::form_too_large("bytes in one text field", TEXT_LEN_MAX));
        }
        bytes.extend_from_slice(&piece);
    }
    let text = String::from_utf8(bytes).map_err(|_| error::wrong_type(&name, "UTF-8 text"))?;
    fields.0.push((name, text));
    Ok(())
}

pub(super) fn broken(error: multer::Error) -> ApiError {
    match error {
        multer::Error::StreamReadFailed(cause) => body::broken(&*cause),
        multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders => error::body_broken(&error),
        error => error::bad_form(&error),
    }
}

/// A client's name for a file, for people to read: its last component, without control characters. It never becomes a
/// path of ours.
pub(super) fn filename(sent: Option<&str>) -> String {
    let sent = sent.unwrap_or_default().replace("%22", "\"").replace("%0D", "").replace("%0A", "");
    let last = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = last.chars().filter(|c| !c.is_control()).collect();
    let mut len = name.len().min(FILENAME_LEN_MAX);
    while !name.is_char_boundary(len) {
        len -= 1;
    }
    name.truncate(len);
    match name.trim() {
        "" | "." | ".." => "upload".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_component_of_a_name_is_kept() {
        for (sent, kept) in [
            (Some("in.jsonl"), "in.jsonl"),
            (Some("../../etc/passwd"), "passwd"),
            (Some("dir\\sub\\x.jsonl"), "x.jsonl"),
            (Some("a%22b\r\n.jsonl"), "a\"b.jsonl"),
            (Some("gr\u{fc}n \u{1f600}.jsonl"), "gr\u{fc}n \u{1f600}.jsonl"),
            (Some(".."), "upload"),
            (Some("a/"), "upload"),
            (None, "upload"),
        ] {
            assert_eq!(filename(sent), kept);
        }
        assert_eq!(filename(Some(&"\u{e9}".repeat(300))).len(), 254);
    }

    #[test]
    fn a_form_is_known_by_its_type() {
        let is_form = |text: &'static str| {
            is_form(&HeaderMap::from_iter([(CONTENT_TYPE, http::HeaderValue::from_static(text))]))
        };
        assert!(is_form("multipart/form-data; boundary=a"));
        assert!(is_form("Multipart/Form-Data;boundary=a"));
        assert!(!is_form("application/json"));
        assert!(!is_form("multipart/mixed; boundary=a"));
    }
}
