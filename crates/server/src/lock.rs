//! One process at a time has a folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::Context as _;

/// Held as long as the file is open. None: another process has it.
pub(crate) fn lock_folder(folder: &Path) -> anyhow::Result<Option<File>> {
    let path = folder.join("lock");
    let failed = || format!("failed to lock `{}`", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}
