//! The guard: starts an engine, keeps what it prints, and ends all its processes when it is told to or when the process
//! that started the guard is gone.
//!
//! Guaranteed: when it ends, no descendant of the engine is left. It is the reaper of its descendants, so a process
//! that forks twice and begins a session of its own still is one. Should the guard itself be killed, the kernel
//! ends the engine's first process.

use std::fmt::Write as _;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::OURSELVES;
use super::command::OUR_NAME;
use super::output::Log;
use super::tree::Tree;

/// The hidden command that is the guard.
pub const SUBCOMMAND: &str = "guard";
/// Nobody waits for us any more: everything must be gone soon.
const GRACE_ALONE: Duration = Duration::from_secs(2);
/// The engine's first process has ended, and others are left.
const GRACE_REST: Duration = Duration::from_secs(1);
/// While it is ending, the tree is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The last output is waited for so long.
const OUTPUT_WITHIN: Duration = Duration::from_secs(1);
const READ_LEN: usize = 64 * 1024;
/// What the parent says is a few words.
const WORDS_LEN_MAX: usize = 256;

/// What the guard is told when it is started.
#[derive(Debug, Clone)]
pub enum Options {
    /// Guards the command, and keeps its output in the log.
    Guard { log: PathBuf, command: Vec<String> },
    /// Becomes the command, as the child of this guard.
    Become { guard: u32, command: Vec<String> },
}

impl Options {
    pub(super) fn arguments(log: &Path, command: &[String]) -> Vec<std::ffi::OsString> {
        let mut arguments = vec![SUBCOMMAND.into(), "--log".into(), log.into(), "--".into()];
        arguments.extend(command.iter().map(Into::into));
        arguments
    }
}

/// Runs until no process of the engine is left.
pub fn run(options: Options) -> io::Result<()> {
    match options {
        Options::Become { guard, command } => Err(become_engine(guard, &command)),
        Options::Guard { log, command } => {
            // Signals of a terminal are for the process that started us; it tells us what to do.
            let _ = rustix::process::setsid();
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ending = runtime.block_on(watch(log, &command))?;
            let mut out = io::stdout().lock();
            // The parent may be gone.
            let _ = writeln!(out, "{ending}").and_then(|()| out.flush());
            Ok(())
        }
    }
}

/// A session of its own, an end with the guard's, and then the engine's program in our place. Returns only when that
/// cannot be started; the reason goes where the engine's output goes.
fn become_engine(guard: u32, command: &[String]) -> io::Error {
    let _ = rustix::process::setsid();
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if std::os::unix::process::parent_id() != guard {
        return io::Error::other("the guard is gone");
    }
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::other("no command was given");
    };
    let mut engine = Command::new(if program == OUR_NAME { OURSELVES } else { program });
    let error = engine.arg0(program).args(arguments).exec();
    io::Error::new(error.kind(), format!("failed to start `{program}`: {error}"))
}

async fn watch(log: PathBuf, command: &[String]) -> io::Result<String> {
    let mut parent = Parent::new()?;
    let mut children = signal(SignalKind::child())?;
    let mut stops = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()?;
    let (reader, writer) = io::pipe()?;
    let engine = Command::new(OURSELVES)
        .args([SUBCOMMAND, "--become", &std::process::id().to_string(), "--"])
        .args(command)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let output_ended = keep_output(reader, log)?;
    let engine = Pid::from_child(&engine);
    let mut tree = Ending::default();
    loop {
        tree.reap(engine);
        if tree.is_over()? {
            break;
        }
        tokio::select! {
            _ = children.recv() => {}
            told = parent.told() => tree.end_within(told),
            () = any(&mut stops) => tree.end_within(GRACE_ALONE),
            () = tokio::time::sleep(LOOK_EVERY), if tree.kill_at.is_some() => {}
        }
    }
    let _ = output_ended.recv_timeout(OUTPUT_WITHIN);
    Ok(tree.in_words())
}

async fn any(signals: &mut [tokio::signal::unix::Signal]) {
    let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures::future::select_all(received).await;
}

/// What the parent says over the pipe, and that it is gone.
struct Parent {
    pipe: Option<pipe::Receiver>,
    words: Vec<u8>,
}

impl Parent {
    fn new() -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        Ok(Self { pipe: Some(pipe), words: Vec::new() })
    }

    /// How long the engine has to end. Never returns again after the parent was found to be gone.
    async fn told(&mut self) -> Duration {
        loop {
            if let Some(grace) = self.next_word() {
                return grace;
            }
            let Some(pipe) = &self.pipe else { return std::future::pending().await };
            let mut bytes = [0; WORDS_LEN_MAX];
            let is_readable = pipe.readable().await.is_ok();
            match pipe.try_read(&mut bytes) {
                Ok(1..) if self.words.len() > WORDS_LEN_MAX => self.words.clear(),
                Ok(len @ 1..) => self.words.extend_from_slice(&bytes[..len]),
                Err(error) if is_readable && error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => {
                    self.pipe = None;
                    return GRACE_ALONE;
                }
            }
        }
    }

    fn next_word(&mut self) -> Option<Duration> {
        let end = self.words.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.words.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line);
        let millis = line.trim().strip_prefix("stop ").and_then(|millis| millis.parse().ok());
        Some(millis.map_or(GRACE_ALONE, Duration::from_millis))
    }
}

/// How far the end of all processes is.
#[derive(Debug, Default)]
struct Ending {
    /// How the engine's first process ended.
    status: Option<WaitStatus>,
    /// From then on whoever is left is killed.
    kill_at: Option<Instant>,
}

impl Ending {
    fn reap(&mut self, engine: Pid) {
        while let Ok(Some((process, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if process == engine {
                self.status = Some(status);
                self.end_within(GRACE_REST);
            }
        }
    }

    /// Asks everybody to end; the shortest grace that was ever given counts.
    fn end_within(&mut self, grace: Duration) {
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
        send_to_all(Signal::TERM);
    }

    fn is_over(&mut self) -> io::Result<bool> {
        let Some(kill_at) = self.kill_at else { return Ok(false) };
        if Tree::read()?.descendants(std::process::id()).is_empty() {
            return Ok(true);
        }
        if kill_at <= Instant::now() {
            send_to_all(Signal::KILL);
        }
        Ok(false)
    }

    fn in_words(&self) -> String {
        let Some(status) = self.status else { return "it ended".to_owned() };
        let mut words = String::new();
        let written = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => write!(words, "it exited with {code}"),
            (None, Some(number)) => write!(words, "it was ended by signal {number}"),
            (None, None) => write!(words, "it ended"),
        };
        written.expect("text takes everything");
        words
    }
}

/// Processes may begin while we look: whoever must be sure sends again.
fn send_to_all(signal: Signal) {
    let Ok(tree) = Tree::read() else { return };
    for process in tree.descendants(std::process::id()) {
        if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            // It may have ended just now.
            let _ = rustix::process::kill_process(process, signal);
        }
    }
}

/// Reads whatever the engine prints for as long as anybody can print: an engine whose output nobody takes stands still.
fn keep_output(mut reader: PipeReader, log: PathBuf) -> io::Result<Receiver<()>> {
    let (ended, has_ended) = sync_channel(1);
    std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        let mut log = Log::new(log);
        let mut bytes = vec![0; READ_LEN];
        while let Ok(len @ 1..) = reader.read(&mut bytes) {
            log.append(&bytes[..len]);
        }
        let _ = ended.try_send(());
    })?;
    Ok(has_ended)
}
