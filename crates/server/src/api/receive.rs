//! Receiving bytes: from a field of a form into a blob, with bounded memory and limits that hold on the way.
//!
//! Guaranteed: a file that is too large, has a bad setting or is no JSONL is refused as soon as that is known, whether
//! the setting stood before or behind the file, and what was written of it is removed. Nothing here makes a file
//! visible.

use std::time::Duration;

use axum::extract::Request;
use http::header::CONTENT_LENGTH;
use multer::Field;
use overnight_domain::file::{File, Purpose};
use overnight_domain::ids::{BlobKey, FileId};
use overnight_domain::limits::EXPIRES_AFTER_SECONDS;
use overnight_domain::time::UnixTime;

use crate::api::auth::Caller;
use crate::api::error::{self, ApiError};
use crate::api::inspect::{Beginning, Inspected, Inspector};
use crate::api::multipart::{self, Fields, Form};
use crate::blobs::{BlobError, BlobWriter, Written};
use crate::clock;
use crate::context::Context;

/// A form may be this much longer than the file in it: boundaries, names and text fields.
const FORM_OVERHEAD: u64 = 64 * 1024;

/// What the text fields of a form ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settings {
    pub(super) purpose: Option<Purpose>,
    has_anchor: bool,
    seconds: Option<u64>,
    pub(super) large: bool,
}

impl Settings {
    /// Checks what is there; more may come behind the file.
    pub(super) fn of(fields: &Fields, caller: &Caller) -> Result<Self, ApiError> {
        let mut settings = Self::default();
        if let Some(text) = fields.get("purpose") {
            settings.purpose = Some(purpose(text)?);
        }
        if let Some(text) = fields.get("expires_after[anchor]") {
            anchor("expires_after[anchor]", text)?;
            settings.has_anchor = true;
        }
        if let Some(text) = fields.get("expires_after[seconds]") {
            let param = "expires_after[seconds]";
            let number = text.parse().map_err(|_| error::wrong_type(param, "an integer"))?;
            settings.seconds = Some(life_seconds(param, number)?);
        }
        match fields.get("overnight[large]") {
            None | Some("false") => {}
            Some("true") => {
                caller.admin_or("a file of any size")?;
                settings.large = true;
            }
            Some(other) => {
                return Err(error::invalid_value("overnight[large]", other, "It is 'true' or 'false'."));
            }
        }
        Ok(settings)
    }

    /// The life that was asked for, once the whole form is read.
    pub(super) fn life(&self) -> Result<Option<Duration>, ApiError> {
        match (self.has_anchor, self.seconds) {
            (false, None) => Ok(None),
            (true, Some(seconds)) => Ok(Some(Duration::from_secs(seconds))),
            (false, Some(_)) => Err(error::missing("expires_after[anchor]")),
            (true, None) => Err(error::missing("expires_after[seconds]")),
        }
    }
}

pub(super) fn purpose(text: &str) -> Result<Purpose, ApiError> {
    let known = Purpose::UPLOADABLE;
    known.into_iter().find(|purpose| purpose.as_str() == text).ok_or_else(|| {
        let names = known.map(|purpose| format!("'{}'", purpose.as_str())).join(", ");
        error::invalid_value("purpose", text, &format!("Supported values are: {names}."))
    })
}

/// Lives are counted from the creation of the file, and from nothing else.
pub(super) fn anchor(param: &str, text: &str) -> Result<(), ApiError> {
    if text == "created_at" {
        return Ok(());
    }
    Err(error::invalid_value(param, text, "Supported values are: 'created_at'."))
}

pub(super) fn life_seconds(param: &str, number: i64) -> Result<u64, ApiError> {
    let range = EXPIRES_AFTER_SECONDS;
    match u64::try_from(number) {
        Ok(seconds) if range.contains(&seconds) => Ok(seconds),
        _ => Err(error::out_of_range(param, number, &(*range.start() as i64..=*range.end() as i64))),
    }
}

/// A form with a file in it, read to its end.
pub(super) struct Received {
    pub(super) fields: Fields,
    pub(super) draft: Option<Draft>,
}

/// Durable bytes that are no file yet.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) id: FileId,
    pub(super) filename: String,
    pub(super) blob: BlobKey,
    pub(super) written: Written,
    pub(super) inspected: Inspected,
}

impl Draft {
    /// Refuses what cannot be the input of a batch.
    pub(super) fn check_content(&self, purpose: Purpose) -> Result<(), ApiError> {
        check_content(purpose, &self.inspected)
    }

    pub(super) fn into_file(self, plan: &FilePlan<'_>) -> File {
        let life = plan.life.or(plan.ctx.config.retention.files);
        File {
            id: self.id,
            tenant: plan.caller.tenant.clone(),
            filename: self.filename,
            purpose: plan.purpose,
            len: self.written.len,
            lines: self.inspected.lines,
            sha256: self.written.sha256,
            blob: self.blob,
            created_at: plan.now,
            expires_at: life.map(|life| plan.now.plus(life)),
            large: plan.large,
        }
    }
}

/// What a draft becomes.
pub(super) struct FilePlan<'a> {
    pub(super) ctx: &'a Context,
    pub(super) caller: &'a Caller,
    pub(super) purpose: Purpose,
    pub(super) life: Option<Duration>,
    pub(super) large: bool,
    pub(super) now: UnixTime,
}

pub(super) fn check_content(purpose: Purpose, inspected: &Inspected) -> Result<(), ApiError> {
    match &inspected.beginning {
        _ if purpose != Purpose::Batch => Ok(()),
        Beginning::Json => Ok(()),
        Beginning::Empty => Err(error::file_empty()),
        Beginning::Other(reason) => Err(error::file_not_jsonl(reason)),
    }
}

/// Reads a form whose `file` goes into a blob of its own. `implied` is the purpose where the form need not name one.
pub(super) async fn receive(
    ctx: &Context,
    caller: &Caller,
    request: Request,
    implied: Option<Purpose>,
) -> Result<Received, ApiError> {
    accepts_files(ctx)?;
    let announced = announced_len(&request);
    let mut form = Form::of(request)?;
    let mut received = Received { fields: Fields::default(), draft: None };
    let read = read_form(ctx, caller, &mut form, announced, implied, &mut received).await;
    let checked = read.and_then(|()| Settings::of(&received.fields, caller)?.life());
    match checked {
        Ok(_) => Ok(received),
        Err(refusal) => {
            discard(ctx, received.draft.as_ref()).await;
            Err(refusal)
        }
    }
}

/// Removes the bytes of a draft that does not become a file.
pub(super) async fn discard(ctx: &Context, draft: Option<&Draft>) {
    if let Some(draft) = draft
        && let Err(error) = ctx.blobs.delete(&draft.blob).await
    {
        tracing::warn!(key = %draft.blob, %error, "failed to remove the bytes of a refused file; upkeep will");
    }
}

pub(super) fn accepts_files(ctx: &Context) -> Result<(), ApiError> {
    if ctx.disk.is_full() { Err(error::disk_full()) } else { Ok(()) }
}

pub(super) fn announced_len(request: &Request) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn read_form(
    ctx: &Context,
    caller: &Caller,
    form: &mut Form,
    announced: Option<u64>,
    implied: Option<Purpose>,
    received: &mut Received,
) -> Result<(), ApiError> {
    while let Some(field) = form.next().await? {
        if field.name() != Some("file") {
            multipart::text(field, &mut received.fields).await?;
            continue;
        }
        if received.draft.is_some() {
            return Err(error::bad_form(&"it has more than one `file`"));
        }
        let settings = Settings::of(&received.fields, caller)?;
        let len_max = if settings.large { u64::MAX } else { ctx.config.limits.file_len };
        check_announced(ctx, announced, len_max)?;
        let id = FileId::from_uuid(clock::new_id());
        let blob = BlobKey::new(format!("files/{id}"));
        let filename = multipart::filename(field.file_name());
        let bounds = Bounds {
            len_max,
            too_large: error::file_too_large,
            is_jsonl: settings.purpose.or(implied) == Some(Purpose::Batch),
        };
        let (written, inspected) = write_blob(ctx, &blob, field, bounds).await?;
        received.draft = Some(Draft { id, filename, blob, written, inspected });
    }
    Ok(())
}

fn check_announced(ctx: &Context, announced: Option<u64>, len_max: u64) -> Result<(), ApiError> {
    let Some(len) = announced else { return Ok(()) };
    if len.saturating_sub(FORM_OVERHEAD) > len_max {
        return Err(error::file_too_large(len_max));
    }
    let free = ctx.disk.promisable();
    if len > free {
        return Err(error::no_disk_for_file(len, free));
    }
    Ok(())
}

/// What a field is held to while it is written.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) len_max: u64,
    pub(super) too_large: fn(u64) -> ApiError,
    /// Known to be meant as JSONL, so that anything else can be refused before its end.
    pub(super) is_jsonl: bool,
}

pub(super) async fn write_blob(
    ctx: &Context,
    key: &BlobKey,
    field: Field<'static>,
    bounds: Bounds,
) -> Result<(Written, Inspected), ApiError> {
    let mut writer = ctx.blobs.write(key).await.map_err(|error| blob_failed(ctx, error))?;
    let mut inspector = Inspector::default();
    if let Err(refusal) = fill(ctx, &mut writer, &mut inspector, field, bounds).await {
        writer.abort().await;
        return Err(refusal);
    }
    let written = writer.finish().await.map_err(|error| blob_failed(ctx, error))?;
    Ok((written, inspector.finish()))
}

async fn fill(
    ctx: &Context,
    writer: &mut BlobWriter,
    inspector: &mut Inspector,
    mut field: Field<'static>,
    bounds: Bounds,
) -> Result<(), ApiError> {
    while let Some(piece) = field.chunk().await.map_err(multipart::broken)? {
        if writer.len() + piece.len() as u64 > bounds.len_max {
            return Err((bounds.too_large)(bounds.len_max));
        }
        accepts_files(ctx)?;
        inspector.push(&piece);
        if let Some(reason) = inspector.refusal().filter(|_| bounds.is_jsonl) {
            return Err(error::file_not_jsonl(reason));
        }
        writer.push(&piece).await.map_err(|error| blob_failed(ctx, error))?;
    }
    Ok(())
}

/// A write that found no room stops everything else at once.
pub(super) fn blob_failed(ctx: &Context, error: BlobError) -> ApiError {
    if matches!(error, BlobError::Full) {
        ctx.disk.note_full();
    }
    ApiError::from(error)
}
