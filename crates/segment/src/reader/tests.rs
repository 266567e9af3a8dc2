use super::*;
use crate::disk::model::ModelDisk;
use crate::sample::{DIR, batch, frame, payload, place};
use crate::series::Series;

/// Forty frames over some segments.
fn forty() -> (ModelDisk, SeriesReader) {
    let disk = ModelDisk::new();
    let id = batch(1);
    let mut series = Series::new(&place(&disk.shared(), 4_096), &id, LogPosition::START, None);
    assert!(series.commit((0..40).map(|index| frame(&id, index, 300)).collect()).error.is_none());
    let reader = SeriesReader::open_on(disk.shared(), Path::new(DIR), &id);
    (disk, reader)
}

#[test]
fn pages_follow_each_other_without_a_gap() {
    let (_disk, reader) = forty();
    let mut found = Vec::new();
    let mut from = LogPosition::START;
    for _ in 0..6 {
        let mut left = 7;
        let summary = reader
            .scan_headers(from, Some(40), &mut |frame| {
                found.push(frame.sequence);
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .expect("the model does not fail");
        assert_eq!(summary.missing, 0);
        from = summary.next;
    }
    assert!(found.into_iter().eq(1..=40));
    assert_eq!(from.sequence, 41);
    let summary = reader.scan_headers(from, Some(40), &mut |_| panic!("there is no more"));
    assert_eq!(summary.expect("the model does not fail").next, from);
}

#[test]
fn nothing_behind_the_last_that_is_asked_for_is_shown() {
    let (_disk, reader) = forty();
    for until in [1, 17, 39] {
        let mut last = 0;
        let summary = reader
            .scan(LogPosition::START, Some(until), &mut |frame, _| {
                last = frame.sequence;
                ControlFlow::Continue(())
            })
            .expect("the model does not fail");
        assert_eq!((last, summary.frames, summary.missing), (until, until, 0));
    }
}

#[test]
fn a_number_is_found_in_its_segment() {
    let (_disk, reader) = forty();
    for sequence in 1..=40 {
        let from = reader.seek(sequence).expect("the model does not fail");
        assert!(from.sequence <= sequence && from.sequence + 10 > sequence);
        let mut found = false;
        let summary = reader.scan_headers(from, Some(sequence), &mut |frame| {
            found |= frame.sequence == sequence;
            ControlFlow::Continue(())
        });
        assert_eq!(summary.expect("the model does not fail").missing, 0);
        assert!(found);
    }
}

#[test]
fn a_payload_that_was_damaged_after_the_scan_is_refused() {
    let (disk, mut reader) = forty();
    let mut places = Vec::new();
    reader
        .scan_headers(LogPosition::START, None, &mut |frame| {
            places.push(frame.place);
            ControlFlow::Continue(())
        })
        .expect("the model does not fail");
    for (index, place) in places.iter().enumerate() {
        assert_eq!(reader.read_payload(*place).expect("it is whole"), payload(index as u32, 300));
    }
    let place = places[20];
    let path = segment_path(&Path::new(DIR).join(batch(1).as_str()), place.segment);
    disk.edit(&path, |bytes| bytes[place.offset as usize + 299] ^= 1);
    assert!(matches!(reader.payload(place), Err(LogError::Damaged { .. })));
    for wrong in [
        Place { offset: 5, ..place },
        Place { len: 299, ..places[21] },
        Place { offset: u64::MAX - 5, ..place },
    ] {
        assert!(matches!(reader.payload(wrong), Err(LogError::Damaged { .. })));
    }
}

#[test]
fn a_series_that_is_not_there_is_empty() {
    let reader = SeriesReader::open_on(ModelDisk::new().shared(), Path::new(DIR), &batch(1));
    let scan = |until| {
        reader
            .scan(LogPosition::START, until, &mut |_, _| panic!("there is nothing"))
            .expect("the model does not fail")
    };
    assert_eq!((scan(None).frames, scan(None).missing, scan(None).next), (0, 0, LogPosition::START));
    assert_eq!(scan(Some(3)).missing, 3);
}
