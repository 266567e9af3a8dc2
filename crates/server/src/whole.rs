//! Files that are there whole or not at all, whoever pulls the plug, and in nobody's place.

use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use overnight_domain::file::Sha256;
use sha2::Digest as _;

const PIECE_LEN: usize = 1 << 20;

/// Writes a file beside its place, syncs it, and then gives it its name: it is there whole or not at all.
pub(crate) fn write_whole(
    to: &Path,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> anyhow::Result<Sha256> {
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = || format!("failed to write `{}`", to.display());
    let temporary =
        tempfile::Builder::new().prefix(".overnight-").tempfile_in(folder).with_context(failed)?;
    let mut out = HashingWriter {
        inner: BufWriter::with_capacity(PIECE_LEN, temporary),
        hash: sha2::Sha256::new(),
    };
    write(&mut out).with_context(failed)?;
    let HashingWriter { inner, hash } = out;
    let temporary = inner.into_inner().map_err(io::IntoInnerError::into_error).with_context(failed)?;
    temporary.as_file().sync_all().with_context(failed)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(temporary.path(), mode).with_context(failed)?;
    temporary.persist(to).with_context(failed)?;
    fs::File::open(folder)?.sync_all().with_context(failed)?;
    Ok(Sha256(hash.finalize().into()))
}

/// What an option has written must not take the place of what else the command reads or writes.
pub(crate) fn refuse_same(
    path: &Path,
    option: &str,
    others: &[(Option<&Path>, &str)],
) -> anyhow::Result<()> {
    for (other, what) in others {
        if other.is_some_and(|other| is_same_file(path, other)) {
            bail!("`{}` is {what}; name another file with {option}", path.display());
        }
    }
    Ok(())
}

/// Whether two paths are of one file, which need not be there.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| fs::canonicalize(path).ok().or_else(|| located(path));
    found(one).is_some_and(|one| found(other) == Some(one))
}

/// Where a file is or will be, without links on the way.
pub(crate) fn located(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Some(fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?.join(path.file_name()?))
}

struct HashingWriter<W> {
    inner: W,
    hash: sha2::Sha256,
}

impl<W: io::Write> io::Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn one_file_has_many_paths() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("labels.txt"), "a\nb\n").unwrap();
        fs::create_dir(path("inner")).unwrap();
        symlink("labels.txt", path("link")).unwrap();
        for same in ["labels.txt", "inner/../labels.txt", "link"] {
            assert!(is_same_file(&path("labels.txt"), &path(same)), "{same}");
        }
        assert!(is_same_file(&path("new.csv"), &path("inner/../new.csv")), "neither is there");
        assert!(!is_same_file(&path("labels.txt"), &path("new.csv")));
        assert!(!is_same_file(&path("nowhere/a"), &path("nowhere/b")));
    }
}
