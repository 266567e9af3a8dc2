//! `/v1/uploads`: a file that arrives in parts.
//!
//! Guaranteed: parts may come in any order and at once; the list at completion decides; a completion that is refused
//! leaves the upload pending, and one that is repeated is the same file.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::{Extension, Json};
use futures::TryStreamExt as _;
use md5::{Digest as _, Md5};
use overnight_domain::file::{File, Part, Upload, UploadStatus};
use overnight_domain::ids::{BlobKey, FileId, PartId, UploadId};
use overnight_domain::limits::{PART_LEN_MAX, PARTS_MAX, UPLOAD_TTL};
use overnight_domain::time::UnixTime;
use serde::Serialize;
use serde_json::Value;

use crate::api::auth::Caller;
use crate::api::error::{self, ApiError, Result};
use crate::api::files::FileView;
use crate::api::inspect::Inspector;
use crate::api::json::{self, Members};
use crate::api::multipart::{self, Fields, Form};
use crate::api::receive::{self, Bounds, Draft, FilePlan};
use crate::blobs::BlobWriter;
use crate::clock;
use crate::context::Context;

#[derive(Debug, Serialize)]
pub(super) struct UploadView {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: u64,
    expires_at: u64,
    filename: String,
    purpose: &'static str,
    status: UploadStatus,
    file: Option<FileView>,
}

impl UploadView {
    fn new(upload: Upload, file: Option<File>, now: UnixTime) -> Self {
        let is_over = upload.status == UploadStatus::Pending && upload.expires_at <= now;
        Self {
            id: upload.id.into(),
            object: "upload",
            bytes: upload.len,
            created_at: upload.created_at.seconds(),
            expires_at: upload.expires_at.seconds(),
            filename: upload.filename,
            purpose: upload.purpose.as_str(),
            status: if is_over { UploadStatus::Expired } else { upload.status },
            file: file.map(FileView::from),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct PartView {
    id: String,
    object: &'static str,
    created_at: u64,
    upload_id: String,
}

/// `POST /v1/uploads`
pub(super) async fn create(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<UploadView>> {
    receive::accepts_files(&ctx)?;
    let map = json::parse(&json::read(body).await?)?;
    let body = Members::new(&map);
    let len = body.integer("bytes", 0..=i64::MAX)?.ok_or_else(|| error::missing("bytes"))? as u64;
    let purpose = receive::purpose(body.required_text("purpose")?)?;
    let large = is_large(body, &caller)?;
    if !large && len > ctx.config.limits.file_len {
        return Err(error::file_too_large(ctx.config.limits.file_len));
    }
    let free = ctx.disk.promisable();
    // Parts and the file made of them lie side by side for a moment.
    if len.saturating_mul(2) > free {
        return Err(error::no_disk_for_file(len.saturating_mul(2), free));
    }
    let now = clock::now();
    let upload = Upload {
        id: UploadId::from_uuid(clock::new_id()),
        tenant: caller.tenant,
        filename: multipart::filename(Some(body.required_text("filename")?)),
        mime_type: body.required_text("mime_type")?.to_owned(),
        purpose,
        len,
        status: UploadStatus::Pending,
        created_at: now,
        expires_at: now.plus(UPLOAD_TTL),
        file_ttl_seconds: life(body)?,
        large,
        file: None,
        completed_parts: Vec::new(),
    };
    ctx.store.create_upload(upload.clone()).await?;
    Ok(Json(UploadView::new(upload, None, now)))
}

/// `GET /v1/uploads/{id}`: not OpenAI's, for clients that lost the answer to a completion.
pub(super) async fn retrieve(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<UploadView>> {
    let upload = find(&ctx, &caller, &id).await?;
    show(&ctx, &caller, upload).await
}

/// `POST /v1/uploads/{id}/parts`
pub(super) async fn add_part(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<PartView>> {
    receive::accepts_files(&ctx)?;
    let upload = find(&ctx, &caller, &id).await?;
    check_pending(&upload, clock::now())?;
    check_room(&upload, &ctx.store.parts(&caller.tenant, &upload.id).await?)?;
    let part = write_part(&ctx, &upload, request).await?;
    if !ctx.store.add_part(&caller.tenant, part.clone(), clock::now()).await? {
        ctx.blobs.delete(&part.blob).await?;
        let upload = find(&ctx, &caller, &id).await?;
        return Err(error::upload_not_pending(status(&upload, clock::now())));
    }
    Ok(Json(PartView {
        id: part.id.into(),
        object: "upload.part",
        created_at: part.created_at.seconds(),
        upload_id: id,
    }))
}

/// `POST /v1/uploads/{id}/complete`
pub(super) async fn complete(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<UploadView>> {
    let map = json::parse(&json::read(body).await?)?;
    let body = Members::new(&map);
    let wanted = part_ids(body)?;
    let md5 = body.text("md5")?;
    let upload = find(&ctx, &caller, &id).await?;
    if upload.status == UploadStatus::Completed && upload.completed_parts == wanted {
        return show(&ctx, &caller, upload).await;
    }
    check_pending(&upload, clock::now())?;
    receive::accepts_files(&ctx)?;
    let parts = choose(&wanted, &ctx.store.parts(&caller.tenant, &upload.id).await?)?;
    let sum = parts.iter().map(|part| part.len).sum();
    if sum != upload.len {
        return Err(error::wrong_sum(sum, upload.len));
    }
    let draft = join(&ctx, &upload, &parts, md5).await?;
    if let Err(refusal) = draft.check_content(upload.purpose) {
        receive::discard(&ctx, Some(&draft)).await;
        return Err(refusal);
    }
    let file = draft.clone().into_file(&FilePlan {
        ctx: &ctx,
        caller: &caller,
        purpose: upload.purpose,
        life: upload.file_ttl_seconds.map(std::time::Duration::from_secs),
        large: upload.large,
        now: clock::now(),
    });
    let is_first = ctx.store.complete_upload(&caller.tenant, &upload.id, &wanted, file).await?;
    if is_first {
        ctx.bell.ring();
    } else {
        receive::discard(&ctx, Some(&draft)).await;
    }
    let upload = find(&ctx, &caller, &id).await?;
    if !is_first && upload.completed_parts != wanted {
        return Err(error::upload_not_pending(status(&upload, clock::now())));
    }
    show(&ctx, &caller, upload).await
}

/// `POST /v1/uploads/{id}/cancel`
pub(super) async fn cancel(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<UploadView>> {
    let parsed = UploadId::parse(&id).map_err(|_| error::no_such_upload(&id))?;
    let upload = ctx.store.cancel_upload(&caller.tenant, &parsed).await?;
    let upload = upload.ok_or_else(|| error::no_such_upload(&id))?;
    if upload.status != UploadStatus::Cancelled {
        return Err(error::upload_not_pending(status(&upload, clock::now())));
    }
    ctx.bell.ring();
    show(&ctx, &caller, upload).await
}

async fn find(ctx: &Context, caller: &Caller, id: &str) -> Result<Upload> {
    let parsed = UploadId::parse(id).map_err(|_| error::no_such_upload(id))?;
    let upload = ctx.store.upload(&caller.tenant, &parsed).await?;
    upload.ok_or_else(|| error::no_such_upload(id))
}

async fn show(ctx: &Context, caller: &Caller, upload: Upload) -> Result<Json<UploadView>> {
    let now = clock::now();
    let file = match &upload.file {
        Some(id) => ctx.store.file(&caller.tenant, id, now).await?,
        None => None,
    };
    Ok(Json(UploadView::new(upload, file, now)))
}

fn status(upload: &Upload, now: UnixTime) -> &'static str {
    let is_over = upload.status == UploadStatus::Pending && upload.expires_at <= now;
    if is_over { UploadStatus::Expired.as_str() } else { upload.status.as_str() }
}

fn check_pending(upload: &Upload, now: UnixTime) -> Result<()> {
    match status(upload, now) {
        "pending" => Ok(()),
        other => Err(error::upload_not_pending(other)),
    }
}

/// A part whose answer was lost is sent again, so there may be more than the file needs, but not without end.
fn check_room(upload: &Upload, parts: &[Part]) -> Result<()> {
    if parts.len() >= PARTS_MAX {
        return Err(error::too_many_parts(&format!("it has {PARTS_MAX}, which is the limit")));
    }
    let sum: u64 = parts.iter().map(|part| part.len).sum();
    if sum > upload.len.saturating_mul(2) {
        return Err(error::too_many_parts("they have twice the declared bytes already"));
    }
    Ok(())
}

fn is_large(body: Members<'_>, caller: &Caller) -> Result<bool> {
    let Some(ours) = body.object("overnight")? else { return Ok(false) };
    ours.only(&["large"])?;
    let large = ours.flag("large")?.unwrap_or(false);
    if large {
        caller.admin_or("a file of any size")?;
    }
    Ok(large)
}

fn life(body: Members<'_>) -> Result<Option<u64>> {
    let Some(life) = body.object("expires_after")? else { return Ok(None) };
    receive::anchor(&life.path("anchor"), life.required_text("anchor")?)?;
    let param = life.path("seconds");
    let seconds = life.integer("seconds", i64::MIN..=i64::MAX)?;
    receive::life_seconds(&param, seconds.ok_or_else(|| error::missing(&param))?).map(Some)
}

async fn write_part(ctx: &Context, upload: &Upload, request: Request) -> Result<Part> {
    let id = PartId::from_uuid(clock::new_id());
    let blob = BlobKey::new(format!("parts/{id}"));
    let mut form = Form::of(request)?;
    let mut others = Fields::default();
    while let Some(field) = form.next().await? {
        if field.name() != Some("data") {
            multipart::text(field, &mut others).await?;
            continue;
        }
        let bounds = Bounds { len_max: PART_LEN_MAX, too_large: error::part_too_large, is_jsonl: false };
        let (written, _) = receive::write_blob(ctx, &blob, field, bounds).await?;
        let created_at = clock::now();
        return Ok(Part { id, upload: upload.id.clone(), len: written.len, blob, created_at });
    }
    Err(error::missing("data"))
}

fn part_ids(body: Members<'_>) -> Result<Vec<PartId>> {
    let list = match body.get("part_ids") {
        None => return Err(error::missing("part_ids")),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(error::wrong_type("part_ids", "an array of strings")),
    };
    list.iter()
        .map(|value| {
            let text = value.as_str();
            let text = text.ok_or_else(|| error::wrong_type("part_ids", "an array of strings"))?;
            PartId::parse(text).map_err(|_| error::bad_part(text, "does not exist"))
        })
        .collect()
}

/// The listed parts in the order of the list.
fn choose(wanted: &[PartId], parts: &[Part]) -> Result<Vec<Part>> {
    let mut seen = HashSet::new();
    wanted
        .iter()
        .map(|id| {
            if !seen.insert(id) {
                return Err(error::bad_part(id.as_str(), "is listed twice"));
            }
            let part = parts.iter().find(|part| part.id == *id);
            part.cloned().ok_or_else(|| error::bad_part(id.as_str(), "does not belong to this upload"))
        })
        .collect()
}

/// Copies the parts one after another into a blob of their own.
async fn join(ctx: &Context, upload: &Upload, parts: &[Part], md5: Option<&str>) -> Result<Draft> {
    let id = FileId::from_uuid(clock::new_id());
    let blob = BlobKey::new(format!("files/{id}"));
    let failed = |error| receive::blob_failed(ctx, error);
    let mut writer = ctx.blobs.write(&blob).await.map_err(failed)?;
    let mut inspector = Inspector::default();
    if let Err(refusal) = copy(ctx, parts, &mut writer, &mut inspector, md5).await {
        writer.abort().await;
        return Err(refusal);
    }
    let written = writer.finish().await.map_err(failed)?;
    let filename = upload.filename.clone();
    Ok(Draft { id, filename, blob, written, inspected: inspector.finish() })
}

async fn copy(
    ctx: &Context,
    parts: &[Part],
    writer: &mut BlobWriter,
    inspector: &mut Inspector,
    md5: Option<&str>,
) -> std::result::Result<(), ApiError> {
    let mut hash = Md5::new();
    for part in parts {
        let mut pieces = ctx.blobs.stream(&part.blob, 0..part.len).await?;
        while let Some(piece) = pieces.try_next().await? {
            hash.update(&piece);
            inspector.push(&piece);
            writer.push(&piece).await.map_err(|error| receive::blob_failed(ctx, error))?;
        }
    }
    let found = format!("{:032x}", u128::from_be_bytes(hash.finalize().into()));
    match md5 {
        Some(wanted) if !wanted.eq_ignore_ascii_case(&found) => Err(error::wrong_md5(&found)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
