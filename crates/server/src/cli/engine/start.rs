//! From the command line to the engine that serves.

use anyhow::Context as _;
use overnight_engine_llama::{DemoModel, Options, Place, serve};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::super::Ending;
use super::super::serve::{THREADS_WITHIN, logger};
use super::Engine;
use super::false_alarm::FalseAlarms;
use super::model::Model;
use crate::config::Environment;

/// Reading and writing is little beside computing.
const CONNECTION_THREADS: usize = 2;

impl Engine {
    pub(in super::super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let filter = environment.get("OVERNIGHT_LOG").unwrap_or("warn,overnight_engine_llama=info");
        logger(filter)?.with(FalseAlarms).init();
        let model = Model::find(&self.model, environment)?;
        if self.model == DemoModel::NAME {
            tracing::warn!("{}", DemoModel::WARNING);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONNECTION_THREADS)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let ended = runtime.block_on(serve(self.options(&model), stopped()));
        runtime.shutdown_timeout(THREADS_WITHIN);
        ended?;
        Ok(Ending::Answered)
    }

    fn options(self, model: &Model) -> Options {
        Options {
            name: self.name.unwrap_or_else(|| model.name.clone()),
            model: model.path.clone(),
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

/// The system asks us to stop, or a person does.
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
