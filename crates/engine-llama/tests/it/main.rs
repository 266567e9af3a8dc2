//! The engine as a whole: real sockets and real inference, with a model whose words make no sense.

mod chats;
mod damage;
mod embeddings;
mod gguf;
mod harness;
