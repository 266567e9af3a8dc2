//! The input of a retry: the lines of those requests that failed and are meant.

use std::collections::HashSet;

use overnight_domain::batch::Batch;
use overnight_domain::ids::BlobKey;

use crate::blobs::{BlobError, BlobWriter, Written};
use crate::context::Context;
use crate::results::{self, FailedQuery, FailedRequest, ResultsError};
use crate::retry::stored_lines::StoredLines;

/// Failed requests that are looked at in one go.
const PAGE: usize = 1_000;

/// Which failed requests are meant; all when nothing is given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) custom_ids: Option<HashSet<String>>,
    pub(crate) error_type: Option<String>,
}

/// The lines, durable in a blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collected {
    pub(crate) written: Written,
    pub(crate) lines: u64,
}

#[derive(Debug)]
pub(crate) enum CollectError {
    /// No failed request is meant.
    Nothing,
    /// This custom id is of no failed request, or of one that failed for another reason.
    Unknown(String),
    Results(ResultsError),
    Blob(BlobError),
}

impl From<ResultsError> for CollectError {
    fn from(error: ResultsError) -> Self {
        Self::Results(error)
    }
}

impl From<BlobError> for CollectError {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

/// Writes the lines that are meant to a new blob. The batch has ended.
pub(crate) async fn collect(
    ctx: &Context,
    batch: &Batch,
    selection: Selection,
    key: &BlobKey,
) -> Result<Collected, CollectError> {
    let mut writer = ctx.blobs.write(key).await?;
    match copy(ctx, batch, selection, &mut writer).await {
        Ok(lines) => Ok(Collected { written: writer.finish().await?, lines }),
        Err(error) => {
            writer.abort().await;
            Err(error)
        }
    }
}

async fn copy(
    ctx: &Context,
    batch: &Batch,
    selection: Selection,
    writer: &mut BlobWriter,
) -> Result<u64, CollectError> {
    let mut wanted = selection.custom_ids;
    let mut input = StoredLines::open(&ctx.blobs, &batch.input_blob, batch.input_len).await?;
    let mut failed = FailedRequests::new(selection.error_type);
    let mut lines = 0;
    while let Some(request) = failed.next(ctx, batch).await? {
        let is_meant = wanted.as_mut().is_none_or(|wanted| wanted.remove(&request.custom_id));
        let Some(number) = request.line.filter(|_| is_meant) else { continue };
        while let Some(line) = input.next().await? {
            if line.number == number {
                writer.push(&line.bytes).await?;
                lines += 1;
                break;
            }
        }
    }
    if let Some(custom_id) = wanted.into_iter().flatten().next() {
        return Err(CollectError::Unknown(custom_id));
    }
    if lines == 0 { Err(CollectError::Nothing) } else { Ok(lines) }
}

/// The failed requests of a batch that has ended, in input order.
pub(super) struct FailedRequests {
    query: FailedQuery,
    ready: std::vec::IntoIter<FailedRequest>,
    is_last: bool,
}

impl FailedRequests {
    pub(super) fn new(error_type: Option<String>) -> Self {
        let query = FailedQuery { after: None, limit: PAGE, error_type };
        Self { query, ready: Vec::new().into_iter(), is_last: false }
    }

    pub(super) async fn next(
        &mut self,
        ctx: &Context,
        batch: &Batch,
    ) -> Result<Option<FailedRequest>, ResultsError> {
        loop {
            if let Some(request) = self.ready.next() {
                return Ok(Some(request));
            }
            if self.is_last {
                return Ok(None);
            }
            let page = results::failed_page(ctx, batch, self.query.clone()).await?;
            self.is_last = page.next.is_none();
            self.query.after = page.next;
            self.ready = page.requests.into_iter();
        }
    }
}
