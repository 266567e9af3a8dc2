//! What engines tell of themselves: which questions to ask whom, and how to read the answers.
//!
//! One file per flavour, written from the engine's public documentation and source; the version is named there. Reading
//! is a plain function of the answers. What is missing, odd or of another type is unknown, never an error: engines rename
//! their metrics twice a year.

use bytes::Bytes;
use overnight_domain::engine_facts::{EngineFacts, Flavour, ModelFacts};
use serde_json::Value;

use crate::prometheus::Metrics;

mod llama_cpp;
pub(crate) mod lm_studio;
mod overnight;
pub(crate) mod sglang;
pub(crate) mod tei;
mod vllm;

/// A route on which some engine tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The list of models of the OpenAI dialect, which all but TEI have.
    Models,
    Version,
    Metrics,
    Props,
    Slots,
    Info,
    /// SGLang's, by its name of today and by its old one.
    ServerInfo,
    GetServerInfo,
    LmStudioModels,
    OllamaVersion,
}

impl Question {
    pub(crate) const ALL: [Self; 10] = [
        Self::Models,
        Self::Version,
        Self::Metrics,
        Self::Props,
        Self::Slots,
        Self::Info,
        Self::ServerInfo,
        Self::GetServerInfo,
        Self::LmStudioModels,
        Self::OllamaVersion,
    ];

    /// The path beside the base of the OpenAI routes; none for the one that lies under it.
    pub(crate) const fn path(self) -> Option<&'static str> {
        match self {
            Self::Models => None,
            Self::Version => Some("/version"),
            Self::Metrics => Some("/metrics"),
            Self::Props => Some("/props"),
            Self::Slots => Some("/slots"),
            Self::Info => Some("/info"),
            Self::ServerInfo => Some("/server_info"),
            Self::GetServerInfo => Some("/get_server_info"),
            Self::LmStudioModels => Some("/api/v0/models"),
            Self::OllamaVersion => Some("/api/version"),
        }
    }

    /// What is asked of an engine that is known.
    pub(crate) const fn of(flavour: Flavour) -> &'static [Self] {
        match flavour {
            Flavour::Vllm => &[Self::Models, Self::Version, Self::Metrics],
            Flavour::Sglang => &[Self::Models, Self::ServerInfo, Self::GetServerInfo, Self::Metrics],
            Flavour::LlamaCpp => &[Self::Models, Self::Props, Self::Slots, Self::Metrics],
            Flavour::Tei => &[Self::Info, Self::Metrics],
            Flavour::LmStudio => &[Self::Models, Self::LmStudioModels],
            Flavour::Overnight => &[Self::Models, Self::Metrics],
            Flavour::Ollama => &[Self::Models, Self::OllamaVersion],
            Flavour::Other => &[Self::Models],
        }
    }
}

/// The bodies with which an engine answered, where it answered well.
#[derive(Debug, Default)]
pub(crate) struct Answers(Vec<(Question, Bytes)>);

impl Answers {
    pub(crate) fn insert(&mut self, question: Question, body: Bytes) {
        self.0.push((question, body));
    }

    pub(crate) fn has(&self, question: Question) -> bool {
        self.0.iter().any(|(asked, _)| *asked == question)
    }

    pub(crate) fn text(&self, question: Question) -> Option<&str> {
        let (_, body) = self.0.iter().find(|(asked, _)| *asked == question)?;
        std::str::from_utf8(body).ok()
    }

    pub(crate) fn json(&self, question: Question) -> Option<Value> {
        serde_json::from_str(self.text(question)?).ok()
    }

    pub(crate) fn metrics(&self) -> Metrics<'_> {
        self.text(Question::Metrics).map(Metrics::parse).unwrap_or_default()
    }

    /// The entries of the OpenAI list of models that have a name.
    pub(crate) fn models(&self) -> Vec<Value> {
        let list = self.json(Question::Models);
        let Some(Value::Array(models)) = list.and_then(|mut list| Some(list.get_mut("data")?.take()))
        else {
            return Vec::new();
        };
        models.into_iter().filter(|model| model["id"].is_string()).collect()
    }

    /// The facts that every engine with a list of models gives.
    fn model_facts(&self) -> Vec<ModelFacts> {
        let facts = |model: &Value| ModelFacts {
            name: text(&model["id"]).unwrap_or_default(),
            // vLLM's word, which SGLang took over.
            context_len: model["max_model_len"].as_u64(),
            ..ModelFacts::default()
        };
        self.models().iter().map(facts).collect()
    }
}

/// Everything that the answers of an engine of this flavour say.
pub(crate) fn read(flavour: Flavour, answers: &Answers) -> EngineFacts {
    let facts = EngineFacts { flavour, models: answers.model_facts(), ..EngineFacts::default() };
    match flavour {
        Flavour::Vllm => vllm::read(facts, answers),
        Flavour::Sglang => sglang::read(facts, answers),
        Flavour::LlamaCpp => llama_cpp::read(facts, answers),
        Flavour::Tei => tei::read(facts, answers),
        Flavour::LmStudio => lm_studio::read(facts, answers),
        Flavour::Overnight => overnight::read(facts, answers),
        Flavour::Ollama => {
            let version = answers.json(Question::OllamaVersion);
            EngineFacts { version: version.and_then(|body| text(&body["version"])), ..facts }
        }
        Flavour::Other => facts,
    }
}

/// Inputs that one call carries where the engine has no limit of its own: OpenAI's, which clients keep to.
const INPUTS_PER_CALL: u32 = 2_048;

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn narrow(number: Option<u64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

#[cfg(test)]
mod tests;
