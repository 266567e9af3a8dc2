//! Puts records that come in any order into the order of their keys, where the keys are dense: bucket files by key
//! range first, then one bucket at a time in memory. Linear, and bounded by one bucket.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::Path;

use overnight_domain::limits::{FINALIZE_BUCKET_REQUESTS, FINALIZE_FILES_MAX};

pub(super) struct Buckets<const N: usize> {
    keys: u64,
    bucket_keys: u64,
    files: Vec<BufWriter<File>>,
}

impl<const N: usize> Buckets<N> {
    /// For keys from 0 to `keys`. The files have no names: a crash leaves nothing.
    pub(super) fn new(folder: &Path, keys: u64) -> io::Result<Self> {
        // Half of the descriptors that finalizing may use; the segments take the others.
        let files_max = FINALIZE_FILES_MAX as u64 / 2;
        let bucket_keys = FINALIZE_BUCKET_REQUESTS.max(keys.div_ceil(files_max));
        let files = (0..keys.div_ceil(bucket_keys))
            .map(|_| Ok(BufWriter::with_capacity(1 << 16, tempfile::tempfile_in(folder)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { keys, bucket_keys, files })
    }

    pub(super) fn put(&mut self, key: u64, record: &[u8; N]) -> io::Result<()> {
        let file = self.files.get_mut((key / self.bucket_keys) as usize);
        let file =
            file.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a key out of range"))?;
        file.write_all(&key.to_le_bytes())?;
        file.write_all(record)
    }

    /// Shows every key in order with its record, if it has one. Of several records of a key the first counts.
    pub(super) fn drain<E: From<io::Error>>(
        self,
        mut visit: impl FnMut(u64, Option<&[u8; N]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (keys, bucket_keys) = (self.keys, self.bucket_keys);
        for (number, file) in (0_u64..).zip(self.files) {
            let first = number * bucket_keys;
            let len = bucket_keys.min(keys - first);
            let mut slots: Vec<[u8; N]> = vec![[0; N]; len as usize];
            let mut is_set = vec![false; len as usize];
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            let mut reader = BufReader::with_capacity(1 << 18, file);
            let (mut key, mut record) = ([0; 8], [0; N]);
            loop {
                match reader.read_exact(&mut key) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                    Err(error) => return Err(error.into()),
                }
                reader.read_exact(&mut record)?;
                let at = (u64::from_le_bytes(key) - first) as usize;
                if !std::mem::replace(&mut is_set[at], true) {
                    slots[at] = record;
                }
            }
            for (at, slot) in slots.iter().enumerate() {
                visit(first + at as u64, is_set[at].then_some(slot))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn records_come_out_by_key(puts in proptest::collection::vec((0_u64..50, any::<[u8; 3]>()), 0..120)) {
            let folder = tempfile::tempdir().unwrap();
            let mut buckets = Buckets::<3>::new(folder.path(), 50).unwrap();
            // Small buckets, so that several are used.
            buckets.bucket_keys = 7;
            buckets.files = (0..8).map(|_| BufWriter::new(tempfile::tempfile().unwrap())).collect();
            let mut expected = std::collections::BTreeMap::new();
            for (key, record) in &puts {
                buckets.put(*key, record).unwrap();
                expected.entry(*key).or_insert(*record);
            }
            let mut next = 0;
            buckets.drain(|key, record| {
                assert_eq!(key, next);
                next += 1;
                assert_eq!(record, expected.get(&key));
                Ok::<_, io::Error>(())
            }).unwrap();
            prop_assert_eq!(next, 50);
        }
    }
}
