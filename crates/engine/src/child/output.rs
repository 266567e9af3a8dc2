//! What an engine prints: a log of two files that never grows beyond its bound, and its last lines for people.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use overnight_domain::limits::ENGINE_LOG_LEN_MAX;

/// The last lines are looked for in so much of the end.
const TAIL_LEN: u64 = 8 * 1024;
/// A longer line is cut: it goes into reasons and tables.
const LINE_LEN_MAX: usize = 300;

/// Appends to a file; when that is full it becomes the older one, and the older one before it is gone.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    len: u64,
    len_max: u64,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, len: 0, len_max: ENGINE_LOG_LEN_MAX }
    }

    /// What the disk does not take is lost: an engine must not stand still for its log.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.try_append(bytes).is_err() {
            self.file = None;
        }
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            let file = File::options().create(true).append(true).open(&self.path)?;
            self.len = file.metadata()?.len();
            self.file = Some(file);
        }
        if self.len + bytes.len() as u64 > self.len_max && self.len > 0 {
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = Some(File::options().create(true).append(true).open(&self.path)?);
            self.len = 0;
        }
        let file = self.file.as_mut().expect("it was just opened");
        file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// The last lines that hold something, oldest first, without colours and control characters. A progress bar that
/// writes over itself is many lines.
pub(super) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let mut bytes = tail(path).unwrap_or_default();
    if (bytes.len() as u64) < TAIL_LEN {
        let mut before = tail(&older(path)).unwrap_or_default();
        before.append(&mut bytes);
        bytes = before;
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split(['\n', '\r']).map(clean).filter(|line| !line.is_empty());
    let mut lines: Vec<String> = lines.collect();
    lines.drain(..lines.len().saturating_sub(count));
    lines
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn clean(line: &str) -> String {
    let mut cleaned = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // Colours and cursor movements: everything up to the letter that ends them.
            if chars.next() == Some('[') {
                chars.by_ref().find(char::is_ascii_alphabetic);
            }
        } else if c == '\t' {
            cleaned.push(' ');
        } else if !c.is_control() {
            cleaned.push(c);
        }
    }
    let cleaned = cleaned.trim();
    match cleaned.char_indices().nth(LINE_LEN_MAX) {
        Some((at, _)) => format!("{}...", &cleaned[..at]),
        None => cleaned.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("overnight-output-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder.join("a.log")
    }

    #[test]
    fn a_flood_is_bounded_and_its_end_is_kept() {
        let path = scratch("flood");
        let mut log = Log { len_max: 1_000, ..Log::new(path.clone()) };
        for number in 0..1_000 {
            log.append(format!("line {number}\n").as_bytes());
        }
        let len = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(len(&path) <= 1_000 && len(&older(&path)) <= 1_000);
        assert_eq!(last_lines(&path, 2), ["line 998", "line 999"]);
        // A new process goes on where the last one was.
        let mut log = Log { len_max: 1_000, ..Log::new(path.clone()) };
        log.append(b"again\n");
        assert_eq!(last_lines(&path, 2), ["line 999", "again"]);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn last_lines_are_fit_for_people() {
        let path = scratch("lines");
        let long = "x".repeat(1_000);
        let text = format!("a\r10%\r20%\n\n\u{1b}[31merror\u{1b}[0m\tb\u{7}\n{long}\n");
        std::fs::write(&path, text).unwrap();
        let lines = last_lines(&path, 3);
        assert_eq!(lines[..2], ["20%", "error b"]);
        assert_eq!(lines[2].len(), LINE_LEN_MAX + 3);
        assert_eq!(last_lines(&path.with_extension("none"), 3), [""; 0]);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
