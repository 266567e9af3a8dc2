//! What answers look like. Every member is always there; those that may be null say so.

use overnight_domain::batch::BatchStatus;
use overnight_domain::route::Route;
use serde_json::{Map, Value, json};

pub(super) fn schemas() -> Value {
    let mut all = json!({
        "Error": object(&[("error", object(&[
            ("message", text()), ("type", text()), ("param", or_null(text())), ("code", or_null(text())),
        ]))]),
        "Deletion": object(&[("id", text()), ("object", text()), ("deleted", flag())]),
        "Model": object(&[
            ("id", text()), ("object", choice(&["model"])), ("created", integer()), ("owned_by", text()),
        ]),
        "ModelList": object(&[
            ("object", choice(&["list"])), ("data", array(reference("Model"))),
        ]),
        "Route": choice(&Route::ALL.map(Route::path)),
        "Liveness": object(&[("status", text())]),
        "Readiness": object(&[("status", text())]),
        "Document": {"type": "object"},
        "File": file(),
        "FileList": list("File"),
        "Upload": upload(),
        "Part": object(&[
            ("id", text()), ("object", choice(&["upload.part"])), ("created_at", integer()),
            ("upload_id", text()),
        ]),
        "Batch": batch(),
        "BatchList": list("Batch"),
        "BatchOptions": batch_options(),
        "ResultList": object(&[
            ("object", choice(&["list"])), ("data", array(json!({"type": "object"}))), ("next", text()),
            ("has_more", flag()), ("is_final", flag()),
        ]),
        "FailedRequest": failed_request(),
        "Manifest": object(&[
            ("batch", text()),
            ("requests", integer()),
            ("completed", integer()),
            ("failed", integer()),
            ("input_sha256", or_null(text())),
            ("output_sha256", or_null(text())),
            ("error_sha256", or_null(text())),
            ("endpoints", json!({"type": "array", "items": text()})),
            ("model", or_null(text())),
        ]),
        "FailedList": object(&[
            ("object", choice(&["list"])), ("data", array(reference("FailedRequest"))),
            ("next", or_null(text())), ("has_more", flag()),
        ]),
    });
    all["Health"] = health();
    all["Overview"] = overview();
    all["WorkerHealth"] = object(&[
        ("status", choice(&["healthy", "unhealthy"])),
        ("reason", or_null(text())),
        ("stuck_jobs", integer()),
        ("last_seen", or_null(integer())),
        ("current_job_id", or_null(text())),
    ]);
    all
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn text() -> Value {
    json!({"type": "string"})
}

pub(super) fn integer() -> Value {
    json!({"type": "integer"})
}

pub(super) fn choice(values: &[&str]) -> Value {
    json!({"type": "string", "enum": values})
}

/// An object with just these members, all of them always there.
pub(super) fn object(members: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let members: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "required": names, "properties": members})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn array(items: Value) -> Value {
    Value::Object(Map::from_iter([("type".to_owned(), "array".into()), ("items".to_owned(), items)]))
}

fn or_null(schema: Value) -> Value {
    json!({"anyOf": Value::Array(vec![schema, json!({"type": "null"})])})
}

fn list(of: &str) -> Value {
    object(&[
        ("object", choice(&["list"])),
        ("data", array(reference(of))),
        ("first_id", or_null(text())),
        ("last_id", or_null(text())),
        ("has_more", flag()),
    ])
}

fn file() -> Value {
    object(&[
        ("id", text()),
        ("object", choice(&["file"])),
        ("bytes", integer()),
        ("created_at", integer()),
        ("expires_at", or_null(integer())),
        ("filename", text()),
        ("purpose", text()),
        ("status", choice(&["processed"])),
        ("status_details", or_null(text())),
        ("overnight", object(&[("sha256", text()), ("lines", integer()), ("large", flag())])),
    ])
}

fn upload() -> Value {
    object(&[
        ("id", text()),
        ("object", choice(&["upload"])),
        ("bytes", integer()),
        ("created_at", integer()),
        ("expires_at", integer()),
        ("filename", text()),
        ("purpose", text()),
        ("status", choice(&["pending", "completed", "cancelled", "expired"])),
        ("file", or_null(reference("File"))),
    ])
}

fn batch() -> Value {
    let moment = || or_null(integer());
    let error = object(&[
        ("code", text()),
        ("message", text()),
        ("param", or_null(text())),
        ("line", or_null(integer())),
    ]);
    let errors = object(&[("object", choice(&["list"])), ("data", array(error))]);
    let usage = object(&[
        ("input_tokens", integer()),
        ("input_tokens_details", object(&[("cached_tokens", integer())])),
        ("output_tokens", integer()),
        ("output_tokens_details", object(&[("reasoning_tokens", integer())])),
        ("total_tokens", integer()),
    ]);
    let counts = object(&[("total", integer()), ("completed", integer()), ("failed", integer())]);
    object(&[
        ("id", text()),
        ("object", choice(&["batch"])),
        ("endpoint", reference("Route")),
        ("model", or_null(text())),
        ("errors", or_null(errors)),
        ("input_file_id", text()),
        ("completion_window", text()),
        ("status", choice(&BatchStatus::ALL.map(BatchStatus::as_str))),
        ("output_file_id", or_null(text())),
        ("error_file_id", or_null(text())),
        ("created_at", integer()),
        ("in_progress_at", moment()),
        ("expires_at", integer()),
        ("finalizing_at", moment()),
        ("completed_at", moment()),
        ("failed_at", moment()),
        ("expired_at", moment()),
        ("cancelling_at", moment()),
        ("cancelled_at", moment()),
        ("request_counts", counts),
        ("usage", or_null(usage)),
        ("metadata", or_null(json!({"type": "object", "additionalProperties": text()}))),
        ("overnight", batch_overnight()),
    ])
}

fn batch_overnight() -> Value {
    object(&[
        ("state", text()),
        ("priority", integer()),
        ("order", choice(&["prefix", "file"])),
        ("attempts", integer()),
        ("timeout_seconds", or_null(integer())),
        ("hard_expiry", flag()),
        ("large", flag()),
        ("model", or_null(text())),
        ("paused", flag()),
        ("pause_reason", or_null(text())),
        ("waiting_reason", or_null(text())),
        ("parent", or_null(text())),
        ("open_chunks", integer()),
        ("created_at_ms", integer()),
        ("cut_short", integer()),
        ("rate_per_second", or_null(number())),
        ("eta_seconds", or_null(number())),
        ("eta_bounds_seconds", or_null(json!({"type": "array", "items": {"type": "number"}}))),
    ])
}

/// What a creation or a retry may choose. Anything else is refused.
fn batch_options() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "priority": {"type": "integer", "minimum": -100, "maximum": 100},
            "order": choice(&["prefix", "file"]),
            "attempts": {"type": "integer", "minimum": 1, "maximum": 100},
            "timeout": {"anyOf": [text(), integer()], "description": "Seconds, or a text such as `30s`."},
            "hard_expiry": flag(),
            "large": {"type": "boolean", "description": "Any size; needs admin scope."},
            "model": {"type": "string", "description": "Fills the lines that name none."},
        },
    })
}

fn failed_request() -> Value {
    object(&[
        ("custom_id", text()),
        ("request_index", integer()),
        ("line", or_null(integer())),
        ("error_type", text()),
        ("error_message", text()),
        ("status_code", or_null(integer())),
        ("attempts", integer()),
        ("retry_count", integer()),
        ("last_retry_at", integer()),
        ("created_at", integer()),
        ("endpoint", or_null(text())),
        ("retried_by", or_null(text())),
    ])
}

fn overview() -> Value {
    let rate = object(&[
        ("per_second", or_null(number())),
        ("step_seconds", integer()),
        ("steps", array(integer())),
    ]);
    let failure = object(&[
        ("batch", text()),
        ("custom_id", text()),
        ("error_type", text()),
        ("error_message", text()),
        ("status_code", or_null(integer())),
        ("failed_at", integer()),
        ("endpoint", or_null(text())),
    ]);
    object(&[
        ("object", choice(&["overview"])),
        ("now_ms", integer()),
        ("tenant", text()),
        ("admin", flag()),
        ("health", reference("Health")),
        ("rate", rate),
        ("unfinished", reference("BatchList")),
        ("ended", reference("BatchList")),
        ("failures", array(failure)),
    ])
}

fn gpu() -> Value {
    let process = object(&[("pid", integer()), ("memory_bytes", or_null(integer()))]);
    let device = object(&[
        ("index", integer()),
        ("name", or_null(text())),
        ("uuid", or_null(text())),
        ("memory_used_bytes", or_null(integer())),
        ("memory_total_bytes", or_null(integer())),
        ("temperature_c", or_null(integer())),
        ("power_watts", or_null(number())),
        ("utilization_percent", or_null(integer())),
        ("processes", or_null(array(process))),
        ("trouble", or_null(text())),
        ("memory_percent", or_null(number())),
        ("heat", choice(&["unknown", "fine", "warm", "too_hot"])),
    ]);
    object(&[
        ("healthy", or_null(flag())),
        ("memory_percent", or_null(number())),
        ("temperature_c", or_null(integer())),
        ("reason", or_null(text())),
        ("devices", array(device)),
    ])
}

fn health() -> Value {
    let worker = object(&[
        ("status", choice(&["idle", "processing", "error"])),
        ("current_job_id", or_null(text())),
        ("age_seconds", or_null(integer())),
    ]);
    let queue = object(&[
        ("active_jobs", or_null(integer())),
        ("queue_available", or_null(flag())),
        ("total_queued_requests", or_null(integer())),
    ]);
    let limits = object(&[
        ("profile", text()),
        ("requests_per_batch", integer()),
        ("unfinished_batches", integer()),
        ("queued_requests", integer()),
        ("file_len", integer()),
        ("request_len", integer()),
    ]);
    object(&[
        ("status", choice(&["healthy", "degraded", "unhealthy"])),
        ("reasons", array(text())),
        ("version", text()),
        ("uptime_seconds", integer()),
        ("gpu", gpu()),
        ("worker", worker),
        ("queue", queue),
        ("limits", limits),
        ("disk", object(&[("free_bytes", integer()), ("full", flag())])),
        ("engines", array(json!({"type": "object"}))),
    ])
}
