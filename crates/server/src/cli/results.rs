//! `overnight results ID`

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Call, Client, escape};
use super::download::Download;
use super::screen::Out;
use super::status::path;
use super::view::BatchView;
use super::{ClientOptions, Ending};
use crate::config::Environment;
use crate::whole::refuse_same;

/// Between two looks for results that were not there yet.
const POLL_FIRST: Duration = Duration::from_millis(250);
const POLL_MAX: Duration = Duration::from_secs(5);

/// Fetch the answers of a batch
#[derive(Debug, Args)]
#[command(after_help = "\
Result lines go to standard output, or to OUT, which appears when it is whole, in the place of any
file of that name.

Examples:
  overnight results batch_... -o out.jsonl --errors errors.jsonl
  overnight results batch_... --follow | jq -r .response.body.choices[0].message.content
  overnight results batch_... --with-retries -o all.jsonl

Exit codes: 0 all answered, 1 failure, 3 some requests failed.")]
pub(super) struct Results {
    /// The batch
    id: String,
    /// Write to a file rather than to standard output
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Write the lines of failed requests to a file
    #[arg(long, value_name = "FILE", conflicts_with = "with_retries")]
    errors: Option<PathBuf>,
    /// Each line as soon as it is durable, until the batch is over; survives restarts of the server
    #[arg(long, conflicts_with = "with_retries")]
    follow: bool,
    /// Every line in input order, those that were retried with the outcome of the retry
    #[arg(long)]
    with_retries: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Results {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        if let Some(errors) = &self.errors {
            refuse_same(errors, "--errors", &[(self.output.as_deref(), "the output")])?;
        }
        let client = self.client.client(environment)?;
        let (_, batch): (_, BatchView) = client.json(&Call::get(path(&self.id)))?;
        if self.follow {
            return self.follow(&client);
        }
        if !batch.is_over() {
            let counts = batch.request_counts;
            bail!(
                "{} is {}: {} of {} done; --follow writes what is there and waits for the rest",
                batch.id,
                batch.status_shown(),
                counts.done(),
                counts.total
            );
        }
        if batch.status == "failed" {
            bail!(
                "{} failed before any request was run; `overnight status {}` says why",
                batch.id,
                batch.id
            );
        }
        if self.with_retries {
            let response = client.send(&Call::get(format!("{}/merged", path(&self.id))))?;
            let lines = response.into_body().into_with_config().limit(u64::MAX).reader();
            return self.merged(&client, BufReader::new(lines));
        }
        let mut output = Target::open(&client, self.output.as_deref())?;
        if let Some(file) = &batch.output_file_id {
            output.copy(&mut Download::of_file(&client, file))?;
        }
        output.finish()?;
        if let Some(errors) = &self.errors {
            let mut target = Target::open(&client, Some(errors))?;
            if let Some(file) = &batch.error_file_id {
                target.copy(&mut Download::of_file(&client, file))?;
            }
            target.finish()?;
        }
        say_failed(&client, &batch, self.errors.is_some());
        Ok(batch.ending())
    }

    /// All lines with what the retries made of them. Whether all are answered now, only the lines say.
    fn merged(&self, client: &Client, mut lines: impl io::BufRead) -> anyhow::Result<Ending> {
        let mut output = Target::open(client, self.output.as_deref())?;
        let (mut line, mut failed) = (String::new(), 0_u64);
        while lines.read_line(&mut line)? > 0 {
            output.writer().write_all(line.as_bytes())?;
            failed += u64::from(!is_answered(serde_json::from_str(&line)?));
            line.clear();
        }
        output.finish()?;
        if failed == 0 {
            return Ok(Ending::Answered);
        }
        client.screen().note(&format!("{failed} requests have failed, also when they were sent again"));
        Ok(Ending::WithFailed)
    }

    fn follow(&self, client: &Client) -> anyhow::Result<Ending> {
        let mut output = Target::open(client, self.output.as_deref())?;
        let mut errors = match &self.errors {
            Some(path) => Some(Target::open(client, Some(path))?),
            None => None,
        };
        let base = format!("{}/results", path(&self.id));
        let (mut after, mut pause) = (String::new(), POLL_FIRST);
        loop {
            let call = Call::get(format!("{base}{after}")).patient();
            let (_, page): (_, ResultsPage) = client.json(&call)?;
            for line in &page.data {
                match &mut errors {
                    _ if is_answered(line) => output.line(line.get())?,
                    Some(errors) => errors.line(line.get())?,
                    None => {}
                }
            }
            if let Some(next) = &page.next {
                after = format!("?after={}", escape(next));
            }
            if page.is_final && !page.has_more {
                break;
            }
            if page.has_more {
                pause = POLL_FIRST;
            } else {
                // A reader at the other end of a pipe wants to see what is there.
                output.flush()?;
                if page.data.is_empty() {
                    pause = (pause * 2).min(POLL_MAX);
                } else {
                    pause = POLL_FIRST;
                }
                std::thread::sleep(pause);
            }
        }
        output.finish()?;
        if let Some(errors) = errors {
            errors.finish()?;
        }
        let (_, batch): (_, BatchView) = client.json(&Call::get(path(&self.id)).patient())?;
        say_failed(client, &batch, self.errors.is_some());
        Ok(batch.ending())
    }
}

#[derive(Deserialize)]
struct ResultsPage {
    data: Vec<Box<RawValue>>,
    next: Option<String>,
    has_more: bool,
    is_final: bool,
}

/// Whether a line belongs into the output rather than the error file.
fn is_answered(line: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Line {
        response: Option<Answer>,
    }
    #[derive(Deserialize)]
    struct Answer {
        status_code: u16,
    }
    serde_json::from_str::<Line>(line.get())
        .is_ok_and(|line| line.response.is_some_and(|answer| answer.status_code == 200))
}

fn say_failed(client: &Client, batch: &BatchView, is_written: bool) {
    let failed = batch.request_counts.failed;
    if failed > 0 && !is_written {
        client.screen().note(&format!(
            "{failed} requests failed: --errors FILE writes their lines, `overnight failed {}` lists them",
            batch.id
        ));
    }
}

/// Where lines go: standard output, or a file that gets its name only when it is whole.
enum Target {
    Stream(Out),
    File { writer: BufWriter<File>, partial: PathBuf, path: PathBuf },
}

impl Target {
    fn open(client: &Client, path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stream(client.screen().out())) };
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial)
            .with_context(|| format!("failed to create `{}`", partial.display()))?;
        Ok(Self::File { writer: BufWriter::new(file), partial, path: path.to_owned() })
    }

    fn writer(&mut self) -> &mut dyn io::Write {
        match self {
            Self::Stream(out) => out,
            Self::File { writer, .. } => writer,
        }
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        let writer = self.writer();
        writer.write_all(text.as_bytes())?;
        writer.write_all(b"\n")
    }

    fn copy(&mut self, lines: &mut dyn io::Read) -> io::Result<()> {
        io::copy(lines, self.writer()).map(|_| ())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Stream(mut out) => Ok(out.flush()?),
            Self::File { mut writer, partial, path } => {
                writer.flush()?;
                writer.get_ref().sync_all()?;
                std::fs::rename(&partial, &path)
                    .with_context(|| format!("failed to write `{}`", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::tests::scripted::{Scripted, json};
    use super::super::{Command, Overnight};
    use super::*;

    const ANSWERED: &str = r#"{"id":"batch_req_1","custom_id":"a","response":{"status_code":200,"request_id":"1","body":{}},"error":null}"#;
    const REFUSED: &str = r#"{"id":"batch_req_2","custom_id":"b","response":{"status_code":400,"request_id":"2","body":{}},"error":null}"#;
    const EXPIRED: &str = r#"{"id":"batch_req_3","custom_id":"c","response":null,"error":{"code":"batch_expired","message":"late"}}"#;

    fn batch(status: &str) -> String {
        let text = format!(
            r#"{{"id":"batch_1","status":"{status}","endpoint":"/v1/embeddings","input_file_id":"file-1","output_file_id":"file-2","error_file_id":"file-3","created_at":1,"request_counts":{{"total":3,"completed":1,"failed":2}}}}"#
        );
        json(200, "", &text)
    }

    fn run(server: &Scripted, arguments: &[&str]) -> anyhow::Result<Ending> {
        let line = ["overnight", "results", "batch_1", "--server", server.address()];
        let parsed = Overnight::parse_from(line.iter().chain(arguments));
        let Command::Results(results) = parsed.command else { panic!("another command") };
        results.run(&Environment::default())
    }

    fn path_text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    /// The server dies between two pages, and inside one: no line is lost, and none is written twice.
    #[test]
    fn following_writes_each_line_once_across_a_restart() {
        let page = |lines: &[&str], next: &str, is_final: bool| {
            let data = lines.join(",");
            let has_more = !is_final;
            json(
                200,
                "",
                &format!(
                    r#"{{"object":"list","data":[{data}],"next":"{next}","has_more":{has_more},"is_final":{is_final}}}"#
                ),
            )
        };
        let cut = page(&[REFUSED], "c 2", false).replace("\"next\"", "");
        let server = Scripted::start(vec![
            batch("in_progress"),
            page(&[ANSWERED], "c1", false),
            String::new(),
            cut,
            page(&[REFUSED], "c 2", false),
            page(&[EXPIRED], "c3", true),
            batch("completed"),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let [out, err] = ["out.jsonl", "err.jsonl"].map(|name| folder.path().join(name));
        let ending =
            run(&server, &["--follow", "-o", path_text(&out), "--errors", path_text(&err)]).unwrap();
        assert_eq!(ending, Ending::WithFailed);
        assert_eq!(std::fs::read_to_string(out).unwrap(), format!("{ANSWERED}\n"));
        assert_eq!(std::fs::read_to_string(err).unwrap(), format!("{REFUSED}\n{EXPIRED}\n"));
        let asked: Vec<String> = server
            .requests()
            .iter()
            .map(|request| request.split(' ').nth(1).unwrap_or_default().to_owned())
            .collect();
        let results = |after: &str| format!("/v1/batches/batch_1/results{after}");
        assert_eq!(
            asked[1..6],
            ["", "?after=c1", "?after=c1", "?after=c1", "?after=c%202"].map(results)
        );
    }

    #[test]
    fn both_files_are_whole_before_they_have_their_names() {
        let server = Scripted::start(vec![
            batch("completed"),
            json(200, "", &format!("{ANSWERED}\n")),
            json(200, "", &format!("{REFUSED}\n{EXPIRED}\n")),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let [out, err] = ["out.jsonl", "err.jsonl"].map(|name| folder.path().join(name));
        run(&server, &["-o", path_text(&out), "--errors", path_text(&err)]).unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), format!("{ANSWERED}\n"));
        assert_eq!(std::fs::read_to_string(err).unwrap(), format!("{REFUSED}\n{EXPIRED}\n"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing partial is left");
    }

    #[test]
    fn what_is_not_over_is_said_with_its_counts() {
        let server = Scripted::start(vec![batch("in_progress")]);
        let error = run(&server, &[]).unwrap_err().to_string();
        assert!(error.contains("in_progress: 3 of 3 done; --follow"), "{error}");
    }
}
