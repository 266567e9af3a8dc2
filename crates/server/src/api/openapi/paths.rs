//! All routes, as they are described.

use http::Method;
use serde_json::{Value, json};

use super::Operation;
use super::schemas::{choice, integer, object, reference, text};

/// Marks a JSON body that may be left out.
pub(super) const OPTIONAL_JSON: &str = "optional";
const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data";
const AFTER: &str = "the last id of the page before";

type Described = (Method, &'static str, Operation);

pub(super) fn paths() -> Vec<Described> {
    [files(), uploads(), batches(), batch_results(), server()].into_iter().flatten().collect()
}

fn page(operation: Operation, max: u64, default: u64) -> Operation {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": max, "default": default});
    operation.query("after", text(), AFTER).query("limit", limit, "how many at most")
}

fn expires_after() -> Value {
    let seconds = json!({"type": "integer", "minimum": 3_600, "maximum": 2_592_000});
    object(&[("anchor", choice(&["created_at"])), ("seconds", seconds)])
}

fn files() -> Vec<Described> {
    let form = json!({
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": choice(&["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]),
            "expires_after[anchor]": choice(&["created_at"]),
            "expires_after[seconds]": integer(),
            "overnight[large]": {
                "type": "boolean",
                "description": "Any size; needs admin scope, and stands before the file.",
            },
        },
    });
    let list = Operation::json("listFiles", "List files, newest first.", "FileList")
        .query("order", choice(&["asc", "desc"]), "by creation")
        .query("purpose", text(), "only these");
    vec![
        (
            Method::POST,
            "/v1/files",
            Operation::json("createFile", "Upload a file.", "File").takes(FORM, form),
        ),
        (Method::GET, "/v1/files", page(list, 10_000, 10_000)),
        (Method::GET, "/v1/files/{id}", Operation::json("retrieveFile", "Look at a file.", "File")),
        (Method::DELETE, "/v1/files/{id}", Operation::json("deleteFile", "Delete a file.", "Deletion")),
        (
            Method::GET,
            "/v1/files/{id}/content",
            Operation::bytes(
                "downloadFile",
                "The bytes of a file; takes `Range`.",
                "application/octet-stream",
            ),
        ),
    ]
}

fn uploads() -> Vec<Described> {
    let new = json!({
        "type": "object",
        "required": ["bytes", "filename", "mime_type", "purpose"],
        "properties": {
            "bytes": integer(), "filename": text(), "mime_type": text(), "purpose": text(),
            "expires_after": expires_after(),
            "overnight": {"type": "object", "properties": {"large": {"type": "boolean"}}},
        },
    });
    let part = object(&[("data", json!({"type": "string", "format": "binary"}))]);
    let complete = json!({
        "type": "object",
        "required": ["part_ids"],
        "properties": {"part_ids": {"type": "array", "items": text()}, "md5": text()},
    });
    vec![
        (
            Method::POST,
            "/v1/uploads",
            Operation::json("createUpload", "Begin a file that arrives in parts.", "Upload")
                .takes(JSON, new),
        ),
        (
            Method::GET,
            "/v1/uploads/{id}",
            Operation::json("retrieveUpload", "Look at an upload.", "Upload"),
        ),
        (
            Method::POST,
            "/v1/uploads/{id}/parts",
            Operation::json("addUploadPart", "Send a part of up to 64 MiB.", "Part").takes(FORM, part),
        ),
        (
            Method::POST,
            "/v1/uploads/{id}/complete",
            Operation::json("completeUpload", "Make the file of its parts.", "Upload")
                .takes(JSON, complete),
        ),
        (
            Method::POST,
            "/v1/uploads/{id}/cancel",
            Operation::json("cancelUpload", "Give up an upload.", "Upload"),
        ),
    ]
}

fn batches() -> Vec<Described> {
    let new = json!({
        "type": "object",
        "required": ["input_file_id", "endpoint", "completion_window"],
        "properties": {
            "input_file_id": text(),
            "endpoint": reference("Route"),
            "completion_window": {"type": "string", "pattern": "^[0-9]+[mhd]$"},
            "metadata": {"type": "object", "additionalProperties": text(), "maxProperties": 16},
            "output_expires_after": expires_after(),
            "overnight": reference("BatchOptions"),
        },
    });
    let change = json!({
        "type": "object",
        "properties": {
            "overnight": {"type": "object", "properties": {"priority": integer()}},
            "completion_window": text(),
            "expires_at": integer(),
        },
    });
    let list = Operation::json("listBatches", "List batches, newest first.", "BatchList").query(
        "status",
        text(),
        "only these; repeated, or with commas",
    );
    let verb = |id, summary| Operation::json(id, summary, "Batch");
    vec![
        (
            Method::POST,
            "/v1/batches",
            verb(
                "createBatch",
                "Create a batch; also takes a form with `file` that stores and creates in one call.",
            )
            .takes(JSON, new),
        ),
        (Method::GET, "/v1/batches", page(list, 100, 20)),
        (Method::GET, "/v1/batches/{id}", verb("retrieveBatch", "Look at a batch.")),
        (
            Method::POST,
            "/v1/batches/{id}",
            verb("updateBatch", "Change priority or deadline.").takes(JSON, change),
        ),
        (
            Method::DELETE,
            "/v1/batches/{id}",
            Operation::json("deleteBatch", "Delete a batch that has ended, with its files.", "Deletion"),
        ),
        (Method::POST, "/v1/batches/{id}/cancel", verb("cancelBatch", "Cancel a batch.")),
        (Method::POST, "/v1/batches/{id}/pause", verb("pauseBatch", "Hold a batch.")),
        (Method::POST, "/v1/batches/{id}/resume", verb("resumeBatch", "Let a held batch go on.")),
    ]
}

fn batch_results() -> Vec<Described> {
    let limit = || json!({"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1_000});
    let cursor = "`next` of the page before";
    let retry = json!({
        "type": "object",
        "properties": {
            "custom_ids": {"type": "array", "items": text(), "minItems": 1},
            "error_type": text(),
            "overnight": reference("BatchOptions"),
        },
    });
    vec![
        (
            Method::POST,
            "/v1/batches/{id}/retry",
            Operation::json("retryBatch", "Send failed requests again, as a child batch.", "Batch")
                .takes(OPTIONAL_JSON, retry),
        ),
        (
            Method::GET,
            "/v1/batches/{id}/merged",
            Operation::bytes(
                "mergeBatch",
                "All result lines in input order, retried ones in the place of failed ones.",
                "application/x-ndjson",
            ),
        ),
        (
            Method::GET,
            "/v1/batches/{id}/results",
            Operation::json("listResults", "Finished lines, as they became durable.", "ResultList")
                .query("after", text(), cursor)
                .query("limit", limit(), "how many at most"),
        ),
        (
            Method::GET,
            "/v1/batches/{id}/failed",
            Operation::json("listFailed", "Failed requests and why.", "FailedList")
                .query("after", text(), cursor)
                .query("limit", limit(), "how many at most")
                .query("error_type", text(), "only these"),
        ),
        (
            Method::GET,
            "/v1/batches/{id}/manifest",
            Operation::json("retrieveManifest", "Digests of the files of an ended batch.", "Manifest"),
        ),
    ]
}

fn server() -> Vec<Described> {
    vec![
        (
            Method::GET,
            "/v1/overview",
            Operation::json(
                "overview",
                "What the page at `/` shows: the server, its engines, batches and failures.",
                "Overview",
            ),
        ),
        (Method::GET, "/v1/models", Operation::json("listModels", "What is served.", "ModelList")),
        (
            Method::GET,
            "/v1/models/{id}",
            Operation::json("retrieveModel", "Look at a model; its name may hold slashes.", "Model"),
        ),
        (Method::GET, "/health", Operation::json("health", "How the server is.", "Health")),
        (
            Method::GET,
            "/health/worker",
            Operation::json("workerHealth", "How the worker is.", "WorkerHealth"),
        ),
        (Method::GET, "/health/live", Operation::json("live", "The process turns.", "Liveness")),
        (
            Method::GET,
            "/health/ready",
            Operation::json("ready", "Whether work would be taken; 503 if not.", "Readiness"),
        ),
        (Method::GET, "/", Operation::bytes("page", "The page for people.", "text/html")),
        (
            Method::GET,
            "/page/{name}",
            Operation::bytes("pagePart", "Scripts and style of the page.", "text/plain"),
        ),
        (Method::GET, "/metrics", Operation::bytes("metrics", "Figures for Prometheus.", "text/plain")),
        (Method::GET, "/openapi.json", Operation::json("openapi", "This document.", "Document")),
    ]
}
