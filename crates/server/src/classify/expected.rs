//! Which label each document should have, where somebody knows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::labels::Labels;

/// How many of what is wrong are named.
const NAMED_MAX: usize = 5;

#[derive(Debug)]
pub(crate) enum Expected {
    /// The first folder of a path is the label.
    Folders,
    /// By path.
    File(HashMap<PathBuf, usize>),
}

impl Expected {
    /// Reads lines of `path,label`. A first line of just these words is passed over.
    pub(crate) fn from_csv(path: &Path, labels: &Labels) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_path(path)
            .with_context(|| format!("failed to read `{shown}`"))?;
        let mut found = HashMap::new();
        for (record, at) in reader.records().zip(1..) {
            let record = record.with_context(|| format!("failed to read `{shown}`"))?;
            let (Some(path), Some(label)) = (record.get(0), record.get(1)) else {
                bail!("line {at} of `{shown}` is not `path,label`");
            };
            let path = path.trim_start_matches('\u{feff}');
            if at == 1 && (path, label) == ("path", "label") {
                continue;
            }
            let Some(label) = labels.find(label) else {
                bail!("line {at} of `{shown}` expects `{label}`, which is none of the labels");
            };
            found.insert(path.trim_start_matches("./").into(), label);
        }
        Ok(Self::File(found))
    }

    /// Whether these files can be held against it. Seen before anything is asked.
    pub(crate) fn check(&self, paths: &[PathBuf], labels: &Labels) -> anyhow::Result<()> {
        match self {
            Self::Folders => {
                let mut strange: Vec<&str> =
                    paths.iter().filter_map(|path| first_folder(path)).collect();
                strange.retain(|name| labels.find(name).is_none());
                strange.dedup();
                if !strange.is_empty() {
                    bail!("the folders {} are none of the labels", named(&strange));
                }
            }
            Self::File(expected) => {
                let known: std::collections::HashSet<&PathBuf> = paths.iter().collect();
                let gone = expected.keys().filter(|path| !known.contains(path));
                let mut gone: Vec<&str> = gone.filter_map(|path| path.to_str()).collect();
                gone.sort_unstable();
                if !gone.is_empty() {
                    bail!("a label is expected for {}, which is not there", named(&gone));
                }
            }
        }
        Ok(())
    }

    pub(super) fn label(&self, path: &Path, labels: &Labels) -> Option<usize> {
        match self {
            Self::Folders => labels.find(first_folder(path)?),
            Self::File(expected) => expected.get(path).copied(),
        }
    }
}

/// The first folder of a path that has one.
fn first_folder(path: &Path) -> Option<&str> {
    let mut parts = path.components();
    let first = parts.next()?;
    parts.next().and(first.as_os_str().to_str())
}

fn named(names: &[&str]) -> String {
    let mut text: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("`{name}`")).collect();
    if names.len() > NAMED_MAX {
        text.push(format!("{} more", names.len() - NAMED_MAX));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels::from_list("invoice,other").unwrap()
    }

    fn csv(text: &str) -> anyhow::Result<Expected> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Expected::from_csv(file.path(), &labels())
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_file_of_labels_is_read() {
        let text = "\u{feff}path,label\n./a.txt, Invoice \n\"b,\"\"c\"\"\nd.txt\",OTHER,more\n";
        let expected = csv(text).unwrap();
        let Expected::File(known) = &expected else { panic!() };
        assert_eq!(known.len(), 2);
        assert_eq!(expected.label(Path::new("a.txt"), &labels()), Some(0));
        assert_eq!(expected.label(Path::new("b,\"c\"\nd.txt"), &labels()), Some(1));
        assert_eq!(expected.label(Path::new("e.txt"), &labels()), None);
        expected.check(&paths(&["a.txt", "b,\"c\"\nd.txt", "e.txt"]), &labels()).unwrap();
        let error = expected.check(&paths(&["e.txt", "a.txt"]), &labels()).unwrap_err().to_string();
        assert!(error.contains("d.txt") && !error.contains("a.txt"), "{error}");
    }

    #[test]
    fn a_label_that_nothing_can_have_is_refused() {
        let error = csv("a.txt,invoice\nb.txt,recipe\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`recipe`"), "{error}");
        assert!(csv("a.txt\n").unwrap_err().to_string().contains("line 1"));

        let folders = paths(&["top.txt", "invoice/1.txt", "Other/2.txt", "misc/3.txt", "misc/4.txt"]);
        let error = Expected::Folders.check(&folders, &labels()).unwrap_err().to_string();
        assert_eq!(error, "the folders `misc` are none of the labels");
        Expected::Folders.check(&folders[..3], &labels()).unwrap();
    }

    #[test]
    fn the_first_folder_is_the_label() {
        let label = |path: &str| Expected::Folders.label(Path::new(path), &labels());
        assert_eq!(label("invoice/2024/1.txt"), Some(0));
        assert_eq!(label("OTHER/1.txt"), Some(1));
        assert_eq!(label("invoice"), None);
    }
}
