//! The built-in engine: llama.cpp with a schedule that is made for batches, as a process that speaks the OpenAI dialect.
//!
//! Everything but the computing builds without the feature `llama`, and is tested without it.
#![cfg_attr(
    not(feature = "llama"),
    expect(dead_code, reason = "most of it serves the computing, which is left out")
)]

mod choices;
mod closed;
#[cfg(feature = "llama")]
mod compute;
#[cfg(feature = "llama")]
mod demo;
mod dialect;
#[cfg(feature = "llama")]
mod engine;
pub mod fetch;
#[cfg(feature = "llama")]
mod forms;
pub mod gguf;
#[cfg(feature = "llama")]
mod grammar;
mod inputs;
#[cfg(feature = "llama")]
mod llama;
mod machine;
mod memory;
#[cfg(feature = "llama")]
mod prompt;
mod question;
mod refusal;
#[cfg(feature = "llama")]
mod routes;
mod schedule;
#[cfg(feature = "llama")]
mod serve;
mod speech;
mod template;
mod token;
mod vector;
#[cfg(feature = "llama")]
mod watch;

#[cfg(feature = "llama")]
pub use demo::DemoModel;
#[cfg(feature = "llama")]
pub use serve::{Options, Place, serve};
