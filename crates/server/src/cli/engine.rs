//! `overnight engine`.

#[cfg(feature = "llama")]
mod false_alarm;
#[cfg(feature = "llama")]
mod model;
#[cfg(feature = "llama")]
mod start;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// Run the built-in engine: one model, spoken to in the OpenAI dialect
#[derive(Debug, Args)]
#[command(after_help = "\
It answers on /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /health, /metrics.

A model of the Hugging Face hub (hf:) is fetched once, into the cache that the hub's other tools
use; what an interruption leaves is gone on with. HF_HOME or HF_HUB_CACHE say where the cache is,
HF_TOKEN who you are, HF_ENDPOINT which hub it is; with HF_HUB_OFFLINE=1 nobody is asked.

Examples:
  overnight engine --model qwen.gguf
  overnight engine --model hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf
  overnight engine --model qwen.gguf --listen 127.0.0.1:9000 --context 16384 --slots 8
  overnight engine --model demo                    a toy, to see it work
  overnight serve                                  finds it at its usual address

Exit codes: 0 stopped, 1 failure, 2 usage.")]
pub(super) struct Engine {
    /// A GGUF file, hf:ORG/REPO[@REVISION]/FILE.gguf, or demo for the bundled toy
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// What requests call the model [default: the name of its file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8643", conflicts_with = "socket")]
    listen: SocketAddr,
    /// A Unix socket to listen on instead
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The longest prompt with its answer, in tokens [default: the model's own, 8192 at most, less where memory is short]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    context: Option<u32>,
    /// Requests that are answered at once [default: 32, fewer where memory is short]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=255))]
    slots: Option<u32>,
    /// Threads that compute [default: one less than there are cores]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: Option<u32>,
    /// Layers that a GPU computes [default: all, where the build and the machine have one]
    #[arg(long, value_name = "COUNT")]
    gpu_layers: Option<u32>,
    /// The most memory to use, in MiB; of a GPU that computes, its own [default: 7/8 of what the machine has left]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
}

#[cfg(not(feature = "llama"))]
impl Engine {
    pub(super) fn run(self, _: &crate::config::Environment) -> anyhow::Result<super::Ending> {
        anyhow::bail!(
            "the built-in engine was left out of this build, so `{}` cannot be run: build it in with `cargo install \
             --locked --path crates/server --features llama` (needs cmake, libclang and a C++ compiler), or use an \
             engine such as Ollama",
            self.model
        )
    }
}
