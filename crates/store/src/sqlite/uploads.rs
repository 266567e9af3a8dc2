//! Uploads and their parts.

use overnight_domain::file::{File, Part, Upload, UploadEvent, UploadStatus};
use overnight_domain::ids::{BlobKey, PartId, TenantId, UploadId};
use overnight_domain::time::UnixTime;
use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, params};

use super::{files, values};
use crate::Result;

pub(super) fn create(db: &Connection, upload: &Upload) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO uploads (id, tenant, filename, mime_type, purpose, len, status, created_at, expires_at,
             file_ttl_seconds, large, file, completed_parts)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        upload.id.as_str(),
        upload.tenant.as_str(),
        upload.filename,
        upload.mime_type,
        upload.purpose.as_str(),
        upload.len,
        upload.status.as_str(),
        upload.created_at.millis(),
        upload.expires_at.millis(),
        upload.file_ttl_seconds,
        upload.large,
        upload.file.as_ref().map(overnight_domain::ids::FileId::as_str),
        values::to_json(&upload.completed_parts)?,
    ])?;
    Ok(())
}

pub(super) fn upload(db: &Connection, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>> {
    let upload = db
        .prepare_cached("SELECT * FROM uploads WHERE id = ?1 AND tenant = ?2")?
        .query_row([id.as_str(), tenant.as_str()], read)
        .optional()?;
    Ok(upload)
}

pub(super) fn add_part(db: &Connection, tenant: &TenantId, part: &Part, now: UnixTime) -> Result<bool> {
    let changed = db
        .prepare_cached(
            "INSERT INTO parts (id, upload, len, blob, created_at)
             SELECT ?1, id, ?2, ?3, ?4 FROM uploads
             WHERE id = ?5 AND tenant = ?6 AND status = 'pending' AND expires_at > ?7",
        )?
        .execute(params![
            part.id.as_str(),
            part.len,
            part.blob.as_str(),
            part.created_at.millis(),
            part.upload.as_str(),
            tenant.as_str(),
            now.millis(),
        ])?;
    Ok(changed == 1)
}

pub(super) fn parts(db: &Connection, tenant: &TenantId, id: &UploadId) -> Result<Vec<Part>> {
    let rows = db
        .prepare_cached(
            "SELECT parts.* FROM parts JOIN uploads ON uploads.id = parts.upload
             WHERE parts.upload = ?1 AND uploads.tenant = ?2 ORDER BY parts.id",
        )?
        .query_map([id.as_str(), tenant.as_str()], read_part)?
        .collect::<SqlResult<_>>()?;
    Ok(rows)
}

pub(super) fn complete(
    db: &Connection,
    tenant: &TenantId,
    id: &UploadId,
    parts: &[PartId],
    file: &File,
) -> Result<bool> {
    let Some(mut upload) = upload(db, tenant, id)? else { return Ok(false) };
    let from = upload.status;
    let Ok(to) = from.next(UploadEvent::Complete) else { return Ok(false) };
    upload.status = to;
    upload.file = Some(file.id.clone());
    upload.completed_parts = parts.to_vec();
    files::create(db, file)?;
    save(db, &upload, from)
}

pub(super) fn cancel(db: &Connection, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>> {
    let Some(mut upload) = upload(db, tenant, id)? else { return Ok(None) };
    let from = upload.status;
    if let Ok(to) = from.next(UploadEvent::Cancel) {
        upload.status = to;
        save(db, &upload, from)?;
    }
    Ok(Some(upload))
}

pub(super) fn sweep(db: &Connection, now: UnixTime, limit: usize) -> Result<Vec<Part>> {
    db.prepare_cached(
        "UPDATE uploads SET status = 'expired' WHERE status = 'pending' AND expires_at <= ?1",
    )?
    .execute([now.millis()])?;
    let rows = db
        .prepare_cached(
            "SELECT parts.* FROM parts JOIN uploads ON uploads.id = parts.upload
             WHERE uploads.status <> 'pending' ORDER BY parts.id LIMIT ?1",
        )?
        .query_map([values::limit(limit)], read_part)?
        .collect::<SqlResult<_>>()?;
    Ok(rows)
}

/// A part of an upload that is still pending is never forgotten, whatever the caller believes.
pub(super) fn forget_part(db: &Connection, id: &PartId) -> Result<()> {
    db.prepare_cached(
        "DELETE FROM parts WHERE id = ?1
             AND (SELECT status FROM uploads WHERE uploads.id = parts.upload) <> 'pending'",
    )?
    .execute([id.as_str()])?;
    Ok(())
}

fn save(db: &Connection, upload: &Upload, from: UploadStatus) -> Result<bool> {
    let changed = db
        .prepare_cached(
            "UPDATE uploads SET status = ?3, file = ?4, completed_parts = ?5 WHERE id = ?1 AND status = ?2",
        )?
        .execute(params![
            upload.id.as_str(),
            from.as_str(),
            upload.status.as_str(),
            upload.file.as_ref().map(overnight_domain::ids::FileId::as_str),
            values::to_json(&upload.completed_parts)?,
        ])?;
    Ok(changed == 1)
}

fn read(row: &Row<'_>) -> SqlResult<Upload> {
    Ok(Upload {
        id: values::text(row, "id")?,
        tenant: TenantId::new(row.get::<_, String>("tenant")?),
        filename: row.get("filename")?,
        mime_type: row.get("mime_type")?,
        purpose: values::purpose(row)?,
        len: row.get("len")?,
        status: values::upload_status(row)?,
        created_at: values::time(row, "created_at")?,
        expires_at: values::time(row, "expires_at")?,
        file_ttl_seconds: row.get("file_ttl_seconds")?,
        large: row.get("large")?,
        file: values::optional_text(row, "file")?,
        completed_parts: values::json(row, "completed_parts")?,
    })
}

fn read_part(row: &Row<'_>) -> SqlResult<Part> {
    Ok(Part {
        id: values::text(row, "id")?,
        upload: values::text(row, "upload")?,
        len: row.get("len")?,
        blob: BlobKey::new(row.get::<_, String>("blob")?),
        created_at: values::time(row, "created_at")?,
    })
}
