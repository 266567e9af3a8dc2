//! Notes how far the batches at the front of the queue are, so that their rate and end can be told.

use overnight_domain::batch::BatchState;

use crate::context::Context;
use crate::counters::get;

/// Batches whose pace is watched: those that run, and a few that may be next.
const WATCHED: usize = 16;

pub(super) async fn observe(ctx: &Context) -> anyhow::Result<()> {
    let live = ctx.live.view();
    let running = ctx.store.queue(&[BatchState::InProgress], WATCHED).await?;
    let done: Vec<_> = running
        .into_iter()
        .map(|row| {
            let tally = row.batch.tally + live.sum(&row.batch.id, &row.open);
            (row.batch.id, tally.done())
        })
        .collect();
    ctx.paces.observe(&done);
    let counters = &ctx.counters;
    ctx.paces.observe_whole(get(&counters.requests_completed) + get(&counters.requests_failed));
    Ok(())
}
