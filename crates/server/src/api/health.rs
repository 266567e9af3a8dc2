//! Whether the server is well: for people (`/health`), for what restarts it (`live`), for what routes to it (`ready`),
//! for watchers of the worker (`worker`), and for Prometheus (`/metrics`).
//!
//! Field names are those that users of such servers already watch. What is not known is null.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use overnight_domain::batch::BatchState;
use overnight_domain::limits::HEARTBEAT_UNHEALTHY_AFTER;
use overnight_domain::time::UnixTime;
use overnight_store::{QueueView, WorkerView};
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock;
use crate::context::Context;
use crate::endpoints::{EndpointState, EndpointView};
use crate::metrics;

/// A store that does not answer within this is not well.
const STORE_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Wellness {
    Healthy,
    Degraded,
    Unhealthy,
}

impl Wellness {
    fn code(self) -> StatusCode {
        if self == Self::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}

/// `GET /health`
pub(super) async fn health(State(ctx): State<Arc<Context>>) -> Response {
    let (status, body) = report(&ctx).await;
    (status, Json(body)).into_response()
}

/// How the server is, and whether that is good.
pub(super) async fn report(ctx: &Context) -> (StatusCode, Value) {
    let now = clock::now();
    let queue = queue(ctx).await;
    let worker = worker(ctx, now).await;
    let endpoints = ctx.endpoints.view();
    let (status, reasons) = judge(ctx, queue.as_ref(), &worker, &endpoints);
    let limits = &ctx.config.limits;
    let unfinished = queue.as_ref().map(unfinished);
    let body = json!({
        "status": status,
        "reasons": reasons,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": now.since(ctx.started_at).as_secs(),
        "gpu": ctx.gpus.view(),
        "worker": {
            "status": worker.status,
            "current_job_id": worker.current,
            "age_seconds": worker.seen_at.map(|seen| now.since(seen).as_secs()),
        },
        "queue": {
            "active_jobs": unfinished,
            "queue_available": unfinished.map(|count| count < limits.unfinished_batches),
            "total_queued_requests": queue.as_ref().map(backlog),
        },
        "limits": {
            "profile": ctx.config.profile.as_str(),
            "requests_per_batch": limits.requests_per_batch,
            "unfinished_batches": limits.unfinished_batches,
            "queued_requests": limits.queued_requests,
            "file_len": limits.file_len,
            "request_len": ctx.config.dispatch.request_len_max,
        },
        "disk": {"free_bytes": ctx.disk.free(), "full": ctx.disk.is_full()},
        "engines": endpoints,
    });
    (status.code(), body)
}

/// `GET /health/live`: the process turns.
pub(super) async fn live() -> Json<Value> {
    Json(json!({"status": "live"}))
}

/// `GET /health/ready`: a call that creates something would be taken.
pub(super) async fn ready(State(ctx): State<Arc<Context>>) -> Response {
    let refusal = ctx.gpus.refusal();
    let reason = if ctx.stop.is_cancelled() {
        Some("the server is shutting down")
    } else if ctx.disk.is_full() {
        Some("the disk is full")
    } else if refusal.is_some() {
        refusal.as_deref()
    } else if queue(&ctx).await.is_none() {
        Some("the store does not answer")
    } else {
        None
    };
    match reason {
        None => Json(json!({"status": "ready"})).into_response(),
        Some(reason) => {
            let body = Json(json!({"status": "not_ready", "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

/// `GET /health/worker`
pub(super) async fn worker_health(State(ctx): State<Arc<Context>>) -> Response {
    let worker = worker(&ctx, clock::now()).await;
    let status = if worker.reason.is_some() { Wellness::Unhealthy } else { Wellness::Healthy };
    let stuck = worker.current.iter().filter(|_| worker.reason.is_some()).count();
    let body = json!({
        "status": status,
        "reason": worker.reason,
        "stuck_jobs": stuck,
        "last_seen": worker.seen_at.map(UnixTime::seconds),
        "current_job_id": worker.current,
    });
    (status.code(), Json(body)).into_response()
}

/// `GET /metrics`
pub(super) async fn metrics(State(ctx): State<Arc<Context>>) -> Response {
    let text = metrics::render(&ctx, queue(&ctx).await.as_ref());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn queue(ctx: &Context) -> Option<QueueView> {
    tokio::time::timeout(STORE_WITHIN, ctx.store.queue_view()).await.ok()?.ok()
}

fn unfinished(queue: &QueueView) -> u64 {
    BatchState::UNFINISHED.iter().filter_map(|state| queue.batches.get(state)).sum()
}

fn backlog(queue: &QueueView) -> u64 {
    queue.backlog.iter().map(|(_, count)| count).sum()
}

/// The part of this process that asks the engines.
struct WorkerHealth {
    status: &'static str,
    reason: Option<String>,
    current: Option<String>,
    seen_at: Option<UnixTime>,
}

async fn worker(ctx: &Context, now: UnixTime) -> WorkerHealth {
    let listed = tokio::time::timeout(STORE_WITHIN, ctx.store.workers()).await;
    let ours = listed
        .ok()
        .and_then(Result::ok)
        .and_then(|workers: Vec<WorkerView>| workers.into_iter().find(|worker| worker.id == ctx.worker));
    let turned = ctx.counters.dispatcher_seen_at.load(Ordering::Relaxed);
    // Before its first turn the dispatcher is as old as the process.
    let turned = if turned == 0 { ctx.started_at } else { UnixTime::from_millis(turned) };
    let seen_at = ours.as_ref().map_or(turned, |worker| worker.seen_at);
    let silent = now.since(turned).max(now.since(seen_at));
    let reason = if silent > HEARTBEAT_UNHEALTHY_AFTER {
        Some(format!("the worker has said nothing for {} s", silent.as_secs()))
    } else if ctx.disk.is_full() {
        Some("the disk is full; nothing is dispatched".to_owned())
    } else {
        None
    };
    let is_busy = ctx.endpoints.view().iter().any(|endpoint| endpoint.in_flight > 0);
    let status = match (&reason, is_busy) {
        (Some(_), _) => "error",
        (None, true) => "processing",
        (None, false) => "idle",
    };
    let current = ours.and_then(|worker| worker.batch).map(String::from);
    WorkerHealth { status, reason, current, seen_at: Some(seen_at) }
}

/// The worst of what is known, with all reasons.
fn judge(
    ctx: &Context,
    queue: Option<&QueueView>,
    worker: &WorkerHealth,
    endpoints: &[EndpointView],
) -> (Wellness, Vec<String>) {
    let mut reasons = Vec::new();
    let mut status = Wellness::Healthy;
    if queue.is_none() {
        status = Wellness::Unhealthy;
        reasons.push("the store does not answer".to_owned());
    }
    if let Some(reason) = &worker.reason {
        status = Wellness::Unhealthy;
        reasons.push(reason.clone());
    }
    let unusable = endpoints
        .iter()
        .filter(|endpoint| endpoint.state != EndpointState::Up && !endpoint.is_resting());
    reasons.extend(unusable.map(|endpoint| {
        let reason = endpoint.reason.as_deref().unwrap_or("it does not answer");
        format!("endpoint `{}`: {reason}", endpoint.name)
    }));
    if endpoints.is_empty() {
        reasons.push("no endpoint is known".to_owned());
    }
    if ctx.stop.is_cancelled() {
        reasons.push("the server is shutting down".to_owned());
    }
    if status == Wellness::Healthy && !reasons.is_empty() {
        status = Wellness::Degraded;
    }
    (status, reasons)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use serde_json::Value;

    use crate::api::harness::Harness;
    use crate::clock;
    use crate::endpoints::{EndpointState, EndpointView};

    fn endpoint(state: EndpointState) -> EndpointView {
        EndpointView { in_flight: 3, ..EndpointView::sample(state) }
    }

    #[tokio::test]
    async fn health_tells_what_is_wrong() {
        let harness = Harness::new();
        harness.ctx.endpoints.publish(vec![endpoint(EndpointState::Up)]);
        let well = harness.get("/health").await.ok();
        assert_eq!(well["status"], "healthy", "{well}");
        assert_eq!(well["worker"]["status"], "processing");
        assert_eq!(well["gpu"]["temperature_c"], Value::Null);
        assert_eq!(well["queue"]["active_jobs"], 0);
        assert_eq!(well["limits"]["requests_per_batch"], 50_000);
        assert_eq!(well["engines"][0]["name"], "gpu0");

        harness.ctx.endpoints.publish(vec![endpoint(EndpointState::Down)]);
        assert_eq!(harness.get("/health").await.ok()["status"], "degraded");

        let long_ago = clock::now().millis() - 61_000;
        harness.ctx.counters.dispatcher_seen_at.store(long_ago, Ordering::Relaxed);
        let ill = harness.get("/health").await;
        assert_eq!(ill.status, 503);
        assert_eq!(ill.json()["status"], "unhealthy");
        assert_eq!(ill.json()["worker"]["status"], "error");
        let worker = harness.get("/health/worker").await;
        assert_eq!(worker.status, 503);
        assert!(worker.json()["reason"].is_string());
    }

    #[tokio::test]
    async fn what_restarts_and_routes_needs_no_key() {
        let harness = Harness::guarded();
        assert_eq!(harness.get("/health/live").await.ok()["status"], "live");
        assert_eq!(harness.get("/health/ready").await.ok()["status"], "ready");
        harness.get("/health").await.refused(401);
        harness.get("/metrics").await.refused(401);
        harness.ctx.disk.note_full();
        assert_eq!(harness.get("/health/ready").await.status, 503);
        harness.ctx.stop.cancel();
        assert_eq!(harness.get("/health/live").await.ok()["status"], "live");
        assert_eq!(harness.get("/health/ready").await.status, 503);
    }

    #[tokio::test]
    async fn metrics_are_lines_of_name_and_number() {
        let harness = Harness::new();
        harness.ctx.endpoints.publish(vec![endpoint(EndpointState::Up)]);
        let page = harness.get("/metrics").await;
        assert_eq!(page.status, 200);
        let text = String::from_utf8(page.body).unwrap();
        for wanted in [
            "overnight_requests_total{outcome=\"completed\"} 0",
            "overnight_inflight_requests{endpoint=\"gpu0\"} 3",
            "overnight_batches{status=\"in_progress\"} 0",
            "overnight_backlog_requests 0",
            "overnight_commit_lag_seconds 0",
            "overnight_endpoint_up{endpoint=\"gpu0\"} 1",
        ] {
            assert!(text.lines().any(|line| line == wanted), "no `{wanted}` in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
