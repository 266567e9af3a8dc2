//! Multipart forms as a stream of fields, in whatever order the client sends them.

mod paced;

use axum::body::Body;
use axum::extract::Request;
use http::header::{CONTENT_TYPE, HeaderMap};
use multer::{Constraints, Field, Multipart, SizeLimit};

use crate::api::body;
use crate::api::error::{self, ApiError};
use paced::{Allowance, HeadTooLong, Paced};

/// Fields of one form. What we know of are fewer than ten, and metadata may add 16.
const FIELDS_MAX: usize = 64;
/// A text field: metadata as JSON is the longest.
const TEXT_LEN_MAX: usize = 64 * 1024;
/// Boundary and headers of a field, and what stands before the first one.
const HEAD_LEN_MAX: usize = 16 * 1024;
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
    allowance: Allowance,
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
        let allowance = Allowance::new();
        let parts = Multipart::with_constraints(
            Paced::new(body.into_data_stream(), allowance.clone()),
            boundary,
            Constraints::new().size_limit(limits),
        );
        Ok(Self { parts, allowance, seen: 0 })
    }

    /// The field before has been read to its end.
    pub(super) async fn next(&mut self) -> Result<Option<Field<'static>>, ApiError> {
        self.seen += 1;
        if self.seen > FIELDS_MAX + 1 {
            return Err(error::form_too_large("fields", FIELDS_MAX));
        }
        self.allowance.set(HEAD_LEN_MAX);
        let field = self.parts.next_field().await.map_err(broken);
        self.allowance.lift();
        field
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
        multer::Error::StreamReadFailed(cause) if cause.is::<HeadTooLong>() => {
            error::form_too_large("bytes before a field", HEAD_LEN_MAX)
        }
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
mod fuzz;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::stream::{self, StreamExt as _};

    use super::*;

    const PIECE_LEN: usize = 16 * 1024;

    /// A form that begins with `head` and goes on for 64 MiB, as fast as it is read, with what was read of it.
    fn long_form(head: &'static str) -> (Form, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let rest = stream::iter(0..4_096).map(|_| Bytes::from_static(&[b'x'; PIECE_LEN]));
        let pieces = stream::iter([Bytes::from_static(head.as_bytes())]).chain(rest).map(move |piece| {
            count.fetch_add(piece.len(), Ordering::Relaxed);
            Ok::<_, Infallible>(piece)
        });
        let request = Request::builder()
            .header(CONTENT_TYPE, "multipart/form-data; boundary=b")
            .body(Body::from_stream(pieces))
            .unwrap();
        (Form::of(request).expect("the type is well-formed"), read)
    }

    /// The form's parser gathers what stands before a field until it has all of it: a form without a boundary, or with
    /// a header that never ends, was taken into memory whole.
    #[tokio::test]
    async fn what_stands_before_a_field_is_bounded() {
        for head in
            ["", "--b\r\n", "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b\r\nX: "]
        {
            let (mut form, read) = long_form(head);
            let refusal = loop {
                match form.next().await {
                    Ok(Some(field)) => text(field, &mut Fields::default()).await.unwrap(),
                    Ok(None) => panic!("the form has no end"),
                    Err(refusal) => break refusal,
                }
            };
            assert!(format!("{refusal:?}").contains("bytes before a field"), "{refusal:?}");
            let read = read.load(Ordering::Relaxed);
            assert!(read <= HEAD_LEN_MAX + 3 * PIECE_LEN, "{read} bytes were read");
        }
    }

    /// The parser reads whatever is there before it hands out the first byte: with a fast caller and a slow disk that
    /// was the whole file.
    #[tokio::test]
    async fn a_file_is_not_read_ahead() {
        let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
        let (mut form, read) = long_form(head);
        let mut field = form.next().await.unwrap().expect("a field");
        let mut taken = 0;
        while let Ok(Some(piece)) = field.chunk().await {
            taken += piece.len();
            let ahead = read.load(Ordering::Relaxed) - taken;
            assert!(ahead <= 4 * PIECE_LEN, "{ahead} bytes are in memory");
        }
        assert!(taken > 60 << 20, "{taken} bytes of the file arrived");
    }

    #[tokio::test]
    async fn fields_are_counted() {
        let part = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
        for (count, is_taken) in [(FIELDS_MAX, true), (FIELDS_MAX + 1, false)] {
            let request = Request::builder()
                .header(CONTENT_TYPE, "multipart/form-data; boundary=b")
                .body(Body::from(format!("{}--b--", part.repeat(count))))
                .unwrap();
            let mut form = Form::of(request).expect("the type is well-formed");
            let end = loop {
                match form.next().await {
                    Ok(Some(field)) => text(field, &mut Fields::default()).await.unwrap(),
                    end => break end.map(|_| ()),
                }
            };
            assert_eq!(end.is_ok(), is_taken, "{count} fields: {end:?}");
        }
    }

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
