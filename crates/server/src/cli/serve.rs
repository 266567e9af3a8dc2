//! `overnight serve`.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tracing::Subscriber;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Ending;
use super::config::ConfigOptions;
use super::install::InstallOptions;
use crate::config::Environment;
use crate::service::Announcer;

/// What still blocks on a thread after everything has ended, such as a call to somebody who is told and does not answer,
/// goes with the process.
pub(super) const THREADS_WITHIN: Duration = Duration::from_secs(1);

/// Serve the API and work on batches, in one process
#[derive(Debug, Args)]
#[command(after_help = "\
Without an engine in the configuration, the usual local ports are looked at: Ollama, vLLM,
llama.cpp, SGLang, LM Studio, TEI. Where none answers, the built-in engine is started with a toy of
a model.

Examples:
  overnight serve
  overnight serve --engine http://127.0.0.1:8000/v1
  overnight serve --listen 127.0.0.1:9000 --data /big/disk --profile server
  overnight serve --engine http://127.0.0.1:8000/v1 --install     as a service of systemd

Exit codes: 0 stopped, 1 failure, 2 usage, 70 a part of it was stuck, 130 ended at once by a second
signal.")]
pub(super) struct Serve {
    #[command(flatten)]
    options: ConfigOptions,
    #[command(flatten)]
    install: InstallOptions,
}

impl Serve {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        if self.install.is_asked() {
            return self.install.run(&self.options, environment);
        }
        let (config, _) = self.options.load(environment)?;
        start_logging(&config.log)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let ended = runtime.block_on(crate::run::serve(config, Announcer::new(environment)));
        runtime.shutdown_timeout(THREADS_WITHIN);
        ended?;
        Ok(Ending::Answered)
    }
}

/// Logs go to standard error, as plain lines where that is no terminal.
pub(super) fn start_logging(filter: &str) -> anyhow::Result<()> {
    logger(filter)?.init();
    Ok(())
}

/// What writes the log, before it is put to work.
pub(super) fn logger(filter: &str) -> anyhow::Result<impl Subscriber + Send + Sync> {
    use std::io::IsTerminal as _;
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .with_context(|| format!("failed to read log `{filter}`"))?;
    Ok(tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish())
}
