//! What a caller sees of an engine: the trait, what goes in, what comes out.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use overnight_domain::engine_facts::EngineFacts;
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;
use overnight_domain::tally::Usage;

/// One endpoint that answers requests.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Asks once. A kept connection that dies before the first byte of an answer is no answer at all: then the request
    /// is sent again, once, on a fresh connection. Dropping the future closes the connection.
    async fn ask(&self, call: Call) -> Attempt;

    /// The names of the models that the endpoint serves.
    async fn models(&self) -> Result<Vec<String>, Fault>;

    /// What it tells of itself now. A question that it does not know is no fault: then that much stays unknown.
    async fn facts(&self) -> Result<EngineFacts, Fault>;

    /// Whether somebody is there who would let us in.
    async fn probe(&self) -> Result<(), Fault>;
}

/// What one attempt sends, and how long it may take.
#[derive(Debug, Clone)]
pub struct Call {
    pub route: Route,
    /// Forwarded unchanged.
    pub body: Bytes,
    /// The whole call, connecting included.
    pub deadline: Duration,
    /// The longest silence from sending to the first byte. An engine that does not stream says nothing before it has
    /// all.
    pub stall: Duration,
    /// The longest silence within an answer that has begun.
    pub gap: Duration,
}

/// An answer that is one whole JSON object of the route's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// As the engine wrote it, white space around the object taken off. It may hold line breaks between its members.
    pub body: Bytes,
    /// Zero where the engine reports nothing, or nonsense.
    pub usage: Usage,
    pub model: Option<String>,
    pub request_id: Option<String>,
}

/// What came of asking once.
#[derive(Debug)]
pub struct Attempt {
    pub result: Result<Answer, Fault>,
    /// From the call to the head of the answer; none when no answer began.
    pub first_byte_after: Option<Duration>,
    pub duration: Duration,
}
