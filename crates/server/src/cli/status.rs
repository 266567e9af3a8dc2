//! `overnight status ID`

use clap::Args;

use super::client::{Call, escape};
use super::screen::Screen;
use super::view::{BatchView, moment};
use super::{ClientOptions, Ending};
use crate::config::Environment;

/// Show where a batch stands
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  overnight status batch_...\n  overnight status batch_... --json | jq .request_counts"
)]
pub(super) struct Status {
    /// The batch
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Status {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let client = self.client.client(environment)?;
        let (raw, batch) = client.json(&Call::get(path(&self.id)))?;
        let screen = client.screen();
        if screen.is_json {
            screen.print(raw.get())?;
        } else {
            print(screen, &batch)?;
        }
        Ok(Ending::Answered)
    }
}

/// The route of a batch. What a user types may hold anything.
pub(super) fn path(id: &str) -> String {
    format!("/v1/batches/{}", escape(id))
}

/// What is said of answers that are not whole.
pub(super) fn cut_short(count: u64) -> String {
    format!(
        "{count} answers ended at their limit of length: `max_tokens` or the context is too small for them"
    )
}

pub(super) fn print(screen: Screen, batch: &BatchView) -> std::io::Result<()> {
    let counts = batch.request_counts;
    let mut lines = vec![
        ("batch", batch.id.clone()),
        ("status", batch.status_shown()),
        (
            "requests",
            format!("{} of {} done, {} of them failed", counts.done(), counts.total, counts.failed),
        ),
        ("route", batch.endpoint.clone()),
    ];
    let mut push = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    let ours = &batch.overnight;
    push("model", batch.model.clone());
    push("name", batch.name().map(str::to_owned));
    push("priority", ours.priority.filter(|priority| *priority != 0).map(|number| number.to_string()));
    push("cut short", (ours.cut_short > 0).then(|| cut_short(ours.cut_short)));
    push("paused", ours.pause_reason.clone());
    push("waits", ours.waiting_reason.clone());
    push("parent", ours.parent.clone());
    push("created", Some(moment(batch.created_at)));
    push("began", batch.in_progress_at.map(moment));
    push("completed", batch.completed_at.map(moment));
    push("due", batch.expires_at.filter(|_| !batch.is_over()).map(moment));
    push("input", Some(batch.input_file_id.clone()));
    push("output", batch.output_file_id.clone());
    push("errors", batch.error_file_id.clone());
    for (name, value) in lines {
        screen.print(&format!("{name:<10} {value}"))?;
    }
    for problem in batch.errors.iter().flat_map(|errors| &errors.data) {
        let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        screen.print(&format!("  {line}{} ({})", problem.message, problem.code))?;
    }
    Ok(())
}
