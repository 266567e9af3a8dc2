//! The lines of a blob, one after another.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use overnight_domain::ids::BlobKey;

use crate::blobs::{BlobError, Blobs};
use crate::lines::LineReader;

/// Longer than any line that we write or take.
const LINE_LEN_MAX: usize = 128 * 1024 * 1024;

/// A line and its physical number, from 1. Blank lines are passed over.
#[derive(Debug, Clone)]
pub(super) struct StoredLine {
    pub(super) number: u64,
    /// With one line break behind it.
    pub(super) bytes: Bytes,
}

/// Holds one piece of the blob and the lines that end in it.
pub(super) struct StoredLines {
    key: BlobKey,
    pieces: BoxStream<'static, Result<Bytes, BlobError>>,
    reader: Option<LineReader>,
    ready: VecDeque<StoredLine>,
}

impl StoredLines {
    pub(super) async fn open(blobs: &Blobs, key: &BlobKey, len: u64) -> Result<Self, BlobError> {
        let pieces = blobs.stream(key, 0..len).await?;
        let reader = Some(LineReader::new(LINE_LEN_MAX));
        Ok(Self { key: key.clone(), pieces, reader, ready: VecDeque::new() })
    }

    pub(super) async fn next(&mut self) -> Result<Option<StoredLine>, BlobError> {
        while self.ready.is_empty() {
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            let (ready, mut is_whole) = (&mut self.ready, true);
            let mut take = |line: crate::lines::Line<'_>| match line.bytes {
                Some(bytes) => {
                    let bytes = Bytes::from([bytes, b"\n"].concat());
                    ready.push_back(StoredLine { number: line.number, bytes });
                }
                None => is_whole = false,
            };
            match self.pieces.try_next().await? {
                Some(piece) => {
                    reader.feed(&piece, &mut take);
                    self.reader = Some(reader);
                }
                None => reader.finish(&mut take),
            }
            if !is_whole {
                let key = &self.key;
                return Err(BlobError::Failed(format!("blob `{key}` has a line that is too long")));
            }
        }
        Ok(self.ready.pop_front())
    }
}
