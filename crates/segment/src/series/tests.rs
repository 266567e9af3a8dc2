//! The disk fails at every operation in turn; what the series says is compared with what is then read.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::model::{EIO, ENOSPC, ModelDisk};
use crate::reader::SeriesReader;
use crate::recover::{RecoverFrom, recover};
use crate::sample::{DIR, Dice, batch, frame, payload, place};

/// Small, so that some commits cross it.
const SEGMENT_LEN: u64 = 4096;
const FRAMES: u32 = 60;

/// Longer ones than a segment are among them.
fn len_of(index: u32) -> usize {
    match index % 19 {
        7 => 5_000,
        _ => Dice(u64::from(index)).below(700) as usize,
    }
}

/// A process that keeps what was not acknowledged and starts again after a fatal error.
struct Life {
    disk: ModelDisk,
    acknowledged: BTreeMap<u64, u32>,
    restarts: u32,
    stalls: u32,
}

impl Life {
    fn new() -> Self {
        Self { disk: ModelDisk::new(), acknowledged: BTreeMap::new(), restarts: 0, stalls: 0 }
    }

    /// Until every frame is acknowledged.
    fn run(&mut self) {
        let id = batch(1);
        let place = place(&self.disk.shared(), SEGMENT_LEN);
        let mut open: Option<Series> = None;
        let mut waiting: Vec<Frame> = Vec::new();
        let mut next = 0;
        for _ in 0..10_000 {
            if waiting.is_empty() {
                waiting = (next..FRAMES.min(next + 7)).map(|i| frame(&id, i, len_of(i))).collect();
                next += waiting.len() as u32;
                if waiting.is_empty() {
                    return;
                }
            }
            let Some(series) = &mut open else {
                open = self.reopen(&place);
                continue;
            };
            let committed = series.commit(std::mem::take(&mut waiting));
            for durable in committed.durable {
                let StoredFrame { header, sequence, .. } = durable.frame;
                let before = self.acknowledged.insert(sequence, header.index.0);
                assert_eq!(before, None, "sequence {sequence} was given twice");
            }
            waiting = committed.kept;
            match committed.error {
                Some(error) if error.is_fatal() => {
                    open = None;
                    self.restarts += 1;
                }
                Some(error) => {
                    assert!(error.is_full(), "{}", error.describe());
                    self.stalls += 1;
                }
                None => assert!(waiting.is_empty()),
            }
        }
        panic!("no end after {} restarts and {} stalls", self.restarts, self.stalls);
    }

    fn reopen(&mut self, place: &SeriesPlace) -> Option<Series> {
        let from = RecoverFrom::Position(LogPosition::START);
        let mut found = BTreeMap::new();
        let recovered = recover(place, &batch(1), from, &mut |frame| {
            found.insert(frame.sequence, frame.header.index.0);
        });
        let Ok((series, recovered)) = recovered else {
            self.restarts += 1;
            return None;
        };
        self.holds(&found);
        assert_eq!(recovered.frames + recovered.missing + 1, recovered.tail.sequence);
        // What recovery counts is durable, acknowledged or not: its number is taken.
        self.acknowledged = found;
        Some(series)
    }

    fn holds(&self, found: &BTreeMap<u64, u32>) {
        for (sequence, index) in &self.acknowledged {
            assert_eq!(found.get(sequence), Some(index), "acknowledged frame {sequence} is lost");
        }
    }

    /// What a reader finds now.
    fn read(&self) -> BTreeMap<u64, u32> {
        let mut found = BTreeMap::new();
        let mut reader = SeriesReader::open_on(self.disk.shared(), Path::new(DIR), &batch(1));
        let mut places = Vec::new();
        reader
            .scan(LogPosition::START, None, &mut |frame, bytes| {
                let index = frame.header.index.0;
                assert_eq!(bytes, payload(index, len_of(index)));
                found.insert(frame.sequence, index);
                places.push((index, frame.place));
                ControlFlow::Continue(())
            })
            .expect("reading does not fail");
        for (index, place) in places {
            assert_eq!(reader.payload(place).expect("it was found"), payload(index, len_of(index)));
        }
        found
    }

    /// Each frame is there, and nothing that was acknowledged is not.
    fn ends_well(&self) {
        let found = self.read();
        self.holds(&found);
        let indices: std::collections::BTreeSet<u32> = found.values().copied().collect();
        assert!(indices.into_iter().eq(0..FRAMES));
    }
}

fn operations_of_a_life_without_failures() -> u64 {
    let mut life = Life::new();
    life.run();
    life.ends_well();
    assert_eq!((life.restarts, life.stalls), (0, 0));
    assert!(life.acknowledged.keys().copied().eq(1..=u64::from(FRAMES)));
    life.disk.operations()
}

#[test]
fn a_disk_that_is_full_at_any_operation_loses_nothing() {
    for n in 1..=operations_of_a_life_without_failures() {
        for duration in [1, 2, 5, 40] {
            let mut life = Life::new();
            life.disk.fail(Box::new(move |at, operation| {
                let is_sync = operation.starts_with("sync");
                ((n..n + duration).contains(&at) && !is_sync).then_some(ENOSPC)
            }));
            life.run();
            life.ends_well();
            assert_eq!(life.restarts, 0, "operation {n}");
        }
    }
}

#[test]
fn a_disk_that_is_full_at_every_nth_operation_loses_nothing() {
    // A segment is made within eight operations: failing more often than that would let none be made.
    for n in 8..40 {
        let mut life = Life::new();
        life.disk.fail(Box::new(move |at, operation| {
            (at % n == 0 && !operation.starts_with("sync")).then_some(ENOSPC)
        }));
        life.run();
        life.ends_well();
    }
}

#[test]
fn a_disk_that_breaks_at_any_operation_loses_nothing_acknowledged() {
    for n in 1..=operations_of_a_life_without_failures() {
        for number in [EIO, ENOSPC] {
            let mut life = Life::new();
            // Room that is not there ahead is asked for once more, as much as is needed.
            let is_spared = move |operation| operation == "allocate" && number == ENOSPC;
            let noticed = Arc::new(AtomicBool::new(true));
            let notices = Arc::clone(&noticed);
            life.disk.fail(Box::new(move |at, operation| {
                if at == n && is_spared(operation) {
                    notices.store(false, Ordering::Relaxed);
                }
                (at == n).then_some(number)
            }));
            life.run();
            life.ends_well();
            if noticed.load(Ordering::Relaxed) {
                assert!(life.restarts + life.stalls >= 1, "operation {n} failed and nobody noticed");
            }
        }
    }
}

#[test]
fn segments_are_filled_and_a_longer_frame_has_its_own() {
    let mut life = Life::new();
    life.run();
    let folder = Path::new(DIR).join(batch(1).as_str());
    let segments = crate::walk::list_segments(life.disk.shared().as_ref(), &folder)
        .expect("the model does not fail")
        .expect("it was made");
    assert!(segments.len() > 5 && segments.iter().copied().eq(1..=segments.len() as u32));
    for segment in &segments {
        let len = life.disk.edit(&segment_path(&folder, *segment), |bytes| bytes.len() as u64);
        let longest = aligned(SEGMENT_HEADER_LEN as u64 + FRAME_HEADER_LEN as u64 + 5_000);
        assert!(len <= SEGMENT_LEN || len == longest, "segment {segment} has {len} bytes");
    }
}
