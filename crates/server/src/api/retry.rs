//! `POST /v1/batches/{id}/retry`: failed requests once more, as a batch of their own.
//! `GET /v1/batches/{id}/merged`: all lines, with what the retries made of the failed ones.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::header::CONTENT_TYPE;
use overnight_domain::batch::Batch;
use overnight_domain::file::Purpose;
use overnight_domain::ids::{BlobKey, FileId};
use overnight_store::BatchWithOpenChunks;
use serde_json::Value;

use crate::api::auth::Caller;
use crate::api::batch_request::{self, NewBatch};
use crate::api::batch_view::BatchView;
use crate::api::create_batch::{self, Creation};
use crate::api::error::{self, ApiError, Result};
use crate::api::inspect::{Beginning, Inspected};
use crate::api::json::{self, Members};
use crate::api::receive::{self, Draft, FilePlan};
use crate::api::{batches, results, spans};
use crate::clock;
use crate::context::Context;
use crate::retry::collect::{self, CollectError, Selection};
use crate::retry::merge::{self, MergeError};

/// `POST /v1/batches/{id}/retry`
pub(super) async fn retry(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<BatchView>> {
    create_batch::accepts_batches(&ctx)?;
    let (head, body) = request.into_parts();
    let bytes = json::read(body).await?;
    let key = create_batch::creation_key(&head.headers, &caller, &[id.as_bytes(), &bytes])?;
    let map = json::parse_optional(&bytes)?;
    let body = Members::new(&map);
    let selection = selection(body)?;
    let parent = batches::find(&ctx, &caller, &id).await?.batch;
    let new = NewBatch {
        route: parent.route,
        window: spans::completion_window(&parent.completion_window)?,
        completion_window: parent.completion_window.clone(),
        metadata: parent.metadata.clone(),
        options: batch_request::options(body, &caller, parent.options.clone())?,
    };
    check_ended(&parent, "retry")?;
    let draft = draft(&ctx, &parent, selection).await?;
    let file = draft.into_file(&FilePlan {
        ctx: &ctx,
        caller: &caller,
        purpose: Purpose::Batch,
        life: None,
        large: new.options.large,
        now: clock::now(),
    });
    let parent = Some(parent.id);
    let batch = create_batch::admit_with(&ctx, Creation { new, file: &file, parent, key }).await?;
    ctx.bell.ring();
    let live = ctx.live.view();
    Ok(Json(BatchView::new(&ctx, &live, BatchWithOpenChunks { batch, open: Vec::new() })))
}

/// `GET /v1/batches/{id}/merged`
pub(super) async fn merged(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response> {
    let batch = batches::find(&ctx, &caller, &id).await?.batch;
    check_ended(&batch, "merge")?;
    let lines = merge::merged(Arc::clone(&ctx), batch).await.map_err(|error| match error {
        MergeError::TooMany => error::too_many_to_merge(merge::BATCHES_MAX),
        MergeError::Results(error) => results::refuse(error, None),
    })?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn check_ended(batch: &Batch, verb: &'static str) -> Result<()> {
    if batch.state.is_terminal() {
        return Ok(());
    }
    Err(error::batch_conflict(verb, batch.state.status().as_str()))
}

fn selection(body: Members<'_>) -> Result<Selection> {
    let expected = "an array of strings";
    let custom_ids = match body.get("custom_ids") {
        None => None,
        Some(Value::Array(list)) if list.is_empty() => return Err(error::empty_list("custom_ids")),
        Some(Value::Array(list)) => {
            let ids: Option<HashSet<String>> =
                list.iter().map(|value| value.as_str().map(str::to_owned)).collect();
            Some(ids.ok_or_else(|| error::wrong_type("custom_ids", expected))?)
        }
        Some(_) => return Err(error::wrong_type("custom_ids", expected)),
    };
    Ok(Selection { custom_ids, error_type: body.text("error_type")?.map(str::to_owned) })
}

/// The failed lines as the bytes of a file to be.
async fn draft(ctx: &Context, parent: &Batch, selection: Selection) -> Result<Draft> {
    let id = FileId::from_uuid(clock::new_id());
    let blob = BlobKey::new(format!("files/{id}"));
    let collected = collect::collect(ctx, parent, selection, &blob).await;
    let collected = collected.map_err(|error| -> ApiError {
        match error {
            CollectError::Nothing => error::nothing_to_retry(),
            CollectError::Unknown(custom_id) => error::no_such_failed_request(&custom_id),
            CollectError::Results(error) => results::refuse(error, None),
            CollectError::Blob(error) => receive::blob_failed(ctx, error),
        }
    })?;
    Ok(Draft {
        id,
        filename: format!("{}_retry.jsonl", parent.id),
        blob,
        written: collected.written,
        inspected: Inspected { lines: collected.lines, beginning: Beginning::Json },
    })
}

#[cfg(test)]
mod tests;
