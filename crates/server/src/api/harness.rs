//! A server in memory for the tests of this folder: its routes are called without a socket.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use overnight_domain::ids::WorkerId;
use overnight_domain::limits::AdmissionLimits;
use overnight_segment::{Log, LogOptions};
use overnight_store::SqliteStore;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::api::guard::Ends;
use crate::api::router;
use crate::blobs::Blobs;
use crate::config::{
    Config, DispatchConfig, NotifyConfig, Profile, QueueConfig, RetentionConfig, ServerConfig,
};
use crate::context::Context;
use crate::disk::Disk;

pub(super) struct Harness {
    pub(super) ctx: Arc<Context>,
    pub(super) folder: TempDir,
    _log: Log,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The value of a good answer.
    #[track_caller]
    pub(super) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The `error` of a refusal, after checking its envelope.
    #[track_caller]
    pub(super) fn refused(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.headers[CONTENT_TYPE], "application/json");
        assert!(self.headers.contains_key("x-request-id"));
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert!(error["type"].is_string(), "{error}");
        for member in ["param", "code"] {
            let value = error.get(member).unwrap_or_else(|| panic!("no `{member}` in {error}"));
            assert!(value.is_null() || value.is_string(), "{error}");
        }
        error
    }
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// One that asks everybody for a key.
    pub(super) fn guarded() -> Self {
        Self::with(|config| {
            config.server.keys = vec![crate::config::KeyConfig {
                name: "ci".to_owned(),
                tenant: overnight_domain::ids::TenantId::default(),
                value: crate::config::Secret::new("sk-0"),
                admin: true,
            }];
        })
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder);
        change(&mut config);
        let segments = folder.path().join("segments");
        let log = Log::open(&segments, LogOptions::default(), Box::new(|_| {})).unwrap();
        let bell = crate::bell::Bell::new();
        let ctx = Context {
            store: Arc::new(SqliteStore::open(folder.path().join("overnight.db")).unwrap()),
            blobs: Blobs::open_local(&folder.path().join("blobs")).unwrap(),
            log: log.handle(),
            segments,
            worker: WorkerId::from_uuid(crate::clock::new_id()),
            started_at: crate::clock::now(),
            holds: crate::holds::Holds::new(bell.clone()),
            bell,
            gpus: crate::gpu::Gpus::default(),
            live: crate::live::Live::default(),
            failures: crate::failures::Failures::default(),
            endpoints: crate::endpoints::Endpoints::default(),
            endpoint_names: crate::endpoint_names::EndpointNames::default(),
            counters: crate::counters::Counters::default(),
            paces: crate::pace::Paces::new(),
            disk: Disk::new(folder.path()),
            supervision: crate::supervise::Supervision::default(),
            stop: tokio_util::sync::CancellationToken::new(),
            config,
        };
        // Nothing is ever in flight here.
        ctx.supervision.settled().cancel();
        Self { ctx: Arc::new(ctx), folder, _log: log }
    }

    pub(super) async fn call(&self, mut request: Request) -> Answer {
        let loopback = "127.0.0.1:8642".parse().unwrap();
        request.extensions_mut().insert(Ends { peer: loopback, local: loopback });
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, http::HeaderValue::from_static("127.0.0.1:8642"));
        }
        let response = router(Arc::clone(&self.ctx)).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(request(Method::GET, path, Body::empty())).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.call(request(Method::DELETE, path, Body::empty())).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(request(Method::POST, path, Body::from(body.to_string()))).await
    }

    pub(super) async fn post_empty(&self, path: &str) -> Answer {
        self.call(request(Method::POST, path, Body::empty())).await
    }

    pub(super) async fn form(&self, path: &str, fields: &[Field<'_>]) -> Answer {
        let mut request = request(Method::POST, path, Body::from(form_body(fields)));
        let declared = http::HeaderValue::from_static("multipart/form-data; boundary=XX");
        request.headers_mut().insert(CONTENT_TYPE, declared);
        self.call(request).await
    }

    /// Stores an input and returns its id.
    pub(super) async fn input(&self, content: &str) -> String {
        let fields = [Field::text("purpose", "batch"), Field::file("in.jsonl", content.as_bytes())];
        let file = self.form("/v1/files", &fields).await.ok();
        file["id"].as_str().unwrap().to_owned()
    }

    /// The names of all blobs and of what is on its way to be one.
    pub(super) fn blobs(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("blobs").join(folder)) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

/// A part of a form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    name: &'a str,
    filename: Option<&'a str>,
    content: &'a [u8],
}

impl<'a> Field<'a> {
    pub(super) fn text(name: &'a str, content: &'a str) -> Self {
        Self { name, filename: None, content: content.as_bytes() }
    }

    pub(super) fn file(filename: &'a str, content: &'a [u8]) -> Self {
        Self { name: "file", filename: Some(filename), content }
    }

    pub(super) fn named(name: &'a str, filename: &'a str, content: &'a [u8]) -> Self {
        Self { name, filename: Some(filename), content }
    }
}

pub(super) fn form_body(fields: &[Field<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for field in fields {
        let filename = field.filename.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        let head =
            format!("--XX\r\nContent-Disposition: form-data; name=\"{}\"{filename}\r\n\r\n", field.name);
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(field.content);
        body.extend_from_slice(b"\r\n");
    }
    // openai-node 4 sends an extra line break behind the last boundary.
    body.extend_from_slice(b"--XX--\r\n\r\n");
    body
}

pub(super) fn request(method: Method, path: &str, body: Body) -> Request {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request
}

fn config(folder: &TempDir) -> Config {
    Config {
        profile: Profile::Desktop,
        data: folder.path().to_owned(),
        database: folder.path().join("overnight.db"),
        blobs: folder.path().join("blobs"),
        log: "info".to_owned(),
        server: ServerConfig {
            listen: "127.0.0.1:8642".parse().unwrap(),
            hosts: Vec::new(),
            keys: Vec::new(),
            insecure: false,
            inhibit_sleep: false,
            stuck_after: overnight_domain::limits::STUCK_AFTER,
        },
        limits: AdmissionLimits::DESKTOP,
        queue: QueueConfig { active_batches_max: None },
        retention: RetentionConfig { files: None, outputs: None },
        notify: NotifyConfig::nobody(),
        dispatch: DispatchConfig {
            memory_len: overnight_domain::limits::MEMORY_BUDGET,
            request_len_max: overnight_domain::limits::REQUEST_LEN_MAX,
            answer_len_max: overnight_domain::limits::ANSWER_LEN_MAX,
            attempts_max: overnight_domain::limits::ATTEMPTS_DEFAULT,
            hard_expiry: false,
            commit_after: overnight_domain::limits::COMMIT_AFTER,
        },
        gpu: crate::config::GpuConfig::default(),
        engines: Vec::new(),
        discovery: crate::config::DiscoveryConfig { ports: Vec::new() },
        models: Vec::new(),
    }
}
