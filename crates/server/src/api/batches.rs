//! `/v1/batches`: look at, list, cancel, pause, resume, change, delete. Creation has its own file.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::Uri;
use overnight_domain::batch::{Batch, BatchState, BatchStatus, Pause, PausedBy};
use overnight_domain::ids::BatchId;
use overnight_domain::limits::{BATCHES_PAGE_DEFAULT, BATCHES_PAGE_MAX};
use overnight_domain::time::UnixTime;
use overnight_store::{BatchPatch, BatchQuery, BatchWithOpenChunks, Moved};

use crate::api::auth::Caller;
use crate::api::batch_request;
use crate::api::batch_view::BatchView;
use crate::api::error::{self, ApiError, Result};
use crate::api::files::Deletion;
use crate::api::json::{self, Members};
use crate::api::lists::{List, Query};
use crate::api::spans;
use crate::clock;
use crate::context::Context;
use crate::live::LiveView;

/// The end of the year 9999: what clients can still show.
const EXPIRES_AT_MAX: i64 = 253_402_300_799;

/// `GET /v1/batches/{id}`
pub(super) async fn retrieve(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchView>> {
    let live = ctx.live.view();
    let row = find(&ctx, &caller, &id).await?;
    Ok(Json(BatchView::new(&ctx, &live, row)))
}

/// `GET /v1/batches`
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<List<BatchView>>> {
    let query = Query::parse(uri.query());
    let query = BatchQuery {
        states: states(&query)?,
        after: query.after(|text| BatchId::parse(text).ok())?,
        limit: query.limit(1..=BATCHES_PAGE_MAX, BATCHES_PAGE_DEFAULT)?,
    };
    let live = ctx.live.view();
    let page = ctx.store.list_batches(&caller.tenant, query).await?;
    let views = page.rows.into_iter().map(|row| BatchView::new(&ctx, &live, row)).collect();
    Ok(Json(List::new(views, page.has_more, |view: &BatchView| view.id.clone())))
}

/// `POST /v1/batches/{id}/cancel`
pub(super) async fn cancel(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchView>> {
    let batch = parse_id(&id)?;
    let live = ctx.live.view();
    let moved = ctx.store.cancel_batch(&caller.tenant, &batch, clock::now()).await?;
    changed(&ctx, &caller, &live, moved, Call { id: &id, verb: "cancel" }).await
}

/// `POST /v1/batches/{id}/pause`
pub(super) async fn pause(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchView>> {
    let pause =
        Pause { by: PausedBy::Caller, reason: "a caller asked for it".to_owned(), since: clock::now() };
    let patch = BatchPatch { pause: Some(Some(pause)), ..BatchPatch::default() };
    apply(&ctx, &caller, patch, Call { id: &id, verb: "pause" }).await
}

/// `POST /v1/batches/{id}/resume`
pub(super) async fn resume(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchView>> {
    let patch = BatchPatch { pause: Some(None), ..BatchPatch::default() };
    apply(&ctx, &caller, patch, Call { id: &id, verb: "resume" }).await
}

/// `POST /v1/batches/{id}`: another priority, another deadline.
pub(super) async fn update(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<BatchView>> {
    let map = json::parse_optional(&json::read(body).await?)?;
    let row = find(&ctx, &caller, &id).await?;
    let patch = patch(Members::new(&map), &row.batch)?;
    apply(&ctx, &caller, patch, Call { id: &id, verb: "change" }).await
}

/// `DELETE /v1/batches/{id}`: a terminal one, with its output and error file.
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Deletion>> {
    let batch = parse_id(&id)?;
    match ctx.store.delete_batch(&caller.tenant, &batch, clock::now()).await? {
        Moved::To(_) => {
            ctx.bell.ring();
            Ok(Json(Deletion::new(id, "batch")))
        }
        Moved::Illegal(batch) => Err(conflict(&batch, "delete")),
        Moved::NotFound => Err(error::no_such_batch(&id)),
    }
}

/// The caller's batch of this name. What is live must be looked at before.
pub(super) async fn find(ctx: &Context, caller: &Caller, id: &str) -> Result<BatchWithOpenChunks> {
    let row = ctx.store.batch(&caller.tenant, &parse_id(id)?).await?;
    row.ok_or_else(|| error::no_such_batch(id))
}

fn parse_id(id: &str) -> Result<BatchId> {
    BatchId::parse(id).map_err(|_| error::no_such_batch(id))
}

/// `?status=` may be repeated or a list with commas.
fn states(query: &Query) -> Result<Vec<BatchState>> {
    let mut states = Vec::new();
    for word in query.all("status").flat_map(|text| text.split(',')).map(str::trim) {
        if word.is_empty() {
            continue;
        }
        let status = BatchStatus::parse(word).ok_or_else(|| {
            let known = BatchStatus::ALL.map(|status| format!("'{}'", status.as_str())).join(", ");
            error::invalid_value("status", word, &format!("Supported values are: {known}."))
        })?;
        states.extend(BatchState::ALL.into_iter().filter(|state| state.status() == status));
    }
    Ok(states)
}

fn patch(body: Members<'_>, batch: &Batch) -> Result<BatchPatch> {
    let mut patch = BatchPatch::default();
    if let Some(ours) = body.object("overnight")? {
        ours.only(&["priority"])?;
        patch.priority = batch_request::priority(ours)?;
    }
    if let Some(window) = body.text("completion_window")? {
        patch.expires_at = Some(batch.moments.created_at.plus(spans::completion_window(window)?));
    }
    if let Some(seconds) = body.integer("expires_at", 0..=EXPIRES_AT_MAX)? {
        patch.expires_at = Some(UnixTime::from_millis(seconds as u64 * 1_000));
    }
    if patch.priority.is_none() && patch.expires_at.is_none() {
        return Err(error::nothing_to_change(&[
            "overnight.priority",
            "completion_window",
            "expires_at",
        ]));
    }
    Ok(patch)
}

/// Who is meant and what is wanted, for the messages.
#[derive(Clone, Copy)]
struct Call<'a> {
    id: &'a str,
    verb: &'static str,
}

async fn apply(
    ctx: &Context,
    caller: &Caller,
    patch: BatchPatch,
    call: Call<'_>,
) -> Result<Json<BatchView>> {
    let batch = parse_id(call.id)?;
    let live = ctx.live.view();
    let moved = ctx.store.update_batch(&caller.tenant, &batch, patch, clock::now()).await?;
    changed(ctx, caller, &live, moved, call).await
}

/// Shows the batch as it now is: read again, so that its open chunks count.
async fn changed(
    ctx: &Context,
    caller: &Caller,
    live: &LiveView,
    moved: Moved,
    call: Call<'_>,
) -> Result<Json<BatchView>> {
    match moved {
        Moved::To(batch) => {
            ctx.bell.ring();
            let row = ctx.store.batch(&caller.tenant, &batch.id).await?;
            let row = row.unwrap_or(BatchWithOpenChunks { batch: *batch, open: Vec::new() });
            Ok(Json(BatchView::new(ctx, live, row)))
        }
        Moved::Illegal(batch) => Err(conflict(&batch, call.verb)),
        Moved::NotFound => Err(error::no_such_batch(call.id)),
    }
}

fn conflict(batch: &Batch, verb: &str) -> ApiError {
    error::batch_conflict(verb, batch.state.status().as_str())
}

#[cfg(test)]
mod tests;
