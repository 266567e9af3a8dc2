//! `overnight failed ID`

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Call, escape};
use super::status::path;
use super::view::BatchView;
use super::{ClientOptions, Ending};
use crate::config::Environment;

const PAGE: usize = 1_000;
/// A table is for looking at; `--json` has everything.
const SHOWN_MAX: usize = 100;
const MESSAGE_LEN_MAX: usize = 100;

/// List the failed requests of a batch, and why they failed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overnight failed batch_...
  overnight failed batch_... --error-type request_timeout
  overnight failed batch_... --json | jq -r .custom_id")]
pub(super) struct Failed {
    /// The batch
    id: String,
    /// Only those that failed for this reason
    #[arg(long, value_name = "TYPE")]
    error_type: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Deserialize)]
struct FailedPage {
    data: Vec<Box<RawValue>>,
    next: Option<String>,
    has_more: bool,
}

#[derive(Deserialize)]
struct FailedView {
    custom_id: String,
    line: Option<u64>,
    error_type: Option<String>,
    error_message: Option<String>,
    status_code: Option<u16>,
    retry_count: Option<u32>,
}

impl Failed {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let client = self.client.client(environment)?;
        let screen = client.screen();
        let mut base = format!("{}/failed?limit={PAGE}", path(&self.id));
        if let Some(error_type) = &self.error_type {
            base = format!("{base}&error_type={}", escape(error_type));
        }
        let (mut lines, mut count, mut after) = (Vec::new(), 0, String::new());
        loop {
            let (_, page): (_, FailedPage) = client.json(&Call::get(format!("{base}{after}")))?;
            for raw in &page.data {
                count += 1;
                if screen.is_json {
                    screen.print(raw.get())?;
                } else if lines.len() < SHOWN_MAX {
                    lines.push(line_of(serde_json::from_str(raw.get())?));
                }
            }
            let is_enough = !screen.is_json && count > SHOWN_MAX;
            // A page may be empty where everything on it failed for another reason.
            match page.next.map(|next| format!("&after={}", escape(&next))) {
                Some(next) if page.has_more && !is_enough && next != after => after = next,
                _ => break,
            }
        }
        if screen.is_json {
            return Ok(Ending::Answered);
        }
        if lines.is_empty() {
            let (_, batch): (_, BatchView) = client.json(&Call::get(path(&self.id)))?;
            screen.note(&self.nothing(&batch));
            return Ok(Ending::Answered);
        }
        screen.print_table(&["CUSTOM ID", "LINE", "TYPE", "STATUS", "RETRIES", "MESSAGE"], &lines)?;
        if count > lines.len() {
            screen.note(&format!("the first {SHOWN_MAX} are shown; --json lists all"));
        }
        screen.note(&format!("`overnight retry {}` sends them again", self.id));
        Ok(Ending::Answered)
    }

    /// Why there is nothing to show.
    fn nothing(&self, batch: &BatchView) -> String {
        let failed = batch.request_counts.failed;
        match &self.error_type {
            _ if batch.status == "failed" => {
                format!("no request was run; `overnight status {}` says why", batch.id)
            }
            Some(error_type) if failed > 0 => {
                format!(
                    "no request failed for `{error_type}`; without --error-type all {failed} are listed"
                )
            }
            _ => "no failed request".to_owned(),
        }
    }
}

fn line_of(failed: FailedView) -> Vec<String> {
    let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let message = failed.error_message.unwrap_or_default().replace(['\n', '\r', '\t'], " ");
    vec![
        failed.custom_id,
        shown(failed.line),
        failed.error_type.unwrap_or_default(),
        shown(failed.status_code.map(u64::from)),
        shown(failed.retry_count.map(u64::from)),
        message.chars().take(MESSAGE_LEN_MAX).collect(),
    ]
}
