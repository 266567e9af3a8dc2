//! `overnight cancel ID`

use clap::Args;

use super::client::Call;
use super::status::path;
use super::view::BatchView;
use super::{ClientOptions, Ending};
use crate::config::Environment;

/// Cancel a batch; what is answered is kept
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  overnight cancel batch_...")]
pub(super) struct Cancel {
    /// The batch
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Cancel {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let client = self.client.client(environment)?;
        let call = Call::post(format!("{}/cancel", path(&self.id)), None);
        let (raw, batch): (_, BatchView) = client.json(&call)?;
        let screen = client.screen();
        if screen.is_json {
            screen.print(raw.get())?;
        } else {
            screen.note(&format!("{} is {}", batch.id, batch.status_shown()));
        }
        Ok(Ending::Answered)
    }
}
