//! Removes what a crash left behind and nothing refers to: segments of ended batches, and blobs without a record.

use std::time::Duration;

use futures::TryStreamExt as _;
use overnight_domain::ids::{BatchId, BlobKey};
use overnight_segment::list_series;

use crate::blocking::blocking;
use crate::clock;
use crate::context::Context;

/// A blob younger than this may belong to something that is just being made.
const OLD_AFTER: Duration = Duration::from_secs(2 * 3_600);
const AT_ONCE: usize = 512;

/// A batch has no use for its segments once it is terminal.
pub(super) async fn sweep_segments(ctx: &Context) -> anyhow::Result<()> {
    let segments = ctx.segments.clone();
    let series = blocking(move || list_series(&segments)).await?;
    for id in series {
        let batch = ctx.store.queue_batch(&id).await?;
        if batch.is_none_or(|batch| batch.state.is_terminal()) {
            let log = ctx.log.clone();
            blocking(move || log.remove_series(&id)).await?;
        }
    }
    Ok(())
}

pub(super) async fn sweep_blobs(ctx: &Context) -> anyhow::Result<()> {
    for folder in ["files", "parts", "plans", "outputs", "results"] {
        let mut listed = ctx.blobs.list(folder).try_chunks(AT_ONCE);
        while let Some(blobs) = listed.try_next().await? {
            let old = clock::now();
            let keys: Vec<BlobKey> = blobs
                .into_iter()
                .filter(|(_, changed)| {
                    old.millis().saturating_sub(*changed) > OLD_AFTER.as_millis() as u64
                })
                .map(|(key, _)| key)
                .collect();
            for key in unknown(ctx, folder, keys).await? {
                tracing::info!(%key, "removing a blob that nothing refers to");
                ctx.blobs.delete(&key).await?;
            }
        }
    }
    Ok(())
}

async fn unknown(ctx: &Context, folder: &str, keys: Vec<BlobKey>) -> anyhow::Result<Vec<BlobKey>> {
    if folder != "results" {
        let known = ctx.store.known_blobs(&keys).await?;
        return Ok(keys.into_iter().filter(|key| !known.contains(key)).collect());
    }
    // What is kept about results is named after its batch.
    let batch_of = |key: &BlobKey| {
        let name = key.as_str().rsplit('/').next()?;
        BatchId::parse(name.split('.').next()?).ok()
    };
    let ids: Vec<BatchId> = keys.iter().filter_map(batch_of).collect();
    let known = ctx.store.known_batches(&ids).await?;
    Ok(keys.into_iter().filter(|key| batch_of(key).is_none_or(|id| !known.contains(&id))).collect())
}
