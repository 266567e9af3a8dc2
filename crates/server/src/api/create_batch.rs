//! `POST /v1/batches`: from a stored file, or with the file in the same call.
//!
//! Guaranteed: whatever is refused created nothing, and a creation that is repeated within some minutes (the same
//! `Idempotency-Key`, or an SDK that says it is trying again with the same body) is the first one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::{Extension, Json};
use http::HeaderMap;
use overnight_domain::batch::{Batch, BatchMoments, BatchState};
use overnight_domain::file::{File, Purpose};
use overnight_domain::ids::{BatchId, FileId};
use overnight_domain::limits::CREATION_KEY_TTL;
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;
use overnight_store::{
    Admission, AdmissionRefusal, BatchWithOpenChunks, Created, CreationKey, StoreError,
};
use sha2::{Digest as _, Sha256};

use crate::api::auth::Caller;
use crate::api::batch_request::{self, NewBatch};
use crate::api::batch_view::BatchView;
use crate::api::error::{self, ApiError, Result};
use crate::api::json::{self, Members};
use crate::api::multipart;
use crate::api::receive::{self, FilePlan, Settings};
use crate::clock;
use crate::context::Context;
use crate::disk;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const RETRY_COUNT: &str = "x-stainless-retry-count";
const KEY_LEN_MAX: usize = 255;

pub(super) async fn create(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<BatchView>> {
    accepts_batches(&ctx)?;
    let batch = if multipart::is_form(request.headers()) {
        create_with_file(&ctx, &caller, request).await?
    } else {
        create_from_file(&ctx, &caller, request).await?
    };
    ctx.bell.ring();
    let live = ctx.live.view();
    Ok(Json(BatchView::new(&ctx, &live, BatchWithOpenChunks { batch, open: Vec::new() })))
}

/// Whether the machine may take more work; asked before a body is read.
pub(super) fn accepts_batches(ctx: &Context) -> Result<()> {
    receive::accepts_files(ctx)?;
    ctx.gpus.refusal().map_or(Ok(()), |reason| Err(error::gpu_unhealthy(&reason)))
}

async fn create_from_file(ctx: &Context, caller: &Caller, request: Request) -> Result<Batch> {
    let (head, body) = request.into_parts();
    let bytes = json::read(body).await?;
    let key = creation_key(&head.headers, caller, &[&bytes])?;
    let map = json::parse(&bytes)?;
    let body = Members::new(&map);
    let id = body.required_text("input_file_id")?;
    let new = NewBatch::parse(body, caller, &ctx.config)?;
    let file = match FileId::parse(id) {
        Ok(parsed) => ctx.store.file(&caller.tenant, &parsed, clock::now()).await?,
        Err(_) => None,
    };
    let file = file.ok_or_else(|| error::no_such_input(id))?;
    if file.purpose != Purpose::Batch {
        return Err(error::wrong_input_purpose(id, file.purpose.as_str()));
    }
    admit(ctx, Creation { new, file: &file, parent: None, key }).await
}

async fn create_with_file(ctx: &Context, caller: &Caller, request: Request) -> Result<Batch> {
    let headers = request.headers().clone();
    let received = receive::receive(ctx, caller, request, Some(Purpose::Batch)).await?;
    let draft = received.draft.ok_or_else(|| error::missing("file"))?;
    let parsed = draft.check_content(Purpose::Batch).and_then(|()| {
        let map = batch_request::body_of_form(&received.fields)?;
        let settings = Settings::of(&received.fields, caller)?;
        let mut parts: Vec<&[u8]> = vec![&draft.written.sha256.0];
        for (name, value) in received.fields.iter() {
            parts.extend([name.as_bytes(), value.as_bytes()]);
        }
        let key = creation_key(&headers, caller, &parts)?;
        let new = NewBatch::parse(Members::new(&map), caller, &ctx.config)?;
        Ok((new, settings, key))
    });
    let (new, settings, key) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => {
            receive::discard(ctx, Some(&draft)).await;
            return Err(refusal);
        }
    };
    let file = draft.into_file(&FilePlan {
        ctx,
        caller,
        purpose: Purpose::Batch,
        life: settings.life()?,
        large: settings.large,
        now: clock::now(),
    });
    admit_with(ctx, Creation { new, file: &file, parent: None, key }).await
}

/// Creates the file and its batch; without the batch there is no file either.
pub(super) async fn admit_with(ctx: &Context, creation: Creation<'_>) -> Result<Batch> {
    let file = creation.file;
    ctx.store.create_file(file.clone()).await?;
    let admitted = admit(ctx, creation).await;
    if !matches!(&admitted, Ok(batch) if batch.input_file == file.id) {
        ctx.store.delete_file(&file.tenant, &file.id, clock::now()).await?;
    }
    admitted
}

/// Everything that a creation needs.
pub(super) struct Creation<'a> {
    pub(super) new: NewBatch,
    pub(super) file: &'a File,
    pub(super) parent: Option<BatchId>,
    pub(super) key: CreationKey,
}

/// Creates the batch if the limits admit it.
async fn admit(ctx: &Context, creation: Creation<'_>) -> Result<Batch> {
    let Creation { new, file, parent, key } = creation;
    let limits = &ctx.config.limits;
    if !new.options.large && file.lines > limits.requests_per_batch {
        return Err(error::batch_too_large(file.lines, limits.requests_per_batch));
    }
    let now = clock::now();
    let batch = Batch {
        id: BatchId::from_uuid(clock::new_id()),
        tenant: file.tenant.clone(),
        route: new.route,
        input_file: file.id.clone(),
        input_blob: file.blob.clone(),
        input_len: file.len,
        completion_window: new.completion_window,
        metadata: new.metadata,
        options: new.options,
        parent,
        model: None,
        state: BatchState::Validating,
        moments: BatchMoments::new(now, now.plus(new.window)),
        pause: None,
        errors: Vec::new(),
        plan_blob: None,
        total: 0,
        tally: Tally::default(),
        output_file: None,
        error_file: None,
        reserved_len: disk::reservation(file.lines, file.len),
    };
    let admission = Admission {
        unfinished_batches_max: limits.unfinished_batches,
        queued_requests_max: limits.queued_requests,
        expected_requests: file.lines,
        disk_free: ctx.disk.promisable().min(i64::MAX as u64),
    };
    let refusal = match ctx.store.create_batch(batch.clone(), admission, Some(key)).await {
        Ok(Created::New) => return Ok(batch),
        Ok(Created::Existing(earlier)) => return Ok(*earlier),
        Ok(Created::Refused(refusal)) => refusal,
        Err(StoreError::Unknown(reason)) => return read_again(ctx, &batch, reason).await,
        Err(error) => return Err(error.into()),
    };
    Err(match refusal {
        AdmissionRefusal::UnfinishedBatches { now } => {
            error::too_many_batches(now, limits.unfinished_batches)
        }
        AdmissionRefusal::QueuedRequests { now } => {
            error::too_many_queued(now, file.lines, limits.queued_requests)
        }
        AdmissionRefusal::Disk { needed, free } => error::no_disk_for_batch(needed, free),
    })
}

/// The store did not say whether it happened: what it holds now does.
async fn read_again(ctx: &Context, batch: &Batch, reason: String) -> Result<Batch> {
    match ctx.store.batch(&batch.tenant, &batch.id).await? {
        Some(row) => Ok(row.batch),
        None => Err(ApiError::from(StoreError::Unavailable(reason))),
    }
}

/// The name of a creation: the caller's own, or what it says. A body alone names one only when the SDK says that it is
/// trying again; two equal batches may be meant.
pub(super) fn creation_key(headers: &HeaderMap, caller: &Caller, body: &[&[u8]]) -> Result<CreationKey> {
    let not_before = clock::now().millis().saturating_sub(CREATION_KEY_TTL.as_millis() as u64);
    let not_before = UnixTime::from_millis(not_before);
    if let Some(value) = headers.get(IDEMPOTENCY_KEY) {
        let name = value.to_str().ok().filter(|name| !name.is_empty() && name.len() <= KEY_LEN_MAX);
        let name = name.ok_or_else(|| {
            error::invalid_value("Idempotency-Key", "", "It is 1 to 255 visible ASCII characters.")
        })?;
        return Ok(CreationKey { key: format!("key:{name}"), not_before, is_repeat: true });
    }
    let mut hash = Sha256::new();
    for part in [caller.tenant.as_str().as_bytes()].iter().chain(body) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = overnight_domain::file::Sha256(hash.finalize().into());
    let attempt = headers.get(RETRY_COUNT).and_then(|value| value.to_str().ok());
    let is_repeat = attempt.and_then(|text| text.parse::<u32>().ok()).is_some_and(|count| count > 0);
    Ok(CreationKey { key: format!("body:{digest}"), not_before, is_repeat })
}
