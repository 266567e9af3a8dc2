//! The log on a real disk, through what it offers to other crates.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::{BatchId, ChunkNumber, DispatchToken, LeaseToken, RequestIndex};
use overnight_domain::tally::{Outcome, Usage};
use overnight_domain::time::UnixTime;
use overnight_segment::{
    Commit, ContentKind, Durable, Frame, FrameHeader, Log, LogError, LogHandle, LogOptions,
    RejectReason, SeriesReader, list_series, set_operation_hook,
};
use tempfile::TempDir;
use uuid::Uuid;

/// Far more than any test should take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Harness {
    log: Log,
    reports: Receiver<Commit>,
}

impl Harness {
    fn open(dir: &Path, options: LogOptions) -> Self {
        let (tx, reports) = sync_channel(100_000);
        let on_commit = Box::new(move |commit| {
            // A test that ended early does not listen any more.
            let _ = tx.send(commit);
        });
        Self { log: Log::open(dir, options, on_commit).expect("nobody else has it open"), reports }
    }

    fn durable(&self, count: usize) -> Vec<Durable> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.reports.recv_timeout(PATIENCE).expect("a report") {
                Commit::Durable(durable) => all.extend(durable),
                other => panic!("{other:?}"),
            }
        }
        all
    }
}

fn batch(number: u128) -> BatchId {
    BatchId::from_uuid(Uuid::from_u128(number))
}

fn payload(batch: &BatchId, index: u32, len: usize) -> Vec<u8> {
    let mut line = format!("{{\"batch\":\"{batch}\",\"index\":{index}}}").into_bytes();
    line.resize(line.len().max(len), b' ');
    line.push(b'\n');
    line
}

fn frame(batch: &BatchId, index: u32, len: usize) -> Frame {
    Frame {
        batch: batch.clone(),
        header: FrameHeader {
            content: ContentKind::Json,
            outcome: Outcome::Completed,
            chunk: ChunkNumber(0),
            index: RequestIndex(index),
            lease: LeaseToken(1),
            dispatch: DispatchToken(u64::from(index)),
            attempts: 1,
            endpoint: 0,
            model: 0,
            status: 200,
            fault: 0,
            started_at: UnixTime::from_millis(1),
            duration: Duration::from_millis(5),
            usage: Usage::default(),
        },
        payload: payload(batch, index, len),
    }
}

/// Appends, and waits for a commit where the buffer is full.
fn append(handle: &LogHandle, mut frame: Frame) {
    while let Err(rejected) = handle.append(frame) {
        assert_eq!(rejected.reason, RejectReason::Full);
        frame = rejected.frame;
        std::thread::yield_now();
    }
}

/// What a reader finds, each payload compared.
fn read(dir: &Path, batch: &BatchId, len: usize) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    let summary = SeriesReader::open(dir, batch)
        .scan(LogPosition::START, None, &mut |frame, bytes| {
            let index = frame.header.index.0;
            assert_eq!(bytes, payload(batch, index, len));
            found.insert(frame.sequence, index);
            ControlFlow::Continue(())
        })
        .expect("the files can be read");
    assert!(summary.damage.is_none() && summary.missing == 0, "{summary:?}");
    found
}

fn in_order(count: u32) -> BTreeMap<u64, u32> {
    (0..count).map(|index| (u64::from(index) + 1, index)).collect()
}

#[test]
fn two_batches_in_turn_have_a_series_each() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { segment_len: 256 * 1024, ..LogOptions::default() };
    let harness = Harness::open(dir.path(), options);
    let handle = harness.log.handle();
    let ids = [batch(1), batch(2)];
    for index in 0..2_000 {
        for id in &ids {
            append(&handle, frame(id, index, 900));
        }
    }
    let mut next = BTreeMap::new();
    for durable in harness.durable(4_000) {
        let expected = next.entry(durable.batch).or_insert(1);
        assert_eq!(durable.frame.sequence, *expected, "reported in the order of its numbers");
        *expected += 1;
    }
    for id in &ids {
        assert_eq!(handle.durable_sequence(id), Some(2_000));
        assert_eq!(handle.tail(id).unwrap().sequence, 2_001);
        assert!(handle.tail(id).unwrap().segment > 4);
    }
    harness.log.close().unwrap();
    let mut listed = list_series(dir.path()).unwrap();
    listed.sort();
    assert_eq!(listed, ids);
    for id in &ids {
        assert_eq!(read(dir.path(), id, 900), in_order(2_000));
    }
}

#[test]
fn a_log_that_is_opened_again_goes_on() {
    let dir = TempDir::new().unwrap();
    let id = batch(1);
    let mut tail = LogPosition::START;
    for round in 0..5 {
        let harness = Harness::open(dir.path(), LogOptions::default());
        let handle = harness.log.handle();
        // By turns: recovered from a position, asked for its tail, and neither.
        if round % 3 == 0 {
            let recovered = handle.recover(&id, LogPosition::START, &mut |_| {}).unwrap();
            assert_eq!((recovered.frames, recovered.tail.sequence), (round * 100, round * 100 + 1));
        } else if round % 3 == 1 {
            assert_eq!(handle.tail(&id).unwrap(), tail);
        } else {
            assert_eq!(handle.durable_sequence(&id), None);
        }
        for index in 0..100 {
            append(&handle, frame(&id, round as u32 * 100 + index, 50));
        }
        harness.durable(100);
        tail = handle.tail(&id).unwrap();
        let mut seen = 0;
        let again = handle.recover(&id, LogPosition::START, &mut |_| seen += 1).unwrap();
        assert_eq!((seen, again.tail, again.missing), ((round + 1) * 100, tail, 0));
        drop(harness.log);
    }
    assert_eq!(read(dir.path(), &id, 50), in_order(500));
}

#[test]
fn a_frame_of_sixteen_mebibytes_goes_through() {
    let dir = TempDir::new().unwrap();
    let id = batch(1);
    let len = 16 << 20;
    let options = LogOptions { segment_len: 1 << 20, ..LogOptions::default() };
    let harness = Harness::open(dir.path(), options);
    for index in 0..3 {
        append(&harness.log.handle(), frame(&id, index, len));
    }
    let durable = harness.durable(3);
    assert!(durable.iter().map(|durable| durable.frame.place.segment).eq([1, 2, 3]));
    harness.log.close().unwrap();
    assert_eq!(read(dir.path(), &id, len), in_order(3));
}

#[test]
fn a_closed_series_gives_its_room_back_and_a_removed_one_is_gone() {
    let dir = TempDir::new().unwrap();
    let id = batch(1);
    let harness = Harness::open(dir.path(), LogOptions::default());
    let handle = harness.log.handle();
    append(&handle, frame(&id, 0, 500));
    harness.durable(1);
    let path = dir.path().join(id.as_str()).join("00000001.seg");
    assert!(std::fs::metadata(&path).unwrap().len() >= 256 * 1024);
    handle.close_series(&id).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1_024);
    assert_eq!(handle.durable_sequence(&id), None);

    append(&handle, frame(&id, 1, 500));
    assert_eq!(harness.durable(1)[0].frame.sequence, 2);
    assert_eq!(read(dir.path(), &id, 500), in_order(2));

    handle.remove_series(&id).unwrap();
    assert!(list_series(dir.path()).unwrap().is_empty());
    assert_eq!(handle.tail(&id).unwrap(), LogPosition::START);
    handle.remove_series(&id).unwrap();
}

#[test]
fn what_is_buffered_when_the_log_closes_is_kept() {
    let dir = TempDir::new().unwrap();
    let id = batch(1);
    let options = LogOptions { commit_after: Duration::from_secs(3_600), ..LogOptions::default() };
    let harness = Harness::open(dir.path(), options);
    let handle = harness.log.handle();
    for index in 0..10 {
        append(&handle, frame(&id, index, 100));
    }
    harness.log.close().unwrap();
    assert_eq!(read(dir.path(), &id, 100), in_order(10));
    let refused = handle.append(frame(&id, 10, 100)).unwrap_err();
    assert_eq!((refused.reason, refused.frame), (RejectReason::Closed, frame(&id, 10, 100)));
}

#[test]
fn every_change_of_the_disk_can_be_counted() {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    static SYNCS: AtomicU64 = AtomicU64::new(0);
    set_operation_hook(|operation| {
        match operation {
            "write" => WRITES.fetch_add(1, Ordering::SeqCst),
            "sync_data" => SYNCS.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
    });
    let dir = TempDir::new().unwrap();
    let harness = Harness::open(dir.path(), LogOptions::default());
    append(&harness.log.handle(), frame(&batch(1), 0, 10));
    harness.durable(1);
    // The header of the segment and the frame.
    assert!(WRITES.load(Ordering::SeqCst) >= 2);
    assert!(SYNCS.load(Ordering::SeqCst) >= 1);
}

#[test]
fn a_log_has_one_process_that_appends() {
    let dir = TempDir::new().unwrap();
    let harness = Harness::open(dir.path(), LogOptions::default());
    let second = Log::open(dir.path(), LogOptions::default(), Box::new(|_| {}));
    assert!(matches!(second, Err(LogError::InUse(_))));
    harness.log.close().unwrap();
    Harness::open(dir.path(), LogOptions::default()).log.close().unwrap();
}
