//! Reading a series beside the log, from any thread or process: to finalize, to page through results, to verify.
//!
//! While the log appends, only frames up to its durable sequence are to be trusted: the caller passes it as `until`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::BatchId;
use overnight_domain::limits::FINALIZE_FILES_MAX;

use crate::disk::{Disk, DiskFile, LocalDisk};
use crate::error::LogError;
use crate::frame::{Place, StoredFrame};
use crate::header::{Decoded, FRAME_HEADER_LEN, StoredHeader};
use crate::scan::Damage;
use crate::walk::{Walk, list_segments, read_header, segment_path};

/// One batch's series. It keeps the files of payloads that were asked for open, at most 64.
pub struct SeriesReader {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    batch: BatchId,
    digest: [u8; 16],
    /// The one used last is the last.
    files: Vec<(u32, Box<dyn DiskFile>)>,
    buffer: Vec<u8>,
}

/// What a scan came upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanSummary {
    pub frames: u64,
    /// Numbers from the first expected to `until`, or to the last found, that no frame has.
    pub missing: u64,
    pub damage: Damage,
    /// Where a later scan goes on.
    pub next: LogPosition,
}

/// The batches that have a series in the log at `dir`, in no order.
pub fn list_series(dir: &Path) -> Result<Vec<BatchId>, LogError> {
    let names = LocalDisk.list(dir).map_err(LogError::disk("list", dir))?.unwrap_or_default();
    Ok(names.iter().filter_map(|name| BatchId::parse(name).ok()).collect())
}

impl SeriesReader {
    /// A batch without a series reads as an empty one.
    pub fn open(dir: &Path, batch: &BatchId) -> Self {
        Self::open_on(Arc::new(LocalDisk), dir, batch)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, dir: &Path, batch: &BatchId) -> Self {
        Self {
            disk,
            folder: dir.join(batch.as_str()),
            digest: batch.digest(),
            batch: batch.clone(),
            files: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Shows the frames from `from` to the one numbered `until`, or until the visitor breaks off. Payloads are
    /// skipped, so that damage within them is not seen.
    pub fn scan_headers(
        &self,
        from: LogPosition,
        until: Option<u64>,
        visit: &mut dyn FnMut(&StoredFrame) -> ControlFlow<()>,
    ) -> Result<ScanSummary, LogError> {
        self.walk(from, until, false, &mut |frame, _| visit(frame))
    }

    /// As [`Self::scan_headers`], with payloads, each checked.
    pub fn scan(
        &self,
        from: LogPosition,
        until: Option<u64>,
        visit: &mut dyn FnMut(&StoredFrame, &[u8]) -> ControlFlow<()>,
    ) -> Result<ScanSummary, LogError> {
        self.walk(from, until, true, visit)
    }

    /// A position from which a scan comes upon the frame with this number: the beginning of its segment.
    pub fn seek(&self, sequence: u64) -> Result<LogPosition, LogError> {
        let segments = list_segments(self.disk.as_ref(), &self.folder)?.unwrap_or_default();
        for segment in segments.into_iter().rev() {
            let path = segment_path(&self.folder, segment);
            let file = self.disk.open_to_read(&path).map_err(LogError::disk("open", &path))?;
            match read_header(file.as_ref(), &path)? {
                Some(header) if header.first_sequence <= sequence => {
                    return Ok(LogPosition { segment, offset: 0, sequence: header.first_sequence });
                }
                _ => {}
            }
        }
        Ok(LogPosition::START)
    }

    /// The payload of a frame that a scan has shown, checked again.
    pub fn read_payload(&mut self, place: Place) -> Result<Vec<u8>, LogError> {
        Ok(self.payload(place)?.to_vec())
    }

    /// As [`Self::read_payload`], valid until the next call.
    pub fn payload(&mut self, place: Place) -> Result<&[u8], LogError> {
        self.use_file(place.segment)?;
        let (_, file) = self.files.last().expect("`use_file` has put it there");
        let damaged = || LogError::Damaged {
            batch: self.batch.clone(),
            segment: place.segment,
            offset: place.offset,
        };
        let start = place.offset.checked_sub(FRAME_HEADER_LEN as u64).ok_or_else(damaged)?;
        self.buffer.resize(FRAME_HEADER_LEN + place.len as usize, 0);
        let read = file.read_at(&mut self.buffer, start).map_err(|error| {
            LogError::disk("read", &segment_path(&self.folder, place.segment))(error)
        })?;
        let payload = self.buffer[..read].get(FRAME_HEADER_LEN..).ok_or_else(damaged)?;
        match StoredHeader::decode(&self.buffer) {
            Decoded::Valid(header)
                if header.batch == self.digest
                    && header.payload_len == place.len
                    && payload.len() == place.len as usize
                    && header.payload_crc == crc32c::crc32c(payload) =>
            {
                Ok(payload)
            }
            _ => Err(damaged()),
        }
    }

    fn walk(
        &self,
        from: LogPosition,
        until: Option<u64>,
        with_payloads: bool,
        visit: &mut dyn FnMut(&StoredFrame, &[u8]) -> ControlFlow<()>,
    ) -> Result<ScanSummary, LogError> {
        let disk = self.disk.as_ref();
        let mut segments = list_segments(disk, &self.folder)?.unwrap_or_default();
        if until.is_some_and(|until| until < from.sequence) {
            segments.clear();
        }
        let walk = Walk {
            disk,
            folder: &self.folder,
            segments: &segments,
            batch: self.digest,
            with_payloads,
            until: until.unwrap_or(u64::MAX),
        };
        let mut walked = walk.run(from, visit)?;
        if let Some(last) = walked.last {
            walked.damage.append(last.rest);
        }
        if let Some(until) = until.filter(|_| !walked.was_broken_off) {
            walked.missing += (until + 1).saturating_sub(walked.next.sequence);
        }
        Ok(ScanSummary {
            frames: walked.frames,
            missing: walked.missing,
            damage: walked.damage,
            next: walked.next,
        })
    }

    fn use_file(&mut self, segment: u32) -> Result<(), LogError> {
        if let Some(index) = self.files.iter().position(|(number, _)| *number == segment) {
            let last = self.files.len() - 1;
            self.files.swap(index, last);
            return Ok(());
        }
        if self.files.len() >= FINALIZE_FILES_MAX {
            self.files.swap_remove(0);
        }
        let path = segment_path(&self.folder, segment);
        let file = self.disk.open_to_read(&path).map_err(LogError::disk("open", &path))?;
        self.files.push((segment, file));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
