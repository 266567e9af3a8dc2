//! Which files lie below a folder, and what each of them holds.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use overnight_domain::file::Sha256;
use sha2::Digest as _;

use crate::one_batch::{STATE_SUFFIX, state_folder};
use crate::whole::located;

/// A larger file is a log or a dump, and no document: it would be read whole for its first page.
const FILE_LEN_MAX: u64 = 64 << 20;

/// The files below a folder by their paths from it, in the same order every time.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) paths: Vec<PathBuf>,
    /// Folders that could not be listed, and why.
    pub(super) unreadable: Vec<(PathBuf, String)>,
    /// What was passed over, and how often. These have no line in the output.
    pub(super) passed: BTreeMap<&'static str, u64>,
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A document. Its text is without a byte order mark; the digest is of the file as it is.
    Text {
        text: String,
        sha256: Sha256,
    },
    Skipped(Skip),
    Unreadable(String),
}

/// Why a file is no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    Empty,
    TooLarge,
    NotUtf8,
    /// Binary, or UTF-16: neither has a place in a prompt.
    Nul,
    NoFile,
}

impl Skip {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge => "larger than 64 MiB",
            Self::NotUtf8 => "not UTF-8 text",
            Self::Nul => "holds NUL bytes: binary, or UTF-16",
            Self::NoFile => "no regular file",
        }
    }
}

impl Listing {
    /// Hidden files and folders, links, and what this command and `overnight run` write are passed over, as are the
    /// files in `others`.
    pub(crate) fn of(folder: &Path, others: &[&Path]) -> anyhow::Result<Self> {
        let others: Vec<PathBuf> = others.iter().filter_map(|path| located(path)).collect();
        let root = fs::canonicalize(folder)
            .with_context(|| format!("failed to find `{}`", folder.display()))?;
        let mut listing = Self::default();
        let mut folders = vec![PathBuf::new()];
        while let Some(inner) = folders.pop() {
            match listing.add(&root, &inner, &others) {
                Ok(found) => folders.extend(found),
                Err(error) if inner.as_os_str().is_empty() => {
                    return Err(error).with_context(|| format!("failed to list `{}`", folder.display()));
                }
                Err(error) => listing.unreadable.push((inner, error.to_string())),
            }
        }
        // By their parts, so that a folder's files stand together whatever the file system's order is.
        listing.paths.sort_unstable();
        listing.unreadable.sort_unstable();
        Ok(listing)
    }

    /// Adds the files of one folder and returns the folders in it.
    fn add(&mut self, root: &Path, inner: &Path, others: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(root.join(inner))? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            let reason = if name.as_encoded_bytes().starts_with(b".") {
                Some("hidden")
            } else if kind.is_symlink() {
                Some("links")
            } else if is_ours(&entry.path(), kind.is_dir()) || others.contains(&entry.path()) {
                Some("files of this command")
            } else {
                None
            };
            match reason {
                Some(reason) => *self.passed.entry(reason).or_default() += 1,
                None if kind.is_dir() => folders.push(inner.join(name)),
                None => self.paths.push(inner.join(name)),
            }
        }
        Ok(folders)
    }
}

/// A folder of state, or the output that it lies beside.
fn is_ours(path: &Path, is_folder: bool) -> bool {
    if is_folder {
        return path.as_os_str().as_encoded_bytes().ends_with(STATE_SUFFIX.as_bytes());
    }
    state_folder(path).is_dir()
}

/// Reads a file that may be anything.
pub(super) fn read(path: &Path) -> Content {
    match read_bytes(path) {
        Ok(Ok(bytes)) => content_of(bytes),
        Ok(Err(skip)) => Content::Skipped(skip),
        Err(error) => Content::Unreadable(error.to_string()),
    }
}

fn read_bytes(path: &Path) -> io::Result<Result<Vec<u8>, Skip>> {
    // To open a pipe would wait for whoever writes to it.
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() {
        return Ok(Err(Skip::NoFile));
    }
    if about.len() > FILE_LEN_MAX {
        return Ok(Err(Skip::TooLarge));
    }
    let mut bytes = Vec::with_capacity(about.len() as usize);
    fs::File::open(path)?.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
    // It may have grown.
    Ok(if bytes.len() as u64 > FILE_LEN_MAX { Err(Skip::TooLarge) } else { Ok(bytes) })
}

fn content_of(bytes: Vec<u8>) -> Content {
    if memchr::memchr(0, &bytes).is_some() {
        return Content::Skipped(Skip::Nul);
    }
    let sha256 = Sha256(sha2::Sha256::digest(&bytes).into());
    let Ok(mut text) = String::from_utf8(bytes) else { return Content::Skipped(Skip::NotUtf8) };
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    if text.trim().is_empty() {
        return Content::Skipped(Skip::Empty);
    }
    Content::Text { text, sha256 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn text_of(bytes: &[u8]) -> Option<String> {
        match content_of(bytes.to_vec()) {
            Content::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    #[test]
    fn only_text_is_a_document() {
        assert_eq!(text_of("\u{feff}Grüße\u{2028}\r\n".as_bytes()).unwrap(), "Grüße\u{2028}\r\n");
        for (bytes, skip) in [
            (&b""[..], Skip::Empty),
            (b" \n\t\xc2\xa0 ", Skip::Empty),
            (b"\xef\xbb\xbf", Skip::Empty),
            (b"a\0b", Skip::Nul),
            (b"\xff\xfea\0", Skip::Nul),
            (b"caf\xe9", Skip::NotUtf8),
            (b"cut \xf0\x9f\xa6", Skip::NotUtf8),
        ] {
            assert_eq!(content_of(bytes.to_vec()), Content::Skipped(skip), "{bytes:?}");
        }
    }

    #[test]
    fn the_digest_is_that_of_the_file() {
        let Content::Text { sha256, .. } = content_of(b"\xef\xbb\xbfabc".to_vec()) else { panic!() };
        assert_eq!(sha256, Sha256(sha2::Sha256::digest(b"\xef\xbb\xbfabc").into()));
    }

    #[test]
    fn files_are_listed_in_one_order_and_links_lead_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.txt"), "outside").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in
            ["b/2.txt", "b/10.txt", "a.md", "b-c.txt", ".git/config", "b/.hidden", "o.jsonl", "o.csv"]
        {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        fs::create_dir_all(root.join("o.jsonl.overnight/inner")).unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink(outside.path().join("secret.txt"), root.join("out.txt")).unwrap();
        symlink(root, root.join("b/loop")).unwrap();

        let listing = Listing::of(root, &[&root.join("o.csv"), Path::new("not-there/x.csv")]).unwrap();
        let paths: Vec<&str> = listing.paths.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a.md", "b/10.txt", "b/2.txt", "b-c.txt"]);
        let passed = [("files of this command", 3), ("hidden", 2), ("links", 3)];
        assert_eq!(listing.passed, BTreeMap::from(passed));
        assert!(listing.unreadable.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(
            matches!(read(&path("none.txt")), Content::Unreadable(why) if why.contains("No such file"))
        );
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(read(&path("pipe")), Content::Skipped(Skip::NoFile));
        fs::File::create(path("huge")).unwrap().set_len(FILE_LEN_MAX + 1).unwrap();
        assert_eq!(read(&path("huge")), Content::Skipped(Skip::TooLarge));
        assert!(Listing::of(&path("none"), &[]).is_err());
        assert!(Listing::of(&path("huge"), &[]).is_err());

        fs::create_dir(path("closed")).unwrap();
        fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let listing = Listing::of(folder.path(), &[]).unwrap();
        // Whoever runs as root may read everything.
        let is_root = fs::read_dir(path("closed")).is_ok();
        assert_eq!(listing.unreadable.len(), usize::from(!is_root));
        fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
