//! The stand-in engine of all tests and benches.
//!
//! Over real HTTP it answers as a deterministic function of the request: no clock and no counter reaches an answer, so
//! that a run with faults must give the same bytes as a run without. What else happens (latency, refusals, garbage,
//! crashes) is decided by a [`Script`] for the whole engine and by `[[sim:...]]` marks in the bodies of single requests.
//! It counts the calls by request, which is how a test proves that nothing ran twice without need.
//!
//! Development only; nothing that ships may import it. Deliberately absent: streamed answers, TLS, chunked request
//! bodies, HTTP/2, and a check that a body is whole JSON where the answer does not need it (see [`Script::check_json`]).

pub mod load;
pub mod make;

mod answer;
mod calls;
mod conduct;
mod connection;
mod control;
mod directive;
mod engine;
mod garbage;
mod lists;
mod ollama;
mod request;
mod script;
mod shape;
mod shapes;
mod steps;
mod wire;

pub use answer::{UNICODE_TEXT, answer_text};
pub use calls::{CallsView, body_key, marker_key};
pub use directive::{Directive, DirectiveError, Outcome, Text};
pub use engine::{Engine, Setup};
pub use garbage::Garbage;
pub use ollama::Ollama;
pub use script::{Embeddings, Latency, Permits, Rule, Script, When};
pub use shape::Shape;
pub use shapes::tei::Tei;
