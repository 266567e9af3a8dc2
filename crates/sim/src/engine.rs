//! The handle of a running stand-in engine, and the thread with a runtime of its own on which it lives.
//!
//! The port stays the engine's through crashes and refusals: a second socket, bound to it and never listening, keeps
//! others away. The engine ends with its handle.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::calls::{CallsView, Ledger, body_key, marker_key};
use crate::conduct::Active;
use crate::connection;
use crate::script::Script;

/// A running engine. Its methods may be called from any thread, inside a runtime or not; they block for some
/// milliseconds at most, the waiting ones as long as they are told to.
#[derive(Debug)]
pub struct Engine {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How an engine is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// 1 runs everything on one thread.
    pub threads: usize,
    pub script: Script,
    /// Whether a crash after which it does not come back by itself is its end, as of a process.
    pub ends_with_crash: bool,
    /// Whether calls are counted by request. Costs a lock for each, so benches leave it off.
    pub counts_requests: bool,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ledger: Ledger,
    active: RwLock<Arc<Active>>,
    /// Grows with each script, so that a connection need not take the lock to see that nothing changed.
    version: AtomicU64,
    commands: mpsc::Sender<Command>,
}

/// What the lifecycle is told, with where it says that it was done.
#[derive(Debug)]
struct Command {
    what: What,
    done: Option<SyncSender<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Crash,
    Restart,
    ScriptChanged,
    Stop,
}

struct Lifecycle {
    addr: SocketAddr,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    /// Holds the port while nobody listens on it.
    _placeholder: TcpSocket,
    listener: Option<TcpListener>,
    connections: JoinSet<()>,
    /// A crashed engine stays away; a script cannot bring it back.
    is_crashed: bool,
    ends_with_crash: bool,
    /// When it listens again.
    back_at: Option<Instant>,
}

enum Event {
    Told(Option<Command>),
    Connected(io::Result<TcpStream>),
    Back,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            threads: 1,
            script: Script::default(),
            ends_with_crash: false,
            counts_requests: true,
        }
    }
}

impl Engine {
    /// Starts an engine on a free port of this machine, on one thread, counting by request.
    pub fn start(script: Script) -> io::Result<Self> {
        Self::start_with(Setup { script, ..Setup::default() })
    }

    pub fn start_with(setup: Setup) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let Setup { listen, threads, script, ends_with_crash, counts_requests } = setup;
        let shared = Arc::new(Shared {
            ledger: Ledger::new(counts_requests),
            active: RwLock::new(Arc::new(Active::new(script))),
            version: AtomicU64::new(0),
            commands,
        });
        let (ready, started) = sync_channel(1);
        let thread = std::thread::Builder::new().name("sim".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            let opening = move || Lifecycle::open(listen, ends_with_crash, shared, receiver);
            move || run(threads, opening, &ready)
        })?;
        let addr = started.recv_timeout(PATIENCE).map_err(io::Error::other)??;
        Ok(Self { addr, shared, thread: Some(thread) })
    }

    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:port`, without `/v1`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on the engine behaves so. What is in flight ends as it began; rule counts begin anew.
    pub fn set_script(&self, script: Script) {
        self.shared.set_script(script);
        self.tell(What::ScriptChanged);
    }

    pub fn script(&self) -> Script {
        self.shared.active().script.clone()
    }

    /// How often a model was loaded, in the shape of Ollama, since the script was set.
    pub fn loads(&self) -> usize {
        self.shared.active().ollama.loads()
    }

    pub fn calls(&self) -> CallsView {
        self.shared.ledger.view()
    }

    /// Calls with exactly this body and no `id` in it.
    pub fn calls_of_body(&self, body: &[u8]) -> u32 {
        self.shared.ledger.calls_of(body_key(body))
    }

    /// Calls with `[[sim:id=MARKER]]` in the body.
    pub fn calls_of_marker(&self, marker: &str) -> u32 {
        self.shared.ledger.calls_of(marker_key(marker))
    }

    /// The `id`s of the first 100,000 calls that had one, in the order in which they arrived.
    pub fn order(&self) -> Vec<String> {
        self.shared.ledger.order()
    }

    pub fn clear_calls(&self) {
        self.shared.ledger.clear();
    }

    /// Blocks until the counters (all but `histogram`) are as wanted; `false` when they were not in time.
    pub fn wait_until(&self, wanted: impl Fn(&CallsView) -> bool, within: Duration) -> bool {
        self.shared.ledger.wait_until(wanted, within)
    }

    /// The same for tests inside a runtime.
    pub async fn reaches(
        &self,
        wanted: impl Fn(&CallsView) -> bool + Send + 'static,
        within: Duration,
    ) -> bool {
        let shared = Arc::clone(&self.shared);
        let waiting = tokio::task::spawn_blocking(move || shared.ledger.wait_until(wanted, within));
        waiting.await.expect("the wait neither panics nor is aborted")
    }

    /// Closes the listener and all connections at once, as when the process is killed. It comes back by itself only when
    /// the script says so.
    pub fn crash(&self) {
        self.tell(What::Crash);
    }

    /// Listens again on the same port, after a crash or while the script refuses connections.
    pub fn restart(&self) {
        self.tell(What::Restart);
    }

    /// Blocks until the engine has ended by itself, which it does only with [`Setup::ends_with_crash`].
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Ends the engine and frees the port, as dropping the handle does.
    pub fn stop(self) {
        drop(self);
    }

    /// Returns when the command was carried out, or the engine is gone. `false`: it does not react.
    fn tell(&self, what: What) -> bool {
        let until = Instant::now() + PATIENCE;
        let (done, was_done) = sync_channel(1);
        let mut command = Command { what, done: Some(done) };
        loop {
            match self.shared.commands.try_send(command) {
                Ok(()) => {
                    return !matches!(was_done.recv_timeout(PATIENCE), Err(RecvTimeoutError::Timeout));
                }
                Err(TrySendError::Closed(_)) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < until => {
                    command = back;
                    std::thread::yield_now();
                }
                Err(TrySendError::Full(_)) => return false,
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let reacts = self.tell(What::Stop);
        if let Some(thread) = self.thread.take()
            && reacts
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_script(&self, script: Script) {
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Active::new(script));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Asked for by a request. A full queue means that much the same was asked for already.
    pub(crate) fn ask_to_crash(&self) {
        let _ = self.commands.try_send(Command { what: What::Crash, done: None });
    }

    pub(crate) fn announce_script(&self) {
        let _ = self.commands.try_send(Command { what: What::ScriptChanged, done: None });
    }
}

fn run(
    threads: usize,
    opening: impl FnOnce() -> io::Result<Lifecycle>,
    ready: &SyncSender<io::Result<SocketAddr>>,
) {
    let mut builder = if threads <= 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = match builder.worker_threads(threads.max(1)).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        match opening() {
            Ok(mut lifecycle) => {
                let _ = ready.send(Ok(lifecycle.addr));
                lifecycle.run().await;
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    });
}

impl Lifecycle {
    fn open(
        listen: SocketAddr,
        ends_with_crash: bool,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
    ) -> io::Result<Self> {
        let placeholder = bound(listen)?;
        let addr = placeholder.local_addr()?;
        let mut lifecycle = Self {
            addr,
            shared,
            commands,
            _placeholder: placeholder,
            listener: None,
            connections: JoinSet::new(),
            is_crashed: false,
            ends_with_crash,
            back_at: None,
        };
        if !lifecycle.stays_away() {
            lifecycle.try_listen()?;
        }
        Ok(lifecycle)
    }

    async fn run(&mut self) {
        loop {
            let event = tokio::select! {
                told = self.commands.recv() => Event::Told(told),
                connected = accept(self.listener.as_ref()) => Event::Connected(connected),
                () = reached(self.back_at) => Event::Back,
                Some(_) = self.connections.join_next() => continue,
            };
            match event {
                Event::Told(None | Some(Command { what: What::Stop, .. })) => return,
                Event::Told(Some(command)) => self.carry_out(command).await,
                Event::Connected(Ok(stream)) => self.welcome(stream),
                // Out of file descriptors, or the client is gone already: the next one may fare better.
                Event::Connected(Err(_)) => tokio::task::yield_now().await,
                Event::Back => self.listen(),
            }
            if self.is_crashed && self.ends_with_crash && self.back_at.is_none() {
                return;
            }
        }
    }

    async fn carry_out(&mut self, command: Command) {
        match command.what {
            What::Crash => {
                self.is_crashed = true;
                self.shared.ledger.listens(false);
                self.listener = None;
                self.connections.shutdown().await;
                self.back_at =
                    self.shared.active().script.restart_after.map(|after| Instant::now() + after);
                self.shared.ledger.crashed();
            }
            What::Restart => self.listen(),
            What::ScriptChanged => {
                if !self.is_crashed && !self.stays_away() {
                    self.listen();
                }
            }
            What::Stop => {}
        }
        if let Some(done) = command.done {
            let _ = done.try_send(());
        }
    }

    /// Whether the script refuses connections, and follows it in that.
    fn stays_away(&mut self) -> bool {
        let Some(refuse) = self.shared.active().script.refuse else { return false };
        self.listener = None;
        self.back_at = Instant::now().checked_add(refuse);
        self.shared.ledger.listens(false);
        true
    }

    fn listen(&mut self) {
        self.is_crashed = false;
        // The port is ours, so what failed will pass.
        self.back_at = self.try_listen().err().map(|_| Instant::now() + LISTEN_AGAIN);
    }

    fn try_listen(&mut self) -> io::Result<()> {
        if self.listener.is_none() {
            self.listener = Some(bound(self.addr)?.listen(BACKLOG)?);
        }
        self.shared.ledger.listens(true);
        Ok(())
    }

    fn welcome(&mut self, stream: TcpStream) {
        if self.connections.len() >= CONNECTIONS_MAX {
            return;
        }
        self.shared.ledger.connected();
        self.connections.spawn(connection::serve(stream, Arc::clone(&self.shared)));
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

const COMMANDS_MAX: usize = 64;
const BACKLOG: u32 = 4096;
/// More than any test opens; beyond, connections are closed as they come.
const CONNECTIONS_MAX: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(10);
const LISTEN_AGAIN: Duration = Duration::from_millis(50);
