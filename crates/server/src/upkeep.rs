//! Upkeep: the periodic duties, one file each. A duty that fails is logged and tried again at its next turn.

mod batches;
mod files;
mod heartbeat;
mod leases;
mod orphans;
mod paces;
mod uploads;
mod vigil;

use std::sync::Arc;
use std::time::Duration;

use overnight_domain::limits::HEARTBEAT_EVERY;
use overnight_store::StoreError;

use crate::context::Context;
use crate::pulse::Pulse;
use crate::suspend::SuspendWatch;

/// Disk and deadlines are looked at every second: both make people wait.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(30);
const RARELY: Duration = Duration::from_secs(3_600);
/// A duty that takes longer than this is given up until its next turn.
const DUTY_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn run(ctx: Arc<Context>, pulse: Pulse) -> anyhow::Result<()> {
    note("segments of ended batches", orphans::sweep_segments(&ctx).await)?;
    let mut suspends = SuspendWatch::new();
    let mut watch = vigil::Watch::new(&ctx);
    let mut often = tokio::time::interval(OFTEN);
    let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
    let mut seldom = tokio::time::interval(SELDOM);
    let mut rarely = tokio::time::interval(RARELY);
    loop {
        tokio::select! {
            () = ctx.stop.cancelled() => return Ok(()),
            _ = often.tick() => {
                if ctx.disk.look() {
                    tracing::warn!(free = ctx.disk.free(), is_full = ctx.disk.is_full(), "room on the disk has changed");
                    ctx.bell.ring();
                }
                note("expiry of batches", within(&pulse, batches::expire(&ctx)).await)?;
                note("pace of batches", within(&pulse, paces::observe(&ctx)).await)?;
                if let Some(watch) = &mut watch {
                    note("vigil", within(&pulse, watch.look(&ctx)).await)?;
                }
            }
            _ = heartbeat.tick() => note("heartbeat", within(&pulse, heartbeat::beat(&ctx)).await)?,
            _ = seldom.tick() => {
                // By the wall clock our own leases have ended in a sleep; until the next turn they are renewed.
                if suspends.slept().is_none() {
                    note("forgotten leases", within(&pulse, leases::expire(&ctx)).await)?;
                }
                note("dead files", within(&pulse, files::sweep(&ctx)).await)?;
                note("old uploads", within(&pulse, uploads::sweep(&ctx)).await)?;
            }
            _ = rarely.tick() => note("orphaned blobs", within(&pulse, orphans::sweep_blobs(&ctx)).await)?,
        }
    }
}

async fn within(pulse: &Pulse, duty: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let ended = tokio::time::timeout(DUTY_WITHIN, duty).await;
    if ended.is_ok() {
        // One that was given up is no sign of life: a store that answers nobody is seen by it.
        pulse.beat();
    }
    ended.unwrap_or_else(|_| Err(anyhow::anyhow!("it took too long")))
}

/// Only a damaged store ends the process.
fn note(duty: &str, result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if matches!(error.downcast_ref(), Some(StoreError::Damaged(_))) => Err(error),
        Err(error) => {
            tracing::warn!(duty, error = format!("{error:#}"), "a duty failed; it is tried again");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
