//! The real binary over real sockets, in front of the stand-in engine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod conformance;
mod crash;
mod harness;
mod smoke;
