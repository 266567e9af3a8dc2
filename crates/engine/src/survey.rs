//! Asking an engine about itself: several questions at once, each bounded, and a no is an answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use overnight_domain::engine_facts::Flavour;
use overnight_domain::fault::Fault;
use serde_json::Value;
use tokio::time::Instant;

use crate::classify;
use crate::client::Client;
use crate::endpoint::{EndpointConfig, EndpointError};
use crate::facts::{Answers, Question, tei};
use crate::flavour::recognise;
use crate::patience::Patience;

/// After a look that showed nothing, calls that would need to know the flavour do without it for so long.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A page about an engine that is longer than this says nothing that we want to know.
const PAGE_LEN_MAX: usize = 4 * 1024 * 1024;

/// What calls must know of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) flavour: Flavour,
    /// TEI: what it serves, and whether it cuts inputs unless a request forbids it.
    pub(crate) model: Option<String>,
    pub(crate) cuts: bool,
}

/// What is remembered of one endpoint from look to look.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    seen: Mutex<Option<Seen>>,
    /// Held by the one who looks; when the last look that showed nothing was.
    look: tokio::sync::Mutex<Option<Instant>>,
}

/// The answers to some questions, and why others have none.
struct Survey {
    answers: Answers,
    faults: Vec<(Question, Fault)>,
}

impl Memory {
    pub(crate) fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, seen: Option<Seen>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// What is known, or what a look shows now. Nobody looks twice at once, nor again right after a look in vain.
    pub(crate) async fn seen_or_look(&self, client: &Client, within: Duration) -> Result<Seen, Fault> {
        if let Some(seen) = self.seen() {
            return Ok(seen);
        }
        let mut failed_at = self.look.lock().await;
        if let Some(seen) = self.seen() {
            return Ok(seen);
        }
        if failed_at.is_some_and(|at| at.elapsed() < LOOK_AGAIN_AFTER) {
            return Err(Fault::Down { detail: "the engine did not tell what it is".to_owned() });
        }
        let looked = self.look(client, within).await.map(|(seen, _)| seen);
        *failed_at = looked.is_err().then(Instant::now);
        looked
    }

    /// Looks at the engine: at first with all questions, later with those that one of its flavour answers. Whoever
    /// answers otherwise than before is looked at anew, for another engine may have taken its place.
    pub(crate) async fn look(
        &self,
        client: &Client,
        within: Duration,
    ) -> Result<(Seen, Answers), Fault> {
        if let Some(before) = self.seen() {
            let survey = Survey::ask(client, Question::of(before.flavour), within).await;
            let flavour = recognise(&survey.answers);
            if flavour == before.flavour && survey.has_list(flavour) {
                return Ok(self.note(flavour, survey.answers));
            }
            if let Some(fault) = survey.into_trouble() {
                // Down: what comes back may be another.
                if matches!(fault, Fault::Down { .. } | Fault::Lost { .. }) {
                    self.remember(None);
                }
                return Err(fault);
            }
            self.remember(None);
        }
        let survey = Survey::ask(client, &Question::ALL, within).await;
        let flavour = recognise(&survey.answers);
        if !survey.has_list(flavour) {
            return Err(survey.into_fault());
        }
        if flavour == Flavour::Other && survey.faults.iter().any(|(_, fault)| is_trouble(fault)) {
            // It serves, but did not get round to saying what it is: next time.
            let seen = Seen { flavour, model: None, cuts: false };
            return Ok((seen, survey.answers));
        }
        Ok(self.note(flavour, survey.answers))
    }

    fn note(&self, flavour: Flavour, answers: Answers) -> (Seen, Answers) {
        let info = answers.json(Question::Info).filter(|_| flavour == Flavour::Tei);
        let seen = Seen {
            flavour,
            model: info.as_ref().and_then(tei::model),
            cuts: info.as_ref().is_some_and(tei::cuts),
        };
        self.remember(Some(seen.clone()));
        (seen, answers)
    }
}

impl Survey {
    async fn ask(client: &Client, questions: &[Question], within: Duration) -> Self {
        let asked = questions
            .iter()
            .map(|question| async move { (*question, ask_one(client, *question, within).await) });
        let mut survey = Self { answers: Answers::default(), faults: Vec::new() };
        for (question, answered) in join_all(asked).await {
            match answered {
                Ok(body) => survey.answers.insert(question, body),
                Err(fault) => survey.faults.push((question, fault)),
            }
        }
        survey
    }

    /// Whether it said what it serves, each in its way.
    fn has_list(&self, flavour: Flavour) -> bool {
        match flavour {
            Flavour::Tei => self.answers.has(Question::Info),
            _ => self.answers.json(Question::Models).is_some_and(|list| is_list(&list)),
        }
    }

    /// The first fault that is no answer.
    fn into_trouble(self) -> Option<Fault> {
        self.faults.into_iter().map(|(_, fault)| fault).find(is_trouble)
    }

    /// Why it is of no use: what it said to the question that every engine answers.
    fn into_fault(self) -> Fault {
        let of_models = self.faults.into_iter().find(|(question, _)| *question == Question::Models);
        of_models.map_or_else(
            || Fault::Garbage { detail: "its list of models is none".to_owned() },
            |(_, fault)| fault,
        )
    }
}

fn is_list(list: &Value) -> bool {
    list.get("data").is_some_and(|data| data.is_array() || data.is_null())
}

/// A refusal is an answer: the route does not exist, is not open to us, or is switched off (llama.cpp says 501 then).
fn is_trouble(fault: &Fault) -> bool {
    !matches!(
        fault,
        Fault::Misconfigured { .. }
            | Fault::Refused { .. }
            | Fault::EngineError { status: 500 | 501, .. }
    )
}

async fn ask_one(client: &Client, question: Question, within: Duration) -> Result<Bytes, Fault> {
    let uri = match question.path() {
        Some(path) => client.address.native(path),
        None => client.address.models(),
    };
    let mut patience = Patience::new(within, within);
    let reply = client.exchange(Method::GET, uri, Bytes::new(), &mut patience).await?;
    let (_, body) = classify::read_success(reply, PAGE_LEN_MAX as u64)?;
    if body.len() > PAGE_LEN_MAX {
        return Err(Fault::TooLong { limit: PAGE_LEN_MAX as u64 });
    }
    Ok(body)
}

/// Whether the endpoint leaves a connection open behind an answer, so that the next call need not connect anew.
pub async fn keeps_connections(config: &EndpointConfig) -> Result<Result<bool, Fault>, EndpointError> {
    let client = Client::new(config)?;
    let mut patience = Patience::new(config.probe_timeout, config.probe_timeout);
    let uri = client.address.models();
    let reply = client.exchange(Method::GET, uri, Bytes::new(), &mut patience).await;
    Ok(match reply {
        Ok(_) => Ok(client.has_kept_connection().await),
        Err(fault) => Err(fault),
    })
}
