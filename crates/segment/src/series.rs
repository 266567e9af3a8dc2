//! The writing end of one batch's series: it is where the next frame goes.
//!
//! Every segment but the last is synced and cut to its length before the next one begins. So recovery has one torn
//! tail at most, at the end of the last.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::BatchId;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::frame::{Durable, Frame, Place, StoredFrame, aligned};
use crate::header::{FRAME_HEADER_LEN, SEGMENT_HEADER_LEN, SegmentHeader, StoredHeader};
use crate::walk::segment_path;

/// Room on the disk is taken in steps that double, so that neither a small batch holds much nor a sync of a large
/// one has to write down a new length.
const ALLOCATION_FIRST: u64 = 256 * 1024;
const ALLOCATION_MAX: u64 = 16 * 1024 * 1024;
/// A buffer that one long frame made larger than this is not kept.
const BUFFER_KEPT_LEN: usize = 4 * 1024 * 1024;

pub(crate) struct Series {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    batch: [u8; 16],
    segment_len: u64,
    segment: Option<Segment>,
    /// Where the next frame goes. All before it is durable.
    tail: LogPosition,
    /// What is written with the next call, and where its frames go. Both are kept for their memory.
    buffer: Vec<u8>,
    places: Vec<Place>,
}

/// The segment that is being filled.
struct Segment {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    allocated: u64,
    allocation_step: u64,
}

/// What became of the frames of one commit.
pub(crate) struct Committed {
    pub(crate) durable: Vec<Durable>,
    /// Those that are not durable, in their order, and why.
    pub(crate) kept: Vec<Frame>,
    pub(crate) error: Option<LogError>,
}

/// Where a series lies, and how its segments are filled.
pub(crate) struct SeriesPlace {
    pub(crate) disk: Arc<dyn Disk>,
    /// Of the whole log; each batch has a folder in it.
    pub(crate) dir: PathBuf,
    pub(crate) segment_len: u64,
}

impl SeriesPlace {
    pub(crate) fn folder(&self, batch: &BatchId) -> PathBuf {
        self.dir.join(batch.as_str())
    }
}

impl Series {
    /// A series whose next frame goes to `tail`, into `file` or, without one, into a segment that is yet to be made.
    pub(crate) fn new(
        place: &SeriesPlace,
        batch: &BatchId,
        tail: LogPosition,
        file: Option<Box<dyn DiskFile>>,
    ) -> Self {
        let folder = place.folder(batch);
        let segment = file.map(|file| Segment {
            path: segment_path(&folder, tail.segment),
            file,
            allocated: tail.offset,
            allocation_step: ALLOCATION_FIRST,
        });
        Self {
            disk: Arc::clone(&place.disk),
            batch: batch.digest(),
            folder,
            segment_len: place.segment_len,
            segment,
            tail,
            buffer: Vec::new(),
            places: Vec::new(),
        }
    }

    pub(crate) fn tail(&self) -> LogPosition {
        self.tail
    }

    /// Makes the frames durable, as many as the disk takes.
    pub(crate) fn commit(&mut self, frames: Vec<Frame>) -> Committed {
        let mut durable = Vec::with_capacity(frames.len());
        let mut rest = frames.into_iter();
        while !rest.as_slice().is_empty() {
            let sequence = self.tail.sequence;
            if let Err(error) = self.commit_some(rest.as_slice()) {
                return Committed { durable, kept: rest.collect(), error: Some(error) };
            }
            let committed = self.places.iter().zip(sequence..);
            durable.extend(committed.zip(rest.by_ref()).map(|((place, sequence), frame)| Durable {
                batch: frame.batch,
                frame: StoredFrame { header: frame.header, sequence, place: *place },
            }));
        }
        Committed { durable, kept: Vec::new(), error: None }
    }

    /// Gives back the room that was allocated ahead.
    pub(crate) fn close(&mut self) -> Result<(), LogError> {
        match self.segment.take() {
            Some(segment) if segment.allocated > self.tail.offset => segment.finish(self.tail.offset),
            _ => Ok(()),
        }
    }

    /// Makes as many of the frames durable as fit the segment, and notes their places.
    fn commit_some(&mut self, frames: &[Frame]) -> Result<(), LogError> {
        let first_len = frame_len(frames.first().expect("called while there are frames"));
        self.make_room(first_len)?;
        self.encode(frames);
        let end = self.tail.offset + self.buffer.len() as u64;
        let segment = self.segment.as_mut().expect("`make_room` has opened one");
        segment.allocate(end, self.segment_len)?;
        segment
            .file
            .write_at(&self.buffer, self.tail.offset)
            .map_err(LogError::disk("write", &segment.path))?;
        segment.allocated = segment.allocated.max(end);
        segment.file.sync_data().map_err(LogError::sync(&segment.path))?;
        self.tail.offset = end;
        self.tail.sequence += self.places.len() as u64;
        if self.buffer.capacity() > BUFFER_KEPT_LEN {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Sees to it that there is a segment which has room for a frame of this length, or no frame yet.
    fn make_room(&mut self, len: u64) -> Result<(), LogError> {
        if let Some(segment) = &mut self.segment {
            let is_empty = self.tail.offset == SEGMENT_HEADER_LEN as u64;
            if is_empty || self.tail.offset + len <= self.segment_len {
                return Ok(());
            }
            segment.finish(self.tail.offset)?;
            segment.allocated = self.tail.offset;
            self.segment = Some(self.create(self.tail.segment + 1)?);
            self.tail.segment += 1;
        } else {
            self.create_folder()?;
            self.segment = Some(self.create(self.tail.segment)?);
        }
        self.tail.offset = SEGMENT_HEADER_LEN as u64;
        Ok(())
    }

    fn create_folder(&self) -> Result<(), LogError> {
        self.disk.create_folder(&self.folder).map_err(LogError::disk("create", &self.folder))?;
        let parent = self.folder.parent().expect("the folder of a series lies in the log's");
        self.disk.sync_folder(parent).map_err(LogError::sync(parent))
    }

    /// An empty segment. What an earlier attempt has left of it holds no frame and is overwritten.
    fn create(&self, number: u32) -> Result<Segment, LogError> {
        let path = segment_path(&self.folder, number);
        let file = self.disk.create(&path).map_err(LogError::disk("create", &path))?;
        let header = SegmentHeader { batch: self.batch, number, first_sequence: self.tail.sequence };
        file.write_at(&header.encode(), 0).map_err(LogError::disk("write", &path))?;
        file.sync_all().map_err(LogError::sync(&path))?;
        self.disk.sync_folder(&self.folder).map_err(LogError::sync(&self.folder))?;
        let allocated = SEGMENT_HEADER_LEN as u64;
        Ok(Segment { path, file, allocated, allocation_step: ALLOCATION_FIRST })
    }

    /// Fills the buffer with the frames that fit the segment: the first one always does.
    fn encode(&mut self, frames: &[Frame]) {
        self.buffer.clear();
        self.places.clear();
        for (frame, sequence) in frames.iter().zip(self.tail.sequence..) {
            let offset = self.tail.offset + self.buffer.len() as u64;
            if !self.places.is_empty() && offset + frame_len(frame) > self.segment_len {
                break;
            }
            let header = StoredHeader {
                batch: self.batch,
                sequence,
                payload_len: frame.payload.len() as u32,
                payload_crc: crc32c::crc32c(&frame.payload),
                facts: frame.header,
            };
            self.places.push(Place {
                segment: self.tail.segment,
                offset: offset + FRAME_HEADER_LEN as u64,
                len: header.payload_len,
            });
            self.buffer.extend_from_slice(&header.encode());
            self.buffer.extend_from_slice(&frame.payload);
            self.buffer.resize(aligned(self.buffer.len() as u64) as usize, 0);
        }
    }
}

impl Segment {
    /// Takes room up to `end` at least, ahead of it where the disk has it.
    fn allocate(&mut self, end: u64, segment_len: u64) -> Result<(), LogError> {
        if end <= self.allocated {
            return Ok(());
        }
        let ahead = (self.allocated + self.allocation_step).min(segment_len).max(end);
        let mut result = self.file.allocate(self.allocated, ahead - self.allocated);
        let mut reached = ahead;
        if result.as_ref().is_err_and(is_no_room) && ahead > end {
            reached = end;
            result = self.file.allocate(self.allocated, end - self.allocated);
        }
        match result {
            Ok(()) => {
                self.allocated = reached;
                self.allocation_step = (self.allocation_step * 2).min(ALLOCATION_MAX);
                Ok(())
            }
            // A file system that cannot: the write takes the room.
            Err(error) if is_unsupported(&error) => Ok(()),
            Err(error) => Err(LogError::disk("allocate", &self.path)(error)),
        }
    }

    fn finish(&self, len: u64) -> Result<(), LogError> {
        self.file.truncate(len).map_err(LogError::disk("truncate", &self.path))?;
        self.file.sync_all().map_err(LogError::sync(&self.path))
    }
}

/// What a frame takes in a segment.
pub(crate) fn frame_len(frame: &Frame) -> u64 {
    aligned((FRAME_HEADER_LEN + frame.payload.len()) as u64)
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_unsupported(error: &io::Error) -> bool {
    const EINVAL: i32 = 22;
    matches!(error.kind(), io::ErrorKind::Unsupported) || error.raw_os_error() == Some(EINVAL)
}

#[cfg(test)]
mod tests;
