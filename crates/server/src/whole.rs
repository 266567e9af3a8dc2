//! Files that are there whole or not at all, whoever pulls the plug.

use std::io::{self, BufWriter};
use std::path::Path;

use anyhow::Context as _;
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
    std::fs::set_permissions(temporary.path(), mode).with_context(failed)?;
    temporary.persist(to).with_context(failed)?;
    std::fs::File::open(folder)?.sync_all().with_context(failed)?;
    Ok(Sha256(hash.finalize().into()))
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
