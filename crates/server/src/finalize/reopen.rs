//! Reopen: results that were damaged on the disk after their chunk was done. Those requests run again, the others keep
//! the results that they have.

use std::sync::Arc;

use anyhow::Context as _;
use overnight_domain::batch::Batch;
use overnight_store::Moved;

use super::request_set::RequestSet;
use crate::clock;
use crate::context::Context;
use crate::dispatch::durable_of;
use crate::ingest::read_plan;
use crate::pulse::Pulse;

/// Puts back the chunks of the requests that are not in `found`. Whoever claims them looks for what is durable, and so
/// runs only these.
pub(super) async fn reopen(
    ctx: &Arc<Context>,
    batch: &Batch,
    found: &RequestSet,
    pulse: &Pulse,
) -> anyhow::Result<()> {
    let plan = batch.plan_blob.as_ref().context("a batch with chunks has a plan")?;
    let (mut numbers, mut damaged) = (Vec::new(), 0);
    for chunk in ctx.store.chunks(&batch.id).await? {
        pulse.beat();
        let (_, entries) = read_plan(ctx, plan, chunk.range).await?;
        let damaged_here = entries.iter().filter(|entry| !found.contains(entry.index)).count();
        if damaged_here > 0 {
            damaged += damaged_here as u64;
            numbers.push(chunk.number);
            // Counted as soon as the store calls the chunk open, not before.
            let (_, tally) = durable_of(&ctx.log, &chunk, &entries).await?;
            ctx.live.set(&batch.id, chunk.number, tally);
        }
    }
    let missing = found.missing();
    anyhow::ensure!(
        damaged == missing && missing > 0,
        "{missing} requests of `{}` have no whole result, and only {damaged} of them are in its chunks",
        batch.id
    );
    let moved = ctx.store.reopen_batch(&batch.id, &numbers, clock::now()).await?;
    if let Moved::To(_) = moved {
        tracing::warn!(
            batch = %batch.id, damaged, chunks = numbers.len(),
            "results were damaged on the disk; their requests run again"
        );
    }
    // Otherwise its state changed meanwhile (a cancel): the next look decides anew.
    Ok(())
}
