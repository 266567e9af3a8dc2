//! The one place that touches files, so that tests can put a modelled disk here and count every operation.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

/// Calls `hook` before every operation that changes the disk, with its name. For tests that end the process at the
/// n-th one; the first hook stays.
pub fn set_operation_hook(hook: fn(&'static str)) {
    // A second hook is a mistake of a test, and the first is still counting.
    let _ = OPERATION_HOOK.set(hook);
}

/// What the log needs of a file system.
pub(crate) trait Disk: Send + Sync {
    /// A file that exists, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// A file that exists, for reading.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// An empty file, whatever was there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// One that exists already is fine.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in no order; none when it does not exist.
    fn list(&self, folder: &Path) -> io::Result<Option<Vec<String>>>;
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
}

pub(crate) trait DiskFile: Send + Sync {
    fn len(&self) -> io::Result<u64>;
    /// Reads as much as there is, up to the buffer's length.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of it; an error may leave a part.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file `offset + len` long, with its room on the disk.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// The contents, and of the metadata what is needed to read them.
    fn sync_data(&self) -> io::Result<()>;
    fn sync_all(&self) -> io::Result<()>;
    /// Forgets what the system has in memory of a synced file, so that it is read from the disk. Best effort.
    fn evict(&self);
}

/// The real one.
pub(crate) struct LocalDisk;

static OPERATION_HOOK: OnceLock<fn(&'static str)> = OnceLock::new();

fn note(operation: &'static str) {
    if let Some(hook) = OPERATION_HOOK.get() {
        hook(operation);
    }
}

impl Disk for LocalDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        note("create");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(file))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        note("create_folder");
        fs::create_dir_all(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Option<Vec<String>>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is no text is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(Some(names))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        note("sync_folder");
        File::open(path)?.sync_all()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        note("remove_file");
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        note("remove_folder");
        fs::remove_dir(path)
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        note("write");
        self.write_all_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        note("allocate");
        let flags = rustix::fs::FallocateFlags::empty();
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(self, flags, offset, len))?)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        note("truncate");
        self.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        note("sync_data");
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        note("sync_all");
        File::sync_all(self)
    }

    fn evict(&self) {
        #[cfg(target_os = "linux")]
        // Without it the scan reads what the system holds, as it would have anyway.
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
    }
}

#[cfg(test)]
pub(crate) mod model;
