//! The files of the repository that have rules: code, manifests, scripts and pages.

use std::fs;
use std::io;
use std::path::Path;

const KINDS: [&str; 8] = ["rs", "md", "toml", "py", "mjs", "sh", "sql", "html"];

/// Made by builds and runs, not by us.
const SKIPPED: [&str; 4] = ["target", "node_modules", "overnight-data", "shared"];

/// Paths relative to `root` with `/` between parts, in order, each with its text.
pub(crate) fn files(root: &Path) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    collect(root, "", &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !name.starts_with('.')
                && !SKIPPED.contains(&name.as_str())
                && !name.ends_with(".overnight")
            {
                collect(&entry.path(), &format!("{path}/"), found)?;
            }
        } else if kind.is_file() && name.rsplit_once('.').is_some_and(|(_, ext)| KINDS.contains(&ext)) {
            found.push((path, String::from_utf8_lossy(&fs::read(entry.path())?).into_owned()));
        }
    }
    Ok(())
}
