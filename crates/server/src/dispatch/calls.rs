//! A call: from request lines to the engine and back to result frames.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use overnight_domain::dispatch::{Failure, Recorded, Send};
use overnight_domain::fault::{Fault, kind_number};
use overnight_domain::ids::DispatchToken;
use overnight_domain::limits::STALL_AFTER;
use overnight_domain::pack::{self, Share};
use overnight_domain::request;
use overnight_domain::result::LineHead;
use overnight_domain::several::Several;
use overnight_domain::tally::{Outcome, Usage};
use overnight_domain::time::UnixTime;
use overnight_engine::{Answer, Call, Engine};
use overnight_segment::{ContentKind, Frame, FrameHeader};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::chunks::Held;
use super::endpoint::Endpoint;

/// A call that has ended.
pub(super) struct Ended {
    pub(super) token: DispatchToken,
    /// One for each request of the call, in their order.
    pub(super) result: Result<Several<Answer>, Fault>,
    pub(super) duration: Duration,
}

/// A call that was begun.
pub(super) struct Begun {
    pub(super) abort: AbortHandle,
    /// What its body takes beside the lines that it was made of.
    pub(super) copy_len: u64,
}

/// Sends the requests of a call. The task ends with one message, or silently when it is aborted.
pub(super) fn start(
    endpoint: &Endpoint,
    held: &Held,
    send: &Send,
    ended: &mpsc::Sender<Ended>,
) -> anyhow::Result<Begun> {
    let (body, shares) = body(endpoint, held, &send.pack.ordinals)?;
    let copy_len = if shares.is_empty() { 0 } else { body.len() as u64 };
    let call = Call {
        route: held.batch.route,
        body,
        deadline: send.deadline,
        // An engine that does not stream says nothing until it has all: only the deadline tells it from a stuck one.
        stall: send.deadline,
        gap: STALL_AFTER,
    };
    let (engine, token, ended): (Arc<dyn Engine>, _, _) =
        (endpoint.engine.clone(), send.token, ended.clone());
    #[expect(
        clippy::disallowed_methods,
        reason = "calls are owned by the dispatcher, which aborts them by token"
    )]
    let task = tokio::spawn(async move {
        let attempt = engine.ask(call).await;
        let result = attempt.result.and_then(|answer| take_apart(answer, &shares));
        // The dispatcher has gone only when the process ends.
        let _ = ended.send(Ended { token, result, duration: attempt.duration }).await;
    });
    Ok(Begun { abort: task.abort_handle(), copy_len })
}

/// The answer of each request. Without shares the call was one request, and the answer is its own.
fn take_apart(answer: Answer, shares: &[Share]) -> Result<Several<Answer>, Fault> {
    if shares.is_empty() {
        return Ok(Several::one(answer));
    }
    let text = std::str::from_utf8(&answer.body).map_err(|error| format!("not UTF-8: {error}"));
    let bodies = text.and_then(|text| pack::unpack(text, shares));
    let bodies = bodies.map_err(|reason| Fault::Garbage { detail: reason })?;
    let usages = pack::share_tokens(answer.usage, shares);
    let own = |(body, usage): (Vec<u8>, Usage)| Answer {
        status: answer.status,
        body: body.into(),
        usage,
        model: answer.model.clone(),
        request_id: answer.request_id.clone(),
    };
    let answers = bodies.into_iter().zip(usages).map(own).collect();
    Several::from_vec(answers)
        .ok_or_else(|| Fault::Garbage { detail: "an answer to nothing".to_owned() })
}

/// What is sent for the requests of a call; and for a pack, what each has of it.
fn body(
    endpoint: &Endpoint,
    held: &Held,
    ordinals: &Several<u32>,
) -> anyhow::Result<(Bytes, Vec<Share>)> {
    let raw = |ordinal: u32| &held.lines[ordinal as usize].body;
    if ordinals.is_one() {
        return Ok((with_model(endpoint, held, raw(ordinals.first))?, Vec::new()));
    }
    let bodies: Option<Vec<&str>> =
        ordinals.iter().map(|ordinal| held.lines[*ordinal as usize].body_text()).collect();
    let packed = bodies.and_then(|bodies| pack::pack(bodies.into_iter()));
    let (body, shares) = packed.context("a planned body is not what was validated")?;
    Ok((with_model(endpoint, held, &body.into())?, shares))
}

/// The body as the caller wrote it, but for the model's alias or the batch's default model.
fn with_model(endpoint: &Endpoint, held: &Held, raw: &Bytes) -> anyhow::Result<Bytes> {
    let asked = held.batch.options.model.as_deref();
    if endpoint.aliases.is_empty() && asked.is_none() {
        return Ok(raw.clone());
    }
    let body = std::str::from_utf8(raw).context("a planned body is not what was validated")?;
    let named = request::model_of(body);
    let model = named.as_deref().or(asked).unwrap_or_default();
    let known =
        endpoint.aliases.iter().find(|(alias, _)| alias == model).map_or(model, |(_, name)| name);
    if named.as_deref() == Some(known) {
        return Ok(raw.clone());
    }
    request::with_model(body, known).map(Bytes::from).context("a planned body is not what was validated")
}

/// What a result frame is made of besides its line.
pub(super) struct FrameFacts {
    pub(super) recorded: Recorded,
    /// The number that frames carry for the endpoint.
    pub(super) endpoint: u16,
    /// The frames of one call have the same.
    pub(super) token: DispatchToken,
    pub(super) started_at: UnixTime,
    pub(super) duration: Duration,
}

pub(super) fn answered(held: &Held, facts: &FrameFacts, answer: &Answer) -> Frame {
    let payload = head(held, facts).answered(&answer.body);
    frame(held, facts, payload, Outcome::Completed, (answer.status, 0), answer.usage)
}

pub(super) fn failed(held: &Held, facts: &FrameFacts, failure: &Failure) -> Frame {
    let head = head(held, facts);
    let (payload, code) = match failure {
        Failure::Answered { kind, status, body } => {
            (head.refused(*status, body), (*status, kind_number(kind)))
        }
        Failure::Unanswered { code, message } => {
            (head.unanswered(code, message), (0, kind_number(code)))
        }
    };
    frame(held, facts, payload, Outcome::Failed, code, Usage::default())
}

fn head<'a>(held: &'a Held, facts: &FrameFacts) -> LineHead<'a> {
    let ordinal = facts.recorded.request.ordinal as usize;
    LineHead::new(&held.batch.id, held.entries[ordinal].index, &held.lines[ordinal].custom_id)
}

fn frame(
    held: &Held,
    facts: &FrameFacts,
    payload: Vec<u8>,
    outcome: Outcome,
    (status, fault): (u16, u8),
    usage: Usage,
) -> Frame {
    let entry = &held.entries[facts.recorded.request.ordinal as usize];
    Frame {
        batch: held.batch.id.clone(),
        header: FrameHeader {
            content: ContentKind::Json,
            outcome,
            chunk: held.lease.chunk,
            index: entry.index,
            lease: held.lease.token,
            dispatch: facts.token,
            attempts: facts.recorded.attempts,
            endpoint: facts.endpoint,
            model: entry.model,
            status,
            fault,
            started_at: facts.started_at,
            duration: facts.duration,
            usage,
        },
        payload,
    }
}
