//! What is written at the end: a line for every file, and what they come to.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use overnight_domain::file::Sha256;
use serde::Serialize;

use super::answer::{Answer, Answers, Outcome, Tokens};
use super::documents::Listing;
use super::expected::Expected;
use super::question::Question;
use super::score::Score;
use super::survey::{Entry, Survey, What};
use crate::whole::write_whole;

const UNASKED: &str = "there is no answer for it; run the command again";

pub(crate) struct Report<'a> {
    pub(crate) survey: &'a Survey,
    pub(crate) answers: &'a Answers,
    pub(crate) question: &'a Question,
    pub(crate) expected: Option<&'a Expected>,
}

/// One file, as it stands in the output.
#[derive(Debug, Serialize)]
struct Row<'a> {
    path: Cow<'a, str>,
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
    sha256: Option<Sha256>,
    /// The first file that holds the same.
    duplicate_of: Option<Cow<'a, str>>,
    /// Only its beginning was sent.
    cut: bool,
    /// Why it is no document.
    skipped: Option<&'static str>,
    /// Why it has no label.
    error: Option<&'a str>,
    /// Counted where it was asked, which a duplicate was not.
    tokens: Option<Tokens>,
}

/// How many there are of everything.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) files: u64,
    pub(crate) documents: u64,
    pub(crate) duplicates: u64,
    pub(crate) cut: u64,
    pub(crate) labelled: u64,
    /// Answers that are no label.
    pub(crate) stray: u64,
    /// Documents without an answer.
    pub(crate) failed: u64,
    /// Files and folders that could not be read.
    pub(crate) unreadable: u64,
    pub(crate) skipped: BTreeMap<&'static str, u64>,
    pub(crate) passed_over: BTreeMap<&'static str, u64>,
    pub(crate) labels: Vec<LabelCount>,
    pub(crate) tokens: Tokens,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<Score>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LabelCount {
    pub(crate) label: String,
    pub(crate) documents: u64,
}

impl Counts {
    /// Everything that is a document has a label, and everything could be looked at.
    pub(crate) fn is_complete(&self) -> bool {
        self.stray + self.failed + self.unreadable == 0
    }
}

impl<'a> Report<'a> {
    /// One JSON object a line.
    pub(crate) fn write_jsonl(&self, to: &Path) -> anyhow::Result<()> {
        write_whole(to, |out| {
            self.rows().try_for_each(|row| {
                serde_json::to_writer(&mut *out, &row)?;
                out.write_all(b"\n")
            })
        })
        .map(|_| ())
    }

    /// The same as a table.
    pub(crate) fn write_csv(&self, to: &Path) -> anyhow::Result<()> {
        write_whole(to, |out| self.csv(out)).map(|_| ())
    }

    fn csv(&self, out: &mut dyn Write) -> io::Result<()> {
        const AFTER: [&str; 7] =
            ["sha256", "duplicate_of", "cut", "skipped", "error", "prompt_tokens", "answer_tokens"];
        let mut writer = csv::Writer::from_writer(out);
        let expected = self.expected.map(|_| "expected");
        writer.write_record(["path", "label"].into_iter().chain(expected).chain(AFTER))?;
        for row in self.rows() {
            let expected = self.expected.map(|_| row.expected.unwrap_or_default());
            let sha256 = row.sha256.map(|digest| digest.to_string()).unwrap_or_default();
            let count = |count: fn(Tokens) -> u64| {
                row.tokens.map(|tokens| count(tokens).to_string()).unwrap_or_default()
            };
            let (prompt, answer) = (count(|tokens| tokens.prompt), count(|tokens| tokens.answer));
            let after = [
                sha256.as_str(),
                row.duplicate_of.as_deref().unwrap_or_default(),
                if row.cut { "true" } else { "false" },
                row.skipped.unwrap_or_default(),
                row.error.unwrap_or_default(),
                &prompt,
                &answer,
            ];
            let before = [row.path.as_ref(), row.label.unwrap_or_default()];
            writer.write_record(before.into_iter().chain(expected).chain(after))?;
        }
        writer.flush()
    }

    pub(crate) fn counts(&self, listing: &Listing) -> Counts {
        let labels = &self.question.labels;
        let mut counts = Counts { passed_over: listing.passed.clone(), ..Counts::default() };
        let mut by_label = vec![0; labels.len()];
        let mut score = self.expected.map(|_| Score::new(labels));
        for (entry, row) in self.survey.entries.iter().zip(self.rows()) {
            counts.files += 1;
            counts.cut += u64::from(row.cut);
            counts.duplicates += u64::from(row.duplicate_of.is_some());
            let tokens = row.tokens.unwrap_or_default();
            counts.tokens.prompt += tokens.prompt;
            counts.tokens.answer += tokens.answer;
            let sha256 = match &entry.what {
                What::Document { sha256, .. } => sha256,
                What::Skipped(reason) => {
                    *counts.skipped.entry(reason).or_default() += 1;
                    continue;
                }
                What::Unreadable(_) => {
                    counts.unreadable += 1;
                    continue;
                }
            };
            counts.documents += 1;
            let mut answered = None;
            match self.answers.get(sha256).map(|answer| &answer.outcome) {
                Some(Outcome::Label(label)) => {
                    answered = Some(*label);
                    by_label[*label] += 1;
                    counts.labelled += 1;
                }
                Some(Outcome::Stray(_)) => counts.stray += 1,
                Some(Outcome::Failed(_)) | None => counts.failed += 1,
            }
            if let (Some(score), Some(label)) = (&mut score, self.expected_of(entry)) {
                score.add(label, answered);
            }
        }
        let count = |(name, documents): (&str, u64)| LabelCount { label: name.to_owned(), documents };
        counts.labels = labels.names().zip(by_label).map(count).collect();
        counts.score = score;
        counts
    }

    /// The first `count` documents whose answer is not the expected one: path, what was expected, what was answered.
    pub(crate) fn mistakes(&self, count: usize) -> Vec<[String; 3]> {
        let rows = self.rows().filter(|row| row.expected.is_some() && row.label != row.expected);
        // One line each, whatever a model or a file system says.
        let line = |text: &str| text.replace(char::is_control, " ");
        let text = |text: Option<&str>| line(text.unwrap_or_default());
        rows.take(count)
            .map(|row| [line(&row.path), text(row.expected), text(row.label.or(row.error))])
            .collect()
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut first: HashMap<Sha256, &Path> = HashMap::new();
        self.survey.entries.iter().map(move |entry| {
            let mut row = Row {
                path: entry.path.to_string_lossy(),
                label: None,
                expected: None,
                sha256: None,
                duplicate_of: None,
                cut: false,
                skipped: None,
                error: None,
                tokens: None,
            };
            match &entry.what {
                What::Skipped(reason) => row.skipped = Some(*reason),
                What::Unreadable(why) => row.error = Some(why),
                What::Document { sha256, is_cut } => {
                    row.sha256 = Some(*sha256);
                    row.cut = *is_cut;
                    row.expected = self.expected_of(entry).map(|label| self.question.labels.name(label));
                    row.duplicate_of = first.get(sha256).map(|path| path.to_string_lossy());
                    first.entry(*sha256).or_insert(&entry.path);
                    self.fill(&mut row, self.answers.get(sha256));
                }
            }
            row
        })
    }

    fn fill(&self, row: &mut Row<'a>, answer: Option<&'a Answer>) {
        let Some(answer) = answer else {
            row.error = Some(UNASKED);
            return;
        };
        if let Outcome::Label(label) = answer.outcome {
            row.label = Some(self.question.labels.name(label));
        }
        row.error = answer.outcome.error();
        row.tokens = answer.tokens.filter(|_| row.duplicate_of.is_none());
    }

    fn expected_of(&self, entry: &Entry) -> Option<usize> {
        self.expected?.label(&entry.path, &self.question.labels)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::labels::Labels;
    use super::super::survey::Room;
    use super::*;

    struct Case {
        survey: Survey,
        answers: Answers,
        question: Question,
    }

    fn digest(number: u8) -> Sha256 {
        Sha256([number; 32])
    }

    fn case() -> Case {
        let document = |number, is_cut| What::Document { sha256: digest(number), is_cut };
        let entry = |path: &str, what| Entry { path: path.into(), what };
        let entries = vec![
            entry("a/1 \"x\",\n2.txt", document(1, false)),
            entry("a/2.txt", document(2, true)),
            entry("b/1.txt", document(1, false)),
            entry("b/4.txt", document(4, false)),
            entry("b/5.txt", document(5, false)),
            entry("c.bin", What::Skipped("not UTF-8 text")),
            entry("d.txt", What::Unreadable("no, thanks".to_owned())),
        ];
        let tokens = Some(Tokens { prompt: 10, answer: 3 });
        let answers = Answers::from([
            (digest(1), Answer { outcome: Outcome::Label(0), tokens }),
            (
                digest(2),
                Answer { outcome: Outcome::Stray("the answer is no label: `é\n`".to_owned()), tokens },
            ),
            (digest(4), Answer { outcome: Outcome::Failed("too late".to_owned()), tokens: None }),
        ]);
        let asked = Room { requests: 0, len: 0 };
        let question = Question::new(Labels::from_list("a,b").unwrap(), 10);
        Case { survey: Survey { entries, asked, is_whole: true }, answers, question }
    }

    impl Case {
        fn report<'a>(&'a self, expected: Option<&'a Expected>) -> Report<'a> {
            Report { survey: &self.survey, answers: &self.answers, question: &self.question, expected }
        }
    }

    #[test]
    fn every_file_has_its_line() {
        let (case, folder) = (case(), tempfile::tempdir().unwrap());
        let path = folder.path().join("out.jsonl");
        case.report(None).write_jsonl(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 7);
        let tokens = json!({"prompt": 10, "answer": 3});
        let first = json!({
            "path": "a/1 \"x\",\n2.txt", "label": "a", "sha256": digest(1).to_string(), "duplicate_of": null,
            "cut": false, "skipped": null, "error": null, "tokens": tokens,
        });
        assert_eq!(lines[0], first);
        assert_eq!((&lines[1]["cut"], &lines[1]["label"]), (&json!(true), &Value::Null));
        assert_eq!(lines[1]["error"], "the answer is no label: `é\n`");
        assert_eq!((&lines[2]["duplicate_of"], &lines[2]["label"]), (&first["path"], &json!("a")));
        assert_eq!(lines[2]["tokens"], Value::Null, "it was not asked");
        assert_eq!(lines[4]["error"], UNASKED);
        assert_eq!(lines[5]["skipped"], "not UTF-8 text");
        assert_eq!(lines[6]["error"], "no, thanks");
    }

    #[test]
    fn the_table_says_the_same_and_is_quoted() {
        let case = case();
        let mut table = Vec::new();
        case.report(Some(&Expected::Folders)).csv(&mut table).unwrap();
        let text = std::str::from_utf8(&table).unwrap();
        let one = digest(1);
        let two = digest(2);
        let begins = format!(
            "path,label,expected,sha256,duplicate_of,cut,skipped,error,prompt_tokens,answer_tokens\n\
             \"a/1 \"\"x\"\",\n2.txt\",a,a,{one},,false,,,10,3\n\
             a/2.txt,,a,{two},,true,,\"the answer is no label: `é\n`\",10,3\n\
             b/1.txt,a,b,{one},\"a/1 \"\"x\"\",\n2.txt\",false,,,,\n"
        );
        assert!(text.starts_with(&begins), "{text}");
        assert!(
            text.ends_with("c.bin,,,,,false,not UTF-8 text,,,\nd.txt,,,,,false,,\"no, thanks\",,\n")
        );
    }

    #[test]
    fn counts_and_score_cover_every_file() {
        let case = case();
        let listing = Listing::default();
        let report = case.report(Some(&Expected::Folders));
        let counts = report.counts(&listing);
        assert_eq!((counts.files, counts.documents, counts.duplicates, counts.cut), (7, 5, 1, 1));
        assert_eq!((counts.labelled, counts.stray, counts.failed, counts.unreadable), (2, 1, 2, 1));
        assert_eq!((counts.tokens.prompt, counts.tokens.answer), (20, 6));
        assert!(!counts.is_complete());
        let score = counts.score.unwrap();
        assert_eq!((score.documents, score.right), (5, 1));
        assert_eq!(
            score.labels[1].instead,
            BTreeMap::from([("a".to_owned(), 1), ("(none)".to_owned(), 2)])
        );
        let mistakes = report.mistakes(2);
        assert_eq!(mistakes[0][0], "a/2.txt");
        assert_eq!(mistakes[1], ["b/1.txt", "b", "a"].map(str::to_owned));
        assert!(case.report(None).counts(&listing).score.is_none());
    }
}
