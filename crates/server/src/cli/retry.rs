//! `overnight retry ID`

use clap::Args;
use serde_json::json;

use super::client::Call;
use super::status::path;
use super::view::BatchView;
use super::{ClientOptions, Ending};
use crate::config::Environment;

/// Send failed requests again, as a new batch
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overnight retry batch_...
  overnight retry batch_... --error-type request_timeout
  overnight retry batch_... --custom-id row-7 --custom-id row-9
`overnight results ID --with-retries` later gives the answers of both in one file.")]
pub(super) struct Retry {
    /// The batch whose requests failed
    id: String,
    /// Only this request; may be given several times
    #[arg(long, value_name = "ID")]
    custom_id: Vec<String>,
    /// Only those that failed for this reason
    #[arg(long, value_name = "TYPE")]
    error_type: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Retry {
    pub(super) fn run(self, environment: &Environment) -> anyhow::Result<Ending> {
        let client = self.client.client(environment)?;
        let mut body = serde_json::Map::new();
        if !self.custom_id.is_empty() {
            body.insert("custom_ids".to_owned(), json!(self.custom_id));
        }
        if let Some(error_type) = &self.error_type {
            body.insert("error_type".to_owned(), json!(error_type));
        }
        let body = serde_json::Value::Object(body).to_string();
        let call = Call::post(format!("{}/retry", path(&self.id)), Some(body));
        let (raw, batch): (_, BatchView) = client.json(&call)?;
        let screen = client.screen();
        if screen.is_json {
            screen.print(raw.get())?;
        } else {
            screen.print(&batch.id)?;
            screen.note(&format!("sent again; `overnight watch {}` shows how far it is", batch.id));
        }
        Ok(Ending::Answered)
    }
}
