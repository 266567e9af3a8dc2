//! `GET /v1/overview`: everything that the page at `/` shows, in one answer.
//!
//! It is asked for every two seconds by everybody who has the page open, so that its cost is bounded: some rows of the
//! store, the newest failures, and what is in memory anyway. Batches and failures are the caller's; how the server is
//! and how fast it goes is the same for everybody, as in `/health` and `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::header::CACHE_CONTROL;
use overnight_domain::batch::{Batch, BatchState};
use overnight_domain::limits::{OVERVIEW_ENDED_MAX, OVERVIEW_FAILURES_MAX, OVERVIEW_UNFINISHED_MAX};
use overnight_store::{BatchQuery, BatchWithOpenChunks};
use serde::Serialize;
use serde_json::Value;

use crate::api::auth::Caller;
use crate::api::batch_view::BatchView;
use crate::api::error::Result;
use crate::api::health;
use crate::api::lists::List;
use crate::clock;
use crate::context::Context;
use crate::failures::KEPT_PER_BATCH;
use crate::live::LiveView;
use crate::results::{self, FailedQuery, FailedRequest};

/// Ended batches whose failures are looked at.
const ENDED_LOOKED_AT: usize = 3;
/// A longer error line of a batch that runs is not read: an engine that answers errors with megabytes is seen in `/failed`.
const LINE_READ_MAX: u32 = 64 * 1024;
/// Problems of a rejected batch that are shown; `GET /v1/batches/{id}` has them all.
const ERRORS_SHOWN: usize = 4;
/// A message is cut at this many characters; `/failed` has it whole.
const MESSAGE_SHOWN: usize = 500;

#[derive(Debug, Serialize)]
struct Overview {
    object: &'static str,
    now_ms: u64,
    /// Who asks, and whether it may send batches of any size.
    tenant: String,
    admin: bool,
    /// As `GET /health` answers.
    health: Value,
    rate: Rate,
    /// In the order of the queue.
    unfinished: List<BatchView>,
    /// Newest first.
    ended: List<BatchView>,
    /// Newest first within their batch.
    failures: Vec<Failure>,
}

/// Results of all batches since the process began.
#[derive(Debug, Serialize)]
struct Rate {
    per_second: Option<f64>,
    step_seconds: u64,
    /// Results in each step that is over, the oldest first.
    steps: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Failure {
    batch: String,
    custom_id: String,
    error_type: String,
    error_message: String,
    status_code: Option<u16>,
    failed_at: u64,
    endpoint: Option<String>,
}

pub(super) async fn overview(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response> {
    let live = ctx.live.view();
    let query = BatchQuery {
        states: BatchState::ALL.into_iter().filter(|state| state.is_terminal()).collect(),
        after: None,
        limit: OVERVIEW_ENDED_MAX,
    };
    let (unfinished, ended, (_, health)) = tokio::join!(
        ctx.store.queue_of(&caller.tenant, OVERVIEW_UNFINISHED_MAX),
        ctx.store.list_batches(&caller.tenant, query),
        health::report(&ctx),
    );
    let (unfinished, ended) = (unfinished?, ended?);
    let failures = failures(&ctx, &unfinished.rows, &ended.rows).await;
    let whole = ctx.paces.whole();
    let overview = Overview {
        object: "overview",
        now_ms: clock::now().millis(),
        tenant: caller.tenant.as_str().to_owned(),
        admin: caller.is_admin,
        health,
        rate: Rate {
            per_second: whole.pace.rate(),
            step_seconds: whole.course.step().as_secs(),
            steps: whole.course.counts().collect(),
        },
        unfinished: list(&ctx, &live, unfinished.rows, unfinished.has_more),
        ended: list(&ctx, &live, ended.rows, ended.has_more),
        failures,
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(overview)).into_response())
}

fn list(
    ctx: &Context,
    live: &LiveView,
    mut rows: Vec<BatchWithOpenChunks>,
    has_more: bool,
) -> List<BatchView> {
    for row in &mut rows {
        row.batch.errors.truncate(ERRORS_SHOWN);
    }
    let views = rows.into_iter().map(|row| BatchView::new(ctx, live, row)).collect();
    List::new(views, has_more, |view: &BatchView| view.id.clone())
}

/// Some failures: the newest of each batch that runs, and the first of those that ended last.
async fn failures(
    ctx: &Context,
    unfinished: &[BatchWithOpenChunks],
    ended: &[BatchWithOpenChunks],
) -> Vec<Failure> {
    let mut shown = Vec::new();
    for batch in unfinished.iter().map(|row| &row.batch) {
        let mut frames = ctx.failures.of(&batch.id);
        frames.retain(|frame| frame.place.len <= LINE_READ_MAX);
        if shown.len() < OVERVIEW_FAILURES_MAX && !frames.is_empty() {
            // The batch may have ended meanwhile: its segments are gone, and the next look finds its files.
            let found = results::failed_at(ctx, &batch.id, frames).await.unwrap_or_default();
            shown.extend(found.into_iter().map(|failed| view(batch, failed)));
        }
    }
    let with_failures = ended.iter().map(|row| &row.batch).filter(|batch| batch.tally.failed > 0);
    for batch in with_failures.take(ENDED_LOOKED_AT) {
        if shown.len() < OVERVIEW_FAILURES_MAX {
            let query = FailedQuery { after: None, limit: KEPT_PER_BATCH, error_type: None };
            // Its files may have been deleted or have expired; there is nothing to show of it then.
            if let Ok(page) = results::failed_page(ctx, batch, query).await {
                shown.extend(page.requests.into_iter().map(|failed| view(batch, failed)));
            }
        }
    }
    shown.truncate(OVERVIEW_FAILURES_MAX);
    shown
}

fn view(batch: &Batch, failed: FailedRequest) -> Failure {
    Failure {
        batch: batch.id.as_str().to_owned(),
        custom_id: cut(&failed.custom_id),
        error_type: failed.error_type,
        error_message: cut(&failed.error_message),
        status_code: failed.status_code,
        failed_at: failed.last_at.seconds(),
        endpoint: failed.endpoint,
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
