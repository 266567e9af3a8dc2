//! Asking at a server: each round is a batch there, which goes on while this command is away.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;

use super::super::client::{Call, Client, ClientError};
use super::super::download::Download;
use super::super::list::Page;
use super::super::submit::allowed;
use super::super::upload::{Upload, may_send_large};
use super::super::view::BatchView;
use super::super::watch::wait_for_end;
use super::place::{Asked, Served, only_model};
use crate::classify::{Labels, Room, Round, Sent};
use crate::whole::write_whole;

/// The batch that was created just before the command died is among the newest: pages of 100.
const PAGES_LOOKED_AT: usize = 20;
/// What a value of `metadata` may hold, with room for the verb.
const NAME_CHARS_MAX: usize = 200;

pub(super) struct Server<'a> {
    client: Client,
    labels: &'a Labels,
    /// To know the batches by in `overnight list`.
    name: String,
}

impl<'a> Server<'a> {
    pub(super) fn new(client: Client, folder: &Path, labels: &'a Labels) -> Self {
        let name: String =
            format!("classify {}", folder.display()).chars().take(NAME_CHARS_MAX).collect();
        Self { client, labels, name }
    }

    pub(super) fn room(&self) -> anyhow::Result<Room> {
        if may_send_large(&self.client)? {
            return Ok(Room::ENDLESS);
        }
        let allowed = allowed(&self.client)?;
        Ok(Room { requests: allowed.lines, len: allowed.len })
    }

    pub(super) fn ask(&self, round: &mut Round, model: Option<&str>) -> anyhow::Result<Asked> {
        let id = self.batch(round, model)?;
        match self.take(&id, round) {
            Err(error) if is_unknown(&error) => {
                let screen = self.client.screen();
                screen.note(&format!(
                    "the server does not know {id} or its results any more: sending it again"
                ));
                let id = self.send(round)?;
                self.take(&id, round)
            }
            taken => taken,
        }
    }

    /// Waits for the end of a round's batch, and fetches its results.
    fn take(&self, id: &str, round: &Round) -> anyhow::Result<Asked> {
        let (_, batch) = wait_for_end(&self.client, id)?;
        if batch.status == "failed" {
            let problems = || batch.errors.iter().flat_map(|errors| &errors.data);
            for problem in problems() {
                self.client.screen().note(&format!("  {} ({})", problem.message, problem.code));
            }
            return Ok(Asked::refused(problems().map(|problem| problem.code.as_str())));
        }
        self.fetch(&batch, &round.results())?;
        Ok(Asked::All)
    }

    /// The batch of a round, which may have been created before.
    fn batch(&self, round: &mut Round, model: Option<&str>) -> anyhow::Result<String> {
        match &round.sent {
            None => {
                let model = match model {
                    Some(model) => model.to_owned(),
                    None => only_model(&self.models()?, self.labels)?,
                };
                let server = Some(self.client.base().to_owned());
                round.save(Sent { model, server, file: None, batch: None })?;
                self.send(round)
            }
            Some(Sent { batch: Some(batch), .. }) => Ok(batch.clone()),
            Some(Sent { file: Some(file), .. }) => match self.batch_of(file)? {
                Some(batch) => Ok(batch),
                None => self.send(round),
            },
            Some(_) => self.send(round),
        }
    }

    /// Uploads the requests of a round and creates its batch. Each step is noted before the next, so that no work is
    /// sent twice whenever the command dies.
    fn send(&self, round: &mut Round) -> anyhow::Result<String> {
        let sent = round.sent.clone().context("the round was not begun")?;
        let is_large = may_send_large(&self.client)?;
        let requests = round.requests();
        let len = std::fs::metadata(&requests)
            .with_context(|| format!("failed to read `{}`", requests.display()))?
            .len();
        let filename = "documents.jsonl".to_owned();
        let file = Upload { path: &requests, filename, range: 0..len, is_large }.send(&self.client)?;
        round.save(Sent { file: Some(file.clone()), batch: None, ..sent.clone() })?;
        let mut ours = json!({"model": sent.model});
        if is_large {
            ours["large"] = json!(true);
        }
        let body = json!({
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"name": self.name},
            "overnight": ours,
        });
        let call = Call::post("/v1/batches", Some(body.to_string())).patient();
        let (_, batch) = self.client.json::<BatchView>(&call)?;
        round.save(Sent { file: Some(file), batch: Some(batch.id.clone()), ..sent })?;
        Ok(batch.id)
    }

    /// The batch that was made from a file, if there is one.
    fn batch_of(&self, file: &str) -> anyhow::Result<Option<String>> {
        let mut after = String::new();
        for _ in 0..PAGES_LOOKED_AT {
            let call = Call::get(format!("/v1/batches?limit=100{after}"));
            let (_, page) = self.client.json::<Page>(&call)?;
            let mut last = None;
            for raw in &page.data {
                let batch: BatchView = serde_json::from_str(raw.get())?;
                if batch.input_file_id == file {
                    return Ok(Some(batch.id));
                }
                last = Some(batch.id);
            }
            match last.filter(|_| page.has_more) {
                Some(last) => after = format!("&after={last}"),
                None => break,
            }
        }
        Ok(None)
    }

    fn models(&self) -> anyhow::Result<Vec<Served>> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Served>,
        }
        let (_, models) = self.client.json::<Models>(&Call::get("/v1/models"))?;
        Ok(models.data)
    }

    /// All result lines, of answered requests and of failed ones.
    fn fetch(&self, batch: &BatchView, to: &Path) -> anyhow::Result<()> {
        let files = [&batch.output_file_id, &batch.error_file_id];
        write_whole(to, |out| {
            for file in files.into_iter().flatten() {
                io::copy(&mut Download::of_file(&self.client, file).patient(), out)?;
            }
            Ok(())
        })
        .with_context(|| format!("failed to fetch the results of {}", batch.id))?;
        Ok(())
    }
}

/// What was asked for is not there, be it the batch or a file of its results.
fn is_unknown(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        // A download fails as reading does. What is inside stands in no chain.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let refusal = match inner {
            Some(inner) => inner.downcast_ref::<ClientError>(),
            None => cause.downcast_ref::<ClientError>(),
        };
        matches!(refusal, Some(ClientError::Refused(refusal)) if refusal.status == 404)
    })
}
