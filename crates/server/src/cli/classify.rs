//! `overnight classify DIR`

mod here;
mod place;
mod server;
mod shown;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use super::config::RunOptions;
use super::meter::Meter;
use super::screen::Screen;
use super::{ClientOptions, Ending};
use crate::classify::{
    Answers, Expected, Labels, Listing, Outcome, Question, Report, Room, Round, State, Survey, survey,
};
use crate::config::Environment;
use crate::whole::refuse_same;
use place::{Asked, Place, Places};

/// A label shows early: some 1,000 tokens of English, which fits the smallest context that engines start with.
const CHARS_DEFAULT: u32 = 4_000;
/// More would be longer than a request line may be, were every character escaped.
const CHARS_MAX: i64 = 1_000_000;

/// Give each document in a folder one of your labels
#[derive(Debug, Args)]
#[command(after_help = "\
Every text file below DIR is sent to a model together with the labels, as one batch; equal files
are sent once. OUT gets a line for each file: path, label, sha256, duplicate_of, cut, skipped,
error, tokens. What is not UTF-8 text is skipped, hidden files and links are passed over; both are
counted.

Run it again after Ctrl-C, kill -9 or when files were added: only what has no answer yet is asked.
The state is in OUT.overnight/. Other labels, another model or another --max-chars begin anew.

It is sent to the server that --server or OVERNIGHT_URL names, or to the one on this machine if it
answers. Without one, or with an option under Configuration, it runs by itself, as `overnight run`
does.

Examples:
  overnight classify inbox --labels invoice,contract,other
  overnight classify inbox --labels-file labels.txt -o labelled.jsonl --csv labelled.csv
  overnight classify samples/documents --expected folders \\
      --labels invoice,contract,resume,email,report,recipe,other

A labels file has a label a line, with a description where the name does not say enough:
  invoice: asks for money for something delivered
  other: everything else

Exit codes: 0 all have a label, 1 failure, 2 usage, 3 some have none, 130 interrupted.")]
pub(super) struct Classify {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The labels, between commas
    #[arg(long, value_name = "A,B,...", required_unless_present = "labels_file")]
    labels: Option<String>,
    /// A file of labels, one a line, each with `: what it means` where that helps
    #[arg(long, value_name = "FILE", conflicts_with = "labels")]
    labels_file: Option<PathBuf>,
    /// Where the lines go [default: the folder's name with .labels.jsonl, here]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// The same as a table, too
    #[arg(long, value_name = "OUT.csv")]
    csv: Option<PathBuf>,
    /// The model [default: that of last time, else the one that is served, when it is the only one]
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// Longer documents are cut to so many characters
    #[arg(long, value_name = "N", default_value_t = CHARS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=CHARS_MAX))]
    max_chars: u32,
    /// The right labels, to measure the answers: a CSV file of `path,label`, or the word `folders` where the first folder
    /// below DIR is the label
    #[arg(long, value_name = "FILE|folders")]
    expected: Option<PathBuf>,
    /// Run by itself even where a server answers
    #[arg(long, conflicts_with = "server")]
    local: bool,
    #[command(flatten)]
    client: ClientOptions,
    #[command(flatten)]
    options: RunOptions,
}

impl Classify {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let screen = self.client.screen();
        let question = Question::new(self.read_labels()?, self.max_chars as usize);
        let expected = self.read_expected(&question.labels)?;
        let output = match &self.output {
            Some(output) => output.clone(),
            None => default_output(&self.folder)?,
        };
        // Before anything is made or asked: what is typed wrongly is said now.
        self.list(&output, &question, expected.as_ref())?;
        self.check_csv(&output)?;
        let state = State::open(&output, self.csv.as_deref(), &question)?;
        let last_model = state.model().filter(|_| self.model.is_none()).map(str::to_owned);
        let model = self.model.clone().or_else(|| last_model.clone());
        say_anew(screen, &state, model.as_deref());
        let mut answers = state.answers(model.as_deref(), &question.labels)?;
        // What had no answer for want of an engine may get one now.
        answers.retain(|_, answer| !matches!(answer.outcome, Outcome::Failed(_)));
        let places = Places {
            environment,
            client: &self.client,
            options: &self.options,
            is_local: self.local,
            folder: &self.folder,
            output: &output,
            labels: &question.labels,
        };
        let mut work = Work { question: &question, state, answers, model, last_model, screen };
        let list = || self.list(&output, &question, expected.as_ref());
        // Kept to the end, for it listens to signals.
        let mut place = None;
        let Some((listing, survey)) = work.ask_all(&self.folder, &places, &mut place, list)? else {
            return Ok(Ending::Interrupted);
        };
        let report = Report {
            survey: &survey,
            answers: &work.answers,
            question: &question,
            expected: expected.as_ref(),
        };
        report.write_jsonl(&output)?;
        if let Some(csv) = &self.csv {
            report.write_csv(csv)?;
        }
        let counts = report.counts(&listing);
        shown::print(screen, &output, work.model.as_deref(), &report, &counts)?;
        Ok(if counts.is_complete() { Ending::Answered } else { Ending::WithFailed })
    }

    fn read_labels(&self) -> anyhow::Result<Labels> {
        if let Some(path) = &self.labels_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("failed to read `{}`", path.display()))?;
            return Labels::from_lines(&text)
                .with_context(|| format!("failed to read the labels in `{}`", path.display()));
        }
        Labels::from_list(self.labels.as_deref().unwrap_or_default()).context("failed to read --labels")
    }

    fn read_expected(&self, labels: &Labels) -> anyhow::Result<Option<Expected>> {
        match &self.expected {
            None => Ok(None),
            Some(word) if word.as_os_str() == "folders" => Ok(Some(Expected::Folders)),
            Some(path) => Expected::from_csv(path, labels).map(Some),
        }
    }

    /// The table must not be written over what else the command reads or writes.
    fn check_csv(&self, output: &Path) -> anyhow::Result<()> {
        let Some(csv) = &self.csv else { return Ok(()) };
        let others = [
            (Some(output), "the output"),
            (self.labels_file.as_deref(), "the file of the labels"),
            (self.expected.as_deref(), "the file of the expected labels"),
        ];
        refuse_same(csv, "--csv", &others)
    }

    /// The files below the folder, without those that belong to this command.
    fn list(
        &self,
        output: &Path,
        question: &Question,
        expected: Option<&Expected>,
    ) -> anyhow::Result<Listing> {
        let others =
            [Some(output), self.csv.as_deref(), self.labels_file.as_deref(), self.expected.as_deref()];
        let others: Vec<&Path> = others.into_iter().flatten().collect();
        let listing = Listing::of(&self.folder, &others)?;
        if let Some(expected) = expected {
            expected.check(&listing.paths, &question.labels)?;
        }
        Ok(listing)
    }
}

/// What is asked, and what is known.
struct Work<'a> {
    question: &'a Question,
    state: State,
    answers: Answers,
    /// None: whichever is served, which is found out when something is to be asked.
    model: Option<String>,
    /// That of last time, where it is taken because none was named.
    last_model: Option<String>,
    screen: Screen,
}

impl Work<'_> {
    /// Asks for every document that has no answer. None: it was interrupted.
    fn ask_all<'a>(
        &mut self,
        folder: &Path,
        places: &Places<'a>,
        place: &mut Option<Place<'a>>,
        list: impl Fn() -> anyhow::Result<Listing>,
    ) -> anyhow::Result<Option<(Listing, Survey)>> {
        if let Some(round) = self.state.in_flight(self.model.as_deref()) {
            let place = place.insert(places.of(&round)?);
            if !self.ask(round, place)? {
                return Ok(None);
            }
        }
        let mut room = Room::ENDLESS;
        loop {
            let listing = list()?;
            let round = self.state.next_round();
            let survey = self.look(folder, &listing, room, &round)?;
            if survey.asked.requests == 0 {
                return Ok(Some((listing, survey)));
            }
            let place = match &mut *place {
                Some(place) => place,
                none => none.insert(places.of(&round)?),
            };
            if room == Room::ENDLESS {
                let allowed = place.room()?;
                if !allowed.holds(&survey.asked) {
                    room = allowed;
                    continue;
                }
            }
            if !self.ask(round, place)? {
                return Ok(None);
            }
            // What was added meanwhile is for the next time.
            if survey.is_whole {
                return Ok(Some((listing, survey)));
            }
        }
    }

    fn look(
        &self,
        folder: &Path,
        listing: &Listing,
        room: Room,
        round: &Round,
    ) -> anyhow::Result<Survey> {
        let label = format!("reading {}", folder.display());
        let mut meter = Meter::of_files(self.screen, &label);
        let total = listing.paths.len() as u64;
        let seen = |count| meter.set(count, total, || format!("{count} of {total} files"));
        let survey =
            survey(folder, listing, self.question, &self.answers, room, &round.requests(), seen);
        meter.finish();
        survey
    }

    /// Asks for the documents of a round and takes what came of it. False: it was interrupted.
    fn ask(&mut self, mut round: Round, place: &mut Place<'_>) -> anyhow::Result<bool> {
        match place.ask(&mut round, self.model.as_deref())? {
            Asked::All => {}
            Asked::Interrupted => return Ok(false),
            Asked::Refused { is_model_unknown } => {
                round.forget()?;
                let last = self.last_model.iter().filter(|_| is_model_unknown);
                let hint =
                    last.map(|last| format!("; last time it was `{last}`: name another with --model"));
                bail!(
                    "the documents cannot be asked for as it is; nothing was sent{}",
                    hint.collect::<String>()
                );
            }
        }
        round.read_answers(&self.question.labels, &mut self.answers)?;
        self.model = round.model().map(str::to_owned);
        self.state.close(round)?;
        Ok(true)
    }
}

/// Says why answers that were paid for are not used.
fn say_anew(screen: Screen, state: &State, model: Option<&str>) {
    if state.is_new && state.has_others {
        screen.note("the labels or --max-chars differ from last time: beginning anew (going back finds the earlier answers)");
    }
    if let Some(earlier) = state.model().filter(|earlier| Some(*earlier) != model) {
        screen.note(&format!("last time the model was `{earlier}`: beginning anew"));
    }
}

/// Named after the folder, and not in it.
fn default_output(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::fs::canonicalize(folder)
        .with_context(|| format!("failed to find `{}`", folder.display()))?;
    match folder.file_name() {
        Some(name) => Ok(format!("{}.labels.jsonl", name.to_string_lossy()).into()),
        None => bail!("name the output: -o OUT"),
    }
}
