//! Ingest: a batch that is `validating` gets a plan and chunks, or is `failed` with the lines that are wrong.
//!
//! The input is read once, as a stream; memory does not grow with it. A crash in the middle costs the work done so far:
//! the batch is still `validating` and is begun again.

mod sorter;
mod validate;

use std::sync::Arc;

use anyhow::Context as _;
use overnight_domain::batch::{Batch, BatchError, BatchState};
use overnight_domain::chunk::ChunkRange;
use overnight_domain::ids::BlobKey;
use overnight_domain::plan::{ChunkCutter, PlanEntry, PlanTables, SortKey};
use overnight_store::{Moved, Planned, StoreError};
use tokio::runtime::Handle;

use crate::blobs::{BlobError, BlobWriter};
use crate::blocking::blocking;
use crate::clock;
use crate::context::Context;
use crate::disk;
use crate::endpoints::Endpoints;
use crate::lines::LineReader;
use crate::pulse::Pulse;
use crate::setbacks::{LOOKED_AT, Setbacks};
use validate::{Rules, Valid, Validator};

/// How much of the input is read at once.
const READ_LEN: u64 = 4 << 20;
/// How much of a plan is handed to the blob store at once.
const PLAN_PIECE_LEN: usize = 1 << 20;
/// Without news the queue is looked at this often all the same.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// Validates batches one after the other until the server stops.
pub(crate) async fn run(ctx: Arc<Context>, pulse: Pulse) -> anyhow::Result<()> {
    let mut ear = ctx.bell.listen();
    let mut setbacks = Setbacks::default();
    loop {
        pulse.beat();
        if !ctx.disk.is_full() {
            ingest_all(&ctx, &mut setbacks, &pulse).await?;
        }
        tokio::select! {
            () = ctx.stop.cancelled() => return Ok(()),
            () = ear.heard() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn ingest_all(ctx: &Arc<Context>, setbacks: &mut Setbacks, pulse: &Pulse) -> anyhow::Result<()> {
    loop {
        pulse.beat();
        let waiting = match ctx.store.queue(&[BatchState::Validating], LOOKED_AT).await {
            Ok(waiting) => waiting,
            Err(error) => return tolerate(error),
        };
        let next =
            waiting.into_iter().map(|row| row.batch).find(|batch| !setbacks.is_passed_over(&batch.id));
        let Some(next) = next.filter(|_| !ctx.stop.is_cancelled()) else { return Ok(()) };
        let id = next.id.clone();
        match ingest(ctx, next, pulse).await {
            Ok(()) => ctx.bell.ring(),
            Err(IngestError::Stopped) => return Ok(()),
            Err(IngestError::Full) => {
                ctx.disk.note_full();
                return Ok(());
            }
            Err(IngestError::Store(error)) => return tolerate(error),
            Err(IngestError::Failed(error)) => {
                tracing::error!(batch = %id, error = format!("{error:#}"), "validation failed; it is tried again");
                setbacks.note(id);
            }
        }
    }
}

/// A store that cannot be reached now is asked again later; one that is damaged ends the process.
fn tolerate(error: StoreError) -> anyhow::Result<()> {
    if matches!(error, StoreError::Damaged(_)) {
        return Err(error.into());
    }
    tracing::warn!(%error, "validation waits for the store");
    Ok(())
}

enum IngestError {
    /// The server is stopping; the batch stays as it is.
    Stopped,
    Full,
    Store(StoreError),
    Failed(anyhow::Error),
}

impl From<StoreError> for IngestError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self::Full,
            other => Self::Store(other),
        }
    }
}

impl From<BlobError> for IngestError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => Self::Full,
            other => Self::Failed(other.into()),
        }
    }
}

impl From<std::io::Error> for IngestError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        if matches!(error.kind(), StorageFull | QuotaExceeded) {
            return Self::Full;
        }
        Self::Failed(anyhow::Error::new(error).context("failed to sort the plan"))
    }
}

async fn ingest(ctx: &Arc<Context>, batch: Batch, pulse: &Pulse) -> Result<(), IngestError> {
    let id = batch.id.clone();
    let started = std::time::Instant::now();
    let (work, handle, pulse) = (ctx.clone(), Handle::current(), pulse.clone());
    // Parsing and sorting would hold up the API on a runtime thread.
    let outcome = blocking(move || validate_and_plan(&work, &batch, &handle, &pulse)).await?;
    let now = clock::now();
    let moved = match outcome {
        Ok(planned) => {
            let total = planned.total;
            let moved = ctx.store.plan_batch(&id, planned, now).await?;
            tracing::info!(batch = %id, total, took = ?started.elapsed(), "planned");
            moved
        }
        Err(errors) => {
            tracing::info!(batch = %id, problems = errors.len(), "rejected");
            ctx.store.reject_batch(&id, errors, now).await?
        }
    };
    if let Moved::Illegal(batch) = moved {
        // Cancelled meanwhile; the plan, if one was written, goes with the batch.
        tracing::info!(batch = %id, state = batch.state.as_str(), "validated too late");
    }
    Ok(())
}

fn validate_and_plan(
    ctx: &Context,
    batch: &Batch,
    handle: &Handle,
    pulse: &Pulse,
) -> Result<Result<Planned, Vec<BatchError>>, IngestError> {
    let scratch = ctx.config.data.join("tmp");
    std::fs::create_dir_all(&scratch)?;
    let endpoints = ctx.endpoints.clone();
    let rules = Rules {
        requests_max: (!batch.options.large).then_some(ctx.config.limits.requests_per_batch),
        request_len_max: ctx.config.dispatch.request_len_max,
        refuse_model: &|model| refuse_model(&endpoints, model),
    };
    let mut reader = LineReader::new(rules.request_len_max as usize);
    let mut validator = Validator::new(batch, rules, &scratch);
    let mut at = 0;
    let mut failure = None;
    while at < batch.input_len {
        pulse.beat();
        if ctx.stop.is_cancelled() {
            return Err(IngestError::Stopped);
        }
        let until = (at + READ_LEN).min(batch.input_len);
        let piece = match handle.block_on(ctx.blobs.read(&batch.input_blob, at..until)) {
            Ok(piece) => piece,
            Err(BlobError::Missing(_)) => return Ok(Err(vec![missing_input()])),
            Err(error) => return Err(error.into()),
        };
        reader.feed(&piece, |line| keep_first(&mut failure, validator.line(line)));
        if let Some(error) = failure {
            return Err(std::io::Error::into(error));
        }
        at = until;
    }
    reader.finish(|line| keep_first(&mut failure, validator.line(line)));
    if let Some(error) = failure {
        return Err(error.into());
    }
    match validator.finish(pulse)? {
        Ok(valid) => write_plan(ctx, batch, valid, handle, pulse).map(Ok),
        Err(errors) => Ok(Err(errors)),
    }
}

fn keep_first(failure: &mut Option<std::io::Error>, result: std::io::Result<()>) {
    if let (None, Err(error)) = (&failure, result) {
        *failure = Some(error);
    }
}

fn missing_input() -> BatchError {
    BatchError {
        code: "invalid_request".to_owned(),
        message: "the bytes of the input file are gone".to_owned(),
        param: Some("file_id".to_owned()),
        line: None,
    }
}

fn write_plan(
    ctx: &Context,
    batch: &Batch,
    valid: Valid,
    handle: &Handle,
    pulse: &Pulse,
) -> Result<Planned, IngestError> {
    let model = (valid.models.len() == 1).then(|| valid.models[0].clone());
    let tables =
        PlanTables { entries: valid.total, models: valid.models, blobs: vec![batch.input_blob.clone()] };
    let plan_blob = BlobKey::new(format!("plans/{}", batch.id));
    let mut cutter = ChunkCutter::new(valid.total);
    let mut writer = handle.block_on(ctx.blobs.write(&plan_blob))?;
    let written: Result<(), IngestError> = (|| {
        let mut piece = tables.to_bytes();
        for record in valid.records {
            pulse.beat();
            let record = record?;
            let bytes: &[u8; PlanEntry::LEN] =
                record[SortKey::LEN..].try_into().expect("a record is a key and an entry");
            let entry = PlanEntry::from_bytes(bytes).ok_or_else(|| {
                IngestError::Failed(anyhow::anyhow!("a sorted run was read back damaged"))
            })?;
            cutter.push(&entry);
            piece.extend_from_slice(bytes);
            if piece.len() >= PLAN_PIECE_LEN {
                flush(&mut writer, &mut piece, handle)?;
            }
        }
        flush(&mut writer, &mut piece, handle)
    })();
    if let Err(error) = written {
        handle.block_on(writer.abort());
        return Err(error);
    }
    handle.block_on(writer.finish())?;
    Ok(Planned {
        total: valid.total,
        model,
        plan_blob,
        chunks: cutter.finish(),
        reserved_len: disk::reservation(valid.total, batch.input_len),
    })
}

fn flush(writer: &mut BlobWriter, piece: &mut Vec<u8>, handle: &Handle) -> Result<(), IngestError> {
    handle.block_on(writer.push(piece))?;
    piece.clear();
    Ok(())
}

/// A model that nothing serves, with what is served and what it may have meant. A model that an endpoint which has not
/// told its models could serve counts as served.
fn refuse_model(endpoints: &Endpoints, model: &str) -> Option<String> {
    let views = endpoints.view();
    if views.is_empty() || views.iter().any(|view| view.may_serve(model)) {
        return None;
    }
    let served = endpoints.models();
    let close: Vec<&String> = served
        .iter()
        .filter(|name| {
            let (name, asked) = (name.to_lowercase(), model.to_lowercase());
            !asked.is_empty() && (name.contains(&asked) || asked.contains(&name))
        })
        .take(3)
        .collect();
    let shown: Vec<&str> = served.iter().take(20).map(String::as_str).collect();
    let hint = if close.is_empty() {
        String::new()
    } else {
        format!(
            "; did you mean {}?",
            close.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
        )
    };
    Some(format!(
        "no endpoint serves the model `{model}`; served are: {}{hint}; `[[model]]` in overnight.toml gives one of them \
         another name",
        shown.join(", ")
    ))
}

/// Reads the plan entries of a chunk, with the plan's tables.
pub(crate) async fn read_plan(
    ctx: &Context,
    plan: &BlobKey,
    range: ChunkRange,
) -> anyhow::Result<(PlanTables, Vec<PlanEntry>)> {
    let damaged = || format!("plan `{plan}` is damaged");
    let preamble = ctx.blobs.read(plan, 0..PlanTables::PREAMBLE_LEN as u64).await?;
    let preamble: &[u8; PlanTables::PREAMBLE_LEN] = preamble[..].try_into().with_context(damaged)?;
    let tables_len = PlanTables::len_from_preamble(preamble).with_context(damaged)?;
    let tables_end = PlanTables::PREAMBLE_LEN as u64 + u64::from(tables_len);
    let tables = ctx.blobs.read(plan, PlanTables::PREAMBLE_LEN as u64..tables_end).await?;
    let tables = PlanTables::from_bytes(preamble, &tables).with_context(damaged)?;
    let entry_len = PlanEntry::LEN as u64;
    let from = tables_end + range.first_entry * entry_len;
    let bytes = ctx.blobs.read(plan, from..from + u64::from(range.entry_count) * entry_len).await?;
    let (entries, rest) = bytes.as_chunks::<{ PlanEntry::LEN }>();
    anyhow::ensure!(rest.is_empty() && entries.len() == range.entry_count as usize, damaged());
    let entries: Option<Vec<PlanEntry>> = entries.iter().map(PlanEntry::from_bytes).collect();
    Ok((tables, entries.with_context(damaged)?))
}
