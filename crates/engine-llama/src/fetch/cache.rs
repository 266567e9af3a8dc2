//! The folder of one repository in the hub's cache, as all its tools lay it out: `blobs` by ETag, `snapshots` by commit
//! with links to them, `refs` with what a branch meant when it was last asked.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use super::error::FetchError;
use super::exchange::Remote;
use super::hub::Patience;

/// Left free on the disk: a disk without any room stops more than this.
const ROOM_LEFT: u64 = 64 << 20;

pub(super) struct RepoFolder {
    cache: PathBuf,
    repo: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    /// `repo`: `org/repo`, of an address, so without anything that leads out of the cache.
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { cache: cache.to_owned(), repo: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that the revision is known to mean, and the files: only when all of them are there.
    pub(super) fn find(&self, revision: &str, files: &[String]) -> Option<(String, Vec<PathBuf>)> {
        let commit = if is_commit(revision) {
            revision.to_owned()
        } else {
            fs::read_to_string(self.repo.join("refs").join(revision)).ok()?.trim().to_owned()
        };
        if !is_commit(&commit) {
            return None;
        }
        let snapshot = self.snapshot(&commit);
        let paths: Vec<PathBuf> = files.iter().map(|file| snapshot.join(file)).collect();
        // Through the link: what other tools have deleted is not there.
        paths.iter().all(|path| path.is_file()).then_some((commit, paths))
    }

    pub(super) fn blob(&self, remote: &Remote) -> PathBuf {
        self.repo.join("blobs").join(&remote.etag)
    }

    pub(super) fn partial(&self, remote: &Remote) -> PathBuf {
        self.repo.join("blobs").join(format!("{}.incomplete", remote.etag))
    }

    /// Whether the bytes are there, with the length that the hub tells.
    pub(super) fn has_blob(&self, remote: &Remote) -> bool {
        fs::metadata(self.blob(remote)).is_ok_and(|blob| blob.is_file() && blob.len() == remote.len)
    }

    /// Before the first byte: a disk that is full after an hour is worse than one that is refused.
    pub(super) fn check_room(&self, remotes: &[Remote]) -> Result<(), FetchError> {
        let missing = remotes.iter().filter(|remote| !self.has_blob(remote)).map(|remote| {
            let have = fs::metadata(self.partial(remote)).map_or(0, |partial| partial.len());
            remote.len.saturating_sub(have)
        });
        let missing = missing.fold(0, u64::saturating_add);
        let blobs = self.repo.join("blobs");
        make_folder(&blobs)?;
        let Ok(disk) = rustix::fs::statvfs(&blobs) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = missing.saturating_add(ROOM_LEFT);
        if missing == 0 || needed <= free {
            Ok(())
        } else {
            Err(FetchError::NoRoom { cache: self.cache.clone(), needed, free })
        }
    }

    /// Held by one process for a file, and given back by the system when that process ends. The other tools of the hub
    /// take the same lock.
    pub(super) fn lock(
        &self,
        remote: &Remote,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<File, FetchError> {
        make_folder(&self.locks)?;
        let path = self.locks.join(format!("{}.lock", remote.etag));
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(failed("open the lock", &path))?;
        let partial_len = || fs::metadata(self.partial(remote)).map_or(0, |partial| partial.len());
        let (mut seen, mut since) = (partial_len(), Instant::now());
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                // Some network file systems have no locks. Two that fetch the same then disturb each other, which the
                // checksum finds.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(file);
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            }
            let len = partial_len();
            if len != seen {
                (seen, since) = (len, Instant::now());
            }
            if since.elapsed() > patience.lock_silence_max {
                return Err(FetchError::Held { lock: path });
            }
            waiting();
            std::thread::sleep(patience.pause);
        }
    }

    /// Names what was fetched: from here on it counts as whole.
    pub(super) fn keep(&self, remote: &Remote) -> Result<(), FetchError> {
        let (partial, blob) = (self.partial(remote), self.blob(remote));
        fs::rename(&partial, &blob).map_err(failed("name", &blob))?;
        sync_folder(&blob)
    }

    /// The file's path in the snapshot, made under the lock: a link, relative as the other tools make it, so that the cache can be moved.
    pub(super) fn link(&self, commit: &str, remote: &Remote) -> Result<PathBuf, FetchError> {
        let path = self.snapshot(commit).join(&remote.file);
        if fs::metadata(&path).is_ok_and(|found| found.len() == remote.len) {
            return Ok(path);
        }
        let folder = path.parent().expect("a file in a snapshot lies in a folder");
        make_folder(folder)?;
        let depth =
            Path::new(&remote.file).components().filter(|part| matches!(part, Component::Normal(_)));
        let target = "../".repeat(depth.count() + 1) + "blobs/" + &remote.etag;
        if fs::symlink_metadata(&path).is_ok() {
            // A link to what was deleted, or a file of another length.
            fs::remove_file(&path).map_err(failed("delete", &path))?;
        }
        match symlink(&target, &path) {
            Ok(()) => {}
            // A disk without links: the snapshot has the file itself, as the other tools do it there.
            Err(error) if has_no_links(&error) => {
                fs::rename(self.blob(remote), &path).map_err(failed("name", &path))?;
            }
            Err(error) => return Err(failed("link", &path)(error)),
        }
        sync_folder(&path)?;
        Ok(path)
    }

    pub(super) fn put_revision(&self, revision: &str, commit: &str) -> Result<(), FetchError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.repo.join("refs").join(revision);
        let folder = path.parent().expect("a revision lies in a folder");
        make_folder(folder)?;
        // In place, as the other tools do it: what a crash leaves half written is no commit, and is asked for again.
        fs::write(&path, commit).map_err(failed("write", &path))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }
}

/// For `map_err`: what was done to which path.
pub(super) fn failed<'p>(
    what: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> FetchError + 'p {
    move |error| FetchError::Cache { what, path: path.to_owned(), error }
}

fn has_no_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn make_folder(folder: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(folder).map_err(failed("make the folder", folder))
}

/// A name is lasting when its folder is.
fn sync_folder(path: &Path) -> Result<(), FetchError> {
    let folder = path.parent().expect("a file lies in a folder");
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

#[cfg(unix)]
fn symlink(target: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
