//! What a new batch is held to, in the transaction that creates it.

use overnight_domain::batch::Batch;
use overnight_domain::ids::BatchId;
use rusqlite::{Connection, OptionalExtension, params};

use super::batches;
use crate::{Admission, AdmissionRefusal, Created, CreationKey, Result};

/// Creates a batch in `validating`, unless the key names an earlier creation or a limit refuses it.
pub(super) fn create(
    db: &Connection,
    batch: &Batch,
    admission: Admission,
    key: Option<&CreationKey>,
) -> Result<Created> {
    if let Some(key) = key.filter(|key| key.is_repeat)
        && let Some(earlier) = earlier(db, batch, key)?
    {
        return Ok(Created::Existing(Box::new(earlier)));
    }
    if let Some(refusal) = refusal(db, batch, admission)? {
        return Ok(Created::Refused(refusal));
    }
    batches::insert(db, batch, admission.expected_requests)?;
    if let Some(key) = key {
        db.prepare_cached(
            "INSERT OR REPLACE INTO creation_keys (tenant, key, batch, created_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            batch.tenant.as_str(),
            key.key,
            batch.id.as_str(),
            batch.moments.created_at.millis(),
        ])?;
    }
    Ok(Created::New)
}

fn earlier(db: &Connection, batch: &Batch, key: &CreationKey) -> Result<Option<Batch>> {
    let id: Option<String> = db
        .prepare_cached(
            "SELECT batch FROM creation_keys WHERE tenant = ?1 AND key = ?2 AND created_at >= ?3",
        )?
        .query_row(params![batch.tenant.as_str(), key.key, key.not_before.millis()], |row| row.get(0))
        .optional()?;
    match id.and_then(|id| BatchId::parse(&id).ok()) {
        Some(id) => batches::find(db, &id),
        None => Ok(None),
    }
}

fn refusal(db: &Connection, batch: &Batch, admission: Admission) -> Result<Option<AdmissionRefusal>> {
    let (unfinished, queued, reserved): (u64, u64, u64) = db
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE large = 0),
                 coalesce(sum(CASE state WHEN 'validating' THEN expected_requests
                     ELSE max(0, total - completed - failed) END) FILTER (WHERE large = 0), 0),
                 coalesce(sum(reserved_len), 0)
             FROM batches
             WHERE state IN ('validating', 'in_progress', 'finalizing', 'expiring', 'cancelling')",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    if !batch.options.large {
        if unfinished >= admission.unfinished_batches_max {
            return Ok(Some(AdmissionRefusal::UnfinishedBatches { now: unfinished }));
        }
        if queued.saturating_add(admission.expected_requests) > admission.queued_requests_max {
            return Ok(Some(AdmissionRefusal::QueuedRequests { now: queued }));
        }
    }
    let free = admission.disk_free.saturating_sub(reserved);
    if batch.reserved_len > free {
        return Ok(Some(AdmissionRefusal::Disk { needed: batch.reserved_len, free }));
    }
    Ok(None)
}
