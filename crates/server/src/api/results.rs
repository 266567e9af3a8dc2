//! `GET /v1/batches/{id}/results` and `/failed`: what is done already, while the batch runs and after.
//!
//! Result lines are passed on as the bytes that are stored: nothing is parsed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::Uri;
use http::header::CONTENT_TYPE;
use overnight_domain::limits::{RESULTS_PAGE_DEFAULT, RESULTS_PAGE_MAX};
use serde::Serialize;

use crate::api::auth::Caller;
use crate::api::batches;
use crate::api::error::{self, ApiError, Result};
use crate::api::lists::Query;
use crate::context::Context;
use crate::results::manifest::Manifest;
use crate::results::{self, FailedQuery, FailedRequest, ResultsError, ResultsPage};
use crate::retry::sent_again::sent_again;

/// `GET /v1/batches/{id}/results`
pub(super) async fn results(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response> {
    let query = Query::parse(uri.query());
    let limit = query.limit(1..=RESULTS_PAGE_MAX, RESULTS_PAGE_DEFAULT)?;
    let after = query.one("after");
    let row = batches::find(&ctx, &caller, &id).await?;
    let page = results::page(&ctx, &row.batch, after, limit).await;
    let page = page.map_err(|error| refuse(error, after))?;
    Ok(([(CONTENT_TYPE, "application/json")], Body::from(render(&page))).into_response())
}

/// A failed request as people see it.
#[derive(Debug, Serialize)]
pub(super) struct FailedView {
    custom_id: String,
    request_index: u64,
    line: Option<u64>,
    error_type: String,
    error_message: String,
    status_code: Option<u16>,
    attempts: u16,
    retry_count: u16,
    last_retry_at: u64,
    created_at: u64,
    endpoint: Option<String>,
    /// The newest batch that sends it again.
    retried_by: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct FailedList {
    object: &'static str,
    data: Vec<FailedView>,
    next: Option<String>,
    has_more: bool,
}

/// `GET /v1/batches/{id}/failed`
pub(super) async fn failed(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<FailedList>> {
    let query = Query::parse(uri.query());
    let asked = FailedQuery {
        after: query.one("after").map(str::to_owned),
        limit: query.limit(1..=RESULTS_PAGE_MAX, RESULTS_PAGE_DEFAULT)?,
        error_type: query.one("error_type").filter(|text| !text.is_empty()).map(str::to_owned),
    };
    let row = batches::find(&ctx, &caller, &id).await?;
    let created_at = row.batch.moments.created_at.seconds();
    let page = results::failed_page(&ctx, &row.batch, asked).await;
    let page = page.map_err(|error| refuse(error, query.one("after")))?;
    let custom_ids = page.requests.iter().map(|failed| failed.custom_id.clone());
    let mut retried = sent_again(&ctx, &row.batch, custom_ids)
        .await
        .map_err(|error| error::internal("read the retries", &error))?;
    let data = page
        .requests
        .into_iter()
        .map(|failed| {
            let retried_by = retried.remove(&failed.custom_id).map(String::from);
            view(failed, created_at, retried_by)
        })
        .collect();
    let has_more = page.next.is_some();
    Ok(Json(FailedList { object: "list", data, next: page.next, has_more }))
}

/// `GET /v1/batches/{id}/manifest`
pub(super) async fn manifest(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Manifest>> {
    let row = batches::find(&ctx, &caller, &id).await?;
    let manifest =
        results::read_manifest(&ctx, &row.batch).await.map_err(|error| refuse(error, None))?;
    manifest.map(Json).ok_or_else(|| error::no_manifest(&id))
}

fn view(failed: FailedRequest, created_at: u64, retried_by: Option<String>) -> FailedView {
    FailedView {
        custom_id: failed.custom_id,
        request_index: failed.request_index,
        line: failed.line,
        error_type: failed.error_type,
        error_message: failed.error_message,
        status_code: failed.status_code,
        attempts: failed.attempts,
        retry_count: failed.attempts.saturating_sub(1),
        last_retry_at: failed.last_at.seconds(),
        created_at,
        endpoint: failed.endpoint,
        retried_by,
    }
}

fn render(page: &ResultsPage) -> Vec<u8> {
    let len: usize = page.lines.iter().map(bytes::Bytes::len).sum();
    let mut body = Vec::with_capacity(len + page.next.len() + 128);
    body.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for (at, line) in page.lines.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(line.trim_ascii_end());
    }
    let (has_more, is_final) = (page.has_more, page.is_final);
    // Our own cursor: digits and dashes.
    let tail = format!("],\"next\":\"{}\",\"has_more\":{has_more},\"is_final\":{is_final}}}", page.next);
    body.extend_from_slice(tail.as_bytes());
    body
}

pub(super) fn refuse(error: ResultsError, after: Option<&str>) -> ApiError {
    match error {
        ResultsError::Cursor => error::bad_cursor(after.unwrap_or_default()),
        ResultsError::Gone => error::results_gone(),
        ResultsError::Failed(error) => error::internal("read the results", &error),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn lines_stand_in_the_page_as_they_are() {
        for lines in [vec![], vec!["{\"a\":1}\n"], vec!["{\"a\":1}\n", "{\"b\":\"\\u2028\"}\n"]] {
            let page = ResultsPage {
                lines: lines.iter().map(|line| Bytes::copy_from_slice(line.as_bytes())).collect(),
                next: "7-1-300".to_owned(),
                has_more: true,
                is_final: false,
            };
            let data: Vec<Value> =
                lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(
                serde_json::from_slice::<Value>(&render(&page)).unwrap(),
                json!({"object": "list", "data": data, "next": "7-1-300", "has_more": true, "is_final": false})
            );
        }
    }
}
