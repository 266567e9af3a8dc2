//! Every refusal of the API: built by a function that names the case, rendered in OpenAI's envelope.
//!
//! Guaranteed: all four members are present, `param` and `code` are text or null, and what is worth repeating says when.
//! Codes are stable: clients branch on them. Absent on purpose: details of internal faults, which go to the log alone.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, StatusCode};
use overnight_domain::limits::{RETRY_AFTER_GPU, RETRY_AFTER_QUEUE, RETRY_AFTER_SHUTDOWN};
use overnight_domain::route::Route;
use overnight_store::StoreError;
use serde_json::json;

use crate::blobs::BlobError;

/// What tells an SDK that repeating the call is useless.
const SHOULD_RETRY: &str = "x-should-retry";
/// The most of a caller's own text that a message repeats.
const SHOWN_LEN_MAX: usize = 200;

pub(crate) type Result<T> = std::result::Result<T, ApiError>;

#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    retry_after: Option<Duration>,
    is_final: bool,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, code: None, param: None, message, retry_after: None, is_final: false }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", message)
            .code(code)
            .retry_after(RETRY_AFTER_QUEUE)
    }

    fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let envelope = json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code
        }});
        let mut response = (self.status, Json(envelope)).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if self.is_final {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

// The HTTP layer.

pub(crate) fn unknown_path(method: &Method, path: &str) -> ApiError {
    let text = format!("Invalid URL ({method} {})", shown(path));
    ApiError::not_found(match Route::parse(path) {
        Some(_) => format!(
            "{text}: batches only are answered here; put the request into a line of a file (/v1/files, /v1/batches)"
        ),
        None => text,
    })
}

pub(crate) fn wrong_method(method: &Method, path: &str) -> ApiError {
    let message = format!("`{}` does not take {method}", shown(path));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
        .code("method_not_allowed")
}

pub(crate) fn invalid_key(masked: Option<&str>) -> ApiError {
    let message = match masked {
        Some(masked) => format!("Incorrect API key provided: {masked}."),
        None => "You didn't provide an API key. Send it as `Authorization: Bearer KEY`.".to_owned(),
    };
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message).code("invalid_api_key")
}

fn forbidden(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "invalid_request_error", message).code(code)
}

pub(crate) fn unknown_host(host: &str) -> ApiError {
    let host = shown(host);
    forbidden(
        "unknown_host",
        format!("the host `{host}` is not ours; add it to `server.hosts` when it should be"),
    )
}

pub(crate) fn foreign_origin(origin: &str) -> ApiError {
    forbidden("foreign_origin", format!("pages of `{}` may not talk to this server", shown(origin)))
}

pub(crate) fn needs_admin(what: &str) -> ApiError {
    forbidden(
        "admin_required",
        format!("{what} needs a key with `admin = true`, or without keys a caller on loopback"),
    )
}

pub(crate) fn no_key_off_loopback() -> ApiError {
    forbidden("key_required", "without a `[[key]]` only callers on loopback may do this")
}

pub(crate) fn shutting_down() -> ApiError {
    ApiError::unavailable("shutting_down", "the server is shutting down; come back in a moment")
        .retry_after(RETRY_AFTER_SHUTDOWN)
}

pub(crate) fn gpu_unhealthy(reason: &str) -> ApiError {
    ApiError::unavailable("gpu_unhealthy", format!("no batch is taken for now: {reason}"))
        .retry_after(RETRY_AFTER_GPU)
}

pub(crate) fn internal(what: &str, error: &dyn Display) -> ApiError {
    tracing::error!(%error, "failed to {what}");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        format!("failed to {what}; the log of the server says why"),
    )
    .code("internal_error")
}

pub(crate) fn panicked() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        "the server hit a bug; its log says where",
    )
    .code("internal_error")
}

// Bodies.

pub(crate) fn body_broken(detail: &dyn Display) -> ApiError {
    ApiError::bad(format!("the body ended before it was whole: {detail}")).code("body_incomplete")
}

pub(crate) fn body_stalled(after: Duration) -> ApiError {
    let message = format!("nothing of the body arrived for {} s", after.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message).code("body_stalled")
}

pub(crate) fn body_too_large(len_max: usize) -> ApiError {
    ApiError::bad(format!("the body is larger than {len_max} bytes, which is the limit here"))
        .code("body_too_large")
}

pub(crate) fn not_json(detail: &dyn Display) -> ApiError {
    ApiError::bad(format!("We could not parse the JSON body of your request: {detail}"))
}

pub(crate) fn not_multipart() -> ApiError {
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "invalid_request_error",
        "this call takes `multipart/form-data` with a boundary",
    )
    .code("not_multipart")
}

pub(crate) fn bad_form(detail: &dyn Display) -> ApiError {
    ApiError::bad(format!("the multipart body cannot be read: {detail}")).code("invalid_multipart")
}

pub(crate) fn form_too_large(what: &str, max: usize) -> ApiError {
    ApiError::bad(format!("the form has more than {max} {what}")).code("invalid_multipart")
}

// Parameters.

pub(crate) fn missing(param: &str) -> ApiError {
    ApiError::bad(format!("Missing required parameter: '{param}'."))
        .code("missing_required_parameter")
        .param(param)
}

pub(crate) fn wrong_type(param: &str, expected: &str) -> ApiError {
    ApiError::bad(format!("Invalid type for '{param}': expected {expected}."))
        .code("invalid_type")
        .param(param)
}

pub(crate) fn invalid_value(param: &str, value: &str, expected: &str) -> ApiError {
    ApiError::bad(format!("Invalid value: '{}'. {expected}", shown(value)))
        .code("invalid_value")
        .param(param)
}

pub(crate) fn out_of_range(param: &str, value: i64, range: &RangeInclusive<i64>) -> ApiError {
    let (min, max) = (range.start(), range.end());
    let code = if value < *min { "integer_below_min_value" } else { "integer_above_max_value" };
    ApiError::bad(format!("Invalid '{param}': {value} is not in the range from {min} to {max}."))
        .code(code)
        .param(param)
}

pub(crate) fn text_too_long(param: &str, len: usize, len_max: usize) -> ApiError {
    ApiError::bad(format!("Invalid '{param}': text of {len} characters, where {len_max} are allowed."))
        .code("string_above_max_length")
        .param(param)
}

pub(crate) fn too_many_members(param: &str, count: usize, max: usize) -> ApiError {
    ApiError::bad(format!("Invalid '{param}': {count} members, where {max} are allowed."))
        .code("object_above_max_properties")
        .param(param)
}

pub(crate) fn member_name_too_long(param: &str, len: usize, len_max: usize) -> ApiError {
    ApiError::bad(format!("Invalid '{param}': a name of {len} characters, where {len_max} are allowed."))
        .code("property_name_above_max_length")
        .param(param)
}

pub(crate) fn empty_list(param: &str) -> ApiError {
    ApiError::bad(format!("Invalid '{param}': it is empty.")).code("empty_array").param(param)
}

pub(crate) fn unknown_setting(param: &str, known: &[&str]) -> ApiError {
    ApiError::bad(format!("`{}` is no setting of ours; there are: {}", shown(param), known.join(", ")))
        .code("unknown_parameter")
        .param(shown(param))
}

pub(crate) fn bad_cursor(value: &str) -> ApiError {
    ApiError::bad(format!("`{}` is no place in this list", shown(value)))
        .code("invalid_value")
        .param("after")
}

pub(crate) fn nothing_to_change(known: &[&str]) -> ApiError {
    ApiError::bad(format!("the call changes nothing; it takes: {}", known.join(", ")))
}

// Files.

pub(crate) fn no_such_file(id: &str) -> ApiError {
    ApiError::not_found(format!("No such File object: {}", shown(id))).param("id")
}

pub(crate) fn file_too_large(len_max: u64) -> ApiError {
    ApiError::bad(format!(
        "File is too large. The limit is {len_max} bytes (`limits.file_len`); a caller with admin \
         scope may send the form field `overnight[large]=true` before the file."
    ))
}

pub(crate) fn file_empty() -> ApiError {
    ApiError::bad("Invalid file format: the file is empty. Files with purpose `batch` must be `.jsonl`.")
}

pub(crate) fn file_not_jsonl(detail: &str) -> ApiError {
    ApiError::bad(format!(
        "Invalid file format: the first line is not JSON ({detail}). Files with purpose `batch` must \
         be `.jsonl`."
    ))
}

// Uploads.

pub(crate) fn no_such_upload(id: &str) -> ApiError {
    ApiError::not_found(format!("No such Upload object: {}", shown(id))).param("id")
}

pub(crate) fn upload_not_pending(status: &str) -> ApiError {
    ApiError::bad(format!("Upload has status '{status}', and only a pending one can be changed."))
        .code("upload_not_pending")
}

pub(crate) fn part_too_large(len_max: u64) -> ApiError {
    ApiError::bad(format!("Part is too large. The limit is {len_max} bytes.")).param("data")
}

pub(crate) fn too_many_parts(what: &str) -> ApiError {
    ApiError::bad(format!("the upload takes no more parts: {what}")).code("too_many_parts")
}

pub(crate) fn bad_part(id: &str, why: &str) -> ApiError {
    ApiError::bad(format!("the part `{}` {why}", shown(id))).code("invalid_value").param("part_ids")
}

pub(crate) fn wrong_sum(sum: u64, declared: u64) -> ApiError {
    ApiError::bad(format!(
        "the parts have {sum} bytes together, and the upload was declared with {declared}"
    ))
    .param("part_ids")
}

pub(crate) fn wrong_md5(found: &str) -> ApiError {
    ApiError::bad(format!("the parts have the md5 `{found}`, which is not what was given")).param("md5")
}

// Batches.

pub(crate) fn no_such_batch(id: &str) -> ApiError {
    ApiError::not_found(format!("No batch found with id '{}'.", shown(id))).param("id")
}

pub(crate) fn no_such_input(id: &str) -> ApiError {
    ApiError::bad(format!("Cannot find file {}, or you do not have access to it.", shown(id)))
        .param("file_id")
}

pub(crate) fn wrong_input_purpose(id: &str, purpose: &str) -> ApiError {
    ApiError::bad(format!("The file {id} has the purpose '{purpose}', and a batch needs 'batch'."))
        .param("file_id")
}

pub(crate) fn batch_too_large(lines: u64, max: u64) -> ApiError {
    ApiError::bad(format!(
        "the input has {lines} lines, and a batch may have {max} (`limits.requests_per_batch`); a \
         caller with admin scope may send `\"overnight\": {{\"large\": true}}`"
    ))
    .code("too_many_requests_in_batch")
    .param("input_file_id")
}

fn queue_full(message: String) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
        .code("queue_full")
        .retry_after(RETRY_AFTER_QUEUE)
}

pub(crate) fn too_many_batches(now: u64, max: u64) -> ApiError {
    queue_full(format!("{now} batches are unfinished, and {max} may be (`limits.unfinished_batches`)"))
}

pub(crate) fn too_many_queued(now: u64, more: u64, max: u64) -> ApiError {
    queue_full(format!(
        "{now} requests wait for their result; with these {more} they were more than {max} \
         (`limits.queued_requests`)"
    ))
}

pub(crate) fn no_disk_for_batch(needed: u64, free: u64) -> ApiError {
    ApiError::unavailable(
        "disk_full",
        format!(
            "the batch may need {needed} bytes of disk for its plan, results and output, and {free} \
             are not promised to others yet"
        ),
    )
}

pub(crate) fn disk_full() -> ApiError {
    ApiError::unavailable("disk_full", "the disk of the server is full; nothing was stored")
}

pub(crate) fn no_disk_for_file(needed: u64, free: u64) -> ApiError {
    ApiError::unavailable("disk_full", format!("{needed} bytes were announced, and {free} are free"))
}

/// The state of the batch does not allow it. SDKs would repeat a 409 unless they are told not to.
pub(crate) fn batch_conflict(verb: &str, status: &str) -> ApiError {
    let mut error = ApiError::new(
        StatusCode::CONFLICT,
        "invalid_request_error",
        format!("Cannot {verb} a batch with status '{status}'."),
    );
    error.is_final = true;
    error
}

pub(crate) fn nothing_to_retry() -> ApiError {
    ApiError::bad(
        "no failed request of the batch is left to be sent again, or none that is meant by this call",
    )
    .code("nothing_to_retry")
}

pub(crate) fn no_such_failed_request(custom_id: &str) -> ApiError {
    let custom_id = shown(custom_id);
    ApiError::bad(format!("`{custom_id}` is no failed request of the batch, or failed otherwise"))
        .code("invalid_value")
        .param("custom_ids")
}

pub(crate) fn too_many_to_merge(max: usize) -> ApiError {
    ApiError::bad(format!(
        "the batch was sent again too often: {max} batches can be merged, the first included"
    ))
    .code("too_many_retries")
}

pub(crate) fn results_gone() -> ApiError {
    ApiError::not_found("the result files of the batch were deleted or have expired")
        .code("results_gone")
}

pub(crate) fn no_manifest(id: &str) -> ApiError {
    ApiError::not_found(format!(
        "the batch `{}` has no manifest: it has not ended, or nothing of it was run",
        shown(id)
    ))
    .code("no_manifest")
}

// Models.

pub(crate) fn no_such_model(name: &str) -> ApiError {
    ApiError::not_found(format!("The model '{}' does not exist.", shown(name)))
        .code("model_not_found")
        .param("model")
}

// What lies below.

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "refused a call");
                Self::unavailable("store_unavailable", "the store cannot be reached now")
            }
            StoreError::Full(_) => disk_full(),
            StoreError::Unknown(_) | StoreError::Damaged(_) => internal("use the store", &error),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => disk_full(),
            BlobError::Missing(_) | BlobError::Failed(_) => internal("reach the blob store", &error),
        }
    }
}

/// A caller's own text, cut so that an answer cannot be made huge by a request.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn envelope(error: ApiError) -> serde_json::Value {
        let body = error.into_response().into_body();
        serde_json::from_slice(&axum::body::to_bytes(body, 10_000).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn all_four_members_are_there() {
        let plain = envelope(unknown_path(&Method::POST, "/v1/nope")).await;
        assert_eq!(
            plain,
            json!({"error": {
                "message": "Invalid URL (POST /v1/nope)", "type": "invalid_request_error",
                "param": null, "code": null
            }})
        );
        let full = envelope(missing("endpoint")).await;
        assert_eq!(full["error"]["param"], "endpoint");
        assert_eq!(full["error"]["code"], "missing_required_parameter");
    }

    #[test]
    fn what_is_worth_repeating_says_when_and_what_is_not_says_so() {
        let queue = too_many_batches(5, 5).into_response();
        assert_eq!(queue.status(), 429);
        assert_eq!(queue.headers()[RETRY_AFTER], "30");
        let conflict = batch_conflict("cancel", "completed").into_response();
        assert_eq!(conflict.status(), 409);
        assert_eq!(conflict.headers()[SHOULD_RETRY], "false");
    }

    #[test]
    fn a_huge_value_is_not_repeated_in_full() {
        assert!(bad_cursor(&"x".repeat(100_000)).message().len() < 400);
    }
}
