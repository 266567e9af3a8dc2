//! `overnight watch [ID]`

use std::time::{Duration, Instant};

use clap::Args;
use overnight_domain::progress::Pace;
use serde_json::value::RawValue;

use super::client::{Call, Client, ClientError};
use super::list::Page;
use super::meter::Meter;
use super::status::{self, path};
use super::view::{BatchView, Counts};
use super::waits::Waits;
use super::{ClientOptions, Ending};
use crate::config::Environment;
use crate::config::units::show_duration;

const POLL_EVERY: Duration = Duration::from_secs(1);

/// Follow a batch until it is over
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-C ends the watching, not the batch. A server that restarts is waited for.

Examples:
  overnight watch                  the newest batch that is not over
  overnight watch batch_...; echo $?

Exit codes: 0 all answered, 1 the batch could not run, 3 some requests failed.")]
pub(super) struct Watch {
    /// The batch; without it the newest that is not over
    id: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Watch {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let client = self.client.client(environment)?;
        let id = match self.id {
            Some(id) => id,
            None => match newest_unfinished(&client)? {
                Some(id) => id,
                None => {
                    anyhow::bail!("no batch is unfinished; `overnight list` shows those that are over")
                }
            },
        };
        let (raw, batch) = follow(&client, &id)?;
        if client.screen().is_json {
            client.screen().print(raw.get())?;
        }
        Ok(batch.ending())
    }
}

/// Waits until the batch is over, showing how far it is, and says what it came to.
pub(super) fn follow(client: &Client, id: &str) -> anyhow::Result<(Box<RawValue>, BatchView)> {
    let (raw, batch) = wait_for_end(client, id)?;
    say_end(client, &batch)?;
    Ok((raw, batch))
}

/// Waits until the batch is over, showing how far it is.
pub(super) fn wait_for_end(client: &Client, id: &str) -> anyhow::Result<(Box<RawValue>, BatchView)> {
    let mut meter = Meter::of_requests(client.screen(), id);
    let (started, mut pace) = (Instant::now(), Pace::default());
    let mut call = Call::get(path(id));
    let mut waits = Waits::default();
    loop {
        let (raw, batch): (_, BatchView) = client.json(&call)?;
        // It is there: from now on a server that goes away is waited for.
        call = call.patient();
        let counts = batch.request_counts;
        pace.observe(started.elapsed(), counts.done());
        let rate = pace.rate().or(batch.overnight.rate_per_second);
        meter.set(counts.done(), counts.total, || progress(&batch, rate));
        if batch.is_over() {
            meter.finish();
            return Ok((raw, batch));
        }
        let reason = batch.overnight.pause_reason.clone().or(batch.overnight.waiting_reason.clone());
        if let Some(reason) = waits.say(started.elapsed(), reason) {
            meter.note(&format!("{id} waits: {reason}"));
        }
        std::thread::sleep(POLL_EVERY);
    }
}

fn newest_unfinished(client: &Client) -> Result<Option<String>, ClientError> {
    let call = Call::get(
        "/v1/batches?limit=1&status=validating&status=in_progress&status=finalizing&status=cancelling",
    );
    let (_, page): (_, Page) = client.json(&call)?;
    let newest = page.data.first().and_then(|raw| serde_json::from_str::<BatchView>(raw.get()).ok());
    Ok(newest.map(|batch| batch.id))
}

fn progress(batch: &BatchView, rate: Option<f64>) -> String {
    let Counts { total, failed, .. } = batch.request_counts;
    let done = batch.request_counts.done();
    let status = batch.status_shown();
    if total == 0 {
        return status;
    }
    let mut text = format!("{done} of {total} ({}%)", done * 100 / total);
    if failed > 0 {
        text = format!("{text}, {failed} failed");
    }
    if status != "in_progress" {
        return format!("{text}, {status}");
    }
    match rate.filter(|rate| *rate > 0.0) {
        Some(rate) => {
            let left = Duration::from_secs(((total - done.min(total)) as f64 / rate) as u64);
            format!("{text}, {rate:.1} a second, {} left", show_duration(left))
        }
        None => text,
    }
}

fn say_end(client: &Client, batch: &BatchView) -> std::io::Result<()> {
    let screen = client.screen();
    if screen.is_json {
        return Ok(());
    }
    let (id, counts) = (&batch.id, batch.request_counts);
    screen.note(&format!(
        "{id} is {}: {} answered, {} failed",
        batch.status, counts.completed, counts.failed
    ));
    if batch.errors.is_some() {
        return status::print(screen, batch);
    }
    if counts.completed > 0 {
        screen.note(&format!("  overnight results {id} -o out.jsonl"));
    }
    if counts.failed > 0 {
        screen.note(&format!("  overnight failed {id}"));
    }
    Ok(())
}
