//! Batches: the record, and the events that move it.
//!
//! Every event is applied by the domain's state machine to the batch as it was read, and written back on condition that
//! the state is still the one it was applied to.

use overnight_domain::batch::{Batch, BatchError, BatchEvent, BatchState};
use overnight_domain::ids::{BatchId, BlobKey, ChunkNumber, FileId, TenantId};
use overnight_domain::notice::Notice;
use overnight_domain::route::Route;
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;
use rusqlite::{Connection, OptionalExtension, Params, Result as SqlResult, Row, named_params, params};

use super::{chunks, files, notices, values};
use crate::{
    BatchPatch, BatchQuery, BatchWithOpenChunks, CHILDREN_MAX, Closing, Moved, Page, Planned, Result,
    StoreError,
};

pub(super) fn insert(db: &Connection, batch: &Batch, expected_requests: u64) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO batches (id, tenant, state, route, input_file, input_blob, input_len, completion_window,
             metadata, options, parent, model, moments, pause, errors, plan_blob, total, expected_requests,
             reserved_len, completed, failed, usage, output_file, error_file)
         VALUES (:id, :tenant, :state, :route, :input_file, :input_blob, :input_len, :completion_window,
             :metadata, :options, :parent, :model, :moments, :pause, :errors, :plan_blob, :total,
             :expected_requests, :reserved_len, :completed, :failed, :usage, :output_file, :error_file)",
    )?
    .execute(named_params! {
        ":id": batch.id.as_str(),
        ":tenant": batch.tenant.as_str(),
        ":state": batch.state.as_str(),
        ":route": batch.route.path(),
        ":input_file": batch.input_file.as_str(),
        ":input_blob": batch.input_blob.as_str(),
        ":input_len": batch.input_len,
        ":completion_window": batch.completion_window,
        ":metadata": batch.metadata.as_ref().map(values::to_json).transpose()?,
        ":options": values::to_json(&batch.options)?,
        ":parent": batch.parent.as_ref().map(BatchId::as_str),
        ":model": batch.model,
        ":moments": values::to_json(&batch.moments)?,
        ":pause": batch.pause.as_ref().map(values::to_json).transpose()?,
        ":errors": values::to_json(&batch.errors)?,
        ":plan_blob": batch.plan_blob.as_ref().map(BlobKey::as_str),
        ":total": batch.total,
        ":expected_requests": expected_requests,
        ":reserved_len": batch.reserved_len,
        ":completed": batch.tally.completed,
        ":failed": batch.tally.failed,
        ":usage": values::to_json(&batch.tally.usage)?,
        ":output_file": batch.output_file.as_ref().map(FileId::as_str),
        ":error_file": batch.error_file.as_ref().map(FileId::as_str),
    })?;
    Ok(())
}

/// The batch, whoever owns it.
pub(super) fn find(db: &Connection, id: &BatchId) -> Result<Option<Batch>> {
    let batch = db
        .prepare_cached("SELECT * FROM batches WHERE id = ?1")?
        .query_row([id.as_str()], read)
        .optional()?;
    Ok(batch)
}

fn find_of(db: &Connection, tenant: &TenantId, id: &BatchId) -> Result<Option<Batch>> {
    Ok(find(db, id)?.filter(|batch| batch.tenant == *tenant))
}

pub(super) fn batch(
    db: &Connection,
    tenant: &TenantId,
    id: &BatchId,
) -> Result<Option<BatchWithOpenChunks>> {
    find_of(db, tenant, id)?.map(|batch| with_open_chunks(db, batch)).transpose()
}

pub(super) fn list(
    db: &Connection,
    tenant: &TenantId,
    query: &BatchQuery,
) -> Result<Page<BatchWithOpenChunks>> {
    let states = query.states.iter().map(|state| state.as_str()).collect::<Vec<_>>();
    let rows = select(
        db,
        "SELECT * FROM batches WHERE tenant = :tenant AND (:after IS NULL OR id < :after)
             AND (:states = '[]' OR state IN (SELECT value FROM json_each(:states)))
         ORDER BY id DESC LIMIT :limit",
        named_params! {
            ":tenant": tenant.as_str(),
            ":after": query.after.as_ref().map(BatchId::as_str),
            ":states": values::to_json(&states)?,
            ":limit": values::limit(query.limit.saturating_add(1)),
        },
    )?;
    let page = Page::cut(rows, query.limit);
    let rows =
        page.rows.into_iter().map(|batch| with_open_chunks(db, batch)).collect::<Result<Vec<_>>>()?;
    Ok(Page { rows, has_more: page.has_more })
}

pub(super) fn children(db: &Connection, tenant: &TenantId, id: &BatchId) -> Result<Vec<Batch>> {
    select(
        db,
        "SELECT * FROM batches WHERE parent = ?1 AND tenant = ?2 ORDER BY id LIMIT ?3",
        params![id.as_str(), tenant.as_str(), values::limit(CHILDREN_MAX)],
    )
}

pub(super) fn select(db: &Connection, sql: &str, params: impl Params) -> Result<Vec<Batch>> {
    let rows = db.prepare_cached(sql)?.query_map(params, read)?.collect::<SqlResult<_>>()?;
    Ok(rows)
}

/// Adds the chunks that are begun and not done. In a terminal state the tally says it all.
pub(super) fn with_open_chunks(db: &Connection, batch: Batch) -> Result<BatchWithOpenChunks> {
    if batch.state.is_terminal() {
        return Ok(BatchWithOpenChunks { batch, open: Vec::new() });
    }
    let open = db
        .prepare_cached(
            "SELECT number FROM chunks
             WHERE batch = ?1 AND log_segment IS NOT NULL AND state <> 'done' ORDER BY number",
        )?
        .query_map([batch.id.as_str()], |row| row.get(0).map(ChunkNumber))?
        .collect::<SqlResult<_>>()?;
    Ok(BatchWithOpenChunks { batch, open })
}

pub(super) fn plan(db: &Connection, id: &BatchId, planned: &Planned, now: UnixTime) -> Result<Moved> {
    if planned.total == 0 || planned.chunks.is_empty() {
        return Err(StoreError::Damaged(format!("the plan of batch `{id}` has no request")));
    }
    transition(find(db, id)?, db, BatchEvent::Plan, now, |batch| {
        batch.total = planned.total;
        batch.model.clone_from(&planned.model);
        batch.plan_blob = Some(planned.plan_blob.clone());
        batch.reserved_len = planned.reserved_len;
        chunks::insert_all(db, id, &planned.chunks)
    })
}

pub(super) fn reject(
    db: &Connection,
    id: &BatchId,
    errors: Vec<BatchError>,
    now: UnixTime,
) -> Result<Moved> {
    transition(find(db, id)?, db, BatchEvent::Reject, now, |batch| {
        batch.errors = errors;
        Ok(())
    })
}

pub(super) fn cancel(db: &Connection, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Result<Moved> {
    let batch = find_of(db, tenant, id)?;
    match batch {
        Some(batch) if matches!(batch.state, BatchState::Cancelling | BatchState::Cancelled) => {
            Ok(Moved::To(Box::new(batch)))
        }
        batch => transition(batch, db, BatchEvent::Cancel, now, |_| chunks::drop_unheld(db, id)),
    }
}

pub(super) fn update(
    db: &Connection,
    tenant: &TenantId,
    id: &BatchId,
    patch: BatchPatch,
) -> Result<Moved> {
    let Some(mut batch) = find_of(db, tenant, id)? else { return Ok(Moved::NotFound) };
    if batch.state.is_terminal() {
        return Ok(Moved::Illegal(Box::new(batch)));
    }
    if let Some(priority) = patch.priority {
        batch.options.priority = priority;
    }
    if let Some(expires_at) = patch.expires_at {
        batch.moments.expires_at = expires_at;
    }
    let before = batch.pause.clone();
    if let Some(pause) = patch.pause {
        batch.pause = pause;
    }
    save(db, &batch, batch.state)?;
    if let Some(notice) = Notice::batch_paused(before.as_ref(), &batch) {
        notices::put(db, &notice)?;
    }
    Ok(Moved::To(Box::new(batch)))
}

pub(super) fn expire(db: &Connection, now: UnixTime) -> Result<Vec<BatchId>> {
    let late = select(
        db,
        "SELECT * FROM batches WHERE state = 'in_progress' AND hard_expiry = 1 AND expires_at <= ?1 ORDER BY id",
        [now.millis()],
    )?;
    let ids = late.iter().map(|batch| batch.id.clone()).collect();
    for batch in late {
        let id = batch.id.clone();
        transition(Some(batch), db, BatchEvent::Expire, now, |_| chunks::drop_unheld(db, &id))?;
    }
    Ok(ids)
}

pub(super) fn reopen(
    db: &Connection,
    id: &BatchId,
    numbers: &[ChunkNumber],
    now: UnixTime,
) -> Result<Moved> {
    if numbers.is_empty() {
        return Err(StoreError::Damaged(format!("batch `{id}` cannot be reopened without a chunk")));
    }
    transition(find(db, id)?, db, BatchEvent::Reopen, now, |batch| {
        chunks::reopen(db, id, numbers)?;
        batch.tally = chunks::tally(db, id)?;
        Ok(())
    })
}

pub(super) fn close(db: &Connection, id: &BatchId, closing: Closing, now: UnixTime) -> Result<Moved> {
    let batch = match find(db, id)? {
        Some(batch) if chunks::is_any_held(db, id)? => return Ok(Moved::Illegal(Box::new(batch))),
        batch => batch,
    };
    transition(batch, db, BatchEvent::Close, now, |batch| {
        for file in closing.output.iter().chain(&closing.error) {
            files::create(db, file)?;
        }
        batch.tally = closing.tally;
        batch.output_file = closing.output.map(|file| file.id);
        batch.error_file = closing.error.map(|file| file.id);
        Ok(())
    })
}

pub(super) fn delete(db: &Connection, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Result<Moved> {
    let Some(batch) = find_of(db, tenant, id)? else { return Ok(Moved::NotFound) };
    if !batch.state.is_terminal() {
        return Ok(Moved::Illegal(Box::new(batch)));
    }
    for file in batch.output_file.iter().chain(&batch.error_file) {
        files::hide(db, file, now)?;
    }
    // Its chunks and its creation key go with it.
    db.prepare_cached("DELETE FROM batches WHERE id = ?1 AND state = ?2")?
        .execute([id.as_str(), batch.state.as_str()])?;
    Ok(Moved::To(Box::new(batch)))
}

/// Adds what a chunk has come to, and finishes the batch when that was the last one.
pub(super) fn add_chunk(db: &Connection, id: &BatchId, tally: Tally, now: UnixTime) -> Result<()> {
    let Some(mut batch) = find(db, id)? else {
        return Err(StoreError::Damaged(format!("the batch `{id}` of a chunk is not there")));
    };
    let from = batch.state;
    batch.tally += tally;
    // A batch that has ended early keeps its end.
    if let Ok(to) = from.next(BatchEvent::Finish)
        && !chunks::is_any_unfinished(db, id)?
    {
        batch.state = to;
        batch.moments.reach(to, now);
    }
    save(db, &batch, from)
}

fn transition(
    batch: Option<Batch>,
    db: &Connection,
    event: BatchEvent,
    now: UnixTime,
    change: impl FnOnce(&mut Batch) -> Result<()>,
) -> Result<Moved> {
    let Some(mut batch) = batch else { return Ok(Moved::NotFound) };
    let from = batch.state;
    let Ok(to) = from.next(event) else { return Ok(Moved::Illegal(Box::new(batch))) };
    batch.state = to;
    batch.moments.reach(to, now);
    change(&mut batch)?;
    save(db, &batch, from)?;
    if to.is_terminal() {
        notices::put(db, &Notice::batch_ended(&batch, now))?;
    }
    Ok(Moved::To(Box::new(batch)))
}

/// Writes what can change of a batch, on condition that it is still in the state it was read in.
fn save(db: &Connection, batch: &Batch, from: BatchState) -> Result<()> {
    let changed = db
        .prepare_cached(
            "UPDATE batches SET state = :state, options = :options, model = :model, moments = :moments,
                 pause = :pause, errors = :errors, plan_blob = :plan_blob, total = :total,
                 reserved_len = :reserved_len, completed = :completed, failed = :failed, usage = :usage,
                 output_file = :output_file, error_file = :error_file
             WHERE id = :id AND state = :from",
        )?
        .execute(named_params! {
            ":id": batch.id.as_str(),
            ":from": from.as_str(),
            ":state": batch.state.as_str(),
            ":options": values::to_json(&batch.options)?,
            ":model": batch.model,
            ":moments": values::to_json(&batch.moments)?,
            ":pause": batch.pause.as_ref().map(values::to_json).transpose()?,
            ":errors": values::to_json(&batch.errors)?,
            ":plan_blob": batch.plan_blob.as_ref().map(BlobKey::as_str),
            ":total": batch.total,
            ":reserved_len": batch.reserved_len,
            ":completed": batch.tally.completed,
            ":failed": batch.tally.failed,
            ":usage": values::to_json(&batch.tally.usage)?,
            ":output_file": batch.output_file.as_ref().map(FileId::as_str),
            ":error_file": batch.error_file.as_ref().map(FileId::as_str),
        })?;
    if changed == 1 {
        Ok(())
    } else {
        Err(StoreError::Damaged(format!("batch `{}` is not in state `{}`", batch.id, from.as_str())))
    }
}

pub(super) fn state(db: &Connection, id: &BatchId) -> Result<Option<BatchState>> {
    let state = db
        .prepare_cached("SELECT state FROM batches WHERE id = ?1")?
        .query_row(params![id.as_str()], |row| values::word(row, "state", BatchState::parse))
        .optional()?;
    Ok(state)
}

pub(super) fn read(row: &Row<'_>) -> SqlResult<Batch> {
    Ok(Batch {
        id: values::text(row, "id")?,
        tenant: TenantId::new(row.get::<_, String>("tenant")?),
        route: values::word(row, "route", Route::parse)?,
        input_file: values::text(row, "input_file")?,
        input_blob: BlobKey::new(row.get::<_, String>("input_blob")?),
        input_len: row.get("input_len")?,
        completion_window: row.get("completion_window")?,
        metadata: values::optional_json(row, "metadata")?,
        options: values::json(row, "options")?,
        parent: values::optional_text(row, "parent")?,
        model: row.get("model")?,
        state: values::word(row, "state", BatchState::parse)?,
        moments: values::json(row, "moments")?,
        pause: values::optional_json(row, "pause")?,
        errors: values::json(row, "errors")?,
        plan_blob: row.get::<_, Option<String>>("plan_blob")?.map(BlobKey::new),
        total: row.get("total")?,
        tally: Tally {
            completed: row.get("completed")?,
            failed: row.get("failed")?,
            usage: values::json(row, "usage")?,
        },
        output_file: values::optional_text(row, "output_file")?,
        error_file: values::optional_text(row, "error_file")?,
        reserved_len: row.get("reserved_len")?,
    })
}
