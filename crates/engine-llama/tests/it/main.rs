//! The engine as a whole: real sockets and real inference, with a model whose words make no sense; and what it fetches.
#![cfg(test)]

#[cfg(feature = "llama")]
mod chats;
#[cfg(feature = "llama")]
mod crowds;
#[cfg(feature = "llama")]
mod damage;
#[cfg(feature = "llama")]
mod embeddings;
mod fetch;
#[cfg(feature = "llama")]
mod gguf;
#[cfg(feature = "llama")]
mod harness;
mod hub;
#[cfg(feature = "llama")]
mod layouts;
#[cfg(feature = "llama")]
mod memory;
#[cfg(feature = "llama")]
mod schemas;
#[cfg(feature = "llama")]
mod tools;
