//! Power cuts with a disk that drops, tears and reorders what was not synced; and every torn tail there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::disk::model::{EIO, ModelDisk};
use crate::frame::aligned;
use crate::header::FRAME_HEADER_LEN;
use crate::reader::SeriesReader;
use crate::sample::{DIR, Dice, batch, frame, payload, place};

const SEEDS: u64 = 500;
const LIVES: usize = 4;

/// What a series has to hold, and what it may.
#[derive(Default)]
struct Reference {
    acknowledged: BTreeMap<u64, u32>,
    appended: BTreeMap<u32, usize>,
}

/// Nothing that was acknowledged is lost; what is found is whole, was appended, and has one number; each number
/// without a frame is reported as missing.
fn check(disk: &ModelDisk, batch: &BatchId, reference: &mut Reference, seed: u64) -> Series {
    let place = place(&disk.shared(), 8_192);
    let mut found = BTreeMap::new();
    let mut places = Vec::new();
    let from = RecoverFrom::Position(LogPosition::START);
    let (series, recovered) = recover(&place, batch, from, &mut |frame| {
        found.insert(frame.sequence, frame.header.index.0);
        places.push((frame.header.index.0, frame.place));
    })
    .expect("the disk works again");
    for (sequence, index) in &reference.acknowledged {
        assert_eq!(found.get(sequence), Some(index), "seed {seed}: frame {sequence} is lost");
    }
    let mut reader = SeriesReader::open_on(disk.shared(), Path::new(DIR), batch);
    for (index, place) in &places {
        let len = reference.appended[index];
        assert_eq!(reader.payload(*place).expect("it was found"), payload(*index, len));
    }
    assert_eq!(places.len(), found.len(), "seed {seed}: a number was given twice");
    assert_eq!(recovered.frames, found.len() as u64);
    assert_eq!(recovered.frames + recovered.missing + 1, recovered.tail.sequence, "seed {seed}");
    assert_eq!(recovered.missing > 0, !recovered.damage.is_none(), "seed {seed}: {recovered:?}");

    let again = reader
        .scan(LogPosition::START, None, &mut |_, _| ControlFlow::Continue(()))
        .expect("the disk works again");
    assert_eq!((again.frames, again.missing), (recovered.frames, recovered.missing));
    assert_eq!((again.next, &again.damage), (recovered.tail, &recovered.damage), "seed {seed}");
    reference.acknowledged = found;
    series
}

/// Two series are written in turn until the power is cut at some operation, in several lives.
#[test]
fn no_power_cut_loses_what_was_acknowledged() {
    let mut cuts_with_damage = 0;
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let mut disk = ModelDisk::new();
        let ids = [batch(1), batch(2)];
        let mut references = [Reference::default(), Reference::default()];
        let mut index = 0;
        for _ in 0..LIVES {
            let mut series: Vec<Series> = ids
                .iter()
                .zip(&mut references)
                .map(|(id, reference)| check(&disk, id, reference, seed))
                .collect();
            let cut_at = 1 + dice.below(60);
            disk.fail(Box::new(move |at, _| (at >= cut_at).then_some(EIO)));
            'life: loop {
                let which = dice.below(2) as usize;
                let count = 1 + dice.below(9);
                let frames = (0..count)
                    .map(|_| {
                        let limit = if dice.is_likely(5) { 20_000 } else { 1_500 };
                        let len = dice.below(limit) as usize;
                        index += 1;
                        references[which].appended.insert(index, len);
                        frame(&ids[which], index, len)
                    })
                    .collect();
                let committed = series[which].commit(frames);
                for durable in committed.durable {
                    let stored = durable.frame;
                    references[which].acknowledged.insert(stored.sequence, stored.header.index.0);
                }
                if committed.error.is_some() {
                    break 'life;
                }
            }
            disk = disk.cut_power(dice.roll());
        }
        for (id, reference) in ids.iter().zip(&mut references) {
            check(&disk, id, reference, seed);
            let folder = Path::new(DIR).join(id.as_str());
            let summary = SeriesReader::open_on(disk.shared(), Path::new(DIR), id).scan(
                LogPosition::START,
                None,
                &mut |_, _| ControlFlow::Continue(()),
            );
            let summary = summary.unwrap_or_else(|error| panic!("{folder:?}: {error}"));
            cuts_with_damage += u64::from(!summary.damage.is_none());
        }
    }
    assert!(cuts_with_damage > 10, "the model tears too little: {cuts_with_damage}");
}

/// A process ends at some operation, killed or after a failed sync; the system lives on and shows what may never
/// reach the disk. What the next process counts has to outlast a power cut right after.
#[test]
fn what_is_counted_after_a_restart_is_on_the_disk() {
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let disk = ModelDisk::new();
        let id = batch(1);
        let mut reference = Reference::default();
        let mut series = check(&disk, &id, &mut reference, seed);
        let (end_at, is_killed) = (1 + dice.below(40), dice.is_likely(50));
        disk.fail(Box::new(move |at, _| (at == end_at || (is_killed && at > end_at)).then_some(EIO)));
        for index in 0..1_000 {
            let len = dice.below(3_000) as usize;
            reference.appended.insert(index, len);
            let committed = series.commit(vec![frame(&id, index, len)]);
            for durable in &committed.durable {
                reference.acknowledged.insert(durable.frame.sequence, index);
            }
            if committed.error.is_some() {
                break;
            }
        }
        disk.fail(Box::new(|_, _| None));
        let mut series = check(&disk, &id, &mut reference, seed);
        if dice.is_likely(50) {
            reference.appended.insert(1_000, 10);
            let committed = series.commit(vec![frame(&id, 1_000, 10)]);
            reference.acknowledged.insert(committed.durable[0].frame.sequence, 1_000);
        }
        // A power cut that takes all that it can.
        let disk = disk.cut_power_at_worst();
        check(&disk, &id, &mut reference, seed);
    }
}

/// The power is cut once more while recovery is at work.
#[test]
fn a_power_cut_during_recovery_loses_nothing() {
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let disk = ModelDisk::new();
        let id = batch(1);
        let mut reference = Reference::default();
        let mut series = check(&disk, &id, &mut reference, seed);
        let cut_at = 5 + dice.below(30);
        disk.fail(Box::new(move |at, _| (at >= cut_at).then_some(EIO)));
        for index in 0..1_000 {
            reference.appended.insert(index, 900);
            let committed = series.commit(vec![frame(&id, index, 900)]);
            for durable in &committed.durable {
                reference.acknowledged.insert(durable.frame.sequence, index);
            }
            if committed.error.is_some() {
                break;
            }
        }
        let mut disk = disk.cut_power(dice.roll());
        for n in 1..8 {
            disk.fail(Box::new(move |at, _| (at >= n).then_some(EIO)));
            let from = RecoverFrom::Position(LogPosition::START);
            // Whether it comes to an end before the cut is nothing to rely on.
            let _ = recover(&place(&disk.shared(), 8_192), &id, from, &mut |_| {});
            disk = disk.cut_power(dice.roll());
        }
        check(&disk, &id, &mut reference, seed);
    }
}

const LEN: usize = 333;

/// Twenty frames in one segment; the bytes of the file without the room behind them.
fn twenty(disk: &ModelDisk) -> (std::path::PathBuf, Vec<u8>, LogPosition) {
    let id = batch(1);
    let shared: Arc<dyn Disk> = disk.shared();
    let mut series = Series::new(&place(&shared, 1 << 20), &id, LogPosition::START, None);
    let committed = series.commit((0..20).map(|index| frame(&id, index, LEN)).collect());
    assert!(committed.error.is_none());
    let tail = series.tail();
    let path = segment_path(&Path::new(DIR).join(id.as_str()), 1);
    let bytes = disk.edit(&path, |bytes| bytes[..tail.offset as usize].to_vec());
    (path, bytes, tail)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_its_number_is_given_again() {
    let disk = ModelDisk::new();
    let id = batch(1);
    let (path, whole, tail) = twenty(&disk);
    let start = tail.offset as usize - aligned((FRAME_HEADER_LEN + LEN) as u64) as usize;
    for keep in start..=whole.len() {
        for room in [0, 1, 7, 5_000] {
            disk.edit(&path, |bytes| {
                *bytes = whole[..keep].to_vec();
                bytes.resize(keep + room, 0);
            });
            let mut found = 0;
            let (mut series, recovered) = recover(
                &place(&disk.shared(), 1 << 20),
                &id,
                RecoverFrom::Position(LogPosition::START),
                &mut |_| found += 1,
            )
            .expect("the model does not fail");
            // The last byte of the payload decides; zeros behind it may be padding.
            let kept = if keep >= start + FRAME_HEADER_LEN + LEN { 20 } else { 19 };
            assert_eq!((found, recovered.frames), (kept, kept), "{keep} bytes kept, {room} zeros");
            assert_eq!(recovered.cut_len > 0, kept == 19 && keep > start);
            assert!(recovered.damage.is_none() && recovered.missing == 0);

            let committed = series.commit(vec![frame(&id, 99, LEN)]);
            assert_eq!(committed.durable[0].frame.sequence, kept + 1);
            let summary = SeriesReader::open_on(disk.shared(), Path::new(DIR), &id)
                .scan(LogPosition::START, None, &mut |_, _| ControlFlow::Continue(()))
                .expect("the model does not fail");
            assert_eq!((summary.frames, summary.missing), (kept + 1, 0));
            assert!(summary.damage.is_none());
        }
    }
}

#[test]
fn recovery_begins_where_it_is_told_to() {
    let disk = ModelDisk::new();
    let id = batch(1);
    let (_, _, tail) = twenty(&disk);
    let place = place(&disk.shared(), 1 << 20);
    let (mut series, _) = recover(&place, &id, RecoverFrom::LastSegment, &mut |_| {}).unwrap();
    assert_eq!(series.tail(), tail);
    assert!(series.commit((20..25).map(|index| frame(&id, index, LEN)).collect()).error.is_none());
    let end = series.tail();
    let mut found = Vec::new();
    let (_, recovered) = recover(&place, &id, RecoverFrom::Position(tail), &mut |frame| {
        found.push((frame.header.index.0, frame.sequence));
    })
    .unwrap();
    assert_eq!(found, (20..25).map(|index| (index, u64::from(index) + 1)).collect::<Vec<_>>());
    assert_eq!((recovered.tail, recovered.missing, recovered.frames), (end, 0, 5));
}

/// The file is shorter than what was acknowledged: what there is still counts, numbers are not given twice, and the
/// loss is reported.
#[test]
fn a_file_that_lost_its_end_is_reported() {
    let disk = ModelDisk::new();
    let id = batch(1);
    let (path, whole, tail) = twenty(&disk);
    disk.edit(&path, |bytes| *bytes = whole[..2_000].to_vec());
    let place = place(&disk.shared(), 1 << 20);
    let from = RecoverFrom::Position(tail);
    let (mut series, recovered) = recover(&place, &id, from, &mut |_| {}).unwrap();
    assert!(!recovered.damage.is_none());
    assert_eq!(recovered.tail.sequence, tail.sequence);
    let committed = series.commit(vec![frame(&id, 20, LEN)]);
    assert_eq!(committed.durable[0].frame.sequence, 21);
}

#[test]
fn a_segment_whose_making_was_cut_short_is_made_again() {
    let disk = ModelDisk::new();
    let id = batch(1);
    let (path, whole, tail) = twenty(&disk);
    let second = segment_path(path.parent().expect("it lies in a folder"), 2);
    for len in [0, 10, 64, 4_096] {
        disk.shared().create(&second).unwrap();
        disk.edit(&second, |bytes| bytes.resize(len, 0));
        disk.edit(&path, |bytes| bytes.clone_from(&whole));
        let place = place(&disk.shared(), 1 << 20);
        let (series, _) = recover(&place, &id, RecoverFrom::LastSegment, &mut |_| {}).unwrap();
        assert_eq!(series.tail(), tail);
        assert!(disk.shared().open(&second).is_err(), "{len} bytes were kept");
    }
}

#[test]
fn a_missing_segment_is_reported() {
    let disk = ModelDisk::new();
    let id = batch(1);
    let place = place(&disk.shared(), 4_096);
    let mut series = Series::new(&place, &id, LogPosition::START, None);
    assert!(series.commit((0..40).map(|index| frame(&id, index, LEN)).collect()).error.is_none());
    let folder = place.folder(&id);
    disk.shared().remove_file(&segment_path(&folder, 2)).unwrap();
    let from = RecoverFrom::Position(LogPosition::START);
    let (_, recovered) = recover(&place, &id, from, &mut |_| {}).unwrap();
    assert_eq!(recovered.damage.count, 1);
    assert_eq!(recovered.damage.areas[0].reason, crate::scan::BadReason::Missing);
    assert_eq!(recovered.frames + recovered.missing, 40);
    assert_eq!(recovered.tail, series.tail());
}

/// An old build must not cut what a newer one wrote.
#[test]
fn a_newer_segment_is_refused_and_not_touched() {
    let disk = ModelDisk::new();
    let id = batch(1);
    let (path, whole, _) = twenty(&disk);
    let seal = |bytes: &mut [u8]| {
        let checksum = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    };
    for (at, len) in [(0, SEGMENT_HEADER_LEN), (SEGMENT_HEADER_LEN, FRAME_HEADER_LEN)] {
        let mut newer = whole.clone();
        newer[at + 12] = 2;
        seal(&mut newer[at..at + len]);
        disk.edit(&path, |bytes| bytes.clone_from(&newer));
        let place = place(&disk.shared(), 1 << 20);
        let from = RecoverFrom::Position(LogPosition::START);
        let refused = recover(&place, &id, from, &mut |_| {});
        assert!(matches!(refused, Err(LogError::Newer(_))), "header at {at}");
        disk.edit(&path, |bytes| assert!(*bytes == newer, "header at {at}: it was changed"));
    }
}
