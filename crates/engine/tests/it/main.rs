//! The crate at its boundary: real sockets, scripted bytes.
#![cfg(test)]

mod connections;
mod discovery;
mod faults;
mod https;
mod requests;
mod server;
