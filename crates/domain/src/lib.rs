//! Words and rules of Overnight.
//!
//! Nothing here does I/O, waits or reads a clock: time is an argument. What other crates decide with, they find here;
//! what they do is theirs.

pub mod batch;
pub mod chunk;
pub mod dispatch;
pub mod engine_facts;
pub mod fault;
pub mod file;
pub mod gpu_health;
pub mod ids;
pub mod limits;
pub mod notice;
pub mod pack;
pub mod patience;
pub mod plan;
pub mod progress;
pub mod request;
pub mod result;
pub mod route;
pub mod several;
pub mod supervision;
pub mod tally;
pub mod time;
pub mod window;
