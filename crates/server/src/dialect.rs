//! In which words an engine is spoken to: an Ollama in its own, for its `/v1` cuts prompts unseen.

use std::time::Duration;

use futures::future::join_all;
use overnight_domain::engine_facts::{EngineFacts, Flavour};
use overnight_engine::{EndpointConfig, EndpointError, EngineKind, connect};

use crate::config::{DispatchConfig, EngineConfig};
use crate::dispatch::endpoint_config;

/// Asks the engines of which only the address is known what they are. Who does not answer in time is taken for one of the
/// OpenAI dialect.
pub(crate) async fn settle_kinds(
    engines: &mut [EngineConfig],
    dispatch: &DispatchConfig,
    within: Duration,
) -> anyhow::Result<()> {
    let count = engines.len();
    let open = engines.iter_mut().filter(|engine| engine.is_kind_open);
    let asked = open.map(|engine| async move {
        let mut setup = endpoint_config(engine, dispatch, count)?;
        // A question that nobody answers must not cost what the others have brought; two may follow one another.
        setup.probe_timeout = within.mul_f64(0.4);
        if let Ok(Some(flavour)) = tokio::time::timeout(within, flavour_at(&setup)?).await {
            engine.is_kind_open = false;
            if flavour == Flavour::Ollama {
                engine.kind = EngineKind::Ollama;
            }
        }
        anyhow::Ok(())
    });
    join_all(asked).await.into_iter().collect()
}

/// None: nobody answers.
fn flavour_at(
    setup: &EndpointConfig,
) -> Result<impl Future<Output = Option<Flavour>> + use<>, EndpointError> {
    let (openai, ollama) = (connect(EngineKind::OpenAi, setup)?, connect(EngineKind::Ollama, setup)?);
    Ok(async move {
        match openai.facts().await {
            Ok(facts) => Some(facts.flavour),
            // At an address without `/v1` only an Ollama answers.
            Err(_) => ollama.facts().await.ok().map(|facts| facts.flavour),
        }
    })
}

/// What the owner of an Ollama should know that is spoken to through its `/v1`.
pub(crate) fn notice(engine: &EngineConfig, facts: &EngineFacts) -> Option<String> {
    if engine.kind != EngineKind::OpenAi || facts.flavour != Flavour::Ollama {
        return None;
    }
    let what_to_do = if engine.is_kind_open {
        "start Overnight anew now that it runs, or configure it with `kind = \"ollama\"`"
    } else {
        "write `kind = \"ollama\"`"
    };
    Some(format!(
        "this is an Ollama, spoken to through its `/v1`: prompts that it cuts cannot be seen, and their answers count as \
         whole; {what_to_do}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ollama_in_another_dialect_is_worth_a_notice() {
        let ollama = EngineFacts { flavour: Flavour::Ollama, ..EngineFacts::default() };
        let own = EngineConfig::at("a", EngineKind::Ollama, "http://a");
        assert_eq!(notice(&own, &ollama), None);
        let through_v1 = EngineConfig::at("a", EngineKind::OpenAi, "http://a/v1");
        assert_eq!(notice(&through_v1, &EngineFacts::default()), None);
        assert!(notice(&through_v1, &ollama).unwrap().ends_with("write `kind = \"ollama\"`"));
        let late = EngineConfig::by_address("a", "http://a/v1");
        assert!(notice(&late, &ollama).unwrap().contains("start Overnight anew"));
    }
}
