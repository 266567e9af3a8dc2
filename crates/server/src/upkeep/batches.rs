//! Ends batches with a hard deadline that has passed.

use crate::clock;
use crate::context::Context;

pub(super) async fn expire(ctx: &Context) -> anyhow::Result<()> {
    let expired = ctx.store.expire_batches(clock::now()).await?;
    if !expired.is_empty() {
        tracing::info!(batches = expired.len(), "expired");
        ctx.bell.ring();
    }
    Ok(())
}
