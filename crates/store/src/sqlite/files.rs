//! Files: what is visible, what is hidden, and what may be forgotten.

use overnight_domain::file::File;
use overnight_domain::ids::{BlobKey, FileId, TenantId};
use overnight_domain::time::UnixTime;
use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, named_params, params};

use super::values;
use crate::{Direction, FileQuery, Page, Result};

/// The condition under which a file is there for its tenant.
const VISIBLE: &str = "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > :now)";

/// An unfinished batch reads its input until it is closed, so that the bytes must stay.
const NEEDED: &str = "EXISTS (SELECT 1 FROM batches WHERE batches.input_file = files.id AND batches.state IN \
    ('validating', 'in_progress', 'finalizing', 'expiring', 'cancelling'))";

pub(super) fn create(db: &Connection, file: &File) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO files (id, tenant, filename, purpose, len, lines, sha256, blob, created_at, expires_at, large)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        file.id.as_str(),
        file.tenant.as_str(),
        file.filename,
        file.purpose.as_str(),
        file.len,
        file.lines,
        file.sha256.to_string(),
        file.blob.as_str(),
        file.created_at.millis(),
        file.expires_at.map(UnixTime::millis),
        file.large,
    ])?;
    Ok(())
}

pub(super) fn file(
    db: &Connection,
    tenant: &TenantId,
    id: &FileId,
    now: UnixTime,
) -> Result<Option<File>> {
    let file = db
        .prepare_cached(&format!(
            "SELECT * FROM files WHERE id = :id AND tenant = :tenant AND {VISIBLE}"
        ))?
        .query_row(
            named_params! { ":id": id.as_str(), ":tenant": tenant.as_str(), ":now": now.millis() },
            read,
        )
        .optional()?;
    Ok(file)
}

pub(super) fn list(
    db: &Connection,
    tenant: &TenantId,
    query: &FileQuery,
    now: UnixTime,
) -> Result<Page<File>> {
    let (beyond, order) = match query.direction {
        Direction::NewestFirst => ("<", "DESC"),
        Direction::OldestFirst => (">", "ASC"),
    };
    let rows = db
        .prepare_cached(&format!(
            "SELECT * FROM files WHERE tenant = :tenant AND {VISIBLE}
             AND (:purpose IS NULL OR purpose = :purpose) AND (:after IS NULL OR id {beyond} :after)
             ORDER BY id {order} LIMIT :limit"
        ))?
        .query_map(
            named_params! {
                ":tenant": tenant.as_str(),
                ":now": now.millis(),
                ":purpose": query.purpose.map(overnight_domain::file::Purpose::as_str),
                ":after": query.after.as_ref().map(FileId::as_str),
                ":limit": values::limit(query.limit.saturating_add(1)),
            },
            read,
        )?
        .collect::<SqlResult<Vec<_>>>()?;
    Ok(Page::cut(rows, query.limit))
}

pub(super) fn delete(db: &Connection, tenant: &TenantId, id: &FileId, now: UnixTime) -> Result<bool> {
    let changed = db
        .prepare_cached(&format!(
            "UPDATE files SET deleted_at = :now WHERE id = :id AND tenant = :tenant AND {VISIBLE}"
        ))?
        .execute(
            named_params! { ":id": id.as_str(), ":tenant": tenant.as_str(), ":now": now.millis() },
        )?;
    Ok(changed == 1)
}

/// Hides a file that went with its batch.
pub(super) fn hide(db: &Connection, id: &FileId, now: UnixTime) -> Result<()> {
    db.prepare_cached("UPDATE files SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL")?
        .execute(params![id.as_str(), now.millis()])?;
    Ok(())
}

pub(super) fn dead(db: &Connection, now: UnixTime, limit: usize) -> Result<Vec<File>> {
    let rows = db
        .prepare_cached(&format!(
            "SELECT * FROM files WHERE (deleted_at IS NOT NULL OR expires_at <= :now) AND NOT {NEEDED}
             ORDER BY id LIMIT :limit"
        ))?
        .query_map(named_params! { ":now": now.millis(), ":limit": values::limit(limit) }, read)?
        .collect::<SqlResult<_>>()?;
    Ok(rows)
}

/// What nobody has deleted and what cannot expire is never forgotten, whatever the caller believes.
pub(super) fn forget(db: &Connection, id: &FileId) -> Result<()> {
    db.prepare_cached(&format!(
        "DELETE FROM files WHERE id = ?1 AND (deleted_at IS NOT NULL OR expires_at IS NOT NULL) AND NOT {NEEDED}"
    ))?
    .execute([id.as_str()])?;
    Ok(())
}

pub(super) fn known_blobs(db: &Connection, keys: &[BlobKey]) -> Result<Vec<BlobKey>> {
    let mut statement = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM files WHERE blob = ?1) OR EXISTS (SELECT 1 FROM parts WHERE blob = ?1)
             OR EXISTS (SELECT 1 FROM batches WHERE input_blob = ?1)
             OR EXISTS (SELECT 1 FROM batches WHERE plan_blob = ?1)",
    )?;
    let mut known = Vec::new();
    for key in keys {
        if statement.query_row([key.as_str()], |row| row.get(0))? {
            known.push(key.clone());
        }
    }
    Ok(known)
}

fn read(row: &Row<'_>) -> SqlResult<File> {
    Ok(File {
        id: values::text(row, "id")?,
        tenant: TenantId::new(row.get::<_, String>("tenant")?),
        filename: row.get("filename")?,
        purpose: values::purpose(row)?,
        len: row.get("len")?,
        lines: row.get("lines")?,
        sha256: values::text(row, "sha256")?,
        blob: BlobKey::new(row.get::<_, String>("blob")?),
        created_at: values::time(row, "created_at")?,
        expires_at: values::optional_time(row, "expires_at")?,
        large: row.get("large")?,
    })
}
