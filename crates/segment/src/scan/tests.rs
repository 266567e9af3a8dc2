//! Damage of every kind in one segment of twenty frames: what is whole is found, and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overnight_domain::chunk::LogPosition;
use proptest::prelude::*;

use super::*;
use crate::disk::Disk;
use crate::disk::model::ModelDisk;
use crate::reader::{ScanSummary, SeriesReader};
use crate::sample::{DIR, batch, frame, payload, place};
use crate::series::Series;
use crate::walk::segment_path;

const FRAMES: u32 = 20;
const LEN: usize = 301;

struct Written {
    disk: ModelDisk,
    path: PathBuf,
    bytes: Vec<u8>,
    /// Of the payloads.
    places: Vec<Place>,
}

fn write() -> Written {
    let disk = ModelDisk::new();
    let shared: Arc<dyn Disk> = disk.shared();
    let id = batch(1);
    let mut series = Series::new(&place(&shared, 1 << 20), &id, LogPosition::START, None);
    let committed = series.commit((0..FRAMES).map(|index| frame(&id, index, LEN)).collect());
    assert!(committed.error.is_none());
    let path = segment_path(&Path::new(DIR).join(id.as_str()), 1);
    let bytes = disk.edit(&path, |bytes| bytes.clone());
    let places = committed.durable.iter().map(|durable| durable.frame.place).collect();
    Written { disk, path, bytes, places }
}

/// The indices of the frames that are found, and what else is.
fn scan(written: &Written) -> (Vec<u32>, ScanSummary) {
    let mut found = Vec::new();
    let summary = SeriesReader::open_on(written.disk.shared(), Path::new(DIR), &batch(1))
        .scan(LogPosition::START, None, &mut |frame, bytes| {
            let index = frame.header.index.0;
            assert_eq!(bytes, payload(index, LEN), "frame {index} is not what was written");
            assert_eq!(frame.sequence, u64::from(index) + 1);
            found.push(index);
            ControlFlow::Continue(())
        })
        .expect("the model does not fail");
    (found, summary)
}

fn damaged(written: &Written, damage: impl FnOnce(&mut Vec<u8>)) -> (Vec<u32>, ScanSummary) {
    written.disk.edit(&written.path, |bytes| {
        bytes.clone_from(&written.bytes);
        damage(bytes);
    });
    scan(written)
}

fn all_but(lost: &[u32]) -> Vec<u32> {
    (0..FRAMES).filter(|index| !lost.contains(index)).collect()
}

#[test]
fn what_was_written_is_found() {
    let written = write();
    let (found, summary) = scan(&written);
    assert_eq!(found, all_but(&[]));
    assert!(summary.damage.is_none(), "allocated room is no damage: {:?}", summary.damage);
    assert_eq!(summary.missing, 0);
    assert_eq!(summary.next.sequence, u64::from(FRAMES) + 1);
}

#[test]
fn a_damaged_byte_costs_its_frame_and_no_other() {
    let written = write();
    let start = written.places[10].offset - FRAME_HEADER_LEN as u64;
    let end = written.places[10].offset + LEN as u64;
    for at in start..end {
        for damage in [0x01, 0x80, 0xff] {
            let (found, summary) = damaged(&written, |bytes| bytes[at as usize] ^= damage);
            assert_eq!(found, all_but(&[10]), "byte {at} ^ {damage}");
            assert_eq!((summary.damage.count, summary.missing), (1, 1), "byte {at} ^ {damage}");
            let area = summary.damage.areas[0];
            assert_eq!((area.segment, area.offset), (1, start));
            assert_eq!(area.offset + area.len, aligned(end));
        }
    }
}

#[test]
fn a_damaged_byte_of_the_segment_s_header_costs_no_frame() {
    let written = write();
    for at in 0..SEGMENT_HEADER_LEN {
        let (found, summary) = damaged(&written, |bytes| bytes[at] ^= 0x10);
        assert_eq!(found, all_but(&[]));
        assert_eq!(summary.damage.areas[0].reason, BadReason::SegmentHeader);
    }
}

#[test]
fn a_lost_page_costs_the_frames_that_it_touched() {
    let written = write();
    for from in [4096, 512, 1024] {
        let (found, summary) = damaged(&written, |bytes| bytes[from..from + 4096].fill(0));
        let touched: Vec<u32> = (0..FRAMES)
            .filter(|index| {
                let place = written.places[*index as usize];
                let start = place.offset as usize - FRAME_HEADER_LEN;
                start < from + 4096 && place.offset as usize + LEN > from
            })
            .collect();
        assert!(touched.len() >= 9);
        assert_eq!(found, all_but(&touched));
        assert_eq!(summary.missing, touched.len() as u64);
        assert!(!summary.damage.is_none());
    }
}

/// Zeros at the end look like allocated room. Whoever knows how many frames there were is told.
#[test]
fn a_lost_page_at_the_end_is_told_to_who_knows_the_end() {
    let written = write();
    let last = written.places[19].offset as usize - FRAME_HEADER_LEN;
    let (found, summary) = damaged(&written, |bytes| bytes[last..].fill(0));
    assert_eq!((found, summary.missing), (all_but(&[19]), 0));
    let summary = SeriesReader::open_on(written.disk.shared(), Path::new(DIR), &batch(1))
        .scan_headers(LogPosition::START, Some(20), &mut |_| ControlFlow::Continue(()))
        .expect("the model does not fail");
    assert_eq!((summary.frames, summary.missing), (19, 1));
}

/// A payload may hold anything, also a frame of the same batch: it is not taken for one.
#[test]
fn a_frame_within_a_payload_is_no_frame() {
    let disk = ModelDisk::new();
    let shared: Arc<dyn Disk> = disk.shared();
    let id = batch(1);
    let written = write();
    let mut series = Series::new(&place(&shared, 1 << 20), &id, LogPosition::START, None);
    let mut outer = frame(&id, 0, 0);
    outer.payload.clone_from(&written.bytes[..10_000].to_vec());
    assert!(series.commit(vec![outer, frame(&id, 1, LEN)]).error.is_none());
    let mut found = Vec::new();
    SeriesReader::open_on(shared, Path::new(DIR), &id)
        .scan(LogPosition::START, None, &mut |frame, _| {
            found.push(frame.header.index.0);
            ControlFlow::Continue(())
        })
        .expect("the model does not fail");
    assert_eq!(found, [0, 1]);
}

/// What is left of a frame may look like the beginning of one, right in front of a whole one.
#[test]
fn a_marker_in_front_of_a_frame_does_not_hide_it() {
    let written = write();
    let start = written.places[10].offset as usize - FRAME_HEADER_LEN;
    let next = written.places[11].offset as usize - FRAME_HEADER_LEN;
    for words in 1..=5 {
        let (found, summary) = damaged(&written, |bytes| {
            bytes[start] ^= 1;
            for word in bytes[next - 8 * words..next].chunks_exact_mut(8) {
                word.copy_from_slice(&FRAME_MARKER);
            }
        });
        assert_eq!((found, summary.damage.count), (all_but(&[10]), 1));
    }
}

#[test]
fn frames_of_another_batch_are_damage() {
    let written = write();
    let foreign = {
        let disk = ModelDisk::new();
        let shared: Arc<dyn Disk> = disk.shared();
        let id = batch(2);
        let mut series = Series::new(&place(&shared, 1 << 20), &id, LogPosition::START, None);
        assert!(series.commit(vec![frame(&id, 10, LEN)]).error.is_none());
        disk.edit(&segment_path(&Path::new(DIR).join(id.as_str()), 1), |bytes| bytes.clone())
    };
    let start = written.places[10].offset as usize - FRAME_HEADER_LEN;
    let len = aligned((FRAME_HEADER_LEN + LEN) as u64) as usize;
    let (found, summary) = damaged(&written, |bytes| {
        bytes[start..start + len]
            .copy_from_slice(&foreign[SEGMENT_HEADER_LEN..SEGMENT_HEADER_LEN + len]);
    });
    assert_eq!((found, summary.damage.count), (all_but(&[10]), 1));
}

#[test]
fn damage_without_end_is_counted_and_listed_in_part() {
    let mut damage = Damage::default();
    let area = BadArea { segment: 1, offset: 0, len: 1, reason: BadReason::Header };
    for _ in 0..BAD_AREAS_MAX + 5 {
        damage.add(area);
    }
    let mut other = Damage::default();
    other.add(area);
    other.append(damage);
    assert_eq!((other.areas.len(), other.count), (BAD_AREAS_MAX, BAD_AREAS_MAX as u64 + 6));
}

proptest! {
    /// Bytes are overwritten in any number of places: no panic, nothing but whole frames, and what was not touched.
    #[test]
    fn any_damage_leaves_what_it_did_not_touch(
        edits in prop::collection::vec((0..9_000_usize, prop::collection::vec(any::<u8>(), 1..600)), 0..6),
        len in 0..20_000_usize,
    ) {
        let written = write();
        let (found, _) = damaged(&written, |bytes| {
            for (at, edit) in &edits {
                bytes[*at..at + edit.len()].copy_from_slice(edit);
            }
            bytes.truncate(len);
        });
        let is_untouched = |index: u32| {
            let place = written.places[index as usize];
            let (start, end) = (place.offset as usize - FRAME_HEADER_LEN, place.offset as usize + LEN);
            end <= len && edits.iter().all(|(at, edit)| at + edit.len() <= start || *at >= end)
        };
        for index in (0..FRAMES).filter(|index| is_untouched(*index)) {
            prop_assert!(found.contains(&index), "frame {} was not found", index);
        }
    }

    #[test]
    fn a_file_of_any_bytes_has_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..5_000)) {
        let written = write();
        let (found, _) = damaged(&written, |all| *all = bytes);
        prop_assert!(found.is_empty());
    }
}
