//! Starting and stopping: what is opened in which order, the long tasks, and the signals.
//!
//! All long tasks are spawned here, into one set; the first that dies ends the process with its name. Nothing depends on
//! an orderly end: a process that is killed is recovered by the next start.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use overnight_domain::ids::WorkerId;
use overnight_engine::discover;
use overnight_segment::{Log, LogOptions};
use overnight_store::SqliteStore;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bell::Bell;
use crate::blobs::Blobs;
use crate::blocking::blocking;
use crate::builtin;
use crate::config::{Config, EngineConfig};
use crate::context::Context;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::dispatch::{self, CommitInbox, Endpoint, Parts, recover_live};
use crate::endpoint_names::EndpointNames;
use crate::endpoints::Endpoints;
use crate::failures::Failures;
use crate::gpu::Gpus;
use crate::holds::Holds;
use crate::live::Live;
use crate::lock::lock_folder;
use crate::notify::{self, Sender};
use crate::pace::Paces;
use crate::pulse::{self, Pulse, Pulses};
use crate::service::Announcer;
use crate::supervise::{Measured, Supervision};
use crate::{api, clock, dialect, finalize, gpu, ingest, sleep, supervise, upkeep};

/// How long the usual ports are looked at when no engine is configured.
pub(crate) const DISCOVERY: Duration = Duration::from_secs(1);
/// How long engines of which only the address is known are asked what they are. Only one that is mute takes it all.
const KINDS: Duration = Duration::from_secs(3);
/// From the first signal to the end, whatever still runs.
const STOP_WITHIN: Duration = Duration::from_secs(25);

/// Runs the server until a signal, or until a part of it dies.
pub(crate) async fn serve(config: Config, announcer: Announcer) -> anyhow::Result<()> {
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!(
            "failed to listen on `{listen}`; where another server runs, stop it or choose another address (--listen)"
        )
    })?;
    let address = listener.local_addr()?;
    let mut node = Node::start(config, announcer.clone()).await?;
    let ctx = node.ctx.clone();
    node.tell(Sender::server(address));
    node.spawn("api", |pulse| api::serve(ctx, listener, pulse));
    announcer.ready();
    tracing::info!(%address, page = page_of(address), "serving");
    let stop = node.ctx.stop.clone();
    tokio::select! {
        ended = node.finish() => ended,
        failed = stop_on_signal(stop, &announcer) => failed,
    }
}

/// Where a browser on this machine finds the page. No browser goes to "every address".
fn page_of(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}/")
}

/// The first signal stops in good order, the second at once. Returns only when signals cannot be had.
pub(crate) async fn stop_on_signal(
    stop: CancellationToken,
    announcer: &Announcer,
) -> anyhow::Result<()> {
    Signals::new()?.next().await;
    announcer.stopping();
    tracing::info!("stopping; a second signal ends at once");
    stop.cancel();
    exit_on_signal().await
}

/// Ends the process at the next signal. Returns only when signals cannot be had.
pub(crate) async fn exit_on_signal() -> anyhow::Result<()> {
    exit_at(Signals::new()?).await
}

/// Ends the process at a signal for as long as it is held. A runtime that has listened to signals leaves its handlers behind:
/// from then on none of them ends a process by itself, also when the runtime is gone.
pub(crate) struct EndAtSignal(Option<Runtime>);

impl EndAtSignal {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let signals = {
            let _within = runtime.enter();
            Signals::new()?
        };
        runtime.spawn(exit_at(signals));
        Ok(Self(Some(runtime)))
    }
}

impl Drop for EndAtSignal {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Within another runtime nobody may wait for the end of one.
            runtime.shutdown_background();
        }
    }
}

async fn exit_at(mut signals: Signals) -> anyhow::Result<()> {
    signals.next().await;
    #[expect(
        clippy::disallowed_methods,
        reason = "the second signal asks for just this; nothing depends on an orderly end"
    )]
    std::process::exit(130)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Those that come from now on.
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Everything but the API: ingest, dispatch, finalize and upkeep over one data directory.
pub(crate) struct Node {
    pub(crate) ctx: Arc<Context>,
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    log: Log,
    pulses: Pulses,
    /// Whose end is the end of the watch over the pulses.
    _watched: SyncSender<()>,
    /// Held as long as the process lives.
    _lock: File,
}

impl Node {
    pub(crate) async fn start(mut config: Config, announcer: Announcer) -> anyhow::Result<Self> {
        let lock = lock(&config.data)?;
        if config.engines.is_empty() {
            let found = find_engines(&config).await?;
            config.use_engines(found).map_err(anyhow::Error::msg)?;
        }
        dialect::settle_kinds(&mut config.engines, &config.dispatch, KINDS).await?;
        let store = SqliteStore::open(&config.database)
            .with_context(|| format!("failed to open the database `{}`", config.database.display()))?;
        let blobs = Blobs::open_local(&config.blobs)?;
        Blobs::sweep_unfinished(&config.blobs)?;
        let segments = config.data.join("segments");
        let commits = CommitInbox::default();
        let inbox = commits.clone();
        let options = LogOptions { commit_after: config.dispatch.commit_after, ..LogOptions::default() };
        let log = Log::open(&segments, options, Box::new(move |commit| inbox.put(commit)))
            .context("failed to open the result log")?;
        let configured = config.engines.iter().map(|engine| engine.name.as_str());
        let endpoint_names = EndpointNames::open(&config.data, configured)?;
        let bell = Bell::new();
        let ctx = Arc::new(Context {
            store: Arc::new(store),
            blobs,
            log: log.handle(),
            segments,
            worker: WorkerId::from_uuid(clock::new_id()),
            started_at: clock::now(),
            holds: Holds::new(bell.clone()),
            bell,
            gpus: Gpus::default(),
            live: Live::default(),
            failures: Failures::default(),
            endpoints: Endpoints::default(),
            endpoint_names,
            counters: Counters::default(),
            paces: Paces::new(),
            disk: Disk::new(&config.data),
            supervision: Supervision::default(),
            stop: CancellationToken::new(),
            config,
        });
        let told = ctx.config.notify.subscriptions();
        ctx.store.set_receivers(&told).await.context("failed to note who is to be told")?;
        recover_live(&ctx).await.context("failed to recover the open chunks")?;
        let measured = Measured::open(&ctx.config.data);
        supervise::hold_all(&ctx, &measured)?;
        let engines = ctx.config.engines.iter();
        let endpoints = engines.map(|engine| Endpoint::new(engine, &ctx, &measured));
        let mut endpoints = endpoints.collect::<anyhow::Result<Vec<_>>>()?;
        dispatch::ask_all(&ctx, &mut endpoints).await;
        let pulses = Pulses::default();
        let watched = watch(&ctx, pulses.clone(), announcer.clone())?;
        let tasks = JoinSet::new();
        let mut node = Self { ctx: ctx.clone(), tasks, log, pulses, _watched: watched, _lock: lock };
        let (log, results) = (node.log.handle(), node.pulses.begin("results"));
        let parts = |pulse| Parts { ctx: ctx.clone(), log, commits, endpoints, pulse, results };
        node.spawn("dispatch", |pulse| {
            let (parts, settled) = (parts(pulse), ctx.supervision.settled());
            on_own_thread("dispatch", move || dispatch::run(parts)).inspect(move |_| settled.cancel())
        });
        node.spawn("supervise", |pulse| supervise::run(ctx.clone(), measured, pulse));
        node.spawn("ingest", |pulse| ingest::run(ctx.clone(), pulse));
        node.spawn("finalize", |pulse| finalize::run(ctx.clone(), pulse));
        node.spawn("gpu", |pulse| gpu::run(ctx.clone(), pulse));
        node.spawn("upkeep", |pulse| upkeep::run(ctx.clone(), pulse));
        node.spawn("sleep", |pulse| sleep::run(ctx, announcer, pulse));
        Ok(node)
    }

    /// Whoever is to be told is, from now on.
    pub(crate) fn tell(&mut self, sender: Sender) {
        if !self.ctx.config.notify.subscriptions().is_empty() {
            let ctx = self.ctx.clone();
            self.spawn("notify", |pulse| notify::run(ctx, sender, pulse));
        }
    }

    /// A part has to beat as long as it lives, see [`pulse`].
    pub(crate) fn spawn<F>(&mut self, name: &'static str, part: impl FnOnce(Pulse) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let part = part(self.pulses.begin(name));
        self.tasks.spawn(async move { (name, part.await) });
    }

    /// Waits until all parts have ended after a stop, or the first has died.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        let stop = self.ctx.stop.clone();
        let mut outcome = Ok(());
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = self.tasks.join_next() => {
                    let (name, result) = ended.context("a part of the server panicked")?;
                    if !stop.is_cancelled() {
                        let why = result.err().unwrap_or_else(|| anyhow::anyhow!("it ended by itself"));
                        outcome = Err(why.context(format!("`{name}` died")));
                        stop.cancel();
                    }
                }
            }
        }
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        loop {
            match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(Ok((name, Err(error))))) if outcome.is_ok() => {
                    outcome = Err(error.context(format!("`{name}` failed while stopping")));
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    tracing::warn!(
                        "some parts did not end in time; the next start recovers what they held"
                    );
                    break;
                }
            }
        }
        self.tasks.abort_all();
        let closed = blocking(move || self.log.close()).await;
        outcome.and(closed.context("failed to close the result log"))
    }
}

/// Watches over the parts on a thread of its own, which sees a blocked runtime, too. Ends when what it returns is dropped.
fn watch(ctx: &Context, pulses: Pulses, announcer: Announcer) -> anyhow::Result<SyncSender<()>> {
    let (watched, over) = sync_channel(0);
    let (stuck_after, stop) = (ctx.config.server.stuck_after, ctx.stop.clone());
    std::thread::Builder::new()
        .name("pulses".to_owned())
        .spawn(move || pulse::watch(pulses, stuck_after, &announcer, &stop, &over))?;
    Ok(watched)
}

/// One process owns a data directory.
fn lock(data: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(data)
        .with_context(|| format!("failed to create the data directory `{}` (--data)", data.display()))?;
    let lock = lock_folder(data).with_context(|| {
        format!("failed to write to the data directory `{}` (--data)", data.display())
    })?;
    lock.with_context(|| {
        format!(
            "another process uses the data directory `{}`; stop it, or choose another one with --data",
            data.display()
        )
    })
}

/// With no engine configured: whatever answers on the usual local ports, or the engine of a first run.
async fn find_engines(config: &Config) -> anyhow::Result<Vec<EngineConfig>> {
    let ports = &config.discovery.ports;
    let found = discover(ports, DISCOVERY).await;
    if found.is_empty() {
        let engine = builtin::engine(&config.data);
        let engine = engine.map_err(|why| anyhow::anyhow!(nothing_found(ports, &why)))?;
        tracing::warn!("{}", builtin::words());
        return Ok(vec![engine]);
    }
    let mut engines = Vec::new();
    for engine in found {
        let models: Vec<&str> = engine.facts.models.iter().map(|model| model.name.as_str()).collect();
        tracing::info!(
            name = engine.name,
            engine = %engine.facts.flavour,
            version = engine.facts.version.as_deref().unwrap_or("unknown"),
            url = engine.url,
            models = models.join(", "),
            "found an engine"
        );
        engines.push(EngineConfig::at(engine.name, engine.kind, engine.url));
    }
    Ok(engines)
}

/// What to do when no engine is configured, none was found, and we have none.
pub(crate) fn nothing_found(ports: &[u16], no_builtin: &str) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!(
        "no engine is configured, and none answers on this machine's usual ports ({}); start Ollama, vLLM, llama.cpp, \
         SGLang, LM Studio or TEI, or name one that listens elsewhere: --engine http://HOST:PORT/v1, or [[engine]] in \
         overnight.toml; {}",
        ports.join(", "),
        no_builtin
    )
}

/// Runs a part on a thread with a runtime of its own, so that nothing else delays it.
async fn on_own_thread<F>(
    name: &'static str,
    part: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (ended, outcome) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(part()));
        // Nobody listens only when the process is ending anyway.
        let _ = ended.send(result);
    })?;
    outcome.await.with_context(|| format!("the thread `{name}` panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_an_address_that_a_browser_can_open() {
        for (listen, page) in [
            ("127.0.0.1:8642", "http://127.0.0.1:8642/"),
            ("192.168.1.7:80", "http://192.168.1.7:80/"),
            ("0.0.0.0:8642", "http://127.0.0.1:8642/"),
            ("[::]:8642", "http://[::1]:8642/"),
        ] {
            assert_eq!(page_of(listen.parse().unwrap()), page);
        }
    }
}
