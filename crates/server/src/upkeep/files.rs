//! Removes the bytes of files that were deleted or have expired, once nothing needs them.

use crate::clock;
use crate::context::Context;

const AT_ONCE: usize = 256;

pub(super) async fn sweep(ctx: &Context) -> anyhow::Result<()> {
    loop {
        let dead = ctx.store.dead_files(clock::now(), AT_ONCE).await?;
        let count = dead.len();
        for file in dead {
            // The bytes first: a crash between the two leaves a record that is swept again, not bytes without one.
            ctx.blobs.delete(&file.blob).await?;
            ctx.store.forget_file(&file.id).await?;
        }
        if count < AT_ONCE {
            return Ok(());
        }
    }
}
