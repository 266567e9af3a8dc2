//! Blobs: immutable bytes in an object store, durable before anybody hears of them.
//!
//! The object store's own trait is the seam (local files now, S3 later). Its local file system does not sync by
//! default; here it does, file and folder. Absent on purpose: names. A caller's file name never becomes a key.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt as _,
    PutPayload,
};
use overnight_domain::file::Sha256;
use overnight_domain::ids::BlobKey;
use sha2::Digest as _;

use crate::blocking::blocking;

/// A part of a multipart write; two of them are the memory of one upload. (S3 will want at least 5 MiB.)
const WRITE_PART_LEN: usize = 1 << 20;
/// A piece of a streamed read: large enough that a trip to a blocking thread is cheap.
const READ_PIECE_LEN: u64 = 512 << 10;

/// Why bytes could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("blob `{0}` does not exist")]
    Missing(BlobKey),
    #[error("the disk is full; make room and try again")]
    Full,
    #[error("the blob store failed: {0}")]
    Failed(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    objects: Arc<dyn ObjectStore>,
}

impl Blobs {
    pub(crate) fn open_local(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to create the blob folder `{}`", folder.display()))?;
        let objects = LocalFileSystem::new_with_prefix(folder)
            .with_context(|| format!("failed to open the blob folder `{}`", folder.display()))?
            .with_fsync(true);
        Ok(Self { objects: Arc::new(objects) })
    }

    /// Removes what writes of an earlier process left unfinished. Only at the start: nothing is being written then.
    pub(crate) fn sweep_unfinished(folder: &Path) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                Self::sweep_unfinished(&path)?;
            } else if path.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'#')) {
                // Keys never hold this character; the object store marks its staged files with it.
                std::fs::remove_file(&path).with_context(|| {
                    format!("failed to remove the unfinished blob `{}`", path.display())
                })?;
            }
        }
        Ok(())
    }

    /// Begins a blob. It does not exist before [`BlobWriter::finish`] returned, and leaves nothing when dropped through
    /// [`BlobWriter::abort`].
    pub(crate) async fn write(&self, key: &BlobKey) -> Result<BlobWriter, BlobError> {
        let upload =
            self.objects.put_multipart(&path(key)).await.map_err(|error| classify(key, &error))?;
        Ok(BlobWriter {
            key: key.clone(),
            upload,
            part: Vec::new(),
            in_flight: None,
            hash: sha2::Sha256::new(),
            len: 0,
        })
    }

    pub(crate) async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<Bytes, BlobError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.objects.get_range(&path(key), range).await.map_err(|error| classify(key, &error))
    }

    /// The whole of a blob that is known to be small.
    pub(crate) async fn read_whole(&self, key: &BlobKey) -> Result<Bytes, BlobError> {
        let got = self.objects.get(&path(key)).await.map_err(|error| classify(key, &error))?;
        got.bytes().await.map_err(|error| classify(key, &error))
    }

    /// Several ranges in one go: one blocking call on local files, coalesced requests on S3.
    pub(crate) async fn read_all(
        &self,
        key: &BlobKey,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, BlobError> {
        self.objects.get_ranges(&path(key), ranges).await.map_err(|error| classify(key, &error))
    }

    /// Streams a range in pieces of bounded size. A stream in progress survives deletion of the blob.
    pub(crate) async fn stream(
        &self,
        key: &BlobKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got =
            self.objects.get_opts(&path(key), options).await.map_err(|error| classify(key, &error))?;
        let key = key.clone();
        match got.payload {
            GetResultPayload::File(file, _) => Ok(stream_file(key, file, got.range)),
            GetResultPayload::Stream(stream) => {
                Ok(stream.map_err(move |error| classify(&key, &error)).boxed())
            }
        }
    }

    /// Deletes a blob; one that is gone already is no error.
    pub(crate) async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        match self.objects.delete(&path(key)).await.map_err(|error| classify(key, &error)) {
            Err(BlobError::Missing(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The keys below a folder, with the moment of their last change in milliseconds.
    pub(crate) fn list(&self, folder: &str) -> BoxStream<'static, Result<(BlobKey, u64), BlobError>> {
        let folder = BlobKey::new(folder);
        let listed = self.objects.list(Some(&path(&folder)));
        listed
            .map_ok(|object| {
                let changed = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or(0);
                (BlobKey::new(object.location.to_string()), changed)
            })
            .map_err(move |error| classify(&folder, &error))
            .boxed()
    }
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) len: u64,
    pub(crate) sha256: Sha256,
}

/// A blob on its way. Memory is bounded: one part is filled while another is written.
pub(crate) struct BlobWriter {
    key: BlobKey,
    upload: Box<dyn MultipartUpload>,
    part: Vec<u8>,
    in_flight: Option<object_store::UploadPart>,
    hash: sha2::Sha256,
    len: u64,
}

impl BlobWriter {
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) async fn push(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = WRITE_PART_LEN - self.part.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.part.extend_from_slice(now);
            rest = later;
            if self.part.len() == WRITE_PART_LEN {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    /// Makes the blob durable and visible.
    pub(crate) async fn finish(mut self) -> Result<Written, BlobError> {
        if !self.part.is_empty() || self.len == 0 {
            self.send_part().await?;
        }
        self.await_part().await?;
        self.upload.complete().await.map_err(|error| classify(&self.key, &error))?;
        Ok(Written { len: self.len, sha256: Sha256(self.hash.finalize().into()) })
    }

    pub(crate) async fn abort(mut self) {
        // A part still on its way is dropped; what it left is removed with the upload.
        self.in_flight = None;
        if let Err(error) = self.upload.abort().await {
            tracing::warn!(key = %self.key, %error, "failed to remove an unfinished blob; upkeep will");
        }
    }

    async fn send_part(&mut self) -> Result<(), BlobError> {
        self.await_part().await?;
        let part = std::mem::take(&mut self.part);
        self.in_flight = Some(self.upload.put_part(PutPayload::from(part)));
        Ok(())
    }

    async fn await_part(&mut self) -> Result<(), BlobError> {
        match self.in_flight.take() {
            Some(part) => part.await.map_err(|error| classify(&self.key, &error)),
            None => Ok(()),
        }
    }
}

/// Reads an open file in pieces: it stays readable when its name is gone.
fn stream_file(
    key: BlobKey,
    file: std::fs::File,
    range: Range<u64>,
) -> BoxStream<'static, Result<Bytes, BlobError>> {
    use std::os::unix::fs::FileExt as _;
    let file = Arc::new(file);
    futures::stream::try_unfold((range, file, key), |(range, file, key)| async move {
        let len = (range.end - range.start).min(READ_PIECE_LEN);
        if len == 0 {
            return Ok(None);
        }
        let source = file.clone();
        let read = blocking(move || {
            let mut piece = vec![0; len as usize];
            source.read_exact_at(&mut piece, range.start).map(|()| piece)
        });
        let piece = read
            .await
            .map_err(|error| BlobError::Failed(format!("failed to read blob `{key}`: {error}")))?;
        Ok(Some((Bytes::from(piece), (range.start + len..range.end, file, key))))
    })
    .boxed()
}

fn path(key: &BlobKey) -> ObjectPath {
    ObjectPath::from(key.as_str())
}

fn classify(key: &BlobKey, error: &object_store::Error) -> BlobError {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return BlobError::Missing(key.clone());
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{QuotaExceeded, StorageFull};
            if matches!(io.kind(), StorageFull | QuotaExceeded) {
                return BlobError::Full;
            }
        }
        cause = error.source();
    }
    BlobError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_is_read_back_in_ranges_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_local(folder.path()).unwrap();
        let key = BlobKey::new("files/a");
        let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| at as u8).collect();
        let mut writer = blobs.write(&key).await.unwrap();
        for piece in bytes.chunks(1_000_003) {
            writer.push(piece).await.unwrap();
        }
        assert!(
            matches!(blobs.read(&key, 0..1).await, Err(BlobError::Missing(_))),
            "not visible before it is whole"
        );
        let written = writer.finish().await.unwrap();
        assert_eq!(written.len, bytes.len() as u64);
        assert_eq!(written.sha256, Sha256(sha2::Sha256::digest(&bytes).into()));
        assert_eq!(blobs.read(&key, 17..9_000_000).await.unwrap(), bytes[17..9_000_000]);
        let whole: Vec<Bytes> =
            blobs.stream(&key, 0..written.len).await.unwrap().try_collect().await.unwrap();
        assert_eq!(whole.concat(), bytes);
    }

    #[tokio::test]
    async fn an_aborted_blob_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_local(folder.path()).unwrap();
        let mut writer = blobs.write(&BlobKey::new("files/a")).await.unwrap();
        writer.push(&vec![1; 9_000_000]).await.unwrap();
        writer.abort().await;
        let left: Vec<_> = std::fs::read_dir(folder.path().join("files")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn an_empty_blob_exists() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_local(folder.path()).unwrap();
        let key = BlobKey::new("files/empty");
        assert_eq!(blobs.write(&key).await.unwrap().finish().await.unwrap().len, 0);
        assert_eq!(blobs.stream(&key, 0..0).await.unwrap().count().await, 0);
        blobs.delete(&key).await.unwrap();
        blobs.delete(&key).await.unwrap();
    }
}
