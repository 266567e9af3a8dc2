//! `overnight engine`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Ending;
use crate::config::Environment;

/// Run the built-in engine: one model, spoken to in the OpenAI dialect
#[derive(Debug, Args)]
#[command(after_help = "\
It answers on /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /health and /metrics.

Examples:
  overnight engine --model qwen.gguf
  overnight engine --model qwen.gguf --listen 127.0.0.1:9000 --context 16384 --slots 8
  overnight serve --engine http://127.0.0.1:8643/v1

Exit codes: 0 stopped, 1 failure, 2 usage.")]
pub(super) struct Engine {
    /// The model: a GGUF file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
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
    /// The most memory to use, in MiB [default: what is available]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
}

impl Engine {
    #[cfg(not(feature = "llama"))]
    pub(super) fn run(self, _: &Environment) -> anyhow::Result<Ending> {
        anyhow::bail!(
            "the built-in engine was left out of this build, so `{}` cannot be run: build it in with \
             `cargo build --release --features llama` (needs cmake, libclang and a C++ compiler), or use an engine \
             such as Ollama",
            self.model.display()
        )
    }

    #[cfg(feature = "llama")]
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        use anyhow::Context as _;

        let filter = environment.get("OVERNIGHT_LOG").unwrap_or("warn,overnight_engine_llama=info");
        super::serve::start_logging(filter)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONNECTION_THREADS)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let ended = runtime.block_on(overnight_engine_llama::serve(self.options(), stopped()));
        runtime.shutdown_timeout(super::serve::THREADS_WITHIN);
        ended?;
        Ok(Ending::Answered)
    }

    #[cfg(feature = "llama")]
    fn options(self) -> overnight_engine_llama::Options {
        use overnight_engine_llama::{Options, Place};

        let of_file = || self.model.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Options {
            name: self.name.or_else(of_file).unwrap_or_else(|| "model".to_owned()),
            model: self.model,
            place: self.socket.map_or(Place::Address(self.listen), Place::Socket),
            context_len: self.context,
            slots: self.slots,
            threads: self.threads,
            gpu_layers: self.gpu_layers,
            memory_bytes: self.memory.map(|mib| mib.saturating_mul(1024 * 1024)),
            now: crate::clock::now,
        }
    }
}

/// Reading and writing is little beside computing.
#[cfg(feature = "llama")]
const CONNECTION_THREADS: usize = 2;

/// The system asks us to stop, or a person does.
#[cfg(feature = "llama")]
async fn stopped() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
