//! Finalize: a batch of which every request has an outcome gets its files and its terminal status, in one step.
//!
//! It may run any number of times and writes the same bytes each time; a crash in the middle costs only the time.

mod buckets;
mod merge;
mod reopen;
mod request_set;

use std::sync::Arc;

use overnight_domain::batch::Batch;
use overnight_domain::file::{File, Purpose};
use overnight_domain::ids::{BlobKey, FileId};
use overnight_domain::tally::Tally;
use overnight_store::{Closing, Moved, StoreError};
use tokio::runtime::Handle;

use crate::blobs::{BlobError, Written};
use crate::blocking::blocking;
use crate::clock;
use crate::context::Context;
use crate::pulse::Pulse;
use crate::results::manifest::{self, Manifest};
use crate::setbacks::{LOOKED_AT, Setbacks};
use merge::{Merge, Merged, Merging};

/// Without news the store is asked this often all the same.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Closes batches one after the other until the server stops.
pub(crate) async fn run(ctx: Arc<Context>, pulse: Pulse) -> anyhow::Result<()> {
    let mut ear = ctx.bell.listen();
    let mut setbacks = Setbacks::default();
    loop {
        pulse.beat();
        if !ctx.disk.is_full() {
            close_all(&ctx, &mut setbacks, &pulse).await?;
        }
        tokio::select! {
            () = ctx.stop.cancelled() => return Ok(()),
            () = ear.heard() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn close_all(ctx: &Arc<Context>, setbacks: &mut Setbacks, pulse: &Pulse) -> anyhow::Result<()> {
    while !ctx.stop.is_cancelled() {
        pulse.beat();
        let next = match ctx.store.closable(LOOKED_AT).await {
            Ok(batches) => batches.into_iter().find(|batch| !setbacks.is_passed_over(&batch.id)),
            Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "finalizing waits for the store");
                return Ok(());
            }
        };
        let Some(batch) = next else { return Ok(()) };
        let id = batch.id.clone();
        match close(ctx, batch, pulse).await {
            Ok(()) => ctx.bell.ring(),
            Err(error) if is_full(&error) => {
                tracing::error!(batch = %id, "finalizing waits for room on the disk");
                ctx.disk.note_full();
                return Ok(());
            }
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Damaged(_))) => {
                return Err(error);
            }
            Err(error) => {
                tracing::error!(batch = %id, error = format!("{error:#}"), "finalizing failed; it is tried again");
                setbacks.note(id);
            }
        }
    }
    Ok(())
}

fn is_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(BlobError::Full))
            || matches!(cause.downcast_ref(), Some(StoreError::Full(_)))
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| matches!(io.kind(), StorageFull | QuotaExceeded))
    })
}

async fn close(ctx: &Arc<Context>, batch: Batch, pulse: &Pulse) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let closing = if batch.plan_blob.is_some() {
        let merged = match merge(ctx, &batch, pulse).await? {
            Merging::Written(merged) => merged,
            Merging::Lost(found) => return reopen::reopen(ctx, &batch, &found, pulse).await,
        };
        let (output, error) = files(&batch, &merged, ctx);
        let closing = Closing { output, error, tally: merged.tally };
        write_manifest(ctx, &batch, &closing, &merged.endpoints).await?;
        closing
    } else {
        // Cancelled before it was planned: there is nothing to list.
        Closing { output: None, error: None, tally: Tally::default() }
    };
    let moved = ctx.store.close_batch(&batch.id, closing, clock::now()).await?;
    let Moved::To(closed) = moved else {
        // Its state changed meanwhile (a cancel, a chunk): the next look decides anew.
        return Ok(());
    };
    tracing::info!(
        batch = %closed.id, status = closed.state.status().as_str(), completed = closed.tally.completed,
        failed = closed.tally.failed, took = ?started.elapsed(), "ended"
    );
    ctx.live.forget(&closed.id);
    ctx.failures.forget(&closed.id);
    let (log, id) = (ctx.log.clone(), closed.id.clone());
    blocking(move || log.remove_series(&id)).await?;
    if let Some(plan) = &closed.plan_blob {
        ctx.blobs.delete(plan).await?;
    }
    Ok(())
}

async fn merge(ctx: &Arc<Context>, batch: &Batch, pulse: &Pulse) -> anyhow::Result<Merging> {
    let (ctx, batch, handle) = (ctx.clone(), batch.clone(), Handle::current());
    let pulse = pulse.clone();
    let work = move || -> anyhow::Result<Merging> {
        let scratch = ctx.config.data.join("tmp");
        std::fs::create_dir_all(&scratch)?;
        // Opening the series syncs what is there: nothing is read that a power cut could take back.
        let until = ctx.log.tail(&batch.id)?.sequence - 1;
        let merge = Merge {
            batch: &batch,
            blobs: &ctx.blobs,
            segments: ctx.segments.clone(),
            scratch,
            until,
            handle,
            now: clock::now(),
            pulse: &pulse,
        };
        Ok(merge.run()?)
    };
    blocking(work).await
}

fn files(batch: &Batch, merged: &Merged, ctx: &Context) -> (Option<File>, Option<File>) {
    let now = clock::now();
    let ttl = batch.options.output_ttl.or(ctx.config.retention.outputs);
    let file = |written: Option<Written>, blob: BlobKey, kind: &str, lines: u64| {
        written.map(|written| File {
            id: FileId::from_uuid(clock::new_id()),
            tenant: batch.tenant.clone(),
            filename: format!("{}_{kind}.jsonl", batch.id),
            purpose: Purpose::BatchOutput,
            len: written.len,
            lines,
            sha256: written.sha256,
            blob,
            created_at: now,
            expires_at: ttl.map(|ttl| now.plus(ttl)),
            large: false,
        })
    };
    (
        file(merged.output, merge::output_blob(batch), "output", merged.tally.completed),
        file(merged.error, merge::error_blob(batch), "error", merged.tally.failed),
    )
}

async fn write_manifest(
    ctx: &Context,
    batch: &Batch,
    closing: &Closing,
    endpoints: &[u16],
) -> anyhow::Result<()> {
    let input = ctx.store.file(&batch.tenant, &batch.input_file, clock::now()).await?;
    let manifest = Manifest {
        batch: batch.id.clone(),
        requests: batch.total,
        completed: closing.tally.completed,
        failed: closing.tally.failed,
        input_sha256: input.map(|file| file.sha256),
        output_sha256: closing.output.as_ref().map(|file| file.sha256),
        error_sha256: closing.error.as_ref().map(|file| file.sha256),
        endpoints: endpoints
            .iter()
            .filter_map(|number| ctx.endpoint_names.name(*number).map(str::to_owned))
            .collect(),
        model: batch.model.clone(),
    };
    let mut writer = ctx.blobs.write(&manifest::blob(&batch.id)).await?;
    writer.push(&serde_json::to_vec_pretty(&manifest)?).await?;
    writer.finish().await?;
    Ok(())
}
