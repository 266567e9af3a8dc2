//! Workers, as they last said that they live.

use overnight_domain::time::UnixTime;
use rusqlite::{Connection, Result as SqlResult, Row, params};

use super::values;
use crate::{Result, WORKER_FORGOTTEN_AFTER, WorkerView};

pub(super) fn heartbeat(db: &Connection, worker: &WorkerView) -> Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO workers (id, host, process, started_at, seen_at, activity, batch)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        worker.id.as_str(),
        worker.host,
        worker.process,
        worker.started_at.millis(),
        worker.seen_at.millis(),
        worker.activity,
        worker.batch.as_ref().map(overnight_domain::ids::BatchId::as_str),
    ])?;
    let span = u64::try_from(WORKER_FORGOTTEN_AFTER.as_millis()).unwrap_or(u64::MAX);
    let horizon = UnixTime::from_millis(worker.seen_at.millis().saturating_sub(span));
    db.prepare_cached("DELETE FROM workers WHERE seen_at < ?1")?.execute([horizon.millis()])?;
    Ok(())
}

pub(super) fn workers(db: &Connection) -> Result<Vec<WorkerView>> {
    let rows = db
        .prepare_cached("SELECT * FROM workers ORDER BY id")?
        .query_map([], read)?
        .collect::<SqlResult<_>>()?;
    Ok(rows)
}

fn read(row: &Row<'_>) -> SqlResult<WorkerView> {
    Ok(WorkerView {
        id: values::text(row, "id")?,
        host: row.get("host")?,
        process: row.get("process")?,
        started_at: values::time(row, "started_at")?,
        seen_at: values::time(row, "seen_at")?,
        activity: row.get("activity")?,
        batch: values::optional_text(row, "batch")?,
    })
}
