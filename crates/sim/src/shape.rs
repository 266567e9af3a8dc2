//! Which real engine the stand-in takes after: its own routes, words and ways beside the OpenAI dialect.

use serde::{Deserialize, Serialize};

/// The engine whose shape the stand-in has. What a shape answers is written from that engine's documentation and source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// The OpenAI dialect and nothing else.
    #[default]
    OpenAi,
    Ollama,
    Vllm,
    Sglang,
    LlamaCpp,
    Tei,
    LmStudio,
}
