//! A chunk in the hands of the dispatcher: its lease, its request lines, and what has become durable of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use overnight_domain::batch::Batch;
use overnight_domain::chunk::{Chunk, Lease, LogPosition};
use overnight_domain::limits::FRUITLESS_TAKEOVERS_MAX;
use overnight_domain::pack::PackShape;
use overnight_domain::plan::PlanEntry;
use overnight_domain::request;
use overnight_domain::route::Route;
use overnight_domain::tally::Tally;
use overnight_segment::{LogHandle, StoredFrame};
use overnight_store::{Claimed, Hold};

use crate::blocking::blocking;
use crate::context::Context;
use crate::ingest::read_plan;

/// A carriage return and a line feed.
const LINE_BREAK_LEN_MAX: u64 = 2;

/// A chunk that is open.
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) batch: Arc<Batch>,
    pub(super) entries: Vec<PlanEntry>,
    /// The request lines, in the order of the entries.
    pub(super) lines: Vec<RequestLine>,
    pub(super) lines_len: u64,
    /// What is durable, earlier leases included.
    pub(super) tally: Tally,
    /// Frames that were handed to the log and are not durable yet.
    pub(super) uncommitted: u32,
    /// Something became durable under this lease.
    pub(super) has_progress: bool,
    /// The batch has ended early or is to be parked: it goes back as soon as nothing waits for the commit.
    pub(super) is_leaving: bool,
}

/// What is needed of a request line, taken apart once.
pub(super) struct RequestLine {
    pub(super) custom_id: Box<str>,
    /// A part of the line as it was read.
    pub(super) body: Bytes,
}

impl RequestLine {
    /// None when it is not what was validated.
    fn of(line: &Bytes) -> Option<Self> {
        let (custom_id, body) = request::split(line)?;
        let at = body.as_ptr() as usize - line.as_ptr() as usize;
        Some(Self { custom_id: custom_id.into(), body: line.slice(at..at + body.len()) })
    }

    /// None when its bytes are not what was validated.
    pub(super) fn body_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }
}

/// A claimed chunk with all that is needed to open it.
pub(super) struct Loaded {
    pub(super) held: Held,
    pub(super) models: Vec<Arc<str>>,
    pub(super) done: HashSet<u32>,
    /// What each request would be in a pack; empty where nothing is packed.
    pub(super) shapes: Vec<Option<PackShape>>,
}

/// Reads plan, lines and durable results of a claimed chunk. None when the lease was lost meanwhile.
pub(super) async fn load(
    ctx: &Context,
    log: &LogHandle,
    claimed: Claimed,
) -> anyhow::Result<Option<Loaded>> {
    let Claimed { lease, mut chunk, batch } = claimed;
    let plan = batch.plan_blob.clone().context("a batch with chunks has a plan")?;
    let (tables, mut entries) = read_plan(ctx, &plan, chunk.range).await?;
    if chunk.fruitless_takeovers > FRUITLESS_TAKEOVERS_MAX && entries.len() > 1 {
        // Something in it ends whoever runs it. Halves are claimed one by one, until it is alone.
        let (kept, rest) = entries.split_at(entries.len() / 2);
        let len = |part: &[PlanEntry]| part.iter().map(|entry| u64::from(entry.len)).sum::<u64>();
        let (at, lens) = (chunk.range.first_entry + kept.len() as u64, (len(kept), len(rest)));
        if ctx.store.split(&lease, at, lens).await? == Hold::Lost {
            return Ok(None);
        }
        tracing::warn!(batch = %lease.batch, chunk = lease.chunk.0, "split after fruitless takeovers");
        entries.truncate(entries.len() / 2);
        chunk.range.entry_count = entries.len() as u32;
    }
    if chunk.log_from.is_none() {
        let tail = tail(log, &lease).await?;
        if ctx.store.begin(&lease, tail).await? == Hold::Lost {
            return Ok(None);
        }
    }
    let (done, tally) = durable_of(log, &chunk, &entries).await?;
    let lines = read_lines(ctx, &tables.blobs, &entries).await?;
    let shapes = match batch.route {
        Route::Embeddings => lines.iter().map(|line| PackShape::of(line.body_text()?)).collect(),
        _ => Vec::new(),
    };
    let names: Vec<Arc<str>> = tables.models.iter().map(|name| Arc::from(name.as_str())).collect();
    let models: Option<Vec<Arc<str>>> =
        entries.iter().map(|entry| names.get(usize::from(entry.model)).cloned()).collect();
    let held = Held {
        lines_len: entries.iter().map(|entry| u64::from(entry.len)).sum(),
        lease,
        batch: Arc::new(batch),
        entries,
        lines,
        tally,
        uncommitted: 0,
        has_progress: false,
        is_leaving: false,
    };
    Ok(Some(Loaded {
        held,
        models: models.context("the plan names a model that it does not list")?,
        done,
        shapes,
    }))
}

async fn tail(log: &LogHandle, lease: &Lease) -> anyhow::Result<LogPosition> {
    let (log, batch) = (log.clone(), lease.batch.clone());
    Ok(blocking(move || log.tail(&batch)).await?)
}

/// Which requests of the chunk have a durable result, and their tally.
pub(crate) async fn durable_of(
    log: &LogHandle,
    chunk: &Chunk,
    entries: &[PlanEntry],
) -> anyhow::Result<(HashSet<u32>, Tally)> {
    let Some(from) = chunk.log_from else { return Ok((HashSet::new(), Tally::default())) };
    let ordinals: HashMap<u32, u32> =
        entries.iter().zip(0_u32..).map(|(entry, ordinal)| (entry.index.0, ordinal)).collect();
    let (log, batch) = (log.clone(), chunk.batch.clone());
    let scan = move || {
        let (mut done, mut tally) = (HashSet::new(), Tally::default());
        let recovered = log.recover(&batch, from, &mut |frame: &StoredFrame| {
            // The first result of a request counts.
            if let Some(ordinal) = ordinals.get(&frame.header.index.0)
                && done.insert(*ordinal)
            {
                tally.record(frame.header.outcome, frame.header.usage);
            }
        })?;
        if recovered.missing > 0 || recovered.cut_len > 0 {
            tracing::warn!(
                batch = %batch, missing = recovered.missing, cut_len = recovered.cut_len,
                damage = ?recovered.damage, "results were damaged or torn; their requests run again"
            );
        }
        anyhow::Ok((done, tally))
    };
    blocking(scan).await
}

async fn read_lines(
    ctx: &Context,
    blobs: &[overnight_domain::ids::BlobKey],
    entries: &[PlanEntry],
) -> anyhow::Result<Vec<RequestLine>> {
    let mut lines: Vec<Bytes> = Vec::with_capacity(entries.len());
    // A run of entries in one blob is one call.
    for run in entries.chunk_by(|left, right| left.blob == right.blob) {
        let blob = blobs
            .get(usize::from(run[0].blob))
            .context("the plan names a blob that it does not list")?;
        let read = ctx.blobs.read_all(blob, &ranges(run)).await?;
        lines.extend(
            read.into_iter()
                .zip(run)
                .map(|(line, entry)| line.slice(..line.len().min(entry.len as usize))),
        );
    }
    anyhow::ensure!(
        lines.iter().zip(entries).all(|(line, entry)| line.len() == entry.len as usize),
        "the input is shorter than its plan says"
    );
    let parts = lines.iter().zip(entries).map(|(line, entry)| {
        RequestLine::of(line).with_context(|| {
            format!(
                "line {} of the input is not what was validated: its bytes on the disk have changed",
                entry.line
            )
        })
    });
    parts.collect()
}

/// Where the lines lie. A line that is followed by the next but for its line break reaches up to it: neighbours are
/// then one read.
fn ranges(run: &[PlanEntry]) -> Vec<std::ops::Range<u64>> {
    let next = run.iter().skip(1).map(|entry| entry.offset).chain([0]);
    let range = |(entry, next): (&PlanEntry, u64)| {
        let end = entry.offset + u64::from(entry.len);
        let is_near = next.checked_sub(end).is_some_and(|gap| gap <= LINE_BREAK_LEN_MAX);
        entry.offset..if is_near { next } else { end }
    };
    run.iter().zip(next).map(range).collect()
}

/// Counts what is durable in every open chunk, before anybody is served: counts must not begin lower than they were.
pub(crate) async fn recover_live(ctx: &Context) -> anyhow::Result<()> {
    for chunk in ctx.store.recover(&ctx.worker, crate::clock::now()).await? {
        let found = ctx.store.queue_batch(&chunk.batch).await?;
        let Some(plan) = found.and_then(|batch| batch.plan_blob) else { continue };
        let (_, entries) = read_plan(ctx, &plan, chunk.range).await?;
        let (_, tally) = durable_of(&ctx.log, &chunk, &entries).await?;
        ctx.live.set(&chunk.batch, chunk.number, tally);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use overnight_domain::ids::RequestIndex;

    use super::*;

    fn entry(offset: u64, len: u32) -> PlanEntry {
        PlanEntry { offset, len, index: RequestIndex(0), line: 1, model: 0, blob: 0, is_folded: false }
    }

    #[test]
    fn neighbours_touch_and_others_keep_to_themselves() {
        // A line feed, a carriage return and a line feed, an empty line between, a line that lies before.
        let run = [entry(0, 10), entry(11, 10), entry(23, 7), entry(33, 5), entry(2, 3)];
        assert_eq!(ranges(&run), [0..11, 11..23, 23..30, 33..38, 2..5]);
        assert_eq!(ranges(&[entry(0, 4)]), vec![0..4; 1]);
    }
}
