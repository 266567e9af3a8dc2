//! Chunks and their leases. Whatever writes for a chunk shows its lease; a stale token changes nothing.

use overnight_domain::batch::BatchState;
use overnight_domain::chunk::{Chunk, ChunkEvent, ChunkRange, ChunkState, Lease, LogPosition};
use overnight_domain::ids::{BatchId, ChunkNumber, LeaseToken, WorkerId};
use overnight_domain::tally::{Tally, Usage};
use overnight_domain::time::UnixTime;
use rusqlite::{Connection, OptionalExtension, Params, Result as SqlResult, Row, named_params, params};

use super::{batches, values};
use crate::{Hold, Parking, Result, StoreError};

pub(super) fn insert_all(db: &Connection, batch: &BatchId, ranges: &[ChunkRange]) -> Result<()> {
    for (number, range) in (0_u32..).zip(ranges) {
        insert(
            db,
            &Chunk {
                batch: batch.clone(),
                number: ChunkNumber(number),
                range: *range,
                state: ChunkState::Ready,
                log_from: None,
                fruitless_takeovers: 0,
                tally: Tally::default(),
            },
        )?;
    }
    Ok(())
}

/// Leases the next chunk of a batch: parked ones first, then by number.
pub(super) fn lease_next(db: &Connection, lease: Lease) -> Result<Option<(Lease, Chunk)>> {
    let waiting = select(
        db,
        "SELECT * FROM chunks WHERE batch = ?1 AND state IN ('parked', 'ready')
         ORDER BY state, number LIMIT 1",
        [lease.batch.as_str()],
    )?;
    let Some(mut chunk) = waiting.into_iter().next() else { return Ok(None) };
    let from = chunk.state;
    chunk.state = next(from, ChunkEvent::Claim)?;
    let lease = Lease { chunk: chunk.number, ..lease };
    save(db, &chunk, from, Some(&lease))?;
    Ok(Some((lease, chunk)))
}

pub(super) fn begin(db: &Connection, lease: &Lease, log_from: LogPosition) -> Result<Hold> {
    let Some(mut chunk) = held(db, lease)? else { return Ok(Hold::Lost) };
    if chunk.log_from.is_none() {
        chunk.log_from = Some(log_from);
        save_held(db, &chunk, lease)?;
    }
    Ok(Hold::Held)
}

pub(super) fn renew(db: &Connection, leases: &[Lease], expires_at: UnixTime) -> Result<Vec<Hold>> {
    let mut statement = db.prepare_cached(
        "UPDATE chunks SET lease_expires_at = ?4
         WHERE batch = ?1 AND number = ?2 AND state = 'leased' AND lease_token = ?3",
    )?;
    let mut holds = Vec::with_capacity(leases.len());
    for lease in leases {
        let changed = statement.execute(params![
            lease.batch.as_str(),
            lease.chunk.0,
            token_column(lease),
            expires_at.millis()
        ])?;
        holds.push(if changed == 1 { Hold::Held } else { Hold::Lost });
    }
    Ok(holds)
}

pub(super) fn complete(db: &Connection, lease: &Lease, tally: Tally, now: UnixTime) -> Result<Hold> {
    let Some(mut chunk) = held(db, lease)? else { return Ok(Hold::Lost) };
    chunk.state = next(chunk.state, ChunkEvent::Complete)?;
    chunk.tally = tally;
    save(db, &chunk, ChunkState::Leased, None)?;
    batches::add_chunk(db, &lease.batch, tally, now)?;
    Ok(Hold::Held)
}

pub(super) fn park(db: &Connection, lease: &Lease, parking: Parking) -> Result<Hold> {
    let Some(chunk) = held(db, lease)? else { return Ok(Hold::Lost) };
    put_back(db, chunk, parking)?;
    Ok(Hold::Held)
}

/// The rest inherits the takeovers: whichever of its requests was the cause, the evidence is about all of them.
pub(super) fn split(db: &Connection, lease: &Lease, at: u64, lens: (u64, u64)) -> Result<Hold> {
    let Some(mut chunk) = held(db, lease)? else { return Ok(Hold::Lost) };
    let whole = chunk.range;
    let first_count = at.saturating_sub(whole.first_entry);
    let rest_count = u64::from(whole.entry_count).saturating_sub(first_count);
    let (Ok(first_count @ 1..), Ok(rest_count @ 1..)) =
        (u32::try_from(first_count), u32::try_from(rest_count))
    else {
        return Err(StoreError::Damaged(format!(
            "chunk `{}` of batch `{}` cannot be split at entry `{at}`",
            lease.chunk.0, lease.batch
        )));
    };
    let number: u32 = db
        .prepare_cached("SELECT max(number) + 1 FROM chunks WHERE batch = ?1")?
        .query_row([lease.batch.as_str()], |row| row.get(0))?;
    let rest = Chunk {
        number: ChunkNumber(number),
        range: ChunkRange { first_entry: at, entry_count: rest_count, len: lens.1 },
        state: put_back_state(db, &lease.batch)?,
        ..chunk.clone()
    };
    chunk.range.entry_count = first_count;
    chunk.range.len = lens.0;
    save_held(db, &chunk, lease)?;
    insert(db, &rest)?;
    Ok(Hold::Held)
}

pub(super) fn recover(db: &Connection, worker: &WorkerId) -> Result<Vec<Chunk>> {
    let foreign = select(
        db,
        "SELECT * FROM chunks WHERE state = 'leased' AND lease_worker <> ?1",
        [worker.as_str()],
    )?;
    for chunk in foreign {
        put_back(db, chunk, Parking { has_progress: false })?;
    }
    select(
        db,
        "SELECT chunks.* FROM chunks JOIN batches ON batches.id = chunks.batch
         WHERE chunks.log_segment IS NOT NULL AND chunks.state <> 'done'
             AND batches.state IN ('validating', 'in_progress', 'finalizing', 'expiring', 'cancelling')
         ORDER BY chunks.batch, chunks.number",
        [],
    )
}

pub(super) fn expire_leases(db: &Connection, now: UnixTime) -> Result<Vec<Lease>> {
    let leases = db
        .prepare_cached(
            "SELECT * FROM chunks WHERE state = 'leased' AND lease_expires_at <= ?1 ORDER BY batch, number",
        )?
        .query_map([now.millis()], read_lease)?
        .collect::<SqlResult<Vec<_>>>()?;
    for lease in &leases {
        park(db, lease, Parking { has_progress: false })?;
    }
    Ok(leases)
}

pub(super) fn chunks(db: &Connection, batch: &BatchId) -> Result<Vec<Chunk>> {
    select(db, "SELECT * FROM chunks WHERE batch = ?1 ORDER BY number", [batch.as_str()])
}

/// Parks chunks that are done.
pub(super) fn reopen(db: &Connection, batch: &BatchId, numbers: &[ChunkNumber]) -> Result<()> {
    for number in numbers {
        let found = db
            .prepare_cached("SELECT * FROM chunks WHERE batch = ?1 AND number = ?2")?
            .query_row(params![batch.as_str(), number.0], read)
            .optional()?;
        let Some(mut chunk) = found else {
            return Err(StoreError::Damaged(format!("batch `{batch}` has no chunk `{}`", number.0)));
        };
        let from = chunk.state;
        chunk.state = next(from, ChunkEvent::Reopen)?;
        chunk.tally = Tally::default();
        save(db, &chunk, from, None)?;
    }
    Ok(())
}

/// The sum over the chunks of a batch.
pub(super) fn tally(db: &Connection, batch: &BatchId) -> Result<Tally> {
    let chunks = chunks(db, batch)?;
    Ok(chunks.iter().fold(Tally::default(), |sum, chunk| sum + chunk.tally))
}

/// The end of a batch, before its time, for the chunks that nobody holds.
pub(super) fn drop_unheld(db: &Connection, batch: &BatchId) -> Result<()> {
    db.prepare_cached(
        "UPDATE chunks SET state = 'dropped' WHERE batch = ?1 AND state IN ('parked', 'ready')",
    )?
    .execute([batch.as_str()])?;
    Ok(())
}

pub(super) fn is_any_held(db: &Connection, batch: &BatchId) -> Result<bool> {
    let is_held = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM chunks WHERE batch = ?1 AND state = 'leased')")?
        .query_row([batch.as_str()], |row| row.get(0))?;
    Ok(is_held)
}

pub(super) fn is_any_unfinished(db: &Connection, batch: &BatchId) -> Result<bool> {
    let is_waiting = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM chunks WHERE batch = ?1 AND state IN ('parked', 'ready'))",
        )?
        .query_row([batch.as_str()], |row| row.get(0))?;
    Ok(is_waiting || is_any_held(db, batch)?)
}

/// The chunk, while the lease is the one that is kept with it.
fn held(db: &Connection, lease: &Lease) -> Result<Option<Chunk>> {
    let chunk = db
        .prepare_cached(
            "SELECT * FROM chunks WHERE batch = ?1 AND number = ?2 AND state = 'leased' AND lease_token = ?3",
        )?
        .query_row(params![lease.batch.as_str(), lease.chunk.0, token_column(lease)], read)
        .optional()?;
    Ok(chunk)
}

fn put_back(db: &Connection, mut chunk: Chunk, parking: Parking) -> Result<()> {
    chunk.state = put_back_state(db, &chunk.batch)?;
    chunk.fruitless_takeovers =
        if parking.has_progress { 0 } else { chunk.fruitless_takeovers.saturating_add(1) };
    save(db, &chunk, ChunkState::Leased, None)
}

/// Where a leased chunk goes when it is put back: it waits while its batch goes on.
fn put_back_state(db: &Connection, batch: &BatchId) -> Result<ChunkState> {
    let event = match batches::state(db, batch)? {
        Some(BatchState::InProgress) => ChunkEvent::Park,
        _ => ChunkEvent::Drop,
    };
    next(ChunkState::Leased, event)
}

fn next(from: ChunkState, event: ChunkEvent) -> Result<ChunkState> {
    from.next(event).map_err(|error| StoreError::Damaged(format!("a chunk: {error}")))
}

fn insert(db: &Connection, chunk: &Chunk) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO chunks (batch, number, state, first_entry, entry_count, len, log_segment, log_offset,
             log_sequence, fruitless_takeovers, completed, failed, usage)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        chunk.batch.as_str(),
        chunk.number.0,
        chunk.state.as_str(),
        chunk.range.first_entry,
        chunk.range.entry_count,
        chunk.range.len,
        chunk.log_from.map(|log| log.segment),
        chunk.log_from.map(|log| log.offset),
        chunk.log_from.map(|log| log.sequence),
        chunk.fruitless_takeovers,
        chunk.tally.completed,
        chunk.tally.failed,
        values::to_json(&chunk.tally.usage)?,
    ])?;
    Ok(())
}

fn save_held(db: &Connection, chunk: &Chunk, lease: &Lease) -> Result<()> {
    // The lease may have been renewed since its holder got it: only the database knows until when it lasts.
    let expires_at: u64 = db
        .prepare_cached("SELECT lease_expires_at FROM chunks WHERE batch = ?1 AND number = ?2")?
        .query_row(params![lease.batch.as_str(), lease.chunk.0], |row| row.get(0))?;
    let lease = Lease { expires_at: UnixTime::from_millis(expires_at), ..lease.clone() };
    save(db, chunk, ChunkState::Leased, Some(&lease))
}

/// Writes what can change of a chunk, on condition that it is still in the state it was read in.
fn save(db: &Connection, chunk: &Chunk, from: ChunkState, lease: Option<&Lease>) -> Result<()> {
    let changed = db
        .prepare_cached(
            "UPDATE chunks SET state = :state, entry_count = :entry_count, len = :len,
                 log_segment = :log_segment, log_offset = :log_offset, log_sequence = :log_sequence,
                 fruitless_takeovers = :fruitless_takeovers, completed = :completed, failed = :failed,
                 usage = :usage, lease_token = :lease_token, lease_worker = :lease_worker,
                 lease_expires_at = :lease_expires_at
             WHERE batch = :batch AND number = :number AND state = :from",
        )?
        .execute(named_params! {
            ":batch": chunk.batch.as_str(),
            ":number": chunk.number.0,
            ":from": from.as_str(),
            ":state": chunk.state.as_str(),
            ":entry_count": chunk.range.entry_count,
            ":len": chunk.range.len,
            ":log_segment": chunk.log_from.map(|log| log.segment),
            ":log_offset": chunk.log_from.map(|log| log.offset),
            ":log_sequence": chunk.log_from.map(|log| log.sequence),
            ":fruitless_takeovers": chunk.fruitless_takeovers,
            ":completed": chunk.tally.completed,
            ":failed": chunk.tally.failed,
            ":usage": values::to_json(&chunk.tally.usage)?,
            ":lease_token": lease.map(token_column),
            ":lease_worker": lease.map(|lease| lease.worker.as_str()),
            ":lease_expires_at": lease.map(|lease| lease.expires_at.millis()),
        })?;
    if changed == 1 {
        Ok(())
    } else {
        Err(StoreError::Damaged(format!(
            "chunk `{}` of batch `{}` is not in state `{}`",
            chunk.number.0,
            chunk.batch,
            from.as_str()
        )))
    }
}

fn select(db: &Connection, sql: &str, params: impl Params) -> Result<Vec<Chunk>> {
    let rows = db.prepare_cached(sql)?.query_map(params, read)?.collect::<SqlResult<_>>()?;
    Ok(rows)
}

/// SQLite knows signed numbers only; the token keeps its bits.
fn token_column(lease: &Lease) -> i64 {
    lease.token.0.cast_signed()
}

fn read(row: &Row<'_>) -> SqlResult<Chunk> {
    let log_from = match row.get("log_segment")? {
        Some(segment) => Some(LogPosition {
            segment,
            offset: row.get("log_offset")?,
            sequence: row.get("log_sequence")?,
        }),
        None => None,
    };
    Ok(Chunk {
        batch: values::text(row, "batch")?,
        number: ChunkNumber(row.get("number")?),
        range: ChunkRange {
            first_entry: row.get("first_entry")?,
            entry_count: row.get("entry_count")?,
            len: row.get("len")?,
        },
        state: values::word(row, "state", ChunkState::parse)?,
        log_from,
        fruitless_takeovers: row.get("fruitless_takeovers")?,
        tally: Tally {
            completed: row.get("completed")?,
            failed: row.get("failed")?,
            usage: values::json::<Usage>(row, "usage")?,
        },
    })
}

fn read_lease(row: &Row<'_>) -> SqlResult<Lease> {
    Ok(Lease {
        batch: values::text(row, "batch")?,
        chunk: ChunkNumber(row.get("number")?),
        token: LeaseToken(row.get::<_, i64>("lease_token")?.cast_unsigned()),
        worker: values::text(row, "lease_worker")?,
        expires_at: values::time(row, "lease_expires_at")?,
    })
}
