//! The batch on the wire: every key of the contract, and everything of ours under one member.
//!
//! Counts are what is durable: the committed tally of the store and, for open chunks, what the dispatcher has noted.

use std::collections::BTreeMap;

use overnight_domain::batch::{BatchError, BatchState, BatchStatus};
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;
use overnight_store::BatchWithOpenChunks;
use serde::Serialize;

use crate::context::Context;
use crate::live::LiveView;
use crate::waiting::waiting_reason;

#[derive(Debug, Serialize)]
pub(super) struct BatchView {
    pub(super) id: String,
    object: &'static str,
    endpoint: &'static str,
    model: Option<String>,
    errors: Option<Errors>,
    input_file_id: String,
    completion_window: String,
    status: BatchStatus,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: u64,
    in_progress_at: Option<u64>,
    expires_at: u64,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
    request_counts: Counts,
    usage: Option<UsageView>,
    metadata: Option<BTreeMap<String, String>>,
    overnight: Ours,
}

#[derive(Debug, Serialize)]
struct Errors {
    object: &'static str,
    data: Vec<BatchError>,
}

#[derive(Debug, Serialize)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

/// Whole or absent: strict clients refuse a part of it.
#[derive(Debug, Serialize)]
struct UsageView {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Debug, Serialize)]
struct InputDetails {
    cached_tokens: u64,
}

#[derive(Debug, Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

/// What the contract does not know.
#[derive(Debug, Serialize)]
struct Ours {
    state: BatchState,
    priority: i32,
    order: &'static str,
    attempts: u32,
    timeout_seconds: Option<u64>,
    hard_expiry: bool,
    large: bool,
    /// Fills the lines that name no model.
    model: Option<String>,
    paused: bool,
    pause_reason: Option<String>,
    /// Why nothing moves, when that is known.
    waiting_reason: Option<String>,
    parent: Option<String>,
    open_chunks: usize,
    /// Answers that ended because they were as long as they might be.
    cut_short: u64,
    created_at_ms: u64,
    rate_per_second: Option<f64>,
    eta_seconds: Option<f64>,
    /// The soonest and the latest, as the rate has wavered lately.
    eta_bounds_seconds: Option<[f64; 2]>,
}

impl BatchView {
    /// `live` was taken before the batch was read.
    pub(super) fn new(ctx: &Context, live: &LiveView, row: BatchWithOpenChunks) -> Self {
        let BatchWithOpenChunks { batch, open } = row;
        let tally = batch.tally + live.sum(&batch.id, &open);
        let waiting_reason = waiting_reason(ctx, &batch);
        let (rate, eta) = ctx.paces.of(&batch.id, batch.total.saturating_sub(tally.done()));
        let (moments, options) = (&batch.moments, &batch.options);
        let seconds = |moment: Option<UnixTime>| moment.map(UnixTime::seconds);
        Self {
            object: "batch",
            endpoint: batch.route.path(),
            errors: (!batch.errors.is_empty()).then_some(Errors { object: "list", data: batch.errors }),
            status: batch.state.status(),
            created_at: moments.created_at.seconds(),
            in_progress_at: seconds(moments.in_progress_at),
            expires_at: moments.expires_at.seconds(),
            finalizing_at: seconds(moments.finalizing_at),
            completed_at: seconds(moments.completed_at),
            failed_at: seconds(moments.failed_at),
            expired_at: seconds(moments.expired_at),
            cancelling_at: seconds(moments.cancelling_at),
            cancelled_at: seconds(moments.cancelled_at),
            request_counts: Counts {
                total: batch.total,
                completed: tally.completed,
                failed: tally.failed,
            },
            usage: (batch.total > 0).then(|| UsageView::of(&tally)),
            overnight: Ours {
                state: batch.state,
                priority: options.priority,
                order: options.order.as_str(),
                attempts: options.attempts_max,
                timeout_seconds: options.timeout.map(|timeout| timeout.as_secs()),
                hard_expiry: options.hard_expiry,
                large: options.large,
                model: options.model.clone(),
                paused: batch.pause.is_some(),
                pause_reason: batch.pause.map(|pause| pause.reason),
                waiting_reason,
                parent: batch.parent.map(String::from),
                open_chunks: open.len(),
                cut_short: tally.usage.cut_short,
                created_at_ms: moments.created_at.millis(),
                rate_per_second: rate,
                eta_seconds: eta.map(|eta| eta.expected.as_secs_f64()),
                eta_bounds_seconds: eta.map(|eta| [eta.soonest.as_secs_f64(), eta.latest.as_secs_f64()]),
            },
            id: batch.id.into(),
            model: batch.model,
            input_file_id: batch.input_file.into(),
            completion_window: batch.completion_window,
            output_file_id: batch.output_file.map(String::from),
            error_file_id: batch.error_file.map(String::from),
            metadata: batch.metadata,
        }
    }
}

impl UsageView {
    fn of(tally: &Tally) -> Self {
        let usage = &tally.usage;
        Self {
            input_tokens: usage.input_tokens,
            input_tokens_details: InputDetails { cached_tokens: usage.cached_tokens },
            output_tokens: usage.output_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.input_tokens + usage.output_tokens,
        }
    }
}
