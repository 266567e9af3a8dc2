//! Faults: what an attempt can end in besides an answer, and whose fault it is.
//!
//! The engine crate turns bytes and sockets into a [`Fault`]; the dispatcher turns a [`Fault`] into what follows.
//! Both speak these words, so that the fault table stands in one place.

use std::time::Duration;

/// A classified failure of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// 429, 503, 529: the engine has no room now. The request waits, no attempt is charged.
    Busy { status: u16, retry_after: Option<Duration>, detail: String },
    /// Refused, DNS, TLS, or a connection that could not be made in time: nobody is there.
    Down { detail: String },
    /// A kept connection died before the first byte of an answer: the engine may only have closed an idle connection.
    Stale { detail: String },
    /// The connection was lost after the request was on its way over a connection that worked.
    Lost { detail: String },
    /// 408, 409, 500 and other 5xx: may be the engine's fault or the request's.
    EngineError { status: u16, body: Vec<u8> },
    /// Our own deadline passed, or no progress was seen for too long.
    Timeout { detail: String },
    /// 200 with something that is no JSON object, is cut short, or contradicts its own length.
    Garbage { detail: String },
    /// The answer is longer than we take.
    TooLong { limit: u64 },
    /// 3xx, 401, 402, 403, 404, 405, 407: the endpoint is not set up for this.
    Misconfigured { status: u16, detail: String },
    /// The prompt does not fit into the context of the engine, which has cut it or would: an answer to it would be one to
    /// another question. Lengths in tokens, as far as the engine tells them.
    TooLongPrompt { prompt_tokens: Option<u64>, context_len: Option<u64>, detail: String },
    /// Other 4xx: the engine refuses this request, with its own words.
    Refused { status: u16, body: Vec<u8> },
}

/// The stable words of failures, in the order of the numbers that result frames carry. Only ever append to it.
const KINDS: [&str; 15] = [
    "none",
    "engine_busy",
    "engine_unavailable",
    "stale_connection",
    "connection_lost",
    "engine_error",
    "request_timeout",
    "engine_garbage",
    "response_too_large",
    "endpoint_misconfigured",
    "request_refused",
    "engine_crash",
    "batch_expired",
    "batch_cancelled",
    "context_length_exceeded",
];

/// The number of a failure's word; 0 for one that has none.
pub fn kind_number(kind: &str) -> u8 {
    KINDS.iter().position(|known| *known == kind).map_or(0, |at| at as u8)
}

/// The word of a failure's number, also of one that a newer version gave out.
pub fn kind_name(number: u8) -> &'static str {
    KINDS.get(usize::from(number)).copied().unwrap_or("unknown")
}

impl Fault {
    /// The stable word for counters, `/failed` and logs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "engine_busy",
            Self::Down { .. } => "engine_unavailable",
            Self::Stale { .. } => "stale_connection",
            Self::Lost { .. } => "connection_lost",
            Self::EngineError { .. } => "engine_error",
            Self::Timeout { .. } => "request_timeout",
            Self::Garbage { .. } => "engine_garbage",
            Self::TooLong { .. } => "response_too_large",
            Self::Misconfigured { .. } => "endpoint_misconfigured",
            Self::TooLongPrompt { .. } => "context_length_exceeded",
            Self::Refused { .. } => "request_refused",
        }
    }

    /// Whether it would be held against a request that was alone in its call.
    pub const fn may_be_the_request(&self) -> bool {
        match self {
            Self::EngineError { .. }
            | Self::Timeout { .. }
            | Self::Garbage { .. }
            | Self::TooLong { .. }
            | Self::TooLongPrompt { .. }
            | Self::Refused { .. } => true,
            // Lost connections are judged when it is known whether the engine is gone.
            Self::Busy { .. }
            | Self::Down { .. }
            | Self::Stale { .. }
            | Self::Lost { .. }
            | Self::Misconfigured { .. } => false,
        }
    }

    /// Whether it is what comes of an engine that has other troubles too, and so no word about the request when there is
    /// reason to think of those.
    pub const fn is_inconclusive(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. } | Self::Timeout { .. } | Self::Garbage { .. } | Self::EngineError { .. }
        )
    }

    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Busy { status, .. }
            | Self::EngineError { status, .. }
            | Self::Misconfigured { status, .. }
            | Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
