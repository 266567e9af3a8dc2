//! `overnight run IN -o OUT`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use overnight_domain::batch::{BatchError, BatchOptions, BatchState, Order};
use overnight_domain::limits::ATTEMPTS_MAX;
use overnight_domain::progress::Pace;

use super::Ending;
use super::config::RunOptions;
use super::meter::Meter;
use super::screen::Screen;
use super::serve::{THREADS_WITHIN, start_logging};
use super::status::cut_short;
use super::waits::Waits;
use crate::config::units::{parse_duration, show_duration};
use crate::config::{Config, Environment};
use crate::notify::Sender;
use crate::one_batch::{OneBatch, Progress, Targets, first_route, refuse_changed, state_folder};
use crate::run::{EndAtSignal, Node, exit_on_signal, stop_on_signal};
use crate::service::Announcer;
use crate::verify::RunRecord;
use crate::whole::{refuse_same, write_whole};

/// What is left in the state folder when the run is done.
const RECORD: &str = "run.json";
const POLL_EVERY: Duration = Duration::from_millis(200);
/// At the end, whoever is told is waited for so long.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// Run one file without a server; run it again to go on after an interruption
#[derive(Debug, Args)]
#[command(after_help = "\
OUT is written whole at the end, in input order, error lines in their places unless --errors parts
them. Until then the state lies in OUT.overnight/. Ctrl-C or even kill -9 costs nothing that was
answered: run the same command again.

Examples:
  overnight run requests.jsonl -o answers.jsonl
  overnight run requests.jsonl -o answers.jsonl --engine http://127.0.0.1:8000/v1
  overnight run requests.jsonl -o answers.jsonl --errors failed.jsonl

Exit codes: 0 all answered, 1 failure, 2 usage, 3 finished with failed requests, 130 interrupted.")]
pub(super) struct Run {
    /// The requests, one a line
    #[arg(value_name = "IN", required_unless_present = "input_flag")]
    input: Option<PathBuf>,
    #[arg(short = 'i', long = "input", value_name = "IN", conflicts_with = "input", hide = true)]
    input_flag: Option<PathBuf>,
    /// Where the results go
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Parts the lines of failed requests from the others
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// prefix: by model and prompt prefix, so that the engine's cache works; file: as they stand in the file
    #[arg(long, default_value = "prefix", value_parser = ["prefix", "file"])]
    order: String,
    /// Attempts of a request before it fails
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(ATTEMPTS_MAX)))]
    attempts: Option<u32>,
    /// The longest that one call may take, as in 5m; without it the deadline follows the measured latency
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Fills the requests that name no model
    #[arg(long)]
    model: Option<String>,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: RunOptions,
}

impl Run {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let screen = Screen::new(self.json);
        let input = self.input.clone().or_else(|| self.input_flag.clone()).context("name the input")?;
        let folder = state_folder(&self.output);
        self.check_errors(&input, &folder)?;
        if let Some(record) = finished(&folder, &self.output)? {
            if let Some(begun_with) = record.manifest.input_sha256 {
                refuse_changed(&input, begun_with)?;
            }
            screen.note(&format!(
                "`{}` is done already; remove it and `{}` to run it anew",
                self.output.display(),
                folder.display()
            ));
            return Ok(end(screen, &record)?);
        }
        if folder.join(RECORD).exists() {
            // It was done, and its output was taken away: what is left of its state cannot give it back.
            screen.note(&format!("`{}` is gone; beginning anew", self.output.display()));
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("failed to remove `{}`", folder.display()))?;
        }
        if !folder.exists() {
            first_route(&input)?;
        }
        if self.output.exists() && !folder.exists() {
            bail!(
                "`{}` exists and is not of an unfinished run; remove it or choose another output",
                self.output.display()
            );
        }
        let (config, log) = self.options.load_for_run(environment, &folder)?;
        start_logging(log.as_deref().unwrap_or("warn"))?;
        let options = BatchOptions {
            priority: 0,
            order: if self.order == "file" { Order::File } else { Order::Prefix },
            attempts_max: self.attempts.unwrap_or(config.dispatch.attempts_max),
            timeout: self.timeout,
            hard_expiry: false,
            large: true,
            model: self.model.clone(),
            output_ttl: None,
        };
        let targets = Targets { input, output: self.output, errors: self.errors };
        let shown = Shown { output: &targets.output, folder: &folder };
        let run = FileRun { targets: &targets, options, folder: &folder, shown };
        let go = async |node, announcer| answer_all(node, announcer, run, screen).await;
        match on_a_node(config, shown, go)? {
            Answered::All(record) => Ok(end(screen, &record)?),
            Answered::Interrupted => Ok(Ending::Interrupted),
            Answered::Refused(_) => {
                bail!("`{}` cannot be run as it is; nothing was sent", targets.input.display())
            }
        }
    }

    fn check_errors(&self, input: &Path, folder: &Path) -> anyhow::Result<()> {
        let Some(errors) = &self.errors else { return Ok(()) };
        let others = [(Some(self.output.as_path()), "the output"), (Some(input), "the input")];
        refuse_same(errors, "--errors", &others)?;
        if errors.exists() && !folder.exists() {
            bail!(
                "`{}` exists and is not of an unfinished run; remove it or name another file with --errors",
                errors.display()
            );
        }
        Ok(())
    }
}

/// What people are told of: where the results will be, and where the state is until then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) output: &'a Path,
    pub(super) folder: &'a Path,
}

/// One file of requests.
#[derive(Debug)]
pub(super) struct FileRun<'a> {
    pub(super) targets: &'a Targets,
    pub(super) options: BatchOptions,
    /// Where its state lies.
    pub(super) folder: &'a Path,
    pub(super) shown: Shown<'a>,
}

/// How a run of one file ended.
#[derive(Debug)]
pub(super) enum Answered {
    /// Its results are written.
    All(Box<RunRecord>),
    /// A signal ended it; running it again goes on.
    Interrupted,
    /// It cannot be run. It was said why, and its state is gone.
    Refused(Vec<BatchError>),
}

/// Starts all parts but the API, and waits for what is done with them.
pub(super) fn on_a_node(
    config: Config,
    shown: Shown<'_>,
    go: impl AsyncFnOnce(Node, Announcer) -> anyhow::Result<Answered>,
) -> anyhow::Result<Answered> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let announcer = Announcer::default();
        let mut node = Node::start(config, announcer.clone()).await?;
        node.tell(Sender::run(shown.output));
        go(node, announcer).await
    });
    runtime.shutdown_timeout(THREADS_WITHIN);
    ended
}

/// The record of a run that is done and whose output is still there.
fn finished(folder: &Path, output: &Path) -> anyhow::Result<Option<RunRecord>> {
    let path = folder.join(RECORD);
    if !path.is_file() || !output.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok(Some(serde_json::from_slice(&text).with_context(|| format!("`{}` is damaged", path.display()))?))
}

/// Begins the batch of a file, or goes on with it, and writes its results at the end.
pub(super) async fn answer_all(
    node: Node,
    announcer: Announcer,
    run: FileRun<'_>,
    screen: Screen,
) -> anyhow::Result<Answered> {
    let FileRun { targets, options, folder, shown } = run;
    // While nothing is in flight a signal ends it at once: a long input is taken in anew, or its results written anew.
    let beginning = EndAtSignal::new()?;
    let batch = OneBatch::begin(node, &targets.input, options).await?;
    drop(beginning);
    screen.note(&format!(
        "{}; `{}` is written whole at the end, until then all is in `{}`",
        if batch.is_resumed { "going on where it was" } else { "begun" },
        shown.output.display(),
        shown.folder.display()
    ));
    let stop = batch.stop();
    let ended = tokio::select! {
        ended = follow(&batch, shown.output, screen) => Some(ended?),
        () = stop.cancelled() => None,
        failed = stop_on_signal(stop.clone(), &announcer) => { failed?; None }
    };
    let Some(progress) = ended else {
        // In flight may end first; what is durable then is what counts.
        let progress = batch.progress().await?;
        tokio::select! {
            ended = batch.finish() => ended?,
            failed = exit_on_signal() => failed?,
        }
        screen.note(&format!(
            "interrupted: at least {} of {} results are durable; run the same command again to go on",
            progress.tally.done(),
            progress.batch.total
        ));
        return Ok(Answered::Interrupted);
    };
    let _ending = EndAtSignal::new()?;
    tell(&batch, screen).await;
    if progress.batch.state == BatchState::Failed {
        batch.finish().await?;
        // Nothing was run: with a corrected input the same command must work.
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("failed to remove `{}`", folder.display()))?;
        for error in &progress.batch.errors {
            let line = error.line.map(|line| format!("line {line}: ")).unwrap_or_default();
            screen.note(&format!("  {line}{} ({})", error.message, error.code));
        }
        return Ok(Answered::Refused(progress.batch.errors));
    }
    let record = batch.write(targets, &progress.batch).await?;
    let text = serde_json::to_vec_pretty(&record)?;
    write_whole(&folder.join(RECORD), |out| out.write_all(&text))?;
    batch.finish().await?;
    // The output has it all now; its record stays for `verify`.
    for part in ["blobs", "segments", "tmp"] {
        let path = folder.join(part);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("failed to remove `{}`", path.display()))?;
        }
    }
    Ok(Answered::All(Box::new(record)))
}

/// Whoever is to be told of the end is, before there is nobody left who could.
async fn tell(batch: &OneBatch, screen: Screen) {
    if !batch.told(TOLD_WITHIN).await {
        screen
            .note("who is to be told of this could not be reached: `overnight notify --test` says why");
    }
}

/// Shows how far it is until it has ended.
async fn follow(batch: &OneBatch, output: &Path, screen: Screen) -> anyhow::Result<Progress> {
    let mut meter = Meter::of_requests(screen, &output.display().to_string());
    let (started, mut pace) = (Instant::now(), Pace::default());
    let mut waits = Waits::default();
    loop {
        let progress = batch.progress().await?;
        let (done, total) = (progress.tally.done(), progress.batch.total);
        pace.observe(started.elapsed(), done);
        let rate = pace.rate();
        meter.set(done, total, || describe(&progress, rate));
        if progress.batch.state.is_terminal() {
            meter.finish();
            return Ok(progress);
        }
        let pause = progress.batch.pause.as_ref().map(|pause| pause.reason.clone());
        if let Some(reason) = pause {
            meter.finish();
            tell(batch, screen).await;
            bail!("{reason}: the same command again does");
        }
        if let Some(reason) = waits.say(started.elapsed(), batch.waiting_reason()) {
            meter.note(&format!("waiting for {reason}"));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn describe(progress: &Progress, rate: Option<f64>) -> String {
    let (done, total) = (progress.tally.done(), progress.batch.total);
    if total == 0 {
        return "validating".to_owned();
    }
    let mut text = format!("{done} of {total} ({}%)", done * 100 / total);
    if progress.tally.failed > 0 {
        text = format!("{text}, {} failed", progress.tally.failed);
    }
    match rate.filter(|rate| *rate > 0.0 && done < total) {
        Some(rate) => {
            let left = Duration::from_secs(((total - done) as f64 / rate) as u64);
            format!("{text}, {rate:.1} a second, {} left", show_duration(left))
        }
        None => text,
    }
}

fn end(screen: Screen, record: &RunRecord) -> std::io::Result<Ending> {
    let manifest = &record.manifest;
    if screen.is_json {
        screen.print(&serde_json::to_string(record).expect("a record is JSON"))?;
    } else {
        screen.note(&format!(
            "`{}`: {} requests, {} answered, {} failed",
            record.output.display(),
            manifest.requests,
            manifest.completed,
            manifest.failed
        ));
        if record.cut_short > 0 {
            screen.note(&cut_short(record.cut_short));
        }
    }
    Ok(if manifest.failed == 0 { Ending::Answered } else { Ending::WithFailed })
}
