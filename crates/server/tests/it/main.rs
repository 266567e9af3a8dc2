//! The real binary over real sockets, in front of the stand-in engine.

mod harness;
mod smoke;
