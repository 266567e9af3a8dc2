//! `overnight submit IN.jsonl`

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use overnight_domain::limits::{ATTEMPTS_MAX, AdmissionLimits, REQUEST_LEN_MAX};
use overnight_domain::route::Route;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::client::{Call, Client};
use super::split::{Measure, Stretches};
use super::upload::{Upload, may_send_large};
use super::view::BatchView;
use super::{ClientOptions, Ending, watch};
use crate::config::Environment;
use crate::config::units::{check_window, parse_duration};

/// Send a file of requests as one batch, whatever its size
#[derive(Debug, Args)]
#[command(after_help = "\
Each line of IN is a request as in OpenAI's Batch API:
  {\"custom_id\":\"1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"...\",\"messages\":[...]}}
The id of the batch is printed; once it is, the command is no longer needed.

Examples:
  overnight submit requests.jsonl
  overnight submit requests.jsonl --priority 10 --wait && echo all answered
  id=$(overnight submit requests.jsonl --model qwen3-8b --metadata team=blue)")]
pub(super) struct Submit {
    /// The requests, one JSON object a line
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// The route that the lines name [default: the `url` of the first line]
    #[arg(long, value_name = "ROUTE", value_parser = route)]
    endpoint: Option<Route>,
    /// -100 to 100; the higher runs first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-100..=100))]
    priority: i32,
    /// Wait until the batch is over, showing how far it is
    #[arg(long)]
    wait: bool,
    /// In which order the requests are sent; `prefix` lets an engine reuse what prompts share
    #[arg(long, value_enum)]
    order: Option<OrderName>,
    /// Attempts that a request has before it fails
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ATTEMPTS_MAX)))]
    attempts: Option<u32>,
    /// The longest that one call of an engine may take, as in 5m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// When the batch should be over, as in 24h; late work goes on all the same
    #[arg(long, value_name = "WINDOW", default_value = "24h", value_parser = window)]
    window: String,
    /// End the batch when its window is over
    #[arg(long)]
    hard_expiry: bool,
    /// The model of lines that name none
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// Kept with the batch; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Cut the input into batches of at most so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    split: Option<u64>,
    /// A name to know it by in `overnight list`
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrderName {
    Prefix,
    File,
}

fn route(text: &str) -> Result<Route, String> {
    Route::parse(text).ok_or_else(|| {
        let known: Vec<&str> = Route::ALL.iter().map(|route| route.path()).collect();
        format!("must be one of {}", known.join(", "))
    })
}

fn window(text: &str) -> Result<String, String> {
    check_window(text).map(|()| text.to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Submit {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let client = self.client.client(environment)?;
        let len = self.check_input()?;
        let route = match self.endpoint {
            Some(route) => route,
            None => guess_route(&self.input)?,
        };
        let is_large = may_send_large(&client)?;
        let measure = self.measure(&client, is_large)?;
        let mut stretches = Stretches::of(&self.input, measure)?.peekable();
        let is_split =
            stretches.peek().is_some_and(|first| first.as_ref().is_ok_and(|range| range.end < len));
        if is_split && !is_large {
            client.screen().note(&format!(
                "this key may send batches of {} requests at most: the input is split, and the command must keep running until all parts are sent",
                measure.lines
            ));
        }
        let mut batches = Vec::new();
        for (stretch, number) in stretches.zip(1..) {
            let filename = self.filename(is_split.then_some(number));
            let upload = Upload { path: &self.input, filename, range: stretch?, is_large };
            let file = upload.send(&client)?;
            let (raw, batch) = self.create(&client, &file, route, is_large)?;
            self.print(&client, &raw, &batch)?;
            batches.push(batch.id);
        }
        let mut ending = Ending::Answered;
        for id in batches.iter().filter(|_| self.wait) {
            ending = ending.max(watch::follow(&client, id)?.1.ending());
        }
        Ok(ending)
    }

    fn check_input(&self) -> anyhow::Result<u64> {
        let shown = self.input.display();
        let about =
            std::fs::metadata(&self.input).with_context(|| format!("failed to read `{shown}`"))?;
        if !about.is_file() {
            bail!("`{shown}` is no file of requests");
        }
        if about.len() == 0 {
            bail!("`{shown}` is empty");
        }
        Ok(about.len())
    }

    /// How much goes into one batch: everything, unless somebody or the server wants less.
    fn measure(&self, client: &Client, is_large: bool) -> anyhow::Result<Measure> {
        let all = Measure { lines: u64::MAX, len: u64::MAX };
        let allowed = if is_large { all } else { allowed(client)? };
        Ok(Measure { lines: self.split.unwrap_or(u64::MAX).min(allowed.lines), ..allowed })
    }

    fn filename(&self, part: Option<u32>) -> String {
        let name = self
            .input
            .file_name()
            .map_or_else(|| "requests.jsonl".to_owned(), |name| name.to_string_lossy().into_owned());
        match part {
            None => name,
            Some(number) => {
                let (stem, suffix) = name.rsplit_once('.').unwrap_or((&name, "jsonl"));
                format!("{stem}.part-{number}.{suffix}")
            }
        }
    }

    fn create(
        &self,
        client: &Client,
        file: &str,
        route: Route,
        is_large: bool,
    ) -> anyhow::Result<(Box<RawValue>, BatchView)> {
        let mut ours = serde_json::Map::new();
        let mut set = |name: &str, value: Option<serde_json::Value>| {
            ours.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("priority", (self.priority != 0).then(|| json!(self.priority)));
        set(
            "order",
            self.order.map(|order| match order {
                OrderName::Prefix => json!("prefix"),
                OrderName::File => json!("file"),
            }),
        );
        set("attempts", self.attempts.map(|attempts| json!(attempts)));
        set("timeout", self.timeout.map(|timeout| json!(format!("{}s", timeout.as_secs().max(1)))));
        set("hard_expiry", self.hard_expiry.then_some(serde_json::Value::Bool(true)));
        set("model", self.model.as_ref().map(|model| json!(model)));
        set("large", is_large.then_some(serde_json::Value::Bool(true)));
        let mut metadata: BTreeMap<&str, &str> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if let Some(name) = &self.name {
            metadata.insert("name", name);
        }
        let body = json!({
            "input_file_id": file,
            "endpoint": route.path(),
            "completion_window": self.window,
            "metadata": (!metadata.is_empty()).then_some(metadata),
            "overnight": ours,
        });
        let call = Call::post("/v1/batches", Some(body.to_string())).patient();
        client
            .json(&call)
            .with_context(|| format!("the file was uploaded as {file}, but failed to create its batch"))
    }

    fn print(&self, client: &Client, raw: &RawValue, batch: &BatchView) -> std::io::Result<()> {
        let screen = client.screen();
        if screen.is_json {
            return screen.print(raw.get());
        }
        screen.print(&batch.id)?;
        if !self.wait {
            screen.note(&format!("sent; `overnight watch {}` shows how far it is", batch.id));
        }
        Ok(())
    }
}

/// What this server takes from a caller without admin scope.
pub(super) fn allowed(client: &Client) -> anyhow::Result<Measure> {
    #[derive(Deserialize)]
    struct Health {
        limits: Limits,
    }
    #[derive(Deserialize)]
    struct Limits {
        requests_per_batch: Option<u64>,
        file_len: Option<u64>,
    }
    let (_, Health { limits }) = client.json(&Call::get("/health"))?;
    let AdmissionLimits { requests_per_batch, file_len, .. } = AdmissionLimits::DESKTOP;
    Ok(Measure {
        lines: limits.requests_per_batch.unwrap_or(requests_per_batch),
        len: limits.file_len.unwrap_or(file_len),
    })
}

/// The `url` of the first line that is not blank.
fn guess_route(path: &Path) -> anyhow::Result<Route> {
    #[derive(Deserialize)]
    struct Line {
        url: Option<String>,
    }
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("failed to read `{shown}`"))?;
    let mut reader = BufReader::new(file.take(REQUEST_LEN_MAX));
    let mut line = Vec::new();
    while line.trim_ascii().is_empty() {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            bail!("`{shown}` holds no request");
        }
    }
    let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
    let first: Line = serde_json::from_slice(text)
        .with_context(|| format!("the first line of `{shown}` is no request"))?;
    let Some(url) = first.url else {
        bail!("the first line of `{shown}` has no `url`; name the route with --endpoint");
    };
    route(&url).map_err(|known| {
        anyhow::anyhow!(
            "the first line of `{shown}` asks for `{url}`, which is no route of ours: it {known}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(text: &[u8]) -> Result<Route, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        guess_route(file.path()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_route_is_that_of_the_first_line() {
        assert_eq!(guess(b"\xef\xbb\xbf{\"url\":\"/v1/embeddings\"}\n"), Ok(Route::Embeddings));
        assert_eq!(guess(b"\n \n{\"url\":\"/chat/completions\"}"), Ok(Route::ChatCompletions));
        assert!(guess(b"\n\n").unwrap_err().contains("holds no request"));
        assert!(guess(b"{}").unwrap_err().contains("--endpoint"));
        assert!(guess(b"nonsense").unwrap_err().contains("is no request"));
        assert!(guess(b"{\"url\":\"/v1/images\"}").unwrap_err().contains("must be one of /v1/chat"));
    }
}
