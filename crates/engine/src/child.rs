//! An engine that we start: a process of its own behind a guard.
//!
//! The guard is a small process of ours between us and the engine. It holds the reading end of a pipe of which we hold
//! the other: when we die, however that happens, the pipe closes and the guard ends the engine with everything that
//! the engine has started, processes that tried to get away included. A parent-death signal alone follows the spawning
//! thread and misses grandchildren.
//!
//! Deliberately absent: when to start, to stop or to give up. That is decided in the domain (`supervision`).

mod command;
pub mod guard;
mod output;
mod tree;

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

pub use command::{ChildCommand, CommandError};

/// Our own program, also after the file that it was started from was replaced.
const OURSELVES: &str = "/proc/self/exe";
/// What a service manager tells us alone: an engine that spoke to it in our name would hide that we are stuck.
const OURS_ALONE: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
/// What the guard says of the end is one line.
const ENDING_LEN_MAX: u64 = 4 * 1024;

/// A running engine, as far as we hold it. Dropping it closes the pipe, and the guard ends the engine.
#[derive(Debug)]
pub struct Child {
    guard: std::process::Child,
    pipe: Option<ChildStdin>,
}

impl Child {
    /// Starts the engine behind a guard. What it prints goes to `log`, which never holds more than two files of
    /// [`overnight_domain::limits::ENGINE_LOG_LEN_MAX`].
    pub fn start(command: &ChildCommand, log: &Path) -> io::Result<Self> {
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut guard = Command::new(OURSELVES);
        for name in OURS_ALONE {
            guard.env_remove(name);
        }
        let mut guard = guard
            .args(guard::Options::arguments(log, command.arguments()))
            .envs(command.environment().iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { pipe: guard.stdin.take(), guard })
    }

    /// The guard's process.
    pub fn process(&self) -> u32 {
        self.guard.id()
    }

    /// Asks the engine to end, and ends it after `grace` with all its processes. Returns at once.
    pub fn stop(&mut self, grace: Duration) {
        let told = match &mut self.pipe {
            Some(pipe) => writeln!(pipe, "stop {}", grace.as_millis()),
            None => Ok(()),
        };
        if told.is_err() {
            // The guard is gone already, or about to be.
            self.pipe = None;
        }
    }

    /// How it ended, in words, when it has: then none of its processes is left.
    pub fn has_ended(&mut self) -> io::Result<Option<String>> {
        let Some(status) = self.guard.try_wait()? else { return Ok(None) };
        self.pipe = None;
        let mut ending = String::new();
        if let Some(said) = self.guard.stdout.take() {
            said.take(ENDING_LEN_MAX).read_to_string(&mut ending)?;
        }
        let ending = ending.trim();
        Ok(Some(if ending.is_empty() {
            format!("its guard ended ({status})")
        } else {
            ending.to_owned()
        }))
    }
}

/// The last lines of an engine's log that hold something, oldest first, fit for people.
pub fn last_lines(log: &Path, count: usize) -> Vec<String> {
    output::last_lines(log, count)
}

/// Memory of all processes below one. Mapped files are not counted: weights that are mapped belong to the system's
/// cache.
pub fn memory_len_below(process: u32) -> io::Result<u64> {
    Ok(tree::Tree::read()?.memory_len(process))
}
