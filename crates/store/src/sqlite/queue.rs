//! The queue, mostly over all tenants: what comes next, what can be closed, and how much there is.
//!
//! The order of the queue is priority first, then age, then id.

use std::collections::BTreeMap;

use overnight_domain::batch::{Batch, BatchState};
use overnight_domain::chunk::Lease;
use overnight_domain::ids::{BatchId, ChunkNumber, TenantId};
use rusqlite::{Connection, OptionalExtension, Result as SqlResult, named_params, params};

use super::{batches, chunks, values};
use crate::{BatchWithOpenChunks, ClaimQuery, Claimed, Demand, Page, QueueView, Result};

pub(super) fn queue(
    db: &Connection,
    states: &[BatchState],
    limit: usize,
) -> Result<Vec<BatchWithOpenChunks>> {
    let states = states.iter().map(|state| state.as_str()).collect::<Vec<_>>();
    batches::select(
        db,
        "SELECT * FROM batches WHERE state IN (SELECT value FROM json_each(?1))
         ORDER BY priority DESC, created_at, id LIMIT ?2",
        params![values::to_json(&states)?, values::limit(limit)],
    )?
    .into_iter()
    .map(|batch| batches::with_open_chunks(db, batch))
    .collect()
}

pub(super) fn queue_of(
    db: &Connection,
    tenant: &TenantId,
    limit: usize,
) -> Result<Page<BatchWithOpenChunks>> {
    let rows = batches::select(
        db,
        "SELECT * FROM batches
         WHERE tenant = ?1 AND state IN ('validating', 'in_progress', 'finalizing', 'expiring', 'cancelling')
         ORDER BY priority DESC, created_at, id LIMIT ?2",
        params![tenant.as_str(), values::limit(limit.saturating_add(1))],
    )?;
    let page = Page::cut(rows, limit);
    let rows = page.rows.into_iter().map(|batch| batches::with_open_chunks(db, batch));
    Ok(Page { rows: rows.collect::<Result<_>>()?, has_more: page.has_more })
}

pub(super) fn closable(db: &Connection, limit: usize) -> Result<Vec<Batch>> {
    batches::select(
        db,
        "SELECT * FROM batches WHERE state IN ('finalizing', 'expiring', 'cancelling')
             AND NOT EXISTS (SELECT 1 FROM chunks WHERE chunks.batch = batches.id AND chunks.state = 'leased')
         ORDER BY priority DESC, created_at, id LIMIT ?1",
        [values::limit(limit)],
    )
}

pub(super) fn view(db: &Connection) -> Result<QueueView> {
    let batches = db
        .prepare_cached("SELECT state, count(*) AS batches FROM batches GROUP BY state")?
        .query_map([], |row| Ok((values::word(row, "state", BatchState::parse)?, row.get("batches")?)))?
        .collect::<SqlResult<BTreeMap<_, _>>>()?;
    let backlog = db
        .prepare_cached(
            "SELECT id, CASE state WHEN 'validating' THEN expected_requests
                 ELSE max(0, total - completed - failed) END AS requests
             FROM batches WHERE state IN ('validating', 'in_progress', 'finalizing', 'expiring', 'cancelling')
             ORDER BY priority DESC, created_at, id",
        )?
        .query_map([], |row| Ok((values::text(row, "id")?, row.get("requests")?)))?
        .collect::<SqlResult<_>>()?;
    Ok(QueueView { batches, backlog })
}

pub(super) fn demand(db: &Connection) -> Result<Vec<Demand>> {
    let demands = db
        .prepare_cached(
            "SELECT model, max(priority) AS priority FROM batches
             WHERE state = 'in_progress' AND pause IS NULL GROUP BY model ORDER BY model",
        )?
        .query_map([], |row| Ok(Demand { model: row.get("model")?, priority: row.get("priority")? }))?
        .collect::<SqlResult<_>>()?;
    Ok(demands)
}

pub(super) fn known_batches(db: &Connection, ids: &[BatchId]) -> Result<Vec<BatchId>> {
    let mut known = Vec::new();
    for id in ids {
        if batches::state(db, id)?.is_some() {
            known.push(id.clone());
        }
    }
    Ok(known)
}

pub(super) fn claim(db: &Connection, query: &ClaimQuery) -> Result<Option<Claimed>> {
    let Some(batch) = next_batch(db, query)? else { return Ok(None) };
    let lease = Lease {
        batch: batch.id.clone(),
        chunk: ChunkNumber(0),
        token: query.token,
        worker: query.worker.clone(),
        expires_at: query.now.plus(query.ttl),
    };
    let claimed = chunks::lease_next(db, lease)?;
    Ok(claimed.map(|(lease, chunk)| Claimed { lease, chunk, batch }))
}

/// The first batch in order that may run and has a chunk that waits.
///
/// While as many batches are active as may be, only one of them is served, or one that comes before at least one of
/// them: its holder then parks the chunks of the last.
fn next_batch(db: &Connection, query: &ClaimQuery) -> Result<Option<Batch>> {
    let batch = db
        .prepare_cached(
            "WITH active AS MATERIALIZED (
                 SELECT id, priority, created_at FROM batches
                 WHERE id IN (SELECT batch FROM chunks WHERE state = 'leased')
             )
             SELECT * FROM batches AS b
             WHERE b.state = 'in_progress' AND b.pause IS NULL
                 AND b.id NOT IN (SELECT value FROM json_each(:except))
                 AND (b.model IS NULL OR b.model NOT IN (SELECT value FROM json_each(:unserved_models)))
                 AND EXISTS (SELECT 1 FROM chunks AS c
                     WHERE c.batch = b.id AND c.state IN ('parked', 'ready'))
                 AND (:before IS NULL OR EXISTS (SELECT 1 FROM batches AS o
                     WHERE o.id = :before
                         AND (-b.priority, b.created_at, b.id) < (-o.priority, o.created_at, o.id)))
                 AND ((SELECT count(*) FROM active) < :active_batches_max
                     OR b.id IN (SELECT id FROM active)
                     OR EXISTS (SELECT 1 FROM active AS a
                         WHERE (-b.priority, b.created_at, b.id) < (-a.priority, a.created_at, a.id)))
             ORDER BY b.priority DESC, b.created_at, b.id LIMIT 1",
        )?
        .query_row(
            named_params! {
                ":except": values::to_json(&query.except)?,
                ":unserved_models": values::to_json(&query.unserved_models)?,
                ":before": query.before.as_ref().map(BatchId::as_str),
                ":active_batches_max": values::limit(query.active_batches_max),
            },
            batches::read,
        )
        .optional()?;
    Ok(batch)
}
