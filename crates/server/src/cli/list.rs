//! `overnight list`

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::Call;
use super::view::{BatchView, moment};
use super::{ClientOptions, Ending};
use crate::config::Environment;

const PAGE: usize = 100;

/// List the batches, newest first
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  overnight list\n  overnight list --status in_progress --limit 5\n  overnight list --json | jq -r .id"
)]
pub(super) struct List {
    /// Only batches with this status; may be given several times
    #[arg(long, value_name = "STATUS", value_parser = ["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"])]
    status: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) data: Vec<Box<RawValue>>,
    #[serde(default)]
    pub(super) has_more: bool,
}

impl List {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let client = self.client.client(environment)?;
        let screen = client.screen();
        let (mut lines, mut count, mut after) = (Vec::new(), 0, String::new());
        let limit = self.limit as usize;
        while count < limit {
            let mut path = format!("/v1/batches?limit={}", PAGE.min(limit - count));
            for status in &self.status {
                path = format!("{path}&status={status}");
            }
            let (_, page): (_, Page) = client.json(&Call::get(format!("{path}{after}")))?;
            let Some(last) = page.data.last() else { break };
            after = format!("&after={}", serde_json::from_str::<BatchView>(last.get())?.id);
            for raw in page.data.iter().take(limit - count) {
                if screen.is_json {
                    screen.print(raw.get())?;
                } else {
                    lines.push(line_of(&serde_json::from_str(raw.get())?));
                }
                count += 1;
            }
            if !page.has_more {
                break;
            }
        }
        if screen.is_json {
            return Ok(Ending::Answered);
        }
        if lines.is_empty() {
            screen.note(if self.status.is_empty() {
                "no batch yet; `overnight submit IN.jsonl` sends one"
            } else {
                "no batch with this status"
            });
        } else {
            screen
                .print_table(&["ID", "STATUS", "DONE", "FAILED", "TOTAL", "CREATED", "NAME"], &lines)?;
        }
        Ok(Ending::Answered)
    }
}

fn line_of(batch: &BatchView) -> Vec<String> {
    vec![
        batch.id.clone(),
        batch.status_shown(),
        batch.request_counts.done().to_string(),
        batch.request_counts.failed.to_string(),
        batch.request_counts.total.to_string(),
        moment(batch.created_at),
        batch.name().unwrap_or_default().to_owned(),
    ]
}
