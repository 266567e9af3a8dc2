//! Where documents are asked for: at a server, or here, as `overnight run` does.

use std::path::Path;

use anyhow::bail;
use serde::Deserialize;

use super::super::client::Client;
use super::super::config::RunOptions;
use super::super::{ClientOptions, DEFAULT_SERVER};
use super::here::Here;
use super::server::Server;
use crate::builtin;
use crate::classify::{Labels, Room, Round, Sent};
use crate::config::Environment;

/// Models that are named where one has to be chosen.
const MODELS_SHOWN: usize = 10;

/// What a batch is refused with when nobody serves its model.
const MODEL_UNKNOWN: &str = "model_not_found";

/// What decides the place.
pub(super) struct Places<'a> {
    pub(super) environment: &'a Environment,
    pub(super) client: &'a ClientOptions,
    pub(super) options: &'a RunOptions,
    pub(super) is_local: bool,
    pub(super) folder: &'a Path,
    pub(super) output: &'a Path,
    pub(super) labels: &'a Labels,
}

pub(super) enum Place<'a> {
    Server(Server<'a>),
    Here(Here<'a>),
}

/// How asking for a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The round has its results.
    All,
    /// A signal ended it; running the command again goes on.
    Interrupted,
    /// Nothing was run, and nothing will be. It was said why.
    Refused { is_model_unknown: bool },
}

impl Asked {
    pub(super) fn refused<'a>(mut codes: impl Iterator<Item = &'a str>) -> Self {
        Self::Refused { is_model_unknown: codes.any(|code| code == MODEL_UNKNOWN) }
    }
}

impl<'a> Places<'a> {
    /// The place of a round: where it was begun, else where it is wanted.
    pub(super) fn of(&self, round: &Round) -> anyhow::Result<Place<'a>> {
        let named = self.client.named(self.environment);
        let is_configured = self.options.is_any_given();
        self.client.refuse_both(is_configured)?;
        let wants_here = is_configured || self.is_local;
        match &round.sent {
            Some(Sent { server: Some(begun), .. }) => {
                let client = self.client.client_of(begun, self.environment)?;
                let other = named.map(|named| self.client.client_of(named, self.environment));
                let is_other = other.transpose()?.is_some_and(|other| other.base() != client.base());
                if wants_here || is_other {
                    bail!(
                        "what was begun is at the server {begun}: finish it with --server {begun}, or remove `{}` to \
                         begin anew",
                        round.folder().display()
                    );
                }
                Ok(self.server(client))
            }
            Some(Sent { server: None, .. }) if self.client.server.is_some() => bail!(
                "what was begun runs without a server: finish it with --local, or remove `{}` to begin anew",
                round.folder().display()
            ),
            Some(Sent { server: None, .. }) => self.here(),
            None if wants_here => self.here(),
            None => self.chosen(named),
        }
    }

    /// The server that is named, or the one on this machine, if there is one.
    fn chosen(&self, named: Option<&str>) -> anyhow::Result<Place<'a>> {
        let client = self.client.client_of(named.unwrap_or(DEFAULT_SERVER), self.environment)?;
        if named.is_none() && !is_live(&client) {
            self.client.screen().note("no server is running here, so the engines are asked directly");
            return self.here();
        }
        self.client.screen().note(&format!("asking the server at {}", client.base()));
        Ok(self.server(client))
    }

    fn server(&self, client: Client) -> Place<'a> {
        Place::Server(Server::new(client, self.folder, self.labels))
    }

    fn here(&self) -> anyhow::Result<Place<'a>> {
        let screen = self.client.screen();
        Here::new(self.environment, self.options, self.output, self.labels, screen).map(Place::Here)
    }
}

/// Whether a server of ours answers. Whoever else listens there is passed over.
fn is_live(client: &Client) -> bool {
    #[derive(Deserialize)]
    struct Life {
        status: String,
    }
    let answer = client.get_once("/health/live").and_then(|response| client.read_json::<Life>(response));
    answer.is_ok_and(|(_, life)| life.status == "live")
}

impl Place<'_> {
    /// How much may be asked at once.
    pub(super) fn room(&self) -> anyhow::Result<Room> {
        match self {
            Self::Server(server) => server.room(),
            Self::Here(_) => Ok(Room::ENDLESS),
        }
    }

    /// Begins a round, or goes on with it, until it has its results.
    pub(super) fn ask(&mut self, round: &mut Round, model: Option<&str>) -> anyhow::Result<Asked> {
        match self {
            Self::Server(server) => server.ask(round, model),
            Self::Here(here) => here.ask(round, model),
        }
    }
}

/// A model, and the endpoint that serves it.
#[derive(Debug, Deserialize)]
pub(super) struct Served {
    #[serde(rename = "id")]
    pub(super) model: String,
    #[serde(rename = "owned_by")]
    pub(super) endpoint: String,
}

/// The model where nobody named one.
pub(super) fn only_model(models: &[Served], labels: &Labels) -> anyhow::Result<String> {
    match models {
        [Served { model, endpoint }] => match builtin::refuse_labels(model, endpoint, labels.names()) {
            Some(refusal) => bail!(refusal),
            None => Ok(model.clone()),
        },
        [] => bail!("the engines have not said which models they serve: name one with --model"),
        several => {
            let shown: Vec<&str> =
                several.iter().take(MODELS_SHOWN).map(|served| served.model.as_str()).collect();
            let more = if several.len() > MODELS_SHOWN { ", ..." } else { "" };
            bail!(
                "{} models are served, so name one with --model: {}{more}",
                several.len(),
                shown.join(", ")
            )
        }
    }
}
