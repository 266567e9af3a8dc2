//! `overnight notify`.

use anyhow::{Context as _, bail};
use clap::Args;
use overnight_domain::ids::NoticeId;
use serde_json::json;

use super::Ending;
use super::config::ConfigOptions;
use super::screen::Screen;
use crate::clock;
use crate::config::Environment;
use crate::notify::{Message, Outlet, Sender};

/// Send a test message to whoever is told about batches, and show what was answered
#[derive(Debug, Args)]
#[command(after_help = "\
Who is told is set under [notify] in overnight.toml: a command, an address, or both. No server need
run.

Examples:
  overnight notify --test
  overnight notify --test --set notify.url=https://ntfy.sh/my-topic")]
pub(super) struct Notify {
    /// Send it, now
    #[arg(long, required = true)]
    test: bool,
    #[command(flatten)]
    options: ConfigOptions,
    /// Print JSON: one object a line for each receiver
    #[arg(long)]
    json: bool,
}

impl Notify {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let (config, _) = self.options.load(environment)?;
        let screen = Screen::new(self.json);
        let outlets = Outlet::all(&config.notify)?;
        if outlets.is_empty() {
            bail!(
                "nobody is told: set `notify.command` or `notify.url` in overnight.toml (docs/operating.md has examples)"
            );
        }
        let id = NoticeId::from_uuid(clock::new_id());
        let message = Message::test(&id, clock::now(), &Sender::server(config.server.listen));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let mut ending = Ending::Answered;
        for outlet in outlets {
            let outcome = runtime.block_on(outlet.deliver(&message));
            let (is_delivered, said) = match outcome {
                Ok(said) => (true, said),
                Err(why) => (false, why),
            };
            if !is_delivered {
                ending = Ending::Failure;
            }
            if self.json {
                let receiver = outlet.receiver().as_str();
                let line = json!({"receiver": receiver, "delivered": is_delivered, "said": said});
                screen.print(&line.to_string())?;
            } else {
                let verdict = if is_delivered { "delivered" } else { "not delivered" };
                let line = format!("{}: {verdict}: {said}", outlet.name());
                screen.print(line.trim_end_matches([':', ' ']))?;
            }
        }
        Ok(ending)
    }
}
