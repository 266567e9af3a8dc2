//! Opening a series after a restart: what is whole is kept, a torn tail is cut.
//!
//! What the system holds in memory is not what the disk has: after a kill, frames may be readable that were never
//! synced. So every segment is synced first and read afterwards, and only then is a frame counted.

use std::ops::ControlFlow;
use std::path::Path;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::BatchId;

use crate::disk::Disk;
use crate::error::LogError;
use crate::frame::StoredFrame;
use crate::header::SEGMENT_HEADER_LEN;
use crate::scan::{Damage, Scanned, Scope, scan_segment};
use crate::series::{Series, SeriesPlace};
use crate::walk::{Walk, list_segments, read_header, segment_path};

/// What a series was found to hold from the position that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Where the next frame goes.
    pub tail: LogPosition,
    pub frames: u64,
    /// Numbers below the tail's that no whole frame has: damaged since, or torn before they were acknowledged.
    pub missing: u64,
    pub damage: Damage,
    /// Bytes of frames that were not whole at the end, and were cut.
    pub cut_len: u64,
}

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RecoverFrom {
    Position(LogPosition),
    /// Only the tail is asked for.
    LastSegment,
}

pub(crate) fn recover(
    place: &SeriesPlace,
    batch: &BatchId,
    from: RecoverFrom,
    visit: &mut dyn FnMut(&StoredFrame),
) -> Result<(Series, Recovered), LogError> {
    let folder = place.folder(batch);
    let disk = place.disk.as_ref();
    let mut segments = list_segments(disk, &folder)?.unwrap_or_default();
    if !segments.is_empty() {
        // The folder's own name was synced before a segment was made in it.
        disk.sync_folder(&folder).map_err(LogError::sync(&folder))?;
        drop_unborn(disk, &folder, batch, &mut segments)?;
    }
    let from = match (from, segments.last()) {
        (RecoverFrom::Position(from), _) => from,
        (RecoverFrom::LastSegment, Some(last)) => LogPosition { segment: *last, offset: 0, sequence: 0 },
        (RecoverFrom::LastSegment, None) => LogPosition::START,
    };
    segments.retain(|segment| *segment >= from.segment);
    for segment in &segments {
        sync_segment(disk, &segment_path(&folder, *segment))?;
    }
    let walk = Walk {
        disk,
        folder: &folder,
        segments: &segments,
        batch: batch.digest(),
        with_payloads: true,
        until: u64::MAX,
    };
    let walked = walk.run(from, &mut |frame, _| {
        visit(frame);
        ControlFlow::Continue(())
    })?;
    let mut tail = walked.next;
    tail.sequence = tail.sequence.max(1);
    let mut cut_len = 0;
    let mut file = None;
    if let Some(last) = walked.last {
        let path = segment_path(&folder, tail.segment);
        let opened = disk.open(&path).map_err(LogError::disk("open", &path))?;
        tail.offset = tail.offset.max(SEGMENT_HEADER_LEN as u64);
        if last.file_len != tail.offset {
            // The next commit syncs it; cut off before that, the tail is torn as it was.
            opened.truncate(tail.offset).map_err(LogError::disk("truncate", &path))?;
        }
        cut_len = last.rest.areas.iter().map(|area| area.len).sum();
        file = Some(opened);
    }
    if !walked.damage.is_none() || cut_len > 0 {
        let bad_areas = walked.damage.count;
        tracing::warn!(%batch, bad_areas, missing = walked.missing, cut_len, "recovered a damaged series");
    }
    let recovered = Recovered {
        tail,
        frames: walked.frames,
        missing: walked.missing,
        damage: walked.damage,
        cut_len,
    };
    Ok((Series::new(place, batch, tail, file), recovered))
}

/// Removes a last segment whose creation was cut short. Its header is synced before the first frame is written: where
/// anything lies behind, it is damage instead.
fn drop_unborn(
    disk: &dyn Disk,
    folder: &Path,
    batch: &BatchId,
    segments: &mut Vec<u32>,
) -> Result<(), LogError> {
    let Some(&segment) = segments.last() else { return Ok(()) };
    let path = segment_path(folder, segment);
    let file = disk.open_to_read(&path).map_err(LogError::disk("open", &path))?;
    if read_header(file.as_ref(), &path)?.is_some() {
        return Ok(());
    }
    let scope = Scope { segment, batch: batch.digest(), from: 0, with_payloads: false };
    let scanned = scan_segment(file.as_ref(), scope, &mut |_, _| ControlFlow::Break(()))
        .map_err(LogError::disk("read", &path))?;
    if matches!(scanned, Scanned::Whole(end) if end.rest.is_none()) {
        disk.remove_file(&path).map_err(LogError::disk("remove", &path))?;
        disk.sync_folder(folder).map_err(LogError::sync(folder))?;
        segments.pop();
    }
    Ok(())
}

/// So that what is read next is what the disk has, even if an earlier process failed to sync it.
fn sync_segment(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    let file = disk.open(path).map_err(LogError::disk("open", path))?;
    file.sync_all().map_err(LogError::sync(path))?;
    file.evict();
    Ok(())
}

#[cfg(test)]
mod tests;
