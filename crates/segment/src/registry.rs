//! The series that are open for appending, each with one writer at a time.
//!
//! The map's lock is never held while a series is used, so that a recovery of one batch does not hold up another.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::BatchId;

use crate::error::LogError;
use crate::frame::{Frame, StoredFrame};
use crate::recover::{RecoverFrom, Recovered, recover};
use crate::series::{Committed, Series, SeriesPlace};
use crate::walk::{Walk, list_segments, segment_path};

pub(crate) struct Registry {
    place: SeriesPlace,
    slots: Mutex<HashMap<BatchId, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    writer: Mutex<Writer>,
    /// The writer's, to be asked while it is busy.
    tail: Mutex<Option<LogPosition>>,
}

#[derive(Default)]
enum Writer {
    #[default]
    Closed,
    Open(Series),
    /// The slot is no longer in the map: whoever waited for it asks the map again.
    Gone,
}

impl Registry {
    pub(crate) fn new(place: SeriesPlace) -> Self {
        Self { place, slots: Mutex::default() }
    }

    pub(crate) fn commit(&self, batch: &BatchId, frames: Vec<Frame>) -> Committed {
        let mut frames = Some(frames);
        let committed = self.with_writer(batch, |slot, writer| {
            let series = self.open(batch, slot, writer)?;
            let committed = series.commit(frames.take().expect("called once"));
            *lock(&slot.tail) = Some(series.tail());
            Ok(committed)
        });
        committed.unwrap_or_else(|error| Committed {
            durable: Vec::new(),
            kept: frames.unwrap_or_default(),
            error: Some(error),
        })
    }

    pub(crate) fn recover(
        &self,
        batch: &BatchId,
        from: LogPosition,
        visit: &mut dyn FnMut(&StoredFrame),
    ) -> Result<Recovered, LogError> {
        let opened = self.with_writer(batch, |slot, writer| {
            if let Writer::Open(series) = writer {
                return Ok(Err(series.tail()));
            }
            let (series, recovered) = recover(&self.place, batch, RecoverFrom::Position(from), visit)?;
            *lock(&slot.tail) = Some(series.tail());
            *writer = Writer::Open(series);
            Ok(Ok(recovered))
        })?;
        match opened {
            Ok(recovered) => Ok(recovered),
            Err(tail) => self.read(batch, from, tail, visit),
        }
    }

    pub(crate) fn tail(&self, batch: &BatchId) -> Result<LogPosition, LogError> {
        if let Some(tail) = self.durable_tail(batch) {
            return Ok(tail);
        }
        self.with_writer(batch, |slot, writer| Ok(self.open(batch, slot, writer)?.tail()))
    }

    pub(crate) fn durable_tail(&self, batch: &BatchId) -> Option<LogPosition> {
        let slot = lock(&self.slots).get(batch).map(Arc::clone)?;
        *lock(&slot.tail)
    }

    pub(crate) fn close(&self, batch: &BatchId) -> Result<(), LogError> {
        if !lock(&self.slots).contains_key(batch) {
            return Ok(());
        }
        self.with_writer(batch, |slot, writer| {
            if let Writer::Open(series) = writer {
                series.close()?;
            }
            self.forget(batch, slot, writer);
            Ok(())
        })
    }

    pub(crate) fn close_all(&self) -> Result<(), LogError> {
        let batches: Vec<BatchId> = lock(&self.slots).keys().cloned().collect();
        batches.iter().try_for_each(|batch| self.close(batch))
    }

    pub(crate) fn remove(&self, batch: &BatchId) -> Result<(), LogError> {
        self.with_writer(batch, |slot, writer| {
            // Its file is closed before it is removed.
            *writer = Writer::Closed;
            *lock(&slot.tail) = None;
            self.remove_files(batch)?;
            self.forget(batch, slot, writer);
            Ok(())
        })
    }

    /// From the last to the first, so that what a crash leaves over is the beginning of a series.
    fn remove_files(&self, batch: &BatchId) -> Result<(), LogError> {
        let SeriesPlace { disk, dir, .. } = &self.place;
        let folder = self.place.folder(batch);
        let Some(segments) = list_segments(disk.as_ref(), &folder)? else { return Ok(()) };
        for segment in segments.into_iter().rev() {
            let path = segment_path(&folder, segment);
            disk.remove_file(&path).map_err(LogError::disk("remove", &path))?;
        }
        disk.remove_folder(&folder).map_err(LogError::disk("remove", &folder))?;
        disk.sync_folder(dir).map_err(LogError::sync(dir))
    }

    fn open<'a>(
        &self,
        batch: &BatchId,
        slot: &Slot,
        writer: &'a mut Writer,
    ) -> Result<&'a mut Series, LogError> {
        if !matches!(writer, Writer::Open(_)) {
            let (series, _) = recover(&self.place, batch, RecoverFrom::LastSegment, &mut |_| {})?;
            *lock(&slot.tail) = Some(series.tail());
            *writer = Writer::Open(series);
        }
        match writer {
            Writer::Open(series) => Ok(series),
            Writer::Closed | Writer::Gone => unreachable!("it was opened above"),
        }
    }

    /// What is durable of an open series.
    fn read(
        &self,
        batch: &BatchId,
        from: LogPosition,
        tail: LogPosition,
        visit: &mut dyn FnMut(&StoredFrame),
    ) -> Result<Recovered, LogError> {
        let folder = self.place.folder(batch);
        let disk = self.place.disk.as_ref();
        let segments = list_segments(disk, &folder)?.unwrap_or_default();
        let walk = Walk {
            disk,
            folder: &folder,
            segments: if from.sequence < tail.sequence { &segments } else { &[] },
            batch: batch.digest(),
            with_payloads: true,
            until: tail.sequence - 1,
        };
        let walked = walk.run(from, &mut |frame, _| {
            visit(frame);
            ControlFlow::Continue(())
        })?;
        Ok(Recovered {
            tail,
            frames: walked.frames,
            missing: walked.missing,
            damage: walked.damage,
            cut_len: 0,
        })
    }

    fn forget(&self, batch: &BatchId, slot: &Slot, writer: &mut Writer) {
        *writer = Writer::Gone;
        *lock(&slot.tail) = None;
        lock(&self.slots).remove(batch);
    }

    fn with_writer<T>(
        &self,
        batch: &BatchId,
        mut act: impl FnMut(&Slot, &mut Writer) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        loop {
            let known = lock(&self.slots).get(batch).map(Arc::clone);
            let slot = match known {
                Some(slot) => slot,
                None => Arc::clone(lock(&self.slots).entry(batch.clone()).or_default()),
            };
            let mut writer = lock(&slot.writer);
            if !matches!(*writer, Writer::Gone) {
                return act(&slot, &mut writer);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves a writer that is closed or, on the thread that commits, a log that is poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
