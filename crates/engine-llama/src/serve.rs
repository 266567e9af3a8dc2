//! The engine's process: the socket, the computing thread, and the end of both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use overnight_domain::time::UnixTime;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::compute::{self, Load, Resources};
use crate::engine::{Engine, ORDERS_MAX, Ready};
use crate::gguf::ModelFiles;
use crate::llama::Model;
use crate::machine::{self, IS_FOR_GPUS};
use crate::memory::{self, Plan, Wishes};
use crate::question::Order;
use crate::routes::router;
use crate::watch::Watch;

/// What the engine is started with.
#[derive(Debug, Clone)]
pub struct Options {
    pub model: PathBuf,
    /// What the model is called in requests.
    pub name: String,
    pub place: Place,
    /// The longest prompt with its answer, in tokens.
    pub context_len: Option<u32>,
    /// Requests that are answered at once.
    pub slots: Option<u32>,
    pub threads: Option<u32>,
    pub gpu_layers: Option<u32>,
    /// The most memory to use.
    pub memory_bytes: Option<u64>,
    /// The clock, for templates that write the date.
    pub now: fn() -> UnixTime,
}

/// Where the engine listens.
#[derive(Debug, Clone)]
pub enum Place {
    Address(SocketAddr),
    Socket(PathBuf),
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most steps end within 2 s; a model that is being loaded may take longer, and is not waited for.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Serves until `stop`, or until the computing fails.
pub async fn serve(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let processor = machine::check_processor().map_err(anyhow::Error::msg)?;
    machine::offer_to_oom_killer();
    if !IS_FOR_GPUS && options.gpu_layers.is_some_and(|layers| layers > 0) {
        bail!(
            "--gpu-layers: this build computes on the processor only; docs/gpu-builds.md says how to make another"
        );
    }
    let model_files = ModelFiles::open(&options.model)?;
    if let Some(why) = model_files.shape.unfit() {
        bail!("the model `{}` cannot be used: {why}", options.name);
    }
    let wishes =
        Wishes { context_len: options.context_len, slots: options.slots, bytes: options.memory_bytes };
    let plan = memory::plan(&model_files, wishes, machine::available_memory())
        .with_context(|| format!("there is no room for the model `{}`", options.name))?;
    let threads = options.threads.unwrap_or_else(machine::threads).max(1);
    tracing::info!(
        processor,
        threads,
        slots = plan.streams.sequences,
        context = plan.streams.sequence_len,
        "loading `{}`, which will need about {} MiB",
        options.name,
        plan.bytes / 1_048_576
    );
    let (orders, taken) = mpsc::channel(ORDERS_MAX);
    let engine = Arc::new(Engine::new(options.name.as_str().into(), options.now, orders));
    let (close, closed) = oneshot::channel();
    let (mut served, _socket) = listen(&options.place, Arc::clone(&engine), closed).await?;
    let generates = model_files.shape.generates();
    let load = Arc::clone(&engine.load);
    let computing = Computing { options, plan, threads, generates, load };
    let (loaded, mut ended) = computing.start(taken)?;
    let ready = async {
        // Where it is not loaded the thread has ended, which says why.
        let Ok(model) = loaded.await else { return std::future::pending().await };
        engine.set_ready(Ready::new(model, plan, generates));
        tracing::info!(model = &*engine.name, "ready");
        watch(&engine.load).await
    };
    tokio::select! {
        served = &mut served => served.context("the socket failed"),
        ended = &mut ended => ended.unwrap_or_else(|_| bail!("the computing thread died")),
        stalled = ready => Err(stalled),
        () = stop => {
            drop(close);
            end(&engine, ended, served).await
        }
    }
}

/// All who wait are told to come again. llama.cpp's own statics are taken down with the process: whoever still computes
/// then crashes it.
async fn end(engine: &Engine, ended: Ended, served: Served) -> anyhow::Result<()> {
    let stopped = async {
        engine.stop().await;
        ended.await.unwrap_or_else(|_| bail!("the computing thread died"))
    };
    let told = async {
        let (ended, served) = tokio::join!(stopped, served);
        ended.and(served.context("the socket failed"))
    };
    tokio::time::timeout(STOP_WITHIN, told).await.unwrap_or(Ok(()))
}

type Served = std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

/// Once `closed` comes nobody is accepted, and it ends when all connections have.
async fn listen(
    place: &Place,
    engine: Arc<Engine>,
    closed: oneshot::Receiver<()>,
) -> anyhow::Result<(Served, Option<Socket>)> {
    let app = router(engine);
    let closed = async {
        // Nothing is ever sent: the other end is dropped.
        let _ = closed.await;
    };
    match place {
        Place::Address(address) => {
            let listener = TcpListener::bind(address).await.with_context(|| {
                format!("failed to listen on `{address}`; --listen chooses another address")
            })?;
            tracing::info!("listening on http://{}", listener.local_addr()?);
            let served = axum::serve(listener, app).with_graceful_shutdown(closed);
            Ok((Box::pin(served.into_future()), None))
        }
        Place::Socket(path) => {
            forget_stale(path).await?;
            let listener = UnixListener::bind(path)
                .with_context(|| format!("failed to listen on `{}`", path.display()))?;
            tracing::info!("listening on {}", path.display());
            let socket = Socket(path.clone());
            let served = axum::serve(listener, app).with_graceful_shutdown(closed);
            Ok((Box::pin(served.into_future()), Some(socket)))
        }
    }
}

/// The name of a socket of ours in the file system, which goes when we end.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // One that stays is taken for stale by whoever comes next.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes the socket of a process that died, and of no other.
async fn forget_stale(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        bail!("`{}` exists and is no socket: give another `--socket`", path.display());
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("somebody already listens on `{}`: stop them, or give another `--socket`", path.display());
    }
    std::fs::remove_file(path)
        .with_context(|| format!("failed to remove the stale `{}`", path.display()))
}

struct Computing {
    options: Options,
    plan: Plan,
    threads: u32,
    generates: bool,
    load: Arc<Load>,
}

type Loaded = oneshot::Receiver<Arc<Model>>;
type Ended = oneshot::Receiver<anyhow::Result<()>>;

impl Computing {
    /// Starts the thread; it tells when the model is loaded, and why it ended.
    fn start(self, orders: mpsc::Receiver<Order>) -> anyhow::Result<(Loaded, Ended)> {
        let (loaded, is_loaded) = oneshot::channel();
        let (ended, has_ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("compute".to_owned());
        let run = move || {
            // Where nobody listens any more the process is ending.
            let _ = ended.send(self.run(orders, loaded));
        };
        thread.spawn(run).context("failed to start the computing thread")?;
        Ok((is_loaded, has_ended))
    }

    fn run(
        self,
        orders: mpsc::Receiver<Order>,
        loaded: oneshot::Sender<Arc<Model>>,
    ) -> anyhow::Result<()> {
        let gpu_layers = self.options.gpu_layers.unwrap_or(u32::MAX);
        let model = Arc::new(Model::load(&self.options.model, gpu_layers)?);
        let resources = Resources {
            unified: self.plan.unified,
            streams: self.plan.streams,
            step_len: self.plan.step_len as usize,
            embed_len: self.plan.embed_len as usize,
            embeds_exactly: self.plan.embeds_exactly,
            threads: self.threads,
            generates: self.generates,
        };
        let ready = || {
            // Where nobody listens any more the process is ending.
            let _ = loaded.send(Arc::clone(&model));
        };
        compute::run(&model, resources, orders, &self.load, ready).context("the computing failed")
    }
}

/// Waits until the computing is stuck; nothing can interrupt a step, so the process has to end.
async fn watch(load: &Load) -> anyhow::Error {
    let mut watch = Watch::new(load, Instant::now());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(unchanged) = watch.look(load, Instant::now()) {
            return anyhow::anyhow!(
                "the computing is stuck: no step has ended for {} s",
                unchanged.as_secs()
            );
        }
    }
}
