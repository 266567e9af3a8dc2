//! Sorts any number of fixed-size records in bounded memory: in memory up to a bound, then in runs on disk that are
//! merged. Records compare as their bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::PathBuf;

use overnight_domain::limits::SORT_RUNS_MAX;

pub(super) struct Sorter<const N: usize> {
    /// Where runs are written; unnamed files, so that a crash leaves nothing.
    folder: PathBuf,
    entries_max: usize,
    buffer: Vec<[u8; N]>,
    runs: Vec<File>,
}

impl<const N: usize> Sorter<N> {
    pub(super) const fn new(folder: PathBuf, entries_max: usize) -> Self {
        Self { folder, entries_max, buffer: Vec::new(), runs: Vec::new() }
    }

    pub(super) fn push(&mut self, record: [u8; N]) -> io::Result<()> {
        if self.buffer.len() == self.entries_max {
            self.spill()?;
        }
        self.buffer.push(record);
        Ok(())
    }

    /// All records, in order.
    pub(super) fn finish(mut self) -> io::Result<Sorted<N>> {
        self.buffer.sort_unstable();
        let buffer = std::mem::take(&mut self.buffer);
        Merge::new(self.runs, buffer).map(Sorted)
    }

    fn spill(&mut self) -> io::Result<()> {
        self.buffer.sort_unstable();
        let run = write_run(&self.folder, self.buffer.drain(..).map(Ok))?;
        self.runs.push(run);
        if self.runs.len() >= SORT_RUNS_MAX {
            let merged = Merge::<N>::new(std::mem::take(&mut self.runs), Vec::new())?;
            self.runs.push(write_run(&self.folder, merged)?);
        }
        Ok(())
    }
}

fn write_run<const N: usize>(
    folder: &std::path::Path,
    records: impl Iterator<Item = io::Result<[u8; N]>>,
) -> io::Result<File> {
    let mut writer = BufWriter::with_capacity(1 << 18, tempfile::tempfile_in(folder)?);
    for record in records {
        writer.write_all(&record?)?;
    }
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

/// The records of a [`Sorter`], in order.
pub(super) struct Sorted<const N: usize>(Merge<N>);

impl<const N: usize> Iterator for Sorted<N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

struct Merge<const N: usize> {
    memory: std::vec::IntoIter<[u8; N]>,
    runs: Vec<BufReader<File>>,
    /// The next record of each source; the source behind the last run is the memory.
    heads: BinaryHeap<Reverse<([u8; N], usize)>>,
}

impl<const N: usize> Merge<N> {
    fn new(runs: Vec<File>, memory: Vec<[u8; N]>) -> io::Result<Self> {
        let runs: Vec<_> = runs.into_iter().map(|run| BufReader::with_capacity(1 << 16, run)).collect();
        let mut merge = Self { memory: memory.into_iter(), runs, heads: BinaryHeap::new() };
        for source in 0..=merge.runs.len() {
            merge.pull(source)?;
        }
        Ok(merge)
    }

    fn pull(&mut self, source: usize) -> io::Result<()> {
        let record = match self.runs.get_mut(source) {
            None => self.memory.next(),
            Some(run) => {
                let mut record = [0; N];
                match run.read_exact(&mut record) {
                    Ok(()) => Some(record),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                    Err(error) => return Err(error),
                }
            }
        };
        self.heads.extend(record.map(|record| Reverse((record, source))));
        Ok(())
    }
}

impl<const N: usize> Iterator for Merge<N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.runs.is_empty() {
            // Nothing was spilled: the heap holds one record of the memory, the rest follows in order.
            let head = self.heads.pop().map(|Reverse((record, _))| record);
            return head.or_else(|| self.memory.next()).map(Ok);
        }
        let Reverse((record, source)) = self.heads.pop()?;
        match self.pull(source) {
            Ok(()) => Some(Ok(record)),
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_bound_gives_the_same_order(mut values in proptest::collection::vec(any::<u32>(), 0..400), bound in 1_usize..90) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path().to_owned(), bound);
            for value in &values {
                sorter.push(value.to_be_bytes()).unwrap();
            }
            let sorted: Vec<u32> = sorter.finish().unwrap().map(|record| u32::from_be_bytes(record.unwrap())).collect();
            values.sort_unstable();
            prop_assert_eq!(sorted, values);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
