//! Keeps the machine awake while work may run, and tells the service manager how much there is.
//!
//! The lock is held by `systemd-inhibit` around a `cat` that reads from us: it ends with the pipe, so with us, however we
//! end. Where the tool is missing or refuses, the machine sleeps as it would, and a sleep costs no request anything.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overnight_domain::batch::BatchState;

use crate::context::Context;
use crate::endpoints::EndpointState;
use crate::pulse::Pulse;
use crate::service::Announcer;

/// How soon the lock follows the work.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Batches at the front of the queue that are looked at; one that is not paused is enough.
const LOOKED_AT: usize = 64;
/// A refusal is mostly a matter of rights, which seldom change.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
const REASON_LEN_MAX: u64 = 400;

const TOOL: &str = "systemd-inhibit";
const UNFINISHED: [BatchState; 5] = [
    BatchState::Validating,
    BatchState::InProgress,
    BatchState::Finalizing,
    BatchState::Expiring,
    BatchState::Cancelling,
];

pub(crate) async fn run(ctx: Arc<Context>, announcer: Announcer, pulse: Pulse) -> anyhow::Result<()> {
    let mut inhibitor = Inhibitor::default();
    loop {
        pulse.beat();
        match ctx.store.queue(&UNFINISHED, LOOKED_AT).await {
            Ok(unfinished) => {
                let running = unfinished.iter().filter(|row| row.batch.pause.is_none()).count();
                announcer.status(&status(&ctx, unfinished.len(), running));
                if ctx.config.server.inhibit_sleep {
                    inhibitor.set(running > 0);
                }
            }
            // Whether there is work is not known: what holds goes on to hold.
            Err(error) => tracing::debug!(%error, "the queue cannot be looked at"),
        }
        tokio::select! {
            () = ctx.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn status(ctx: &Context, unfinished: usize, running: usize) -> String {
    let views = ctx.endpoints.view();
    let up = views.iter().filter(|view| view.state == EndpointState::Up).count();
    let engines = format!("{up} of {} engines up", views.len());
    match (unfinished, unfinished - running) {
        (0, _) => format!("nothing to do; {engines}"),
        (LOOKED_AT.., _) => format!("{LOOKED_AT} batches or more; {engines}"),
        (_, 0) => format!("{unfinished} unfinished; {engines}"),
        (_, paused) => format!("{unfinished} unfinished, {paused} of them paused; {engines}"),
    }
}

/// The lock against sleep.
#[derive(Debug, Default)]
struct Inhibitor {
    held: Option<Held>,
    /// Let go, and not seen to have ended yet.
    ending: Vec<Child>,
    again_at: Option<Instant>,
    is_missing: bool,
    is_refusal_said: bool,
}

#[derive(Debug)]
struct Held {
    child: Child,
    /// Where it writes why it cannot; a file, so that reading it never waits.
    said: File,
}

impl Inhibitor {
    fn set(&mut self, is_wanted: bool) {
        self.ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if is_wanted {
            self.hold();
        } else if let Some(held) = self.held.take() {
            self.let_go(held.child);
            tracing::debug!("nothing to do: the machine may sleep");
        }
    }

    fn hold(&mut self) {
        match self.held.as_mut().map(|held| held.child.try_wait()) {
            Some(Ok(None)) => return,
            Some(_) => self.lost(),
            None => {}
        }
        if self.is_missing || self.again_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match start() {
            Ok(held) => {
                self.held = Some(held);
                tracing::debug!("there is work: the machine is kept awake");
            }
            Err(error) => {
                self.is_missing = error.kind() == std::io::ErrorKind::NotFound;
                self.again_at = Some(Instant::now() + AGAIN_AFTER);
                tracing::debug!(%error, "`{TOOL}` cannot be started: the machine may sleep while there is work");
            }
        }
    }

    /// It has ended by itself.
    fn lost(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        self.again_at = Some(Instant::now() + AGAIN_AFTER);
        let mut said = String::new();
        let read = held
            .said
            .rewind()
            .and_then(|()| (&held.said).take(REASON_LEN_MAX).read_to_string(&mut said));
        let reason = read.map_or_else(|error| error.to_string(), |_| said.trim().to_owned());
        self.let_go(held.child);
        if std::mem::replace(&mut self.is_refusal_said, true) {
            return;
        }
        tracing::info!(
            reason,
            "the machine may sleep while there is work: `{TOOL}` does not keep it awake (server.inhibit_sleep)"
        );
    }

    fn let_go(&mut self, mut child: Child) {
        drop(child.stdin.take());
        self.ending.push(child);
    }
}

fn start() -> std::io::Result<Held> {
    let said = tempfile::tempfile()?;
    let child = Command::new(TOOL)
        .args(["--what=sleep:idle", "--mode=block", "--who=overnight"])
        .args(["--why=batches are being worked on", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .spawn()?;
    Ok(Held { child, said })
}
