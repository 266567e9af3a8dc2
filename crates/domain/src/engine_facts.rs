//! What an engine tells of itself: which it is, what it can take at once, how much it has to do.
//!
//! Every engine says it in its own words, and most say little. What is not known is none: the window's controller and
//! people read the same facts, and nobody guesses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which engine it is, as far as its own routes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavour {
    Ollama,
    Vllm,
    Sglang,
    LlamaCpp,
    Tei,
    LmStudio,
    /// The built-in one.
    Overnight,
    /// It speaks the OpenAI dialect, and more is not known.
    #[default]
    Other,
}

impl Flavour {
    /// The name that people know it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "Ollama",
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::LlamaCpp => "llama.cpp",
            Self::Tei => "TEI",
            Self::LmStudio => "LM Studio",
            Self::Overnight => "Overnight",
            Self::Other => "OpenAI-compatible",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that one look at an engine has shown.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineFacts {
    pub flavour: Flavour,
    pub version: Option<String>,
    pub models: Vec<ModelFacts>,
    pub capacity: Capacity,
    pub load: Load,
    /// What its owner should know or change, each a whole sentence with the setting to change.
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelFacts {
    pub name: String,
    /// Names this very model: weights and settings, not only its name.
    pub digest: Option<String>,
    /// In tokens, as loaded, not as trained.
    pub context_len: Option<u64>,
    pub is_loaded: Option<bool>,
}

/// What it can take. It changes only when the engine is set up anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Sequences that it works on at once; more wait.
    pub slots: Option<u32>,
    /// Requests at once beyond which it answers that it is busy.
    pub permits: Option<u32>,
    /// Tokens that its KV cache holds.
    pub kv_tokens: Option<u64>,
    /// Inputs that one embeddings call may carry; 1 when it takes no lists.
    pub inputs_per_call: Option<u32>,
    /// Tokens that one step of it takes: what one call should not be longer than.
    pub tokens_per_call: Option<u64>,
    /// The longest single input, in tokens.
    pub input_tokens: Option<u64>,
}

/// What it has to do now, and what it has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    pub running: Option<u32>,
    pub waiting: Option<u32>,
    /// 0 to 1.
    pub kv_usage: Option<f64>,
    pub prompt_tokens_total: Option<u64>,
    pub generated_tokens_total: Option<u64>,
    pub preemptions_total: Option<u64>,
    /// Tokens that were looked up in the prefix cache, and those found there.
    pub cache_queries_total: Option<u64>,
    pub cache_hits_total: Option<u64>,
}
