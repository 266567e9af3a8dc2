//! One look at all documents: what each file is, and the requests for those that nothing is known of yet.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use overnight_domain::file::Sha256;

use super::answer::Answers;
use super::documents::{Content, Listing, read};
use super::question::Question;
use crate::whole::write_whole;

/// How much may be asked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) requests: u64,
    pub(crate) len: u64,
}

impl Room {
    pub(crate) const ENDLESS: Self = Self { requests: u64::MAX, len: u64::MAX };

    pub(crate) fn holds(&self, asked: &Self) -> bool {
        asked.requests <= self.requests && asked.len <= self.len
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(super) entries: Vec<Entry>,
    /// Requests that were written, and their bytes.
    pub(crate) asked: Room,
    /// False where the room did not suffice for all.
    pub(crate) is_whole: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Document { sha256: Sha256, is_cut: bool },
    Skipped(&'static str),
    Unreadable(String),
}

/// Reads all files of a listing, and writes a request for each document that `answers` does not know, once. Nothing is
/// left at `requests` where nothing is to be asked.
pub(crate) fn survey(
    folder: &Path,
    listing: &Listing,
    question: &Question,
    answers: &Answers,
    room: Room,
    requests: &Path,
    mut seen: impl FnMut(u64),
) -> anyhow::Result<Survey> {
    let mut entries = Vec::with_capacity(listing.paths.len());
    let mut asked: HashSet<Sha256> = HashSet::new();
    let (mut len, mut is_whole) = (0, true);
    write_whole(requests, |out| {
        for (path, count) in listing.paths.iter().zip(1..) {
            let what = match read(&folder.join(path)) {
                Content::Text { text, sha256 } => {
                    let (text, is_cut) = question.cut(&text);
                    if !answers.contains_key(&sha256) && !asked.contains(&sha256) {
                        let line = question.line(&sha256, text);
                        let is_room =
                            (asked.len() as u64) < room.requests && len + line.len() as u64 <= room.len;
                        // A single line that is too long is for the server to refuse.
                        if is_room || asked.is_empty() {
                            out.write_all(&line)?;
                            len += line.len() as u64;
                            asked.insert(sha256);
                        } else {
                            is_whole = false;
                        }
                    }
                    What::Document { sha256, is_cut }
                }
                Content::Skipped(skip) => What::Skipped(skip.reason()),
                Content::Unreadable(why) => What::Unreadable(why),
            };
            entries.push(Entry { path: path.clone(), what });
            seen(count);
        }
        Ok(())
    })?;
    if asked.is_empty() {
        std::fs::remove_file(requests)?;
    }
    let folders = listing.unreadable.iter();
    entries.extend(
        folders.map(|(path, why)| Entry { path: path.clone(), what: What::Unreadable(why.clone()) }),
    );
    Ok(Survey { entries, asked: Room { requests: asked.len() as u64, len }, is_whole })
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Answer, Outcome};
    use super::super::labels::Labels;
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &[u8])]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in files {
                std::fs::write(folder.path().join(name), content).unwrap();
            }
            Self(folder)
        }

        fn survey(&self, answers: &Answers, room: Room) -> (Survey, Vec<serde_json::Value>) {
            let question = Question::new(Labels::from_list("a,b").unwrap(), 5);
            let listing = Listing::of(self.0.path(), &[]).unwrap();
            let requests = self.0.path().join(".requests");
            let mut seen = Vec::new();
            let path = self.0.path();
            let found =
                survey(path, &listing, &question, answers, room, &requests, |count| seen.push(count));
            assert_eq!(seen.len(), listing.paths.len());
            let lines = match std::fs::read_to_string(&requests) {
                Ok(text) => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
                Err(_) => Vec::new(),
            };
            (found.unwrap(), lines)
        }
    }

    fn texts(lines: &[serde_json::Value]) -> Vec<&str> {
        lines.iter().map(|line| line["body"]["messages"][1]["content"].as_str().unwrap()).collect()
    }

    #[test]
    fn equal_documents_are_asked_once_and_known_ones_not_at_all() {
        let folder = Folder::new(&[
            ("1.txt", b"one"),
            ("2.txt", b"two"),
            ("3.txt", b"one"),
            ("4.bin", b"\xff"),
            ("5.txt", b"a long one"),
        ]);
        let (found, lines) = folder.survey(&Answers::new(), Room::ENDLESS);
        assert_eq!(texts(&lines), ["one", "two", "a lon"]);
        assert_eq!((found.asked.requests, found.is_whole), (3, true));
        let whats: Vec<&What> = found.entries.iter().map(|entry| &entry.what).collect();
        assert_eq!(whats[0], whats[2]);
        assert_eq!(whats[3], &What::Skipped("not UTF-8 text"));
        assert!(matches!(whats[4], What::Document { is_cut: true, .. }));

        let What::Document { sha256, .. } = *whats[0] else { panic!() };
        let known = Answer { outcome: Outcome::Label(0), tokens: None };
        let (_, lines) = folder.survey(&Answers::from([(sha256, known)]), Room::ENDLESS);
        assert_eq!(texts(&lines), ["two", "a lon"]);
    }

    #[test]
    fn what_has_no_room_is_left_for_later() {
        let folder = Folder::new(&[("1.txt", b"one"), ("2.txt", b"two"), ("3.txt", b"one")]);
        let (found, lines) = folder.survey(&Answers::new(), Room { requests: 1, len: u64::MAX });
        assert_eq!((texts(&lines), found.is_whole), (vec!["one"], false));
        let (found, lines) = folder.survey(&Answers::new(), Room { requests: 9, len: 1 });
        assert_eq!((texts(&lines), found.is_whole), (vec!["one"], false));
        let (found, _) = folder.survey(&Answers::new(), Room { requests: 2, len: u64::MAX });
        assert!(found.is_whole);
    }

    #[test]
    fn an_empty_folder_leaves_nothing_behind() {
        let folder = Folder::new(&[]);
        let (found, lines) = folder.survey(&Answers::new(), Room::ENDLESS);
        assert!(found.entries.is_empty() && found.is_whole && lines.is_empty());
        assert!(!folder.0.path().join(".requests").exists());
    }
}
