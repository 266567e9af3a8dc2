//! The log on a modelled disk: what the caller is told when the disk fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::disk::model::{EIO, ENOSPC, ModelDisk};
use crate::sample::{DIR, batch, frame};

/// Far more than any test should take.
const PATIENCE: Duration = Duration::from_secs(60);

fn options() -> LogOptions {
    LogOptions {
        commit_after: Duration::from_millis(1),
        retry_after: Duration::from_millis(1),
        buffer_frames: 8,
        ..LogOptions::default()
    }
}

fn open(disk: &ModelDisk) -> (Log, Receiver<Commit>) {
    let (tx, rx) = sync_channel(10_000);
    let on_commit = Box::new(move |commit| {
        // A test that ended early does not listen any more.
        let _ = tx.send(commit);
    });
    let log = Log::open_on(disk.shared(), Path::new(DIR), options(), on_commit, None);
    (log.expect("a thread can be started"), rx)
}

fn next(rx: &Receiver<Commit>) -> Commit {
    rx.recv_timeout(PATIENCE).expect("a report")
}

#[test]
fn a_full_disk_is_reported_once_and_the_log_comes_back() {
    let disk = ModelDisk::new();
    let is_full = Arc::new(AtomicBool::new(true));
    let for_disk = Arc::clone(&is_full);
    disk.fail(Box::new(move |_, operation| {
        (for_disk.load(Ordering::SeqCst) && !operation.starts_with("sync")).then_some(ENOSPC)
    }));
    let (log, rx) = open(&disk);
    let handle = log.handle();
    let id = batch(1);
    for index in 0..8 {
        handle.append(frame(&id, index, 100)).expect("the buffer has room");
    }
    match next(&rx) {
        Commit::Stalled { batches, is_full, .. } => {
            assert_eq!((batches, is_full), (vec![id.clone()], true));
        }
        other => panic!("{other:?}"),
    }
    let refused = handle.append(frame(&id, 8, 100)).expect_err("nothing became durable");
    assert_eq!(refused.reason, RejectReason::Full);
    let attempts = disk.operations() + 20;
    while disk.operations() < attempts {
        std::thread::yield_now();
    }
    is_full.store(false, Ordering::SeqCst);
    let mut sequences = Vec::new();
    while sequences.len() < 8 {
        match next(&rx) {
            Commit::Durable(durable) => {
                sequences.extend(durable.iter().map(|d| (d.frame.sequence, d.frame.header.index.0)));
            }
            other => panic!("reported again: {other:?}"),
        }
    }
    assert!(sequences.into_iter().eq((0..8).map(|index| (u64::from(index) + 1, index))));
    handle.append(frame(&id, 8, 100)).expect("there is room again");
    log.close().expect("the disk takes it");
    assert!(matches!(next(&rx), Commit::Durable(durable) if durable[0].frame.sequence == 9));
}

#[test]
fn a_failed_sync_ends_the_log() {
    for number in [EIO, ENOSPC] {
        let disk = ModelDisk::new();
        disk.fail(Box::new(move |_, operation| (operation == "sync_data").then_some(number)));
        let (log, rx) = open(&disk);
        let handle = log.handle();
        handle.append(frame(&batch(1), 1, 100)).expect("the buffer has room");
        assert!(matches!(next(&rx), Commit::Poisoned(_)));
        let refused = handle.append(frame(&batch(1), 2, 100)).expect_err("it is poisoned");
        assert_eq!(refused.reason, RejectReason::Poisoned);
        assert!(matches!(handle.tail(&batch(2)), Err(LogError::Poisoned(_))));
        assert!(matches!(log.close(), Err(LogError::Poisoned(_))));
        assert!(rx.try_recv().is_err(), "nothing is reported after the end");
    }
}

#[test]
fn a_sync_that_fails_in_recovery_ends_the_log_too() {
    let disk = ModelDisk::new();
    let (log, rx) = open(&disk);
    log.handle().append(frame(&batch(1), 1, 100)).expect("the buffer has room");
    assert!(matches!(next(&rx), Commit::Durable(_)));
    drop(log);
    disk.fail(Box::new(|_, operation| (operation == "sync_all").then_some(EIO)));
    let (log, rx) = open(&disk);
    let recovered = log.handle().recover(&batch(1), LogPosition::START, &mut |_| {});
    assert!(matches!(recovered, Err(LogError::Sync { .. })));
    assert!(matches!(next(&rx), Commit::Poisoned(_)));
    let refused = log.handle().append(frame(&batch(2), 1, 100)).expect_err("it is poisoned");
    assert_eq!(refused.reason, RejectReason::Poisoned);
}

#[test]
fn a_log_that_closes_on_a_full_disk_says_what_it_could_not_keep() {
    let disk = ModelDisk::new();
    disk.fail(Box::new(|_, operation| (operation == "allocate").then_some(ENOSPC)));
    let (log, rx) = open(&disk);
    for index in 0..3 {
        log.handle().append(frame(&batch(1), index, 100)).expect("the buffer has room");
    }
    assert!(matches!(next(&rx), Commit::Stalled { .. }));
    assert!(matches!(log.close(), Err(LogError::Unsaved { frames: 3, .. })));
}

/// A batch whose files cannot be written does not hold up what another one has in the same commit.
#[test]
fn one_series_in_trouble_does_not_fail_another() {
    let disk = ModelDisk::new();
    let (first, second) = (batch(1), batch(2));
    disk.fail(Box::new(|at, operation| (at < 4 && operation == "create").then_some(ENOSPC)));
    let (log, rx) = open(&disk);
    log.handle().append(frame(&first, 1, 100)).expect("the buffer has room");
    log.handle().append(frame(&second, 2, 100)).expect("the buffer has room");
    let mut durable = Vec::new();
    while durable.len() < 2 {
        if let Commit::Durable(frames) = next(&rx) {
            durable.extend(frames.into_iter().map(|frame| frame.batch));
        }
    }
    durable.sort();
    assert_eq!(durable, [first, second]);
}

#[test]
fn a_panic_of_the_receiver_ends_the_log() {
    let disk = ModelDisk::new();
    let on_commit = Box::new(|_| panic!("the receiver of this test panics"));
    let log = Log::open_on(disk.shared(), Path::new(DIR), options(), on_commit, None)
        .expect("a thread can be started");
    log.handle().append(frame(&batch(1), 1, 100)).expect("the buffer has room");
    assert!(matches!(log.close(), Err(LogError::Poisoned(_))));
}
