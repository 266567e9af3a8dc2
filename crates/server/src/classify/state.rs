//! What lasts beyond one run of the command, in `OUT.overnight/`: rounds of questions and what came of them.
//!
//! A folder for each question, named by its digest, so that changed labels begin anew and going back to earlier ones finds
//! what was answered then. In it, for each round:
//!
//! | file | |
//! | --- | --- |
//! | `N.requests.jsonl` | what is asked; gone when there are results |
//! | `N.round.json` | that it was begun: with which model, and where |
//! | `N.results.jsonl` | the result lines, whole or not there |
//!
//! A round without results is in flight. Each file appears whole or not at all.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::{self, Answers};
use super::labels::Labels;
use super::question::Question;
use crate::lock::lock_folder;
use crate::one_batch::state_folder;
use crate::whole::write_whole;

pub(crate) struct State {
    folder: PathBuf,
    /// Other questions were asked for this output before.
    pub(crate) has_others: bool,
    /// Nothing was asked with this question before.
    pub(crate) is_new: bool,
    rounds: Vec<Round>,
    /// Held as long as the process lives: two commands would ask the same twice.
    _lock: File,
}

/// Documents that are asked together.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    folder: PathBuf,
    number: u32,
    /// None: its requests may be written, and nothing was begun.
    pub(crate) sent: Option<Sent>,
}

/// That a round was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) model: String,
    /// The server that has it. None: it is run by this command.
    pub(crate) server: Option<String>,
    /// Its input there.
    pub(crate) file: Option<String>,
    pub(crate) batch: Option<String>,
}

impl State {
    /// The state of an output, which may be written as a table, too. What is there already and cannot be of this command
    /// is not written over.
    pub(crate) fn open(output: &Path, csv: Option<&Path>, question: &Question) -> anyhow::Result<Self> {
        let all = state_folder(output);
        let mut written = [Some(output), csv].into_iter().flatten();
        if let Some(other) = written.find(|path| path.exists() && !all.exists()) {
            bail!(
                "`{}` exists and is not of this command; remove it or choose another output",
                other.display()
            );
        }
        fs::create_dir_all(&all).with_context(|| format!("failed to create `{}`", all.display()))?;
        let Some(lock) = lock_folder(&all)? else {
            bail!("another process works on `{}`; wait for it, or choose another output", all.display())
        };
        let folder = all.join(question.digest());
        let is_new = !folder.exists();
        let has_others = fs::read_dir(&all)?
            .filter_map(Result::ok)
            .any(|entry| entry.path() != folder && entry.path().join(QUESTION).exists());
        fs::create_dir_all(&folder)?;
        if is_new {
            let labels: Vec<&str> = question.labels.names().collect();
            let text = json!({"labels": labels, "max_chars": question.chars_max}).to_string();
            write_whole(&folder.join(QUESTION), |out| out.write_all(text.as_bytes()))?;
        }
        let rounds = rounds(&folder)?;
        Ok(Self { folder, has_others, is_new, rounds, _lock: lock })
    }

    /// The model that was asked last.
    pub(crate) fn model(&self) -> Option<&str> {
        self.rounds.last().and_then(Round::model)
    }

    /// What this model has answered so far.
    pub(crate) fn answers(&self, model: Option<&str>, labels: &Labels) -> anyhow::Result<Answers> {
        let mut answers = Answers::new();
        for round in self.rounds.iter().filter(|round| round.model() == model) {
            if round.results().exists() {
                round.read_answers(labels, &mut answers)?;
            }
        }
        Ok(answers)
    }

    /// The round of this model that was begun and has no results yet.
    pub(crate) fn in_flight(&self, model: Option<&str>) -> Option<Round> {
        let last = self.rounds.iter().rfind(|round| round.model() == model);
        last.filter(|round| !round.results().exists()).cloned()
    }

    /// The round that comes next, which is not begun.
    pub(crate) fn next_round(&self) -> Round {
        let number = self.rounds.iter().map(|round| round.number).max().map_or(1, |last| last + 1);
        Round { folder: self.folder.clone(), number, sent: None }
    }

    /// A round that was begun has its results. It keeps its place among the rounds: which of two answers is the later one
    /// follows from it.
    pub(crate) fn close(&mut self, round: Round) -> anyhow::Result<()> {
        round.clear()?;
        match self.rounds.iter_mut().find(|known| known.number == round.number) {
            Some(known) => *known = round,
            None => self.rounds.push(round),
        }
        Ok(())
    }
}

impl Round {
    pub(crate) fn requests(&self) -> PathBuf {
        path(&self.folder, self.number, "requests.jsonl")
    }

    pub(crate) fn results(&self) -> PathBuf {
        path(&self.folder, self.number, "results.jsonl")
    }

    /// Where it runs, when this command runs it.
    pub(crate) fn run_folder(&self) -> PathBuf {
        state_folder(&self.results())
    }

    /// Where the round and those before it are kept.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn model(&self) -> Option<&str> {
        self.sent.as_ref().map(|sent| sent.model.as_str())
    }

    fn begun(&self) -> PathBuf {
        path(&self.folder, self.number, BEGUN)
    }

    /// Notes that it was begun, or how far that has come.
    pub(crate) fn save(&mut self, sent: Sent) -> anyhow::Result<()> {
        let text = serde_json::to_vec(&sent)?;
        write_whole(&self.begun(), |out| out.write_all(&text))?;
        self.sent = Some(sent);
        Ok(())
    }

    /// Nothing of it was run, and nothing will be.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        fs::remove_file(self.begun())?;
        fs::remove_file(self.requests())?;
        Ok(())
    }

    /// Removes what the results were made from.
    fn clear(&self) -> anyhow::Result<()> {
        if self.requests().exists() {
            fs::remove_file(self.requests())?;
        }
        if self.run_folder().exists() {
            fs::remove_dir_all(self.run_folder())?;
        }
        Ok(())
    }

    pub(crate) fn read_answers(&self, labels: &Labels, answers: &mut Answers) -> anyhow::Result<()> {
        let path = self.results();
        let failed = || format!("failed to read `{}`", path.display());
        for line in BufReader::new(File::open(&path).with_context(failed)?).lines() {
            let line = line.with_context(failed)?;
            let (document, answer) = answer::read(&line, labels).with_context(failed)?;
            answers.insert(document, answer);
        }
        Ok(())
    }
}

const QUESTION: &str = "question.json";
const BEGUN: &str = "round.json";
/// Of files that were being written when somebody pulled the plug.
const UNFINISHED: &str = ".overnight-";

fn path(folder: &Path, number: u32, name: &str) -> PathBuf {
    folder.join(format!("{number}.{name}"))
}

/// The rounds that were begun, in their order. What was left behind otherwise is removed.
fn rounds(folder: &Path) -> anyhow::Result<Vec<Round>> {
    let mut rounds = Vec::new();
    let mut requests = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(UNFINISHED) {
            fs::remove_file(&path)?;
            continue;
        }
        let Some((number, rest)) = name.split_once('.') else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        match rest {
            BEGUN => {
                let text = fs::read(&path)?;
                let sent = serde_json::from_slice(&text)
                    .with_context(|| format!("`{}` is damaged", path.display()))?;
                rounds.push(Round { folder: folder.to_owned(), number, sent: Some(sent) });
            }
            "requests.jsonl" => requests.push((number, path)),
            _ => {}
        }
    }
    rounds.sort_by_key(|round: &Round| round.number);
    for (number, path) in requests {
        if !rounds.iter().any(|round| round.number == number) {
            fs::remove_file(path)?;
        }
    }
    for round in rounds.iter().filter(|round| round.results().exists()) {
        round.clear()?;
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(labels: &str) -> Question {
        Question::new(Labels::from_list(labels).unwrap(), 100)
    }

    fn sent(model: &str) -> Sent {
        Sent { model: model.to_owned(), server: None, file: None, batch: None }
    }

    fn line(document: u8, label: &str) -> String {
        let id = format!("{document:02x}").repeat(32);
        let body = json!({"choices": [{"message": {"content": label}}]});
        let response = json!({"status_code": 200, "body": body});
        format!("{}\n", json!({"custom_id": id, "response": response, "error": null}))
    }

    #[test]
    fn a_round_is_in_flight_until_it_has_results() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let question = question("a,b");
        let mut state = State::open(&out, None, &question).unwrap();
        assert!(state.is_new && !state.has_others && state.model().is_none());
        // Written, but never begun: it goes.
        fs::write(state.next_round().requests(), "{}\n").unwrap();
        fs::write(state.folder.join(".overnight-abc"), "half").unwrap();
        drop(state);
        state = State::open(&out, None, &question).unwrap();
        assert!(!state.is_new && !state.next_round().requests().exists());
        assert!(!state.folder.join(".overnight-abc").exists());

        let mut round = state.next_round();
        fs::write(round.requests(), "{}\n").unwrap();
        round.save(sent("m")).unwrap();
        round.save(Sent { batch: Some("batch_1".to_owned()), ..sent("m") }).unwrap();
        drop(state);
        let mut state = State::open(&out, None, &question).unwrap();
        assert_eq!(state.model(), Some("m"));
        assert!(state.in_flight(Some("other")).is_none() && state.in_flight(None).is_none());
        let round = state.in_flight(Some("m")).unwrap();
        assert_eq!(round.sent, Some(Sent { batch: Some("batch_1".to_owned()), ..sent("m") }));
        assert!(round.requests().exists());

        fs::write(round.results(), line(1, "a")).unwrap();
        assert!(state.in_flight(Some("m")).is_none());
        state.close(round.clone()).unwrap();
        assert!(!round.requests().exists());

        // A later round knows better, and another model knows nothing of it.
        let mut second = state.next_round();
        second.save(sent("m")).unwrap();
        fs::write(second.results(), line(1, "b") + &line(2, "a")).unwrap();
        state.close(second).unwrap();
        let answers = state.answers(Some("m"), &question.labels).unwrap();
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[&overnight_domain::file::Sha256([1; 32])].outcome, answer::Outcome::Label(1));
        assert!(state.answers(Some("other"), &question.labels).unwrap().is_empty());
    }

    /// The first model was interrupted, another one was asked meanwhile, and then the first one was gone on with: its next
    /// round got the other model's number, and wrote over its answers.
    #[test]
    fn a_number_is_given_to_one_round_only() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let question = question("a,b");
        let mut state = State::open(&out, None, &question).unwrap();
        let mut interrupted = state.next_round();
        interrupted.save(sent("m1")).unwrap();
        drop(state);
        state = State::open(&out, None, &question).unwrap();
        let mut other = state.next_round();
        other.save(sent("m2")).unwrap();
        fs::write(other.results(), line(1, "b")).unwrap();
        state.close(other).unwrap();

        let interrupted = state.in_flight(Some("m1")).unwrap();
        fs::write(interrupted.results(), line(1, "a")).unwrap();
        state.close(interrupted).unwrap();
        assert_eq!((state.next_round().number, state.model()), (3, Some("m2")));
        let label = |model| state.answers(Some(model), &question.labels).unwrap();
        let document = overnight_domain::file::Sha256([1; 32]);
        assert_eq!(label("m1")[&document].outcome, answer::Outcome::Label(0));
        assert_eq!(label("m2")[&document].outcome, answer::Outcome::Label(1));
    }

    #[test]
    fn another_question_begins_anew_and_the_first_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let state = State::open(&out, None, &question("a,b")).unwrap();
        let mut round = state.next_round();
        round.save(sent("m")).unwrap();
        fs::write(round.results(), line(1, "a")).unwrap();
        drop(state);
        let state = State::open(&out, None, &question("a,b,c")).unwrap();
        assert!(state.is_new && state.has_others && state.model().is_none());
        drop(state);
        let state = State::open(&out, None, &question("a,b")).unwrap();
        assert!(!state.is_new);
        assert_eq!(state.answers(Some("m"), &question("a,b").labels).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        fs::write(&out, "mine").unwrap();
        let error = State::open(&out, None, &question("a,b")).err().unwrap().to_string();
        assert!(error.contains("is not of this command"), "{error}");
        fs::remove_file(&out).unwrap();
        let csv = folder.path().join("out.csv");
        fs::write(&csv, "mine").unwrap();
        let error = State::open(&out, Some(&csv), &question("a,b")).err().unwrap().to_string();
        assert!(error.contains("out.csv` exists and is not of this command"), "{error}");
        fs::remove_file(&csv).unwrap();
        drop(State::open(&out, Some(&csv), &question("a,b")).unwrap());
        // It is known now.
        fs::write(&csv, "ours").unwrap();
        let held = State::open(&out, Some(&csv), &question("a,b")).unwrap();
        let error = State::open(&out, None, &question("a,c")).err().unwrap().to_string();
        assert!(error.contains("another process works on"), "{error}");
        drop(held);
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let state = State::open(&out, None, &question("a,b")).unwrap();
        let mut round = state.next_round();
        round.save(sent("m")).unwrap();
        fs::write(round.results(), line(1, "a") + "{\"custom_id\":\"").unwrap();
        drop(state);
        let state = State::open(&out, None, &question("a,b")).unwrap();
        let error = state.answers(Some("m"), &question("a,b").labels).unwrap_err();
        assert!(format!("{error:#}").contains("1.results.jsonl"), "{error:#}");
    }
}
