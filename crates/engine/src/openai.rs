//! Endpoints that speak the OpenAI dialect: vLLM, SGLang, llama.cpp, LM Studio, TEI, an Ollama through its `/v1`.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use overnight_domain::engine_facts::{EngineFacts, ModelFacts};
use overnight_domain::fault::Fault;

use crate::classify;
use crate::client::Client;
use crate::endpoint::{EndpointConfig, EndpointError};
use crate::engine::{Attempt, Call, Engine};
use crate::patience::Patience;
use crate::reply::Reply;
use crate::secret::Secret;

/// One such endpoint. Dropping it closes its kept connections.
pub struct OpenAi {
    client: Client,
    api_key: Option<Secret>,
    probe_timeout: Duration,
    answer_len_max: u64,
}

impl OpenAi {
    /// Refuses a configuration that cannot work; whether the endpoint answers is not asked.
    pub fn new(config: &EndpointConfig) -> Result<Self, EndpointError> {
        Ok(Self {
            client: Client::new(config)?,
            api_key: config.api_key.clone(),
            probe_timeout: config.probe_timeout,
            answer_len_max: config.answer_len_max,
        })
    }

    async fn get_models(&self) -> Result<Reply, Fault> {
        let mut patience = Patience::new(self.probe_timeout, self.probe_timeout);
        let uri = self.client.address.models();
        self.client.exchange(Method::GET, uri, Bytes::new(), &mut patience).await
    }

    /// Some engines repeat a key that they do not accept.
    fn hide_key(&self, mut fault: Fault) -> Fault {
        if let (Some(key), Fault::Misconfigured { detail, .. } | Fault::Busy { detail, .. }) =
            (&self.api_key, &mut fault)
            && detail.contains(key.expose())
        {
            *detail = detail.replace(key.expose(), "[secret]");
        }
        fault
    }
}

#[async_trait]
impl Engine for OpenAi {
    async fn ask(&self, call: Call) -> Attempt {
        let mut patience = Patience::new(call.deadline, call.stall).with_gap(call.gap);
        let uri = self.client.address.route(call.route);
        let reply = self.client.exchange(Method::POST, uri, call.body, &mut patience).await;
        let result = reply
            .and_then(|reply| classify::read_answer(call.route, reply, self.answer_len_max))
            .map_err(|fault| self.hide_key(fault));
        Attempt { result, first_byte_after: patience.first_byte_after(), duration: patience.elapsed() }
    }

    async fn models(&self) -> Result<Vec<String>, Fault> {
        let reply = self.get_models().await;
        reply
            .and_then(|reply| classify::read_models(reply, self.answer_len_max))
            .map_err(|fault| self.hide_key(fault))
    }

    async fn facts(&self) -> Result<EngineFacts, Fault> {
        let names = self.models().await?;
        let models = names.into_iter().map(|name| ModelFacts { name, ..ModelFacts::default() });
        Ok(EngineFacts { models: models.collect(), ..EngineFacts::default() })
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
