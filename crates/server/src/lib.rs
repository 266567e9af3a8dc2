//! The server and the command line of Overnight.
//!
//! `api` and `dispatch` never call each other: they meet in the store and in one [`bell`].

mod api;
mod bell;
mod blobs;
mod blocking;
mod builtin;
mod classify;
pub mod cli;
pub mod clock;
pub mod config;
mod context;
mod counters;
mod dialect;
mod disk;
mod dispatch;
mod endpoint_names;
mod endpoints;
mod failures;
mod finalize;
#[cfg(test)]
mod fuzz;
mod gpu;
mod holds;
mod ingest;
mod lines;
mod live;
mod lock;
mod metrics;
mod notify;
mod one_batch;
mod pace;
mod pulse;
mod results;
mod retry;
mod run;
mod service;
mod setbacks;
mod sleep;
mod supervise;
mod suspend;
mod upkeep;
mod verify;
mod waiting;
mod whole;
