//! One line for every request of a batch, in input order: a failed one gives way to what a retry made of it.
//!
//! A child's lines are a subsequence of its parent's failed ones, so the child whose next line has the custom id of the
//! failed request at hand is the one that ran it again. An answer wins over a failure, a newer retry over an older one.
//! Children that have not ended, or whose files are gone, have nothing to give.

use std::borrow::Cow;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, BoxStream, StreamExt as _};
use overnight_domain::batch::Batch;
use overnight_domain::ids::FileId;

use crate::clock;
use crate::context::Context;
use crate::results::{FailedRequest, ResultsError};
use crate::retry::collect::FailedRequests;
use crate::retry::stored_lines::StoredLines;

/// Batches that are read at once, each with two open files.
pub(crate) const BATCHES_MAX: usize = 64;

#[derive(Debug)]
pub(crate) enum MergeError {
    /// The batch was sent again more often than can be merged.
    TooMany,
    Results(ResultsError),
}

impl<E: Into<ResultsError>> From<E> for MergeError {
    fn from(error: E) -> Self {
        Self::Results(error.into())
    }
}

/// The merged lines of a batch that has ended.
pub(crate) async fn merged(
    ctx: Arc<Context>,
    batch: Batch,
) -> Result<BoxStream<'static, anyhow::Result<Bytes>>, MergeError> {
    let mut room = BATCHES_MAX;
    let merge = Merge::open(Arc::clone(&ctx), batch, &mut room).await?;
    let lines = stream::try_unfold(merge, |mut merge| async move {
        Ok(merge.next().await?.map(|line| (line.bytes, merge)))
    });
    Ok(lines.boxed())
}

struct MergedLine {
    bytes: Bytes,
    is_answered: bool,
}

struct Merge {
    ctx: Arc<Context>,
    batch: Batch,
    /// The next request, from 0.
    index: u64,
    failed: FailedRequests,
    next_failed: Option<FailedRequest>,
    output: Option<StoredLines>,
    errors: Option<StoredLines>,
    /// Newest first.
    children: Vec<Child>,
}

/// A retry, and its line that is not used yet.
struct Child {
    merge: Merge,
    next: Option<(String, MergedLine)>,
}

impl Merge {
    fn open(
        ctx: Arc<Context>,
        batch: Batch,
        room: &mut usize,
    ) -> BoxFuture<'_, Result<Self, MergeError>> {
        async move {
            *room = room.checked_sub(1).ok_or(MergeError::TooMany)?;
            let output = open_lines(&ctx, &batch, batch.output_file.as_ref()).await?;
            let errors = open_lines(&ctx, &batch, batch.error_file.as_ref()).await?;
            let mut failed = FailedRequests::new(None);
            let next_failed = failed.next(&ctx, &batch).await?;
            let mut children = Vec::new();
            let found = ctx.store.children(&batch.tenant, &batch.id).await;
            for child in found.map_err(anyhow::Error::from)?.into_iter().rev() {
                if !child.state.is_terminal() || child.total == 0 {
                    continue;
                }
                let id = child.id.clone();
                match Self::open(Arc::clone(&ctx), child, &mut *room).await {
                    Ok(merge) => {
                        let mut child = Child { merge, next: None };
                        child.advance().await?;
                        children.push(child);
                    }
                    Err(MergeError::Results(ResultsError::Gone)) => {
                        tracing::debug!(batch = %id, "a retry has no files any more");
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(Self { ctx, batch, index: 0, failed, next_failed, output, errors, children })
        }
        .boxed()
    }

    fn next(&mut self) -> BoxFuture<'_, anyhow::Result<Option<MergedLine>>> {
        async move {
            if self.index >= self.batch.total {
                return Ok(None);
            }
            let failed = self.next_failed.take_if(|failed| failed.request_index == self.index);
            self.index += 1;
            let Some(failed) = failed else {
                let bytes = next_line(self.output.as_mut(), &self.batch).await?;
                return Ok(Some(MergedLine { bytes, is_answered: true }));
            };
            self.next_failed = self.failed.next(&self.ctx, &self.batch).await.map_err(into_anyhow)?;
            let bytes = next_line(self.errors.as_mut(), &self.batch).await?;
            let mut best = MergedLine { bytes, is_answered: false };
            let mut is_retried = false;
            for child in &mut self.children {
                if let Some(line) = child.take(&failed.custom_id).await?
                    && !best.is_answered
                    && (line.is_answered || !is_retried)
                {
                    best = line;
                    is_retried = true;
                }
            }
            Ok(Some(best))
        }
        .boxed()
    }
}

impl Child {
    /// Its line for this request, if it ran it.
    async fn take(&mut self, custom_id: &str) -> anyhow::Result<Option<MergedLine>> {
        match self.next.take_if(|(known, _)| known == custom_id) {
            Some((_, line)) => {
                self.advance().await?;
                Ok(Some(line))
            }
            None => Ok(None),
        }
    }

    async fn advance(&mut self) -> anyhow::Result<()> {
        self.next = match self.merge.next().await? {
            Some(line) => Some((custom_id(&line.bytes)?, line)),
            None => None,
        };
        Ok(())
    }
}

async fn open_lines(
    ctx: &Context,
    batch: &Batch,
    id: Option<&FileId>,
) -> Result<Option<StoredLines>, ResultsError> {
    let Some(id) = id else { return Ok(None) };
    let found = ctx.store.file(&batch.tenant, id, clock::now()).await;
    let file = found.map_err(anyhow::Error::from)?.ok_or(ResultsError::Gone)?;
    Ok(Some(StoredLines::open(&ctx.blobs, &file.blob, file.len).await?))
}

async fn next_line(lines: Option<&mut StoredLines>, batch: &Batch) -> anyhow::Result<Bytes> {
    let line = match lines {
        Some(lines) => lines.next().await?,
        None => None,
    };
    let line = line.with_context(|| format!("a file of `{}` has too few lines", batch.id))?;
    Ok(line.bytes)
}

fn custom_id(line: &[u8]) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        custom_id: Cow<'a, str>,
    }
    let named: Named<'_> = serde_json::from_slice(line).context("a result line is damaged")?;
    Ok(named.custom_id.into_owned())
}

fn into_anyhow(error: ResultsError) -> anyhow::Error {
    match error {
        ResultsError::Failed(error) => error,
        ResultsError::Cursor | ResultsError::Gone => anyhow::anyhow!("the result files are gone"),
    }
}
