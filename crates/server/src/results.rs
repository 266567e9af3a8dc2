//! Reading results: pages of finished lines in the order in which they became durable, and pages of failed requests.
//!
//! While a batch runs its segments are read, up to what is durable; when it has ended, its files through their index.
//! A cursor is the number of the next result and stays valid across both; what stands behind the number in it is only
//! a hint where to look.

pub(crate) mod index;
pub(crate) mod manifest;

use std::ops::ControlFlow;

use anyhow::Context as _;
use bytes::Bytes;
use overnight_domain::batch::Batch;
use overnight_domain::chunk::LogPosition;
use overnight_domain::fault::kind_name;
use overnight_domain::ids::{BatchId, BlobKey};
use overnight_domain::limits::RESULTS_PAGE_LEN;
use overnight_domain::tally::Outcome;
use overnight_domain::time::UnixTime;
use overnight_segment::{LogError, SeriesReader, StoredFrame};

use crate::blobs::BlobError;
use crate::blocking::blocking;
use crate::context::Context;
use crate::endpoint_names::EndpointNames;
use manifest::Manifest;

use index::{FAILED_LEN, FailedEntry, HEADER_LEN, IndexHeader, LINE_LEN, LinePlace};

#[derive(Debug)]
pub(crate) struct ResultsPage {
    /// Each a whole result line with its line break.
    pub(crate) lines: Vec<Bytes>,
    pub(crate) next: String,
    /// More is durable already.
    pub(crate) has_more: bool,
    /// The batch has ended, and nothing follows.
    pub(crate) is_final: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct FailedQuery {
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
    pub(crate) error_type: Option<String>,
}

#[derive(Debug)]
pub(crate) struct FailedPage {
    pub(crate) requests: Vec<FailedRequest>,
    /// None on the last page.
    pub(crate) next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedRequest {
    pub(crate) custom_id: String,
    pub(crate) request_index: u64,
    /// The physical line of the input; not known while the batch runs.
    pub(crate) line: Option<u64>,
    pub(crate) error_type: String,
    pub(crate) error_message: String,
    pub(crate) status_code: Option<u16>,
    pub(crate) attempts: u16,
    pub(crate) last_at: UnixTime,
    pub(crate) endpoint: Option<String>,
}

#[derive(Debug)]
pub(crate) enum ResultsError {
    /// The cursor is none of ours.
    Cursor,
    /// The batch's files were deleted or have expired.
    Gone,
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for ResultsError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<BlobError> for ResultsError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing(_) => Self::Gone,
            other => Self::Failed(other.into()),
        }
    }
}

pub(crate) fn index_blob(batch: &BatchId) -> BlobKey {
    BlobKey::new(format!("results/{batch}.index"))
}

/// Where to go on: the number of the next result, and perhaps where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    sequence: u64,
    hint: Option<LogPosition>,
}

impl Cursor {
    fn parse(after: Option<&str>) -> Result<Self, ResultsError> {
        let Some(text) = after.filter(|text| !text.is_empty()) else {
            return Ok(Self { sequence: 1, hint: Some(LogPosition::START) });
        };
        let numbers: Option<Vec<u64>> = text.split('-').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([sequence]) if *sequence > 0 => Ok(Self { sequence: *sequence, hint: None }),
            Some([sequence, segment, offset]) if *sequence > 0 => {
                let segment = u32::try_from(*segment).map_err(|_| ResultsError::Cursor)?;
                let hint = LogPosition { segment, offset: *offset, sequence: *sequence };
                Ok(Self { sequence: *sequence, hint: Some(hint) })
            }
            _ => Err(ResultsError::Cursor),
        }
    }

    fn show(self) -> String {
        match self.hint {
            Some(hint) => format!("{}-{}-{}", self.sequence, hint.segment, hint.offset),
            None => self.sequence.to_string(),
        }
    }
}

/// What the files of an ended batch were when they were written. None while there are none.
pub(crate) async fn read_manifest(
    ctx: &Context,
    batch: &Batch,
) -> Result<Option<Manifest>, ResultsError> {
    if !batch.state.is_terminal() || batch.plan_blob.is_none() {
        return Ok(None);
    }
    let bytes = ctx.blobs.read_whole(&manifest::blob(&batch.id)).await?;
    let manifest = serde_json::from_slice(&bytes);
    Ok(Some(manifest.with_context(|| format!("the manifest of `{}` is damaged", batch.id))?))
}

/// A page of finished lines behind `after`.
pub(crate) async fn page(
    ctx: &Context,
    batch: &Batch,
    after: Option<&str>,
    limit: usize,
) -> Result<ResultsPage, ResultsError> {
    let cursor = Cursor::parse(after)?;
    if batch.plan_blob.is_none() {
        let is_final = batch.state.is_terminal();
        return Ok(ResultsPage { lines: Vec::new(), next: cursor.show(), has_more: false, is_final });
    }
    if batch.state.is_terminal() {
        ended_page(ctx, batch, cursor.sequence, limit).await
    } else {
        running_page(ctx, batch, cursor, limit).await
    }
}

async fn ended_page(
    ctx: &Context,
    batch: &Batch,
    from: u64,
    limit: usize,
) -> Result<ResultsPage, ResultsError> {
    let key = index_blob(&batch.id);
    let header = read_header(ctx, &key).await?;
    let until = (from + limit as u64).min(header.lines + 1).max(from);
    let bytes = ctx.blobs.read(&key, IndexHeader::line_at(from)..IndexHeader::line_at(until)).await?;
    let (places, _) = bytes.as_chunks::<{ LINE_LEN as usize }>();
    let mut places: Vec<LinePlace> = places.iter().map(LinePlace::from_bytes).collect();
    let mut len = 0;
    let fitting = places.iter().take_while(|place| {
        len += place.len as usize;
        len <= RESULTS_PAGE_LEN
    });
    let count = fitting.count().max(1).min(places.len());
    places.truncate(count);
    let next = from + places.len() as u64;
    Ok(ResultsPage {
        lines: read_lines(ctx, batch, &places).await?,
        next: next.to_string(),
        has_more: next <= header.lines,
        is_final: next > header.lines,
    })
}

async fn read_header(ctx: &Context, key: &BlobKey) -> Result<IndexHeader, ResultsError> {
    let bytes = ctx.blobs.read(key, 0..HEADER_LEN).await?;
    let header = IndexHeader::from_bytes(&bytes);
    Ok(header.with_context(|| format!("results index `{key}` is damaged or of another version"))?)
}

/// Reads lines from both files, in the order of the places. Places without a line are passed over.
async fn read_lines(
    ctx: &Context,
    batch: &Batch,
    places: &[LinePlace],
) -> Result<Vec<Bytes>, ResultsError> {
    let mut lines = vec![Bytes::new(); places.len()];
    for (is_error, file) in [(false, &batch.output_file), (true, &batch.error_file)] {
        let wanted: Vec<usize> = (0..places.len())
            .filter(|at| places[*at].is_error == is_error && places[*at].len > 0)
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let id = file.as_ref().ok_or(ResultsError::Gone)?;
        let found = ctx.store.file(&batch.tenant, id, crate::clock::now()).await;
        let file = found.map_err(anyhow::Error::from)?.ok_or(ResultsError::Gone)?;
        let ranges: Vec<_> = wanted
            .iter()
            .map(|at| places[*at].offset..places[*at].offset + u64::from(places[*at].len))
            .collect();
        for (at, line) in wanted.into_iter().zip(ctx.blobs.read_all(&file.blob, &ranges).await?) {
            lines[at] = line;
        }
    }
    lines.retain(|line| !line.is_empty());
    Ok(lines)
}

async fn running_page(
    ctx: &Context,
    batch: &Batch,
    cursor: Cursor,
    limit: usize,
) -> Result<ResultsPage, ResultsError> {
    let (log, segments, id) = (ctx.log.clone(), ctx.segments.clone(), batch.id.clone());
    let read = move || -> anyhow::Result<ResultsPage> {
        let durable = match log.durable_sequence(&id) {
            Some(durable) => durable,
            None => log.tail(&id)?.sequence - 1,
        };
        let reader = SeriesReader::open(&segments, &id);
        let mut next = cursor;
        let (mut lines, mut len) = (Vec::new(), 0);
        if cursor.sequence <= durable {
            let from = match cursor.hint {
                Some(hint) if is_right(&reader, hint, durable) => hint,
                _ => reader.seek(cursor.sequence)?,
            };
            reader.scan(from, Some(durable), &mut |frame, payload| {
                if frame.sequence < cursor.sequence {
                    return ControlFlow::Continue(());
                }
                if lines.len() >= limit || (len > 0 && len + payload.len() > RESULTS_PAGE_LEN) {
                    return ControlFlow::Break(());
                }
                len += payload.len();
                lines.push(Bytes::copy_from_slice(payload));
                next = Cursor { sequence: frame.sequence + 1, hint: Some(frame.next_position()) };
                ControlFlow::Continue(())
            })?;
        }
        let has_more = next.sequence <= durable && !lines.is_empty();
        Ok(ResultsPage { lines, next: next.show(), has_more, is_final: false })
    };
    Ok(blocking(read).await?)
}

/// Whether the frame with the cursor's number really lies where the hint says.
fn is_right(reader: &SeriesReader, hint: LogPosition, durable: u64) -> bool {
    let mut found = None;
    let scanned = reader.scan_headers(hint, Some(durable), &mut |frame| {
        found = Some(frame.sequence);
        ControlFlow::Break(())
    });
    scanned.is_ok() && found == Some(hint.sequence)
}

/// A page of failed requests: in input order when the batch has ended, in the order in which they failed before.
pub(crate) async fn failed_page(
    ctx: &Context,
    batch: &Batch,
    query: FailedQuery,
) -> Result<FailedPage, ResultsError> {
    if batch.plan_blob.is_none() {
        return Ok(FailedPage { requests: Vec::new(), next: None });
    }
    if batch.state.is_terminal() {
        ended_failed(ctx, batch, query).await
    } else {
        running_failed(ctx, batch, query).await
    }
}

/// Entries of the index that are looked at in one go.
const FAILED_AT_ONCE: u64 = 4_096;

async fn ended_failed(
    ctx: &Context,
    batch: &Batch,
    query: FailedQuery,
) -> Result<FailedPage, ResultsError> {
    let key = index_blob(&batch.id);
    let header = read_header(ctx, &key).await?;
    let mut number = match query.after.as_deref().filter(|after| !after.is_empty()) {
        Some(after) => after.parse::<u64>().map_err(|_| ResultsError::Cursor)?.min(header.failed),
        None => 0,
    };
    let mut entries: Vec<FailedEntry> = Vec::new();
    while number < header.failed && entries.len() < query.limit {
        let until = (number + FAILED_AT_ONCE).min(header.failed);
        let bytes = ctx.blobs.read(&key, header.failed_at(number)..header.failed_at(until)).await?;
        for entry in bytes.as_chunks::<{ FAILED_LEN as usize }>().0.iter().map(FailedEntry::from_bytes) {
            if entries.len() >= query.limit {
                break;
            }
            number += 1;
            if query.error_type.as_deref().is_none_or(|kind| kind == kind_name(entry.fault)) {
                entries.push(entry);
            }
        }
    }
    let places: Vec<LinePlace> = entries
        .iter()
        .map(|entry| LinePlace { is_error: true, offset: entry.offset, len: entry.len })
        .collect();
    let lines = read_lines(ctx, batch, &places).await?;
    let requests = entries
        .iter()
        .zip(&lines)
        .map(|(entry, line)| {
            let (custom_id, error_message) = describe(line);
            FailedRequest {
                custom_id,
                request_index: u64::from(entry.index),
                line: Some(u64::from(entry.line)),
                error_type: kind_name(entry.fault).to_owned(),
                error_message,
                status_code: (entry.status > 0).then_some(entry.status),
                attempts: entry.attempts,
                last_at: entry.last_at,
                endpoint: ctx.endpoint_names.name(entry.endpoint).map(str::to_owned),
            }
        })
        .collect();
    Ok(FailedPage { requests, next: (number < header.failed).then(|| number.to_string()) })
}

async fn running_failed(
    ctx: &Context,
    batch: &Batch,
    query: FailedQuery,
) -> Result<FailedPage, ResultsError> {
    let cursor = Cursor::parse(query.after.as_deref())?;
    let (log, segments, id) = (ctx.log.clone(), ctx.segments.clone(), batch.id.clone());
    let names = ctx.endpoint_names.clone();
    let read = move || -> anyhow::Result<FailedPage> {
        let durable = match log.durable_sequence(&id) {
            Some(durable) => durable,
            None => log.tail(&id)?.sequence - 1,
        };
        let mut reader = SeriesReader::open(&segments, &id);
        let from = match cursor.hint {
            Some(hint) if is_right(&reader, hint, durable) => hint,
            _ => reader.seek(cursor.sequence)?,
        };
        let mut frames: Vec<StoredFrame> = Vec::new();
        reader.scan_headers(from, Some(durable), &mut |frame| {
            let is_wanted = frame.sequence >= cursor.sequence
                && frame.header.outcome == Outcome::Failed
                && query.error_type.as_deref().is_none_or(|kind| kind == kind_name(frame.header.fault));
            if is_wanted {
                frames.push(*frame);
            }
            if frames.len() >= query.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let is_full = frames.len() >= query.limit;
        let last = frames.last().filter(|_| is_full);
        let next = last
            .map(|last| Cursor { sequence: last.sequence + 1, hint: Some(last.next_position()) }.show());
        Ok(FailedPage { requests: failed_of(&mut reader, &names, &frames)?, next })
    };
    Ok(blocking(read).await?)
}

/// The failed requests of a running batch whose lines lie there.
pub(crate) async fn failed_at(
    ctx: &Context,
    batch: &BatchId,
    frames: Vec<StoredFrame>,
) -> anyhow::Result<Vec<FailedRequest>> {
    let mut reader = SeriesReader::open(&ctx.segments, batch);
    let names = ctx.endpoint_names.clone();
    blocking(move || failed_of(&mut reader, &names, &frames)).await
}

fn failed_of(
    reader: &mut SeriesReader,
    names: &EndpointNames,
    frames: &[StoredFrame],
) -> anyhow::Result<Vec<FailedRequest>> {
    let mut requests = Vec::with_capacity(frames.len());
    for frame in frames {
        let header = &frame.header;
        let (custom_id, error_message) = match reader.payload(frame.place) {
            Ok(line) => describe(line),
            // Its request runs again before the batch ends.
            Err(LogError::Damaged { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        requests.push(FailedRequest {
            custom_id,
            request_index: u64::from(header.index.0),
            line: None,
            error_type: kind_name(header.fault).to_owned(),
            error_message,
            status_code: (header.status > 0).then_some(header.status),
            attempts: header.attempts,
            last_at: header.started_at.plus(header.duration),
            endpoint: names.name(header.endpoint).map(str::to_owned),
        });
    }
    Ok(requests)
}

/// The custom id and the message of an error line.
fn describe(line: &[u8]) -> (String, String) {
    let line: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    let text = |path: &str| line.pointer(path).and_then(serde_json::Value::as_str).map(str::to_owned);
    let message = text("/error/message").or_else(|| text("/response/body/error/message"));
    (text("/custom_id").unwrap_or_default(), message.unwrap_or_default())
}
