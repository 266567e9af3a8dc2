//! `overnight verify`

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use overnight_domain::file::Sha256;
use overnight_domain::ids::BatchId;
use serde_json::json;

use super::client::{Call, Client, ClientError};
use super::download::Download;
use super::screen::Screen;
use super::status::path;
use super::view::{BatchView, Counts};
use super::{ClientOptions, Ending};
use crate::config::Environment;
use crate::one_batch::state_folder;
use crate::verify::{Proof, RunRecord, Sources, verify};

const BUFFER_LEN: usize = 1 << 20;
/// Problems that are printed; `--json` has up to a thousand.
const SHOWN_MAX: usize = 20;
/// What `overnight run` leaves in its folder when it is done.
const RUN_RECORD: &str = "run.json";

/// Prove that an output is complete: each request answered or failed exactly once, in input order
#[derive(Debug, Args)]
#[command(after_help = "\
The proof reads the bytes and trusts no counter. It finds a line that was removed, doubled, swapped
or altered.

Examples:
  overnight verify batch_...                      a batch of the server
  overnight verify out.jsonl                      what `overnight run -o out.jsonl` wrote
  overnight verify --input in.jsonl --output out.jsonl --errors errors.jsonl --batch batch_...

Exit codes: 0 proved, 1 not proved.")]
pub(super) struct Verify {
    /// A batch, or the output of a run
    #[arg(value_name = "ID|OUT", required_unless_present = "output", conflicts_with = "output")]
    subject: Option<OsString>,
    /// The requests
    #[arg(long, value_name = "IN", requires = "output")]
    input: Option<PathBuf>,
    /// The result lines; without --errors those of failed requests too
    #[arg(long, value_name = "OUT", requires = "input")]
    output: Option<PathBuf>,
    /// The lines of failed requests
    #[arg(long, value_name = "ERR", requires = "output")]
    errors: Option<PathBuf>,
    /// The batch that the files belong to: with it the ids of all lines are computed again
    #[arg(long, value_name = "ID", requires = "output", value_parser = batch_id)]
    batch: Option<BatchId>,
    #[command(flatten)]
    client: ClientOptions,
}

fn batch_id(text: &str) -> Result<BatchId, String> {
    BatchId::parse(text).map_err(|error| error.to_string())
}

/// What was found, beside what was claimed.
struct Finding {
    proof: Proof,
    differences: Vec<String>,
    /// A manifest was there: even the answers are as they were written.
    is_compared: bool,
}

impl Verify {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let screen = self.client.screen();
        let finding = match (&self.subject, &self.input, &self.output) {
            (None, Some(input), Some(output)) => {
                let proof = of_files(input, output, self.errors.as_deref(), self.batch.as_ref())?;
                Finding { proof, differences: Vec::new(), is_compared: false }
            }
            (Some(subject), ..) => {
                let id = subject.to_str().and_then(|text| BatchId::parse(text).ok());
                match id.filter(|_| !Path::new(subject).exists()) {
                    Some(id) => of_batch(&self.client.client(environment)?, &id)?,
                    None => of_run(Path::new(subject))?,
                }
            }
            _ => bail!("name a batch, the output of a run, or --input and --output"),
        };
        finding.print(screen)?;
        let holds = finding.proof.holds() && finding.differences.is_empty();
        Ok(if holds { Ending::Answered } else { Ending::Failure })
    }
}

fn of_files(
    input: &Path,
    output: &Path,
    errors: Option<&Path>,
    batch: Option<&BatchId>,
) -> anyhow::Result<Proof> {
    let mut input = open(input)?;
    let mut output = open(output)?;
    let mut errors = errors.map(open).transpose()?;
    let is_together = errors.is_none();
    let sources = Sources {
        input: &mut input,
        output: Some(&mut output),
        errors: errors.as_mut().map(|errors| errors as &mut dyn BufRead),
        is_together,
        batch,
    };
    Ok(verify(sources)?)
}

/// The output of a run, whose folder says what belongs to it.
fn of_run(subject: &Path) -> anyhow::Result<Finding> {
    let folders = [subject.to_owned(), state_folder(subject), subject.with_extension("overnight")];
    let candidates = folders.map(|folder| folder.join(RUN_RECORD));
    let Some(found) = candidates.iter().find(|candidate| candidate.is_file()) else {
        bail!(
            "`{}` is neither a batch nor the output of a finished run; --input and --output verify any files",
            subject.display()
        );
    };
    let text = std::fs::read_to_string(found)
        .with_context(|| format!("failed to read `{}`", found.display()))?;
    let record: RunRecord = serde_json::from_str(&text)
        .with_context(|| format!("`{}` is no record of a run", found.display()))?;
    let errors = record.errors.as_deref();
    let proof = of_files(&record.input, &record.output, errors, Some(&record.manifest.batch))?;
    let differences = proof.differences(&record.manifest);
    Ok(Finding { proof, differences, is_compared: true })
}

fn of_batch(client: &Client, id: &BatchId) -> anyhow::Result<Finding> {
    let (_, batch): (_, BatchView) = client.json(&Call::get(path(id.as_str())))?;
    if !batch.is_over() {
        bail!("{id} is {}: it can be verified when it is over", batch.status_shown());
    }
    if batch.status == "failed" {
        bail!(
            "{id} failed before any request was run: it has no output; `overnight status {id}` says why"
        );
    }
    let manifest = match client.json(&Call::get(format!("{}/manifest", path(id.as_str())))) {
        Ok((_, manifest)) => Some(manifest),
        Err(ClientError::Refused(refusal)) if refusal.status == 404 => None,
        Err(error) => return Err(error.into()),
    };
    let open = |file: &String| BufReader::with_capacity(BUFFER_LEN, Download::of_file(client, file));
    let mut input = open(&batch.input_file_id);
    let mut output = batch.output_file_id.as_ref().map(open);
    let mut errors = batch.error_file_id.as_ref().map(open);
    let proof = verify(Sources {
        input: &mut input,
        output: output.as_mut().map(|output| output as &mut dyn BufRead),
        errors: errors.as_mut().map(|errors| errors as &mut dyn BufRead),
        is_together: false,
        batch: Some(id),
    })?;
    let Counts { total, completed, failed } = batch.request_counts;
    let mut differences = proof.miscounts(total, completed, failed);
    if let Some(manifest) = &manifest {
        for difference in proof.differences(manifest) {
            if !differences.contains(&difference) {
                differences.push(difference);
            }
        }
    }
    Ok(Finding { proof, differences, is_compared: manifest.is_some() })
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok(BufReader::with_capacity(BUFFER_LEN, file))
}

impl Finding {
    fn print(&self, screen: Screen) -> io::Result<()> {
        let Self { proof, differences, is_compared } = self;
        let holds = proof.holds() && differences.is_empty();
        if screen.is_json {
            let problems: Vec<String> = proof.problems.listed.iter().map(ToString::to_string).collect();
            let value = json!({
                "holds": holds,
                "total": proof.total,
                "completed": proof.completed,
                "failed": proof.failed,
                "input_sha256": proof.input_sha256,
                "output_sha256": proof.output_sha256,
                "error_sha256": proof.error_sha256,
                "is_compared_with_manifest": is_compared,
                "differences": differences,
                "problem_count": proof.problems.count,
                "problems": problems,
            });
            return screen.print(&value.to_string());
        }
        let digest = |name: &str, digest: Option<Sha256>| {
            digest.map_or(Ok(()), |digest| screen.print(&format!("{name:<8} sha256 {digest}")))
        };
        digest("input", Some(proof.input_sha256))?;
        digest("output", proof.output_sha256)?;
        digest("errors", proof.error_sha256)?;
        screen.print(&format!(
            "{} requests, {} answered, {} failed",
            proof.total, proof.completed, proof.failed
        ))?;
        for text in differences {
            screen.print(&format!("  {text}"))?;
        }
        for problem in proof.problems.listed.iter().take(SHOWN_MAX) {
            screen.print(&format!("  {problem}"))?;
        }
        let more = proof.problems.count.saturating_sub(SHOWN_MAX as u64);
        if more > 0 {
            screen.print(&format!("  and {more} more problems"))?;
        }
        screen.print(match (holds, is_compared) {
            (true, true) => {
                "proved: every request has exactly one result line, in input order, as it was written"
            }
            (true, false) => "proved: every request has exactly one result line, in input order",
            (false, _) => "not proved",
        })
    }
}
