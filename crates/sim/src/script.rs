//! The script: how the engine as a whole behaves, until another script is set.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::directive::{Directive, Text};
use crate::ollama::Ollama;
use crate::shape::Shape;
use crate::shapes::tei::Tei;

/// How the engine behaves. The default answers everything at once, as fast as it can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Which engine it takes after.
    pub shape: Shape,
    /// How an Ollama is set up; for its shape alone.
    pub ollama: Ollama,
    /// How a TEI is set up; for its shape alone.
    pub tei: Tei,
    /// What `GET /v1/models` lists.
    pub models: Vec<String>,
    /// Whether a request for a model that is not listed gets 404 `model_not_found`.
    pub strict_models: bool,
    /// How long an answer takes once it has its slot.
    pub latency: Latency,
    /// At most so many requests are served at once; the others wait in the order of their arrival.
    pub slots: Option<usize>,
    /// More requests at once than this are refused instead of waiting.
    pub permits: Option<Permits>,
    /// What happens to whom. The first rule that meets a request decides; directives in its body go before.
    pub rules: Vec<Rule>,
    /// After a crash the engine comes back on the same port after this long. Without it, it stays away until
    /// [`Engine::restart`](crate::Engine::restart) (the binary exits).
    #[serde(rename = "restart_after_ms", with = "millis::optional")]
    pub restart_after: Option<Duration>,
    /// A kept connection on which nothing comes for so long after an answer is closed.
    #[serde(rename = "idle_close_ms", with = "millis::optional")]
    pub idle_close: Option<Duration>,
    /// A connection that has given so many answers is closed, without a warning, when the next request comes.
    pub answers_per_connection: Option<u64>,
    /// New connections are refused for so long after the script was set.
    #[serde(rename = "refuse_ms", with = "millis::optional")]
    pub refuse: Option<Duration>,
    /// A longer body is refused with 400 `context_length_exceeded`.
    pub context_bytes: Option<usize>,
    /// The length of an embedding when the request does not say.
    pub embedding_len: usize,
    /// What embeddings calls cost, and how many inputs one may carry.
    pub embeddings: Embeddings,
    /// Without this bearer token every route but `/health` and `/sim/` answers 401.
    pub api_key: Option<String>,
    /// What the text of an answer is, where a directive does not say.
    pub text: Text,
    /// Whether a body that is not whole JSON gets 400. Off by default: it costs as much as all the rest.
    pub check_json: bool,
}

/// How long an answer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    #[default]
    None,
    #[serde(rename = "fixed_ms", with = "millis")]
    Fixed(Duration),
    /// Between the two, decided by the hash of the body: the same request always takes the same time.
    #[serde(rename = "range_ms", with = "millis::pair")]
    Range(Duration, Duration),
    /// Up to `knee` at once an answer takes `base_ms`; beyond, as many times longer as there are more. What more
    /// requests in flight gain is nothing, and what they cost is waiting.
    Knee {
        knee: u32,
        #[serde(rename = "base_ms", with = "millis")]
        base: Duration,
    },
}

/// Embeddings calls: what a list gains is that it pays for the call once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Embeddings {
    /// More inputs than this are refused with 413, as by TEI's `--max-client-batch-size`.
    pub inputs_max: Option<usize>,
    /// On top of the latency, in microseconds: for each call, and for each input in it.
    pub call_us: u64,
    pub input_us: u64,
}

/// How many requests are taken at once, and what the others get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permits {
    pub max: u64,
    /// 429, 503 or 529.
    #[serde(default = "too_many_requests")]
    pub status: u16,
    #[serde(default)]
    pub retry_after: Option<String>,
}

/// What happens to the requests that a rule meets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub when: When,
    /// Only for this model.
    #[serde(default)]
    pub model: Option<String>,
    /// Also for `/health` and `/v1/models`, which otherwise always answer.
    #[serde(default)]
    pub probes: bool,
    #[serde(rename = "do")]
    pub then: Directive,
}

/// Which of the requests that come to a rule it meets. They are counted from the setting of the script, by rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Always,
    /// The next n.
    Next(u64),
    /// The n-th, from 1.
    At(u64),
    /// Every n-th by arrival.
    Every(u64),
    /// One in n by the hash of the body: the same requests in every run and every order.
    OneIn(u64),
    /// All that come within this time after the script was set.
    #[serde(rename = "for_ms", with = "millis")]
    For(Duration),
}

impl Default for Script {
    fn default() -> Self {
        Self {
            shape: Shape::OpenAi,
            ollama: Ollama::default(),
            tei: Tei::default(),
            models: vec!["sim-model".to_owned()],
            strict_models: false,
            latency: Latency::None,
            slots: None,
            permits: None,
            rules: Vec::new(),
            restart_after: None,
            idle_close: None,
            answers_per_connection: None,
            refuse: None,
            context_bytes: None,
            embedding_len: 8,
            embeddings: Embeddings::default(),
            api_key: None,
            text: Text::Hash,
            check_json: false,
        }
    }
}

impl Script {
    /// The same script with one more rule, written as in a directive; for tests that need just that.
    #[must_use]
    pub fn with_rule(mut self, when: When, then: Directive) -> Self {
        self.rules.push(Rule { when, model: None, probes: false, then });
        self
    }
}

impl Latency {
    /// How long the answer to the body with this hash takes while `in_flight` requests are there.
    pub(crate) fn of(self, hash: u64, in_flight: u64) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Fixed(latency) => latency,
            Self::Range(from, to) => {
                let span = u64::try_from(to.saturating_sub(from).as_micros()).unwrap_or(u64::MAX);
                from + Duration::from_micros(hash % span.saturating_add(1).max(1))
            }
            Self::Knee { knee, base } => {
                let knee = u64::from(knee.max(1));
                base.mul_f64(in_flight.max(knee) as f64 / knee as f64)
            }
        }
    }
}

const fn too_many_requests() -> u16 {
    429
}

/// Durations as whole milliseconds, as they stand in a script file.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        (span.as_millis() as u64).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Duration, Serialize, Serializer};

        #[expect(clippy::ref_option, reason = "the form that serde's `with` asks for")]
        pub(in super::super) fn serialize<S: Serializer>(
            span: &Option<Duration>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            span.map(|span| span.as_millis() as u64).serialize(to)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
        }
    }

    pub(super) mod pair {
        use super::{Deserialize, Deserializer, Duration, Serialize, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(
            from: &Duration,
            until: &Duration,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            [from.as_millis() as u64, until.as_millis() as u64].serialize(to)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<(Duration, Duration), D::Error> {
            let [from, to] = <[u64; 2]>::deserialize(from)?;
            Ok((Duration::from_millis(from), Duration::from_millis(to)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_file_is_read() {
        let text = r#"{
            "models": ["a", "b"], "slots": 4, "latency": {"range_ms": [10, 20]}, "restart_after_ms": 500,
            "permits": {"max": 8, "status": 503, "retry_after": "1"},
            "rules": [
                {"when": {"next": 2}, "do": "status=401"},
                {"when": {"for_ms": 60000}, "do": "status=401", "probes": true},
                {"when": "always", "model": "b", "do": "half_json"}
            ]
        }"#;
        let script: Script = serde_json::from_str(text).expect("the documented form");
        assert_eq!(script.latency, Latency::Range(Duration::from_millis(10), Duration::from_millis(20)));
        assert_eq!(script.rules[1].when, When::For(Duration::from_secs(60)));
        let again = serde_json::to_string(&script).expect("plain data");
        assert_eq!(serde_json::from_str::<Script>(&again).expect("our own words"), script);
        assert!(serde_json::from_str::<Script>(r#"{"latancy": "none"}"#).is_err());
    }

    #[test]
    fn latency_lies_in_its_range_and_grows_behind_the_knee() {
        let ms = Duration::from_millis;
        for hash in [0, 1, 999, u64::MAX] {
            let latency = Latency::Range(ms(10), ms(20)).of(hash, 1);
            assert!((ms(10)..=ms(20)).contains(&latency));
        }
        let knee = Latency::Knee { knee: 4, base: ms(10) };
        assert_eq!(knee.of(0, 1), ms(10));
        assert_eq!(knee.of(0, 4), ms(10));
        assert_eq!(knee.of(0, 8), ms(20));
    }
}
