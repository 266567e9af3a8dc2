//! Segments and frames: a series whose bytes are not what was written.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::{BatchId, ChunkNumber, DispatchToken, LeaseToken, RequestIndex};
use overnight_domain::tally::{Outcome, Usage};
use overnight_domain::time::UnixTime;
use overnight_segment::{
    Commit, ContentKind, Frame, FrameHeader, Log, LogError, LogOptions, PAYLOAD_LEN_MAX, ScanSummary,
    SeriesReader, StoredFrame,
};

use super::{Campaign, kind, put_file};

const FRAME_MARKER: &[u8; 8] = b"\xffonfram\xfe";
const SEGMENT_MARKER: &[u8; 8] = b"\xffonsegm\xfe";
const HEADER_LEN: usize = 128;
/// One input in so many is recovered, too: that syncs.
const RECOVER_EVERY: u64 = 32;

#[test]
fn frames() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path());
    let mut seeds = vec![Vec::new()];
    for lens in [&[40][..], &[0, 7, 8, 9, 300, 1], &[300_000, 20]] {
        seeds.push(series.written(lens));
    }
    let words: &[&[u8]] = &[FRAME_MARKER, SEGMENT_MARKER, &[0; 64], b"\x01\x00\x01\x01"];
    let campaign = Campaign { seeds, words, len_max: 400_000, repair: Some(seal), executions: 1_000 };
    campaign.run(|input| series.check(input));
}

/// One batch's series, of one segment.
struct Series {
    log: Log,
    reports: Receiver<Commit>,
    dir: PathBuf,
    batch: BatchId,
}

impl Series {
    fn open(folder: &Path) -> Self {
        let dir = folder.join("log");
        let (tx, reports) = sync_channel(64);
        let options = LogOptions { commit_after: Duration::ZERO, ..LogOptions::default() };
        // A campaign that ended with a finding does not listen any more.
        let log = Log::open(&dir, options, Box::new(move |commit| drop(tx.try_send(commit)))).unwrap();
        Self { log, reports, dir, batch: BatchId::from_uuid(uuid::Uuid::from_u128(7)) }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.batch.as_str()).join("00000001.seg")
    }

    fn append(&self, index: u32, len: usize) {
        let payload = vec![b'a' + (index % 26) as u8; len];
        let frame = Frame { batch: self.batch.clone(), header: header(index), payload };
        self.log.handle().append(frame).expect("there is room");
        let report = self.reports.recv_timeout(Duration::from_secs(60)).expect("a report");
        assert!(matches!(report, Commit::Durable(_)), "{report:?}");
    }

    /// The bytes of a segment with payloads of these lengths.
    fn written(&self, lens: &[usize]) -> Vec<u8> {
        (0..).zip(lens).for_each(|(index, len)| self.append(index, *len));
        self.log.handle().close_series(&self.batch).unwrap();
        let bytes = std::fs::read(self.path()).unwrap();
        self.log.handle().remove_series(&self.batch).unwrap();
        bytes
    }

    fn check(&self, input: &[u8]) -> u64 {
        std::fs::create_dir_all(self.dir.join(self.batch.as_str())).unwrap();
        put_file(&self.path(), input);
        let read = self.scan(LogPosition::START, input);
        let is_newer = read.is_none();
        let (frames, summary) = read.unwrap_or_default();
        self.check_headers(&frames, is_newer);
        self.check_resumed(&frames, input);
        let of_input = kind(input);
        if of_input.is_multiple_of(RECOVER_EVERY) {
            self.check_recovered(&frames, is_newer);
        }
        let areas: Vec<_> = summary.iter().flat_map(|summary| &summary.damage.areas).collect();
        let reasons: Vec<_> = areas.iter().take(4).map(|area| format!("{:?}", area.reason)).collect();
        kind((is_newer, frames.len().min(8), areas.len().min(4), reasons))
    }

    /// The frames with what their bytes must be; none when the segment is of a newer version.
    fn scan(&self, from: LogPosition, input: &[u8]) -> Option<(Vec<StoredFrame>, Option<ScanSummary>)> {
        let mut frames: Vec<StoredFrame> = Vec::new();
        let mut reader = SeriesReader::open(&self.dir, &self.batch);
        let read = reader.scan(from, None, &mut |frame, payload| {
            let start = frame.place.offset as usize;
            assert_eq!(payload, &input[start..start + frame.place.len as usize]);
            assert!(payload.len() <= PAYLOAD_LEN_MAX);
            let before = frames.last().map_or(0, |last| last.place.offset + u64::from(last.place.len));
            assert!(frame.place.offset >= before + HEADER_LEN as u64, "frames lie behind each other");
            frames.push(*frame);
            ControlFlow::Continue(())
        });
        let summary = match read {
            Ok(summary) => summary,
            Err(LogError::Newer(_)) => return None,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(summary.frames, frames.len() as u64);
        assert!(summary.damage.areas.len() <= 1_000, "the list of damage is bounded");
        assert!(summary.damage.count >= summary.damage.areas.len() as u64);
        for frame in &frames {
            let payload = reader.payload(frame.place).expect("what was shown can be read");
            assert_eq!(payload.len(), frame.place.len as usize);
        }
        Some((frames, Some(summary)))
    }

    /// Without payloads nothing is missed that is whole.
    fn check_headers(&self, frames: &[StoredFrame], is_newer: bool) {
        let mut headers = Vec::new();
        let reader = SeriesReader::open(&self.dir, &self.batch);
        let read = reader.scan_headers(LogPosition::START, None, &mut |frame| {
            headers.push(*frame);
            ControlFlow::Continue(())
        });
        assert_eq!(read.is_err(), is_newer);
        assert!(frames.iter().all(|frame| headers.contains(frame)));
        if let Some(last) = frames.last() {
            assert_eq!(reader.seek(last.sequence).expect("it was read before").segment, 1);
        }
    }

    /// A scan goes on from where another one was.
    fn check_resumed(&self, frames: &[StoredFrame], input: &[u8]) {
        let at = frames.len() / 2;
        if let Some(frame) = frames.get(at) {
            let (rest, _) = self.scan(frame.next_position(), input).expect("it was read before");
            assert_eq!(rest, frames[at + 1..]);
        }
    }

    /// What is whole outlives a recovery, and what is appended behind the damage is found again.
    fn check_recovered(&self, frames: &[StoredFrame], is_newer: bool) {
        let log = self.log.handle();
        let mut recovered = Vec::new();
        let result = log.recover(&self.batch, LogPosition::START, &mut |frame| recovered.push(*frame));
        assert_eq!(result.is_err(), is_newer, "{result:?}");
        if !is_newer {
            assert_eq!(recovered, frames);
            self.append(99, 50);
            log.close_series(&self.batch).unwrap();
            let bytes = std::fs::read(self.path()).unwrap();
            let (all, _) = self.scan(LogPosition::START, &bytes).expect("it was read before");
            let (last, before) = all.split_last().expect("one was appended");
            assert_eq!((before, last.header), (frames, header(99)));
        }
        log.remove_series(&self.batch).unwrap();
    }
}

fn header(index: u32) -> FrameHeader {
    FrameHeader {
        content: ContentKind::Json,
        outcome: Outcome::Completed,
        chunk: ChunkNumber(1),
        index: RequestIndex(index),
        lease: LeaseToken(2),
        dispatch: DispatchToken(3),
        attempts: 1,
        endpoint: 2,
        model: 3,
        status: 200,
        fault: 0,
        started_at: UnixTime::from_millis(1_700_000_000_000),
        duration: Duration::from_millis(5),
        usage: Usage::default(),
    }
}

/// Checksums of headers and payloads, as `docs/formats.md` has them.
fn seal(input: &mut [u8]) {
    if let Some(header) = input.get_mut(..64).filter(|header| header.starts_with(SEGMENT_MARKER)) {
        put_checksum(header);
    }
    for at in (64..input.len()).step_by(8) {
        let Some((header, rest)) = input[at..].split_at_mut_checked(HEADER_LEN) else { return };
        if header.starts_with(FRAME_MARKER) {
            let len = u32::from_le_bytes([header[104], header[105], header[106], header[107]]);
            if let Some(payload) = rest.get(..len as usize) {
                header[108..112].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
            }
            put_checksum(header);
        }
    }
}

fn put_checksum(header: &mut [u8]) {
    let check = crc32c::crc32c(&header[12..]);
    header[8..12].copy_from_slice(&check.to_le_bytes());
}
