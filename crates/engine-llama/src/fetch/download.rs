//! The bytes of one file: gone on with where an earlier attempt ended, checked as they come, named when they are right.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use overnight_domain::limits::HUB_PROGRESS_MIN;
use sha2::{Digest as _, Sha256};

use super::Stage;
use super::cache::{RepoFolder, failed};
use super::error::FetchError;
use super::exchange::{Exchange, Failure, Remote};

const PIECE_LEN: usize = 256 << 10;

/// Gives the file's path in the snapshot, and how many bytes came over the network: none when the cache had them.
pub(super) fn download(
    exchange: &Exchange<'_>,
    folder: &RepoFolder,
    commit: &str,
    remote: &Remote,
    tell: &mut dyn FnMut(Stage, u64),
) -> Result<(PathBuf, u64), FetchError> {
    // Whoever held it before us has fetched it, perhaps.
    let _lock = folder.lock(remote, exchange.hub.patience, &mut || tell(Stage::Waiting, 0))?;
    let mut fetched_len = 0;
    if folder.has_blob(remote) {
        tell(Stage::Fetching, remote.len);
    } else {
        let mut partial = Partial::open(folder, remote, tell)?;
        fetched_len = fill(exchange, commit, remote, &mut partial, tell)?;
        partial.check()?;
        folder.keep(remote)?;
    }
    Ok((folder.link(commit, remote)?, fetched_len))
}

/// Asks for what is missing until nothing is.
fn fill(
    exchange: &Exchange<'_>,
    commit: &str,
    remote: &Remote,
    partial: &mut Partial<'_>,
    tell: &mut dyn FnMut(Stage, u64),
) -> Result<u64, FetchError> {
    let (mut repeats, mut fetched_len) = (0, 0);
    while partial.len < remote.len {
        tell(Stage::Fetching, partial.len);
        let before = fetched_len;
        let (reason, pause) = match pull(exchange, commit, remote, partial, &mut fetched_len, tell) {
            Ok(()) => continue,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing { reason, pause }) => (reason, pause),
        };
        // A byte at a time is no progress either.
        if fetched_len - before >= HUB_PROGRESS_MIN {
            repeats = 0;
        }
        if repeats == exchange.hub.patience.repeats_max {
            let (file, done, len) = (remote.file.clone(), partial.len, remote.len);
            return Err(FetchError::Cut { file, done, len, repeats, reason });
        }
        tell(Stage::Retrying, partial.len);
        exchange.pause(repeats, pause);
        repeats += 1;
    }
    Ok(fetched_len)
}

/// One answer of the hub, as far as it goes.
fn pull(
    exchange: &Exchange<'_>,
    commit: &str,
    remote: &Remote,
    partial: &mut Partial<'_>,
    fetched_len: &mut u64,
    tell: &mut dyn FnMut(Stage, u64),
) -> Result<(), Failure> {
    let stream = exchange.bytes(commit, remote, partial.len)?;
    if stream.start < partial.len {
        // It knows no ranges.
        partial.empty().map_err(Failure::Final)?;
    }
    let mut reader = stream.body.into_reader().take(remote.len - partial.len);
    let mut piece = vec![0; PIECE_LEN];
    while partial.len < remote.len {
        let passing = |reason: String| Failure::Passing { reason, pause: None::<Duration> };
        let len = match reader.read(&mut piece) {
            Ok(0) => return Err(passing("the connection was closed".to_owned())),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(passing(error.to_string())),
        };
        partial.append(&piece[..len]).map_err(Failure::Final)?;
        *fetched_len += len as u64;
        tell(Stage::Fetching, partial.len);
    }
    Ok(())
}

/// What is there of a file, with the checksum so far.
struct Partial<'a> {
    folder: &'a RepoFolder,
    remote: &'a Remote,
    file: File,
    len: u64,
    hash: Sha256,
}

impl<'a> Partial<'a> {
    fn open(
        folder: &'a RepoFolder,
        remote: &'a Remote,
        tell: &mut dyn FnMut(Stage, u64),
    ) -> Result<Self, FetchError> {
        let path = folder.partial(remote);
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(failed("open", &path))?;
        let mut hash = Sha256::new();
        let mut len = 0;
        let mut piece = vec![0; PIECE_LEN];
        // More than the file is to have makes all of it worthless.
        while len <= remote.len {
            let read = file.read(&mut piece).map_err(failed("read", &path))?;
            if read == 0 {
                break;
            }
            hash.update(&piece[..read]);
            len += read as u64;
            tell(Stage::Resuming, len.min(remote.len));
        }
        let mut partial = Self { folder, remote, file, len, hash };
        if len > remote.len {
            partial.empty()?;
        }
        Ok(partial)
    }

    fn empty(&mut self) -> Result<(), FetchError> {
        let path = self.folder.partial(self.remote);
        self.file.set_len(0).map_err(failed("empty", &path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed("empty", &path))?;
        (self.len, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(piece).map_err(|error| self.unwritten(error))?;
        self.hash.update(piece);
        self.len += piece.len() as u64;
        Ok(())
    }

    /// Deletes what is wrong: going on with it would never make it right.
    fn check(self) -> Result<(), FetchError> {
        let path = self.folder.partial(self.remote);
        self.file.sync_all().map_err(|error| self.unwritten(error))?;
        let Some(expected) = self.remote.sha256() else { return Ok(()) };
        let found = hex(&self.hash.finalize());
        if found == expected {
            return Ok(());
        }
        fs::remove_file(&path).map_err(failed("delete", &path))?;
        let (file, expected) = (self.remote.file.clone(), expected.to_owned());
        Err(FetchError::Hash { file, expected, found })
    }

    fn unwritten(&self, error: io::Error) -> FetchError {
        let path = self.folder.partial(self.remote);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                FetchError::DiskFull { path, done: self.len, len: self.remote.len }
            }
            _ => FetchError::Cache { what: "write", path, error },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from_digit(four.into(), 16).expect("four bits are a hexadecimal digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;

    use sha2::{Digest as _, Sha256};

    use super::{FetchError, Partial, Remote, RepoFolder};

    #[test]
    fn a_full_disk_is_named_with_how_far_it_went() {
        let cache = tempfile::tempdir().unwrap();
        let folder = RepoFolder::new(cache.path(), "org/repo");
        let remote = Remote { file: "m.gguf".to_owned(), etag: "e".to_owned(), len: 1_000 };
        let file = File::options().write(true).open("/dev/full").unwrap();
        let mut partial =
            Partial { folder: &folder, remote: &remote, file, len: 500, hash: Sha256::new() };
        let error = partial.append(b"more").unwrap_err();
        assert!(matches!(error, FetchError::DiskFull { done: 500, len: 1_000, .. }), "{error:?}");
        assert!(error.to_string().contains("make room"), "{error}");
    }
}
