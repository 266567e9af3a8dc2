//! Which failed requests were sent again, and in which batch.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use overnight_domain::batch::Batch;
use overnight_domain::ids::BatchId;
use serde::Deserialize;

use crate::blobs::BlobError;
use crate::context::Context;
use crate::retry::stored_lines::StoredLines;

/// Children whose inputs are looked through; older ones are not named.
const CHILDREN_MAX: usize = 16;

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
}

/// For each of the requests that was sent again, the newest batch that has it. A child's input is read as a stream; one
/// whose bytes are gone names nothing.
pub(crate) async fn sent_again(
    ctx: &Context,
    batch: &Batch,
    custom_ids: impl Iterator<Item = String>,
) -> anyhow::Result<HashMap<String, BatchId>> {
    let mut found = HashMap::new();
    let children = ctx.store.children(&batch.tenant, &batch.id).await?;
    if children.is_empty() {
        return Ok(found);
    }
    let mut open: HashSet<String> = custom_ids.collect();
    for child in children.into_iter().rev().take(CHILDREN_MAX) {
        let lines = StoredLines::open(&ctx.blobs, &child.input_blob, child.input_len).await;
        let mut lines = match lines {
            Ok(lines) => lines,
            Err(BlobError::Missing(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        while !open.is_empty()
            && let Some(line) = lines.next().await?
        {
            let Ok(named) = serde_json::from_slice::<Named<'_>>(&line.bytes) else { continue };
            if let Some(custom_id) = open.take(named.custom_id.as_ref()) {
                found.insert(custom_id, child.id.clone());
            }
        }
    }
    Ok(found)
}
