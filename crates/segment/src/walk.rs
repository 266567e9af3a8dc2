//! Going through the segments of one series in order: what recovery and readers share.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use overnight_domain::chunk::LogPosition;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::frame::StoredFrame;
use crate::header::{Decoded, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::scan::{BAD_AREAS_MAX, BadArea, BadReason, Damage, Scanned, Scope, SegmentEnd, scan_segment};

/// A series as it lies on the disk.
pub(crate) struct Walk<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) folder: &'a Path,
    /// Ascending.
    pub(crate) segments: &'a [u32],
    pub(crate) batch: [u8; 16],
    pub(crate) with_payloads: bool,
    /// The last frame to show.
    pub(crate) until: u64,
}

/// What was come upon on the way.
pub(crate) struct Walked {
    pub(crate) frames: u64,
    /// Numbers between the first expected and the last found that no whole frame has.
    pub(crate) missing: u64,
    pub(crate) damage: Damage,
    /// Where the next frame would begin.
    pub(crate) next: LogPosition,
    /// How the last segment ends; none when the walk was stopped or there was nothing to walk.
    pub(crate) last: Option<SegmentEnd>,
    pub(crate) was_broken_off: bool,
}

impl Walk<'_> {
    /// Shows the whole frames at and behind `from`, until the visitor breaks off: the frame it has then seen counts. A `from.sequence` of 0 means that it is not known.
    pub(crate) fn run(
        &self,
        from: LogPosition,
        visit: &mut dyn FnMut(&StoredFrame, &[u8]) -> ControlFlow<()>,
    ) -> Result<Walked, LogError> {
        let mut walked = Walked {
            frames: 0,
            missing: 0,
            damage: Damage::default(),
            next: from,
            last: None,
            was_broken_off: false,
        };
        let mut expected_segment = from.segment.max(1);
        for &segment in self.segments.iter().filter(|segment| **segment >= from.segment) {
            for absent in (expected_segment..segment).take(BAD_AREAS_MAX) {
                let reason = BadReason::Missing;
                walked.damage.add(BadArea { segment: absent, offset: 0, len: 0, reason });
            }
            expected_segment = segment.saturating_add(1);
            if let Some(before) = walked.last.take() {
                walked.damage.append(damage_at_end(&before, walked.next.segment));
            }
            let path = segment_path(self.folder, segment);
            let file = self.disk.open_to_read(&path).map_err(LogError::disk("open", &path))?;
            let header = read_header(file.as_ref(), &path)?;
            let offset = if segment == from.segment { from.offset } else { 0 };
            match header {
                Some(header) if header.batch == self.batch && header.number == segment => {
                    if offset <= SEGMENT_HEADER_LEN as u64 && walked.next.sequence == 0 {
                        walked.next.sequence = header.first_sequence;
                    }
                }
                _ => walked.damage.add(BadArea {
                    segment,
                    offset: 0,
                    len: SEGMENT_HEADER_LEN as u64,
                    reason: BadReason::SegmentHeader,
                }),
            }
            if !self.run_segment(&path, file.as_ref(), (segment, offset), &mut walked, visit)? {
                return Ok(walked);
            }
        }
        Ok(walked)
    }

    /// Returns whether to go on with the next one.
    fn run_segment(
        &self,
        path: &Path,
        file: &dyn DiskFile,
        (segment, offset): (u32, u64),
        walked: &mut Walked,
        visit: &mut dyn FnMut(&StoredFrame, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        let file_len = file.len().map_err(LogError::disk("read", path))?;
        let mut from = offset;
        if offset > file_len {
            // The file lost something: whatever it still has is looked at.
            let (len, reason) = (offset - file_len, BadReason::Missing);
            walked.damage.add(BadArea { segment, offset: file_len, len, reason });
            from = 0;
        }
        let scope = Scope { segment, batch: self.batch, from, with_payloads: self.with_payloads };
        let scanned = scan_segment(file, scope, &mut |frame, payload| {
            if frame.sequence > self.until {
                return ControlFlow::Break(());
            }
            walked.frames += 1;
            if walked.next.sequence != 0 {
                walked.missing += frame.sequence.saturating_sub(walked.next.sequence);
            }
            let next = frame.next_position();
            walked.next = LogPosition { sequence: walked.next.sequence.max(next.sequence), ..next };
            walked.was_broken_off = visit(frame, payload).is_break();
            if walked.was_broken_off || frame.sequence == self.until {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .map_err(LogError::disk("read", path))?;
        match scanned {
            Scanned::Newer => Err(LogError::Newer(path.to_owned())),
            Scanned::Stopped(damage) => {
                walked.damage.append(damage);
                Ok(false)
            }
            Scanned::Whole(mut end) => {
                walked.damage.append(std::mem::take(&mut end.damage));
                walked.next = LogPosition { segment, offset: end.end, ..walked.next };
                walked.last = Some(end);
                Ok(true)
            }
        }
    }
}

/// A segment is cut to its length before the next one begins: whatever is left there was a frame.
fn damage_at_end(end: &SegmentEnd, segment: u32) -> Damage {
    let mut damage = end.rest.clone();
    if damage.is_none() && end.file_len > end.end {
        let (len, reason) = (end.file_len - end.end, BadReason::Header);
        damage.add(BadArea { segment, offset: end.end, len, reason });
    }
    damage
}

/// The numbers of the segments in a folder, ascending; none when there is no folder.
pub(crate) fn list_segments(disk: &dyn Disk, folder: &Path) -> Result<Option<Vec<u32>>, LogError> {
    let names = disk.list(folder).map_err(LogError::disk("list", folder))?;
    Ok(names.map(|names| {
        let mut segments: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
        segments.sort_unstable();
        segments
    }))
}

pub(crate) fn segment_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:08}.seg"))
}

/// The header of a segment; none when it is damaged.
pub(crate) fn read_header(file: &dyn DiskFile, path: &Path) -> Result<Option<SegmentHeader>, LogError> {
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    let read = file.read_at(&mut bytes, 0).map_err(LogError::disk("read", path))?;
    match SegmentHeader::decode(&bytes[..read]) {
        Decoded::Valid(header) => Ok(Some(header)),
        Decoded::Newer => Err(LogError::Newer(path.to_owned())),
        Decoded::Bad => Ok(None),
    }
}

fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (number > 0 && segment_path(Path::new(""), number) == Path::new(name)).then_some(number)
}
