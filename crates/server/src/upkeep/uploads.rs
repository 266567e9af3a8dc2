//! Ends uploads that nobody completed, and removes the parts of those that have ended.

use crate::clock;
use crate::context::Context;

const AT_ONCE: usize = 256;

pub(super) async fn sweep(ctx: &Context) -> anyhow::Result<()> {
    loop {
        let parts = ctx.store.sweep_uploads(clock::now(), AT_ONCE).await?;
        let count = parts.len();
        for part in parts {
            ctx.blobs.delete(&part.blob).await?;
            ctx.store.forget_part(&part.id).await?;
        }
        if count < AT_ONCE {
            return Ok(());
        }
    }
}
