//! Endpoints that are an Ollama, spoken to by its own routes.
//!
//! Its `/v1` drops what it does not know and cuts prompts that do not fit without a word. Here a request is mapped
//! member by member, what cannot be mapped is refused by name, and no answer to a prompt that was cut is a success.
//! Written from ollama/ollama 0.32 (`api/types.go`, `server/routes.go`, `openai/openai.go`).
//!
//! Deliberately absent: counting tokens before each call. What is too long is seen in the answer, or refused by Ollama;
//! only where neither can tell, the messages are counted by calls of their own.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use overnight_domain::engine_facts::EngineFacts;
use overnight_domain::fault::Fault;
use overnight_domain::request;
use overnight_domain::route::Route;

use crate::classify;
use crate::client::Client;
use crate::endpoint::{EndpointConfig, EndpointError};
use crate::engine::{Answer, Attempt, Call, Engine};
use crate::patience::Patience;
use crate::reply::Reply;
use crate::secret::Secret;

mod context;
mod counting;
mod habits;
mod messages;
mod native;
mod object;
mod refusal;
mod responses;
mod sizes;
mod told;
mod translate;
mod version;

use context::{Seen, Verdict, judge, settle};
use habits::{Habits, Sample};
use native::Native;
use refusal::Refusal;
use told::{Loaded, Shown};
use translate::{Defaults, Path, Translated};
use version::Version;

/// One such endpoint.
pub struct Ollama {
    client: Client,
    api_key: Option<Secret>,
    probe_timeout: Duration,
    answer_len_max: u64,
    /// Asked for where a request does not say.
    num_ctx: Option<u64>,
    in_flight: AtomicU32,
    known: Mutex<Known>,
}

/// What was learned of it.
#[derive(Debug, Default)]
struct Known {
    version: Option<String>,
    /// What is in memory, as it was last told.
    loaded: Vec<Loaded>,
    /// By model, as the caller names it.
    shown: HashMap<String, Shown>,
    habits: Habits,
}

/// Models that are remembered; names come from callers.
const SHOWN_MAX: usize = 1_000;
/// Ollama's own default since 0.6, for versions that do not tell and models that do not say.
const NUM_CTX_DEFAULT: u64 = 4_096;

impl Ollama {
    /// Refuses a configuration that cannot work; whether the endpoint answers is not asked.
    pub fn new(config: &EndpointConfig) -> Result<Self, EndpointError> {
        let mut config = config.clone();
        let base = config.url.trim_end_matches('/');
        if !base.ends_with("/v1") {
            config.url = format!("{base}/v1");
        }
        Ok(Self {
            client: Client::new(&config)?,
            api_key: config.api_key.clone(),
            probe_timeout: config.probe_timeout,
            answer_len_max: config.answer_len_max,
            num_ctx: config.num_ctx.map(u64::from),
            in_flight: AtomicU32::new(0),
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, call: &Call, patience: &mut Patience) -> Result<Answer, Fault> {
        let body = std::str::from_utf8(&call.body)
            .map_err(|_| Refusal::new("body", "the body is not UTF-8 text").into_fault())?;
        let version = self.version(patience.remaining()).await?;
        if call.route == Route::Responses {
            return self.through_v1(call, body, version, patience).await;
        }
        let bounds = self.bounds(call.route, body, version, patience).await?;
        let defaults = Defaults { num_ctx: bounds.num_ctx };
        let sent = translate::translate(call.route, body, defaults).map_err(Refusal::into_fault)?;
        let path = match sent.path {
            Path::Chat => "/api/chat",
            Path::Generate => "/api/generate",
            Path::Embed => "/api/embed",
        };
        let in_flight = InFlight::enter(&self.in_flight);
        let sent_after = patience.elapsed();
        let uri = self.client.address.native(path);
        let reply = self.client.exchange(Method::POST, uri, sent.body.clone().into(), patience).await?;
        let wall = patience.elapsed().saturating_sub(sent_after);
        let reply = self.read_success(reply, &sent.model, sent.num_ctx)?;
        let native = Native::read(&reply).map_err(|reason| garbage(&reason))?;
        if sent.path != Path::Embed {
            self.known().habits.note(Sample {
                in_flight: in_flight.count,
                wall,
                load: native.load(),
                busy: native.busy(),
                loaded_as: sent.loaded_as(),
            });
        }
        drop(in_flight);
        self.check_whole(&native, &sent, version, bounds.most, patience).await?;
        let body = native.into_openai(call.route, &reply, sent.back)?;
        classify::read_answer_body(call.route, &body.into())
    }

    /// Older versions cut to a context that they do not tell: it is said with the call, so that it is known.
    async fn bounds(
        &self,
        route: Route,
        body: &str,
        version: Version,
        patience: &Patience,
    ) -> Result<Bounds, Fault> {
        // `/api/embed` has obeyed `truncate` from its beginning.
        if version.obeys_flags() || route == Route::Embeddings {
            return Ok(Bounds { num_ctx: self.num_ctx, most: None });
        }
        let model = request::model_of(body).unwrap_or_default();
        let shown = self.shown(&model, patience.remaining()).await?;
        let usual = || self.known().context_of(&model).or(shown.num_ctx).unwrap_or(NUM_CTX_DEFAULT);
        Ok(Bounds { num_ctx: Some(self.num_ctx.unwrap_or_else(usual)), most: shown.trained })
    }

    async fn check_whole(
        &self,
        native: &Native<'_>,
        sent: &Translated,
        version: Version,
        most: Option<u64>,
        patience: &Patience,
    ) -> Result<(), Fault> {
        let obeys = version.obeys_flags() || sent.path == Path::Embed;
        let told = self.known().context_of(&sent.model);
        let asked = sent.num_ctx.map(|asked| most.map_or(asked, |most| asked.min(most)));
        let mut seen = Seen {
            // A list of inputs is read one by one; the count is the sum, and proves nothing.
            prompt: native
                .prompt_eval_count
                .filter(|_| sent.path != Path::Embed || sent.sizes.parts.len() == 1),
            answer: native.eval_count.unwrap_or(0),
            context: asked.or(told),
            obeys,
            halves: version.halves(),
            sizes: &sent.sizes,
        };
        let mut verdict = judge(seen);
        if asked.is_none() && (told.is_none() || verdict == Verdict::Cut) {
            // Nothing was told yet, or it may be older than the model that answered.
            self.ask_loaded(patience.remaining()).await?;
            seen.context = self.known().context_of(&sent.model);
            verdict = judge(seen);
        }
        let mut counted = None;
        if verdict == Verdict::Doubt {
            let counts = self.count_messages(sent, seen, patience).await?;
            verdict = settle(seen, &counts);
            counted = (counts.len() == sent.sizes.parts.len()).then(|| counts.iter().sum());
        }
        if verdict == Verdict::Whole {
            return Ok(());
        }
        Err(too_long(seen, counted))
    }

    /// The body of a 200. A refusal for length is told from the others, also where it comes as an error of the engine.
    fn read_success(&self, reply: Reply, model: &str, num_ctx: Option<u64>) -> Result<Bytes, Fault> {
        let status = reply.head.status.as_u16();
        if status == 200 {
            return classify::read_success(reply, self.answer_len_max).map(|(_, body)| body);
        }
        let message = classify::describe(&reply.body);
        if matches!(status, 400 | 413 | 500)
            && let Some((prompt_tokens, context_len)) = context::read_refusal(&message)
        {
            let context_len = context_len.or(num_ctx).or_else(|| self.known().context_of(model));
            return Err(Fault::TooLongPrompt { prompt_tokens, context_len, detail: message });
        }
        Err(match classify::read_failure(&reply) {
            Fault::Refused { status, .. } => {
                let body = serde_json::json!({"error": {
                    "message": message, "type": "invalid_request_error", "param": null, "code": null,
                }});
                Fault::Refused { status, body: body.to_string().into_bytes() }
            }
            other => other,
        })
    }
}

/// What a call is sent and held to.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// For a request that sets none.
    num_ctx: Option<u64>,
    /// An older Ollama takes no more than the model was made for, whatever it is asked for.
    most: Option<u64>,
}

fn too_long(seen: Seen<'_>, counted: Option<u64>) -> Fault {
    let read = seen.prompt.map_or_else(|| "an unknown number of".to_owned(), |read| read.to_string());
    let detail = match (seen.prompt, seen.context) {
        (Some(read), Some(context)) if read < context && read + seen.answer > context => {
            format!(
                "Ollama read {read} tokens and answered with {}: the prompt was shifted out",
                seen.answer
            )
        }
        (_, Some(context)) if counted.is_some_and(|counted| counted < context) => format!(
            "Ollama read {read} tokens, and so near to its context this version does not show whether that was all; 0.13 \
             and later say so"
        ),
        _ => format!("Ollama read {read} tokens of it"),
    };
    Fault::TooLongPrompt { prompt_tokens: counted, context_len: seen.context, detail }
}

fn garbage(reason: &str) -> Fault {
    Fault::Garbage { detail: format!("an answer of Ollama that cannot be used: {reason}") }
}

/// A call of ours that is with the endpoint.
struct InFlight<'a> {
    all: &'a AtomicU32,
    /// How many are, this one included.
    count: u32,
}

impl<'a> InFlight<'a> {
    fn enter(all: &'a AtomicU32) -> Self {
        Self { all, count: all.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Engine for Ollama {
    async fn ask(&self, call: Call) -> Attempt {
        let mut patience = Patience::new(call.deadline, call.stall).with_gap(call.gap);
        let result = self.answer(&call, &mut patience).await;
        let result = result.map_err(|fault| classify::hide_key(self.api_key.as_ref(), fault));
        Attempt { result, first_byte_after: patience.first_byte_after(), duration: patience.elapsed() }
    }

    /// A name without a tag means `:latest`, so both are served.
    async fn models(&self) -> Result<Vec<String>, Fault> {
        let tags = self.ask_tags(self.probe_timeout).await?;
        let mut names = Vec::with_capacity(tags.len());
        for (name, _) in tags {
            if let Some(short) = name.strip_suffix(":latest") {
                names.push(short.to_owned());
            }
            names.push(name);
        }
        Ok(names)
    }

    async fn facts(&self) -> Result<EngineFacts, Fault> {
        self.all_facts().await
    }

    async fn probe(&self) -> Result<(), Fault> {
        self.ask_version(self.probe_timeout).await.map(|_| ())
    }
}

impl fmt::Debug for Ollama {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ollama").field("address", &self.client.address).finish_non_exhaustive()
    }
}
