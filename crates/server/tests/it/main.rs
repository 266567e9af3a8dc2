//! The real binary over real sockets, in front of the stand-in engine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "llama")]
mod builtin;
mod classify;
mod conformance;
mod context;
mod crash;
mod damage;
mod disk;
mod engines;
mod garbage;
mod gpu;
mod harness;
mod model;
mod notify;
mod ollama;
mod outputs;
mod overview;
mod packing;
mod service;
mod sleep;
mod smoke;
mod stuck;
mod supervise;
