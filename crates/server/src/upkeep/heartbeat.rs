//! Says that this worker lives, and what it does.

use overnight_domain::batch::BatchState;
use overnight_store::WorkerView;

use crate::clock;
use crate::context::Context;

pub(super) async fn beat(ctx: &Context) -> anyhow::Result<()> {
    let is_busy = ctx.endpoints.view().iter().any(|view| view.in_flight > 0);
    let first = ctx.store.queue(&[BatchState::InProgress], 1).await?;
    let batch = first.into_iter().next().map(|first| first.batch.id).filter(|_| is_busy);
    let view = WorkerView {
        id: ctx.worker.clone(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        process: std::process::id(),
        started_at: ctx.started_at,
        seen_at: clock::now(),
        activity: if ctx.disk.is_full() {
            "error"
        } else if is_busy {
            "processing"
        } else {
            "idle"
        }
        .to_owned(),
        batch,
    };
    Ok(ctx.store.heartbeat(view).await?)
}
