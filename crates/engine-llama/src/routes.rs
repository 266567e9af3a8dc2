//! The routes: one function each.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode, Uri};
use serde_json::{Value, json};

use crate::dialect::chat::ChatAsked;
use crate::dialect::completion::CompletionAsked;
use crate::dialect::embedding::{EmbeddingAnswer, EmbeddingAsked};
use crate::dialect::reply::{Heading, Kind};
use crate::engine::{Asking, Engine, Next, Ready};
use crate::question::Generation;
use crate::refusal::{self, Refusal};

/// A list of 2,048 inputs of the longest kind, with room to spare.
const BODY_LEN_MAX: usize = 64 * 1024 * 1024;

type Shared = State<Arc<Engine>>;
type Read = Result<Bytes, BytesRejection>;

pub(crate) fn router(engine: Arc<Engine>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/embeddings", post(embeddings))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(engine)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).expect("refusals have statuses that exist");
        let mut response = (status, Json(self.body())).into_response();
        if self.is_passing() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

async fn unknown(uri: Uri) -> Refusal {
    refusal::unknown_path(uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    refusal::wrong_method(method.as_str(), uri.path())
}

async fn health(State(engine): Shared) -> Response {
    match engine.ready() {
        Ok(_) => Json(json!({"status": "ok"})).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn models(State(engine): Shared) -> Json<Value> {
    let mut model = json!({
        "id": &*engine.name, "object": "model", "created": 0, "owned_by": "overnight-engine"
    });
    if let Ok(ready) = engine.ready() {
        model["max_model_len"] = json!(ready.plan.streams.sequence_len);
        model["overnight_engine"] = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "slots": ready.slots(),
            "wanted": ready.wanted(),
            "permits": ready.permits_max(),
            "kv_tokens": ready.plan.unified.pool_len,
            "input_tokens": ready.plan.embed_len,
        });
    }
    Json(json!({"object": "list", "data": [model]}))
}

async fn metrics(State(engine): Shared) -> Response {
    let load = &engine.load;
    let mut text = String::new();
    let mut line = |kind: &str, name: &str, help: &str, value: f64| {
        // Writing to a text cannot fail.
        let _ = write!(
            text,
            "# HELP overnight_engine_{name} {help}\n# TYPE overnight_engine_{name} {kind}\novernight_engine_{name} {value}\n"
        );
    };
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    line("gauge", "requests_running", "Requests that are being answered.", of(&load.running));
    line("gauge", "requests_waiting", "Requests that wait for a slot.", of(&load.waiting));
    line("counter", "steps_total", "Steps that were computed.", of(&load.steps));
    line("gauge", "step_seconds", "How long the last step took.", of(&load.step_millis) / 1e3);
    let computed = of(&load.computed_tokens);
    line("counter", "prompt_tokens_computed_total", "Prompt tokens that were computed.", computed);
    let cached = of(&load.cached_tokens);
    line("counter", "prompt_tokens_cached_total", "Prompt tokens that were copied.", cached);
    line("counter", "answer_tokens_total", "Tokens that were answered.", of(&load.answer_tokens));
    let forced = of(&load.forced_tokens);
    line("counter", "answer_tokens_forced_total", "Tokens that had to follow in an answer.", forced);
    let embedded = of(&load.embedded_tokens);
    line("counter", "embedded_tokens_total", "Tokens of inputs that were embedded.", embedded);
    let one_pool = "1: the sequences share one pool of KV cells, 0: each has a stream of its own.";
    line("gauge", "kv_unified", one_pool, of(&load.is_unified));
    if let Ok(ready) = engine.ready() {
        let planned = ready.plan.bytes as f64;
        line("gauge", "memory_planned_bytes", "Memory that the engine was planned to use.", planned);
        line("gauge", "slots", "Requests that are answered at once.", f64::from(ready.slots()));
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn chat(State(engine): Shared, body: Read) -> Result<Response, Refusal> {
    let chat = ChatAsked::read(&read(body)?)?;
    let ready = engine.ready()?;
    let (model, streams, shows_usage) =
        (chat.asked.model.clone(), chat.asked.streams, chat.asked.shows_usage);
    check_model(&engine, model.as_deref())?;
    let now = (engine.now)();
    let called = chat.tools.call.as_ref().map(|call| call.name.clone());
    let generation = tokio::task::block_in_place(|| ready.chat(chat, now))?;
    let answer = Answering { kind: Kind::Chat, streams, shows_usage, called };
    answer.run(&engine, generation).await
}

async fn completion(State(engine): Shared, body: Read) -> Result<Response, Refusal> {
    let completion = CompletionAsked::read(&read(body)?)?;
    let ready = engine.ready()?;
    let asked = &completion.asked;
    check_model(&engine, asked.model.as_deref())?;
    let answer = Answering {
        kind: Kind::Completion,
        streams: asked.streams,
        shows_usage: asked.shows_usage,
        called: None,
    };
    let generation = tokio::task::block_in_place(|| ready.completion(completion))?;
    answer.run(&engine, generation).await
}

async fn embeddings(State(engine): Shared, body: Read) -> Result<Response, Refusal> {
    let asked = EmbeddingAsked::read(&read(body)?)?;
    check_model(&engine, asked.model.as_deref())?;
    let ready: &Ready = engine.ready()?;
    let inputs = tokio::task::block_in_place(|| ready.inputs(&asked))?;
    let embeddings = engine.embed(inputs.tokens).await?;
    if let Some(at) = embeddings.iter().position(|parts| !parts.iter().all(|part| part.is_finite())) {
        return Err(refusal::failed(&format!("what the model made of input {at} are no numbers")));
    }
    let answer = EmbeddingAnswer { embeddings, tokens: inputs.tokens_count, cut: inputs.cut };
    Ok(Json(answer.body(&engine.name, &asked)).into_response())
}

fn read(body: Read) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| refusal::unreadable_body(&rejection.body_text()))
}

/// One process has one model; another one's name is an error of whoever sends it here.
fn check_model(engine: &Engine, asked: Option<&str>) -> Result<(), Refusal> {
    match asked {
        Some(asked) if asked != &*engine.name => Err(refusal::unknown_model(asked, &engine.name)),
        _ => Ok(()),
    }
}

struct Answering {
    kind: Kind,
    streams: bool,
    shows_usage: bool,
    called: Option<Box<str>>,
}

impl Answering {
    async fn run(self, engine: &Engine, generation: Generation) -> Result<Response, Refusal> {
        let prefix = match self.kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        let heading = Heading {
            kind: self.kind,
            id: format!("{prefix}-{}", uuid::Uuid::now_v7().simple()),
            created: (engine.now)().seconds(),
            model: Arc::clone(&engine.name),
            has_logprobs: generation.top_logprobs.is_some(),
            called: self.called,
        };
        let asking = engine.ask(generation).await?;
        if !self.streams {
            let (said, ending) = asking.all().await?;
            return Ok(Json(heading.whole(&said, &ending)).into_response());
        }
        let body = Body::from_stream(deltas(asking, heading, self.shows_usage));
        let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
        Ok((headers, body).into_response())
    }
}

/// The events of a streamed answer. Dropped with its connection, and the question with it.
fn deltas(
    asking: Asking,
    heading: Heading,
    shows_usage: bool,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    let opening = heading.opening().map(|opening| event(&opening)).unwrap_or_default();
    let state = (Some(asking), heading, opening);
    futures::stream::unfold(state, move |(asking, heading, opening)| async move {
        let mut asking = asking?;
        let (mut events, is_over) = match asking.next().await {
            Ok(Next::Piece(piece)) => (event(&heading.piece(&piece)), false),
            Ok(Next::End(ending)) => {
                let mut events = event(&heading.closing(&ending));
                if shows_usage {
                    events.push_str(&event(&heading.usage(&ending)));
                }
                events.push_str("data: [DONE]\n\n");
                (events, true)
            }
            Err(refusal) => (event(&refusal.body()), true),
        };
        events.insert_str(0, &opening);
        let asking = (!is_over).then_some(asking);
        Some((Ok(Bytes::from(events)), (asking, heading, String::new())))
    })
}

fn event(body: &Value) -> String {
    format!("data: {body}\n\n")
}
