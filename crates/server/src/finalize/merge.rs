//! Merges the results of a batch back into input order and writes its files.
//!
//! Only places and lengths are put in order; a line travels once, from its segment to its file.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use overnight_domain::batch::{Batch, BatchState};
use overnight_domain::chunk::LogPosition;
use overnight_domain::fault::kind_number;
use overnight_domain::ids::{BlobKey, RequestIndex};
use overnight_domain::request;
use overnight_domain::result::LineHead;
use overnight_domain::tally::{Outcome, Tally};
use overnight_domain::time::UnixTime;
use overnight_segment::{LogError, Place, SeriesReader, StoredFrame};
use tokio::runtime::Handle;

use super::buckets::Buckets;
use super::request_set::RequestSet;
use crate::blobs::{BlobError, BlobWriter, Blobs, Written};
use crate::lines::LineReader;
use crate::pulse::Pulse;
use crate::results::index::{FAILED_LEN, FailedEntry, IndexHeader, LINE_LEN, LinePlace};

/// Segment, offset, length, sequence, then what a failed request is remembered by.
const RECORD_LEN: usize = 4 + 8 + 4 + 8 + 2 + 2 + 2 + 1 + 1 + 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum MergeError {
    #[error("failed to put results in order")]
    Io(#[from] io::Error),
    #[error("failed to read results")]
    Log(#[from] LogError),
    #[error("failed to write results")]
    Blob(#[from] BlobError),
    #[error("the input has fewer requests than were planned")]
    ShortInput,
    #[error("a request without a result in a batch that did not end early")]
    Unanswered,
}

/// How a merge ended.
pub(super) enum Merging {
    Written(Merged),
    /// The batch did not end early, and yet these are the only requests with a whole result. Nothing was written.
    Lost(RequestSet),
}

/// What of a frame is looked at while places are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Enough to know what is there at all; damage within a payload shows when the line is copied.
    Headers,
    Payloads,
}

/// A damaged payload costs one more look at all of them; what keeps changing under our eyes is given up.
const CHECKS: [Check; 3] = [Check::Headers, Check::Payloads, Check::Payloads];

/// Where the bytes come from and go to.
pub(super) struct Merge<'a> {
    pub(super) batch: &'a Batch,
    pub(super) blobs: &'a Blobs,
    pub(super) segments: PathBuf,
    pub(super) scratch: PathBuf,
    /// The last result that is durable.
    pub(super) until: u64,
    pub(super) handle: Handle,
    pub(super) now: UnixTime,
    pub(super) pulse: &'a Pulse,
}

/// What was written.
pub(super) struct Merged {
    pub(super) output: Option<Written>,
    pub(super) error: Option<Written>,
    pub(super) tally: Tally,
    /// Numbers of the endpoints that answered.
    pub(super) endpoints: Vec<u16>,
}

/// Where the results lie, in the order of the input.
struct Ordered {
    records: Buckets<RECORD_LEN>,
    found: RequestSet,
    tally: Tally,
    endpoints: Vec<u16>,
}

pub(super) fn output_blob(batch: &Batch) -> BlobKey {
    BlobKey::new(format!("outputs/{}_output.jsonl", batch.id))
}

pub(super) fn error_blob(batch: &Batch) -> BlobKey {
    BlobKey::new(format!("outputs/{}_error.jsonl", batch.id))
}

impl Merge<'_> {
    pub(super) fn run(&self) -> Result<Merging, MergeError> {
        let mut reader = SeriesReader::open(&self.segments, &self.batch.id);
        let mut damage = None;
        for check in CHECKS {
            let ordered = self.order(&reader, check)?;
            if ordered.found.missing() == 0 || self.early_end().is_some() {
                match self.write(&mut reader, ordered) {
                    Err(MergeError::Log(error @ LogError::Damaged { .. })) => {
                        tracing::warn!(batch = %self.batch.id, %error, "all results are checked");
                        damage = Some(error);
                    }
                    other => return other.map(Merging::Written),
                }
            } else if check == Check::Payloads {
                return Ok(Merging::Lost(ordered.found));
            }
        }
        Err(damage.map_or(MergeError::Unanswered, MergeError::Log))
    }

    /// What a request without a result gets, when the batch has ended before all were answered.
    const fn early_end(&self) -> Option<(&'static str, &'static str)> {
        match self.batch.state {
            BatchState::Expiring => {
                Some(("batch_expired", "the batch has expired before this request was answered"))
            }
            BatchState::Cancelling => {
                Some(("batch_cancelled", "the batch was cancelled before this request was answered"))
            }
            _ => None,
        }
    }

    /// Notes where each result lies, by the index of its request. The first whole one of a request counts.
    fn order(&self, reader: &SeriesReader, check: Check) -> Result<Ordered, MergeError> {
        let mut ordered = Ordered {
            records: Buckets::new(&self.scratch, self.batch.total)?,
            found: RequestSet::new(self.batch.total),
            tally: Tally::default(),
            endpoints: Vec::new(),
        };
        let mut failure = None;
        let mut note = |frame: &StoredFrame| {
            self.pulse.beat();
            match ordered.note(frame) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let (from, until) = (LogPosition::START, Some(self.until));
        match check {
            Check::Headers => reader.scan_headers(from, until, &mut note)?,
            Check::Payloads => reader.scan(from, until, &mut |frame, _| note(frame))?,
        };
        failure.map_or(Ok(ordered), |error| Err(error.into()))
    }

    /// Copies each line to its file.
    fn write(&self, reader: &mut SeriesReader, ordered: Ordered) -> Result<Merged, MergeError> {
        let Ordered { records, found, mut tally, endpoints } = ordered;
        // Lines that no engine had a part in come behind the last number that a frame has.
        let numbers = self.until + found.missing();
        let mut files = Files {
            merge: self,
            output: LineFile::new(self, output_blob(self.batch)),
            error: LineFile::new(self, error_blob(self.batch)),
            places: Buckets::new(&self.scratch, numbers)?,
            failed: io::BufWriter::new(tempfile::tempfile_in(&self.scratch)?),
            input: InputCursor::new(self),
            failed_count: 0,
            next_sequence: self.until + 1,
        };
        let written = records.drain(|index, record| {
            self.pulse.beat();
            match record {
                Some(record) => {
                    let record = Record::from_bytes(record);
                    let payload = reader.payload(record.place)?;
                    files.put(index, &record, payload)
                }
                None => files.put_unanswered(index, &mut tally),
            }
        });
        if let Err(error) = written {
            files.abort();
            return Err(error);
        }
        files.finish(tally, endpoints)
    }
}

impl Ordered {
    fn note(&mut self, frame: &StoredFrame) -> io::Result<()> {
        let header = &frame.header;
        if !self.found.insert(header.index) {
            return Ok(());
        }
        self.tally.record(header.outcome, header.usage);
        if !self.endpoints.contains(&header.endpoint) {
            self.endpoints.push(header.endpoint);
        }
        self.records.put(u64::from(header.index.0), &Record::of(frame).to_bytes())
    }
}

/// What is put in order.
#[derive(Debug, Clone, Copy)]
struct Record {
    place: Place,
    sequence: u64,
    attempts: u16,
    status: u16,
    endpoint: u16,
    fault: u8,
    is_error: bool,
    last_at: u64,
}

impl Record {
    fn of(frame: &StoredFrame) -> Self {
        let header = &frame.header;
        Self {
            place: frame.place,
            sequence: frame.sequence,
            attempts: header.attempts,
            status: header.status,
            endpoint: header.endpoint,
            fault: header.fault,
            is_error: header.outcome == Outcome::Failed,
            last_at: header.started_at.plus(header.duration).millis(),
        }
    }

    fn to_bytes(self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[0..4].copy_from_slice(&self.place.segment.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.place.offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.place.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.attempts.to_le_bytes());
        bytes[26..28].copy_from_slice(&self.status.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.endpoint.to_le_bytes());
        bytes[30] = self.fault;
        bytes[31] = u8::from(self.is_error);
        bytes[32..40].copy_from_slice(&self.last_at.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; RECORD_LEN]) -> Self {
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u64::from(short(at)) | u64::from(short(at + 2)) << 16;
        let long = |at: usize| word(at) | word(at + 4) << 32;
        Self {
            place: Place { segment: word(0) as u32, offset: long(4), len: word(12) as u32 },
            sequence: long(16),
            attempts: short(24),
            status: short(26),
            endpoint: short(28),
            fault: bytes[30],
            is_error: bytes[31] == 1,
            last_at: long(32),
        }
    }
}

/// The files that are being written.
struct Files<'a> {
    merge: &'a Merge<'a>,
    output: LineFile<'a>,
    error: LineFile<'a>,
    /// Where each line went, by the number of its result.
    places: Buckets<{ LINE_LEN as usize }>,
    failed: io::BufWriter<std::fs::File>,
    failed_count: u64,
    input: InputCursor<'a>,
    /// For lines that no engine had a part in: they come last.
    next_sequence: u64,
}

impl Files<'_> {
    fn put(&mut self, index: u64, record: &Record, line: &[u8]) -> Result<(), MergeError> {
        let file = if record.is_error { &mut self.error } else { &mut self.output };
        let place = LinePlace { is_error: record.is_error, offset: file.len, len: line.len() as u32 };
        file.push(line)?;
        self.places.put(record.sequence - 1, &place.to_bytes())?;
        if record.is_error {
            let (number, _) = self.input.line(index)?;
            self.put_failed(index, number, place, record)?;
        }
        Ok(())
    }

    /// The batch has ended before the request had a result.
    fn put_unanswered(&mut self, index: u64, tally: &mut Tally) -> Result<(), MergeError> {
        let (code, message) = self.merge.early_end().ok_or(MergeError::Unanswered)?;
        let (number, line) = self.input.line(index)?;
        let (custom_id, _) = request::split(&line).ok_or(MergeError::ShortInput)?;
        let head = LineHead::new(&self.merge.batch.id, RequestIndex(index as u32), &custom_id);
        let line = head.unanswered(code, message);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        tally.failed += 1;
        let record = Record {
            place: Place { segment: 0, offset: 0, len: 0 },
            sequence,
            attempts: 0,
            status: 0,
            endpoint: u16::MAX,
            fault: kind_number(code),
            is_error: true,
            last_at: self.merge.now.millis(),
        };
        let place = LinePlace { is_error: true, offset: self.error.len, len: line.len() as u32 };
        self.error.push(&line)?;
        self.places.put(sequence - 1, &place.to_bytes())?;
        self.put_failed(index, number, place, &record)
    }

    fn put_failed(
        &mut self,
        index: u64,
        line: u64,
        place: LinePlace,
        record: &Record,
    ) -> Result<(), MergeError> {
        use io::Write as _;
        let entry = FailedEntry {
            index: index as u32,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            offset: place.offset,
            len: place.len,
            attempts: record.attempts,
            status: record.status,
            fault: record.fault,
            endpoint: record.endpoint,
            last_at: UnixTime::from_millis(record.last_at),
        };
        self.failed_count += 1;
        Ok(self.failed.write_all(&entry.to_bytes())?)
    }

    fn finish(self, tally: Tally, endpoints: Vec<u16>) -> Result<Merged, MergeError> {
        use io::{Read as _, Seek as _};
        let header = IndexHeader { lines: self.next_sequence - 1, failed: self.failed_count };
        let mut index = LineFile::new(self.merge, crate::results::index_blob(&self.merge.batch.id));
        index.push(&header.to_bytes())?;
        self.places.drain(|_, place| match place {
            Some(place) => index.push(place),
            // The number belongs to a damaged frame: its line is the one written in its stead, further back.
            None => index.push(&LinePlace { is_error: false, offset: 0, len: 0 }.to_bytes()),
        })?;
        let mut failed = self.failed.into_inner().map_err(io::IntoInnerError::into_error)?;
        failed.rewind()?;
        let mut piece = vec![0; FAILED_LEN as usize * 1_024];
        loop {
            let read = failed.read(&mut piece)?;
            if read == 0 {
                break;
            }
            index.push(&piece[..read])?;
        }
        index.finish()?;
        Ok(Merged { output: self.output.finish()?, error: self.error.finish()?, tally, endpoints })
    }

    fn abort(self) {
        self.output.abort();
        self.error.abort();
    }
}

/// A file that exists only when it has a line.
struct LineFile<'a> {
    merge: &'a Merge<'a>,
    key: BlobKey,
    writer: Option<BlobWriter>,
    buffer: Vec<u8>,
    len: u64,
}

const BUFFER_LEN: usize = 256 << 10;

impl<'a> LineFile<'a> {
    const fn new(merge: &'a Merge<'a>, key: BlobKey) -> Self {
        Self { merge, key, writer: None, buffer: Vec::new(), len: 0 }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), MergeError> {
        self.len += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_LEN {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MergeError> {
        let handle = &self.merge.handle;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(handle.block_on(self.merge.blobs.write(&self.key))?),
        };
        handle.block_on(writer.push(&self.buffer))?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Option<Written>, MergeError> {
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        match self.writer {
            Some(writer) => Ok(Some(self.merge.handle.block_on(writer.finish())?)),
            None => Ok(None),
        }
    }

    fn abort(self) {
        if let Some(writer) = self.writer {
            self.merge.handle.block_on(writer.abort());
        }
    }
}

/// The request lines of the input, in order; read only as far as somebody asks.
struct InputCursor<'a> {
    merge: &'a Merge<'a>,
    reader: LineReader,
    at: u64,
    is_over: bool,
    /// Physical number and bytes of lines that were read and not asked for yet.
    lines: VecDeque<(u64, Vec<u8>)>,
    /// The index of the first of them.
    next: u64,
}

const READ_LEN: u64 = 1 << 20;

impl<'a> InputCursor<'a> {
    fn new(merge: &'a Merge<'a>) -> Self {
        // What is longer was refused at validation; there is no limit to be held to twice.
        let reader = LineReader::new(usize::MAX);
        Self { merge, reader, at: 0, is_over: false, lines: VecDeque::new(), next: 0 }
    }

    /// The line of a request. Asked in ascending order.
    fn line(&mut self, index: u64) -> Result<(u64, Vec<u8>), MergeError> {
        loop {
            while let Some(line) = self.lines.pop_front() {
                self.next += 1;
                if self.next > index {
                    return Ok(line);
                }
            }
            if self.is_over {
                return Err(MergeError::ShortInput);
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<(), MergeError> {
        let batch = self.merge.batch;
        let lines = &mut self.lines;
        let keep = |line: crate::lines::Line<'_>| {
            lines.push_back((line.number, line.bytes.unwrap_or_default().to_vec()));
        };
        if self.at >= batch.input_len {
            self.is_over = true;
            let reader = std::mem::replace(&mut self.reader, LineReader::new(0));
            reader.finish(keep);
            return Ok(());
        }
        let until = (self.at + READ_LEN).min(batch.input_len);
        let piece =
            self.merge.handle.block_on(self.merge.blobs.read(&batch.input_blob, self.at..until))?;
        self.reader.feed(&piece, keep);
        self.at = until;
        Ok(())
    }
}
