//! Forms: whatever a caller sends as one, in whatever pieces it arrives.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::header::CONTENT_TYPE;

use super::{FIELDS_MAX, FILENAME_LEN_MAX, Fields, Form, broken, filename, text};
use crate::api::error::ApiError;
use crate::fuzz::{Campaign, kind};

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"--b\r\n",
    b"\r\n--b",
    b"--b--",
    b"--",
    b"Content-Disposition: form-data; ",
    b"name=\"file\"",
    b"name=\"purpose\"",
    b"filename=\"a/../b\"",
    b"filename*=UTF-8''%e2%82%ac",
    b"Content-Type: text/plain\r\n",
    b"Content-Length: 5\r\n",
    b"\"",
    b"\\",
    b"%22",
    b"\xff",
    b"\0",
    b"; ",
    b"\r",
    b"\n",
    b" \t",
];

/// Where a form is cut: one of fewer bytes arrives byte by byte.
const PIECES: usize = 300;

#[test]
fn multipart() {
    let seeds = [
        "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\nContent-Type: application/jsonl\r\n\r\n{\"a\":1}\n\r\n--b--\r\n",
        "preamble\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"\"\r\n\r\n\r\n--b  \r\nContent-Disposition: form-data; name=\"expires_after[seconds]\"\r\n\r\n3600\r\n--b--",
        "--b--\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n",
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec()).to_vec();
    let campaign = Campaign { seeds, words: WORDS, len_max: 8 * 1024, repair: None, executions: 1_500 };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    campaign.run(|input| {
        let whole = runtime.block_on(read(input, input.len().max(1)));
        let in_pieces = runtime.block_on(read(input, 1 + input.len() / PIECES));
        assert_eq!(whole, in_pieces, "a form does not depend on how it arrives");
        kind((
            whole.end,
            whole.parts.len().min(5),
            whole.parts.iter().map(|(_, len)| len.min(&3)).collect::<Vec<_>>(),
        ))
    });
}

/// What a form was taken for.
#[derive(Debug, PartialEq)]
struct Reading {
    /// Names and lengths of the fields that were whole.
    parts: Vec<(String, usize)>,
    /// How it ended.
    end: String,
}

async fn read(input: &[u8], piece_len: usize) -> Reading {
    let pieces: Vec<_> = input
        .chunks(piece_len)
        .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
        .collect();
    let request = http::Request::builder()
        .header(CONTENT_TYPE, "multipart/form-data; boundary=b")
        .body(Body::from_stream(futures::stream::iter(pieces)))
        .unwrap();
    let mut form = Form::of(request).expect("the type is well-formed");
    let mut parts = Vec::new();
    let end = match read_parts(&mut form, &mut parts).await {
        Ok(()) => "whole".to_owned(),
        Err(refusal) => {
            let text = format!("{refusal:?}");
            let status = refusal.into_response().status();
            assert!(status.is_client_error(), "{status}: {text}");
            text
        }
    };
    // The field that is one too many is read before the form is refused.
    assert!(parts.len() <= FIELDS_MAX + usize::from(end != "whole"));
    Reading { parts, end }
}

async fn read_parts(form: &mut Form, parts: &mut Vec<(String, usize)>) -> Result<(), ApiError> {
    while let Some(mut field) = form.next().await? {
        if field.name() != Some("file") {
            let mut fields = Fields::default();
            text(field, &mut fields).await?;
            let (name, value) = fields.iter().next().expect("one was read");
            parts.push((name.to_owned(), value.len()));
            continue;
        }
        let name = filename(field.file_name());
        assert!(!name.is_empty() && name.len() <= FILENAME_LEN_MAX, "`{name}`");
        assert!(!name.contains(['/', '\\', '\0', '\n', '\r']) && name != "..", "`{name}`");
        let mut len = 0;
        while let Some(piece) = field.chunk().await.map_err(broken)? {
            len += piece.len();
        }
        parts.push((name, len));
    }
    Ok(())
}
