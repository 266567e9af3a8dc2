//! Endpoints that speak the OpenAI dialect: vLLM, SGLang, llama.cpp, LM Studio, TEI, an Ollama through its `/v1`.
//!
//! Which of them it is, it tells itself. It matters for what is asked about its capacity and load, and at TEI for a
//! request's words.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use overnight_domain::engine_facts::{EngineFacts, Flavour};
use overnight_domain::fault::Fault;
use overnight_domain::route::Route;

use crate::classify;
use crate::client::Client;
use crate::endpoint::{EndpointConfig, EndpointError};
use crate::engine::{Answer, Attempt, Call, Engine};
use crate::facts;
use crate::patience::Patience;
use crate::reply::Reply;
use crate::secret::Secret;
use crate::survey::{Memory, Seen};
use crate::tei;

/// One such endpoint. Dropping it closes its kept connections.
pub struct OpenAi {
    client: Client,
    api_key: Option<Secret>,
    probe_timeout: Duration,
    answer_len_max: u64,
    memory: Memory,
}

impl OpenAi {
    /// Refuses a configuration that cannot work; whether the endpoint answers is not asked.
    pub fn new(config: &EndpointConfig) -> Result<Self, EndpointError> {
        Ok(Self {
            client: Client::new(config)?,
            api_key: config.api_key.clone(),
            probe_timeout: config.probe_timeout,
            answer_len_max: config.answer_len_max,
            memory: Memory::default(),
        })
    }

    async fn get_models(&self) -> Result<Reply, Fault> {
        let mut patience = Patience::new(self.probe_timeout, self.probe_timeout);
        let uri = self.client.address.models();
        self.client.exchange(Method::GET, uri, Bytes::new(), &mut patience).await
    }

    async fn look(&self) -> Result<(Seen, facts::Answers), Fault> {
        let looked = self.memory.look(&self.client, self.probe_timeout).await;
        looked.map_err(|fault| self.hide_key(fault))
    }

    async fn answer(&self, call: Call, patience: &mut Patience) -> Result<Answer, Fault> {
        let seen = match call.route {
            // TEI has no route for it but its own: without knowing, the wrong one would be asked.
            Route::Rerank => {
                let within = self.probe_timeout.min(call.deadline);
                Some(self.memory.seen_or_look(&self.client, within).await?)
            }
            // It may cut inputs unseen. Whoever does not tell what it is now is asked as any engine is.
            Route::Embeddings => {
                let within = self.probe_timeout.min(call.deadline);
                self.memory.seen_or_look(&self.client, within).await.ok()
            }
            _ => None,
        };
        let Some(seen) = seen.filter(|seen| seen.flavour == Flavour::Tei) else {
            let uri = self.client.address.route(call.route);
            let reply = self.client.exchange(Method::POST, uri, call.body, patience).await?;
            return classify::read_answer(call.route, reply, self.answer_len_max);
        };
        self.answer_of_tei(call, &seen, patience).await.map_err(tei::reinterpret)
    }

    async fn answer_of_tei(
        &self,
        call: Call,
        seen: &Seen,
        patience: &mut Patience,
    ) -> Result<Answer, Fault> {
        let native = tei::native(call.route, &call.body, seen)?;
        let Some(native) = native else {
            let uri = self.client.address.route(call.route);
            let reply = self.client.exchange(Method::POST, uri, call.body, patience).await?;
            return classify::read_answer(call.route, reply, self.answer_len_max);
        };
        let uri = self.client.address.native(native.path);
        let mut reply = self.client.exchange(Method::POST, uri, native.body.clone(), patience).await?;
        if reply.is_whole_success() {
            reply.body = native.back(&reply.head.headers, &reply.body)?;
        }
        classify::read_answer(call.route, reply, self.answer_len_max)
    }

    fn hide_key(&self, fault: Fault) -> Fault {
        classify::hide_key(self.api_key.as_ref(), fault)
    }
}

#[async_trait]
impl Engine for OpenAi {
    async fn ask(&self, call: Call) -> Attempt {
        let mut patience = Patience::new(call.deadline, call.stall).with_gap(call.gap);
        let result = self.answer(call, &mut patience).await.map_err(|fault| self.hide_key(fault));
        Attempt { result, first_byte_after: patience.first_byte_after(), duration: patience.elapsed() }
    }

    async fn models(&self) -> Result<Vec<String>, Fault> {
        if let Some(Seen { flavour: Flavour::Tei, model: Some(model), .. }) = self.memory.seen() {
            // It may have been started anew with another.
            let looked = self.look().await;
            return looked.map(|(seen, _)| vec![seen.model.unwrap_or(model)]);
        }
        let reply = self.get_models().await;
        let models = reply.and_then(|reply| classify::read_models(reply, self.answer_len_max));
        match models {
            Err(Fault::Misconfigured { status: 404 | 405, .. }) => {
                let (seen, _) = self.look().await?;
                Ok(seen.model.into_iter().collect())
            }
            models => models.map_err(|fault| self.hide_key(fault)),
        }
    }

    async fn facts(&self) -> Result<EngineFacts, Fault> {
        let (seen, answers) = self.look().await?;
        Ok(facts::read(seen.flavour, &answers))
    }

    async fn probe(&self) -> Result<(), Fault> {
        let reply = self.get_models().await?;
        classify::read_probe(&reply).map_err(|fault| self.hide_key(fault))
    }
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi").field("address", &self.client.address).finish_non_exhaustive()
    }
}
