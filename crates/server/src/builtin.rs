//! The engine of a first run: where none is configured and none is found, our own with the bundled model, started and
//! watched over like any other.
//!
//! It is a toy, so it does not step in for an engine that is merely not there today, as far as that can be known: a data
//! directory that has used another one does without. `overnight run` and `overnight classify` begin with an empty one for each
//! output, so what they are asked for has to be held against what the toy can do.

use std::path::Path;

use crate::config::EngineConfig;

/// Of the engine and of its model.
const NAME: &str = "demo";
/// All that the model has learned.
const KINDS: [&str; 7] = ["invoice", "contract", "resume", "email", "report", "recipe", "other"];
const REAL: &str = "start Ollama or another engine, or `overnight engine --model \
     hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf` beside this, or name yours in overnight.toml ([[engine]])";

/// What it is, and how to get a real one.
pub(crate) fn words() -> String {
    format!(
        "no engine is configured or found, so the built-in one is started with the demo model when there is work. It is a \
         toy of one million parameters that sorts short English documents into seven kinds: do not use its answers. For \
         real ones {REAL}; then start this anew"
    )
}

/// Why the model that an endpoint serves cannot give these labels, where it is that of a first run.
pub(crate) fn refuse_labels<'a>(
    model: &str,
    endpoint: &str,
    mut labels: impl Iterator<Item = &'a str>,
) -> Option<String> {
    if model != NAME || endpoint != NAME {
        return None;
    }
    let unknown = labels.find(|label| !KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(label)))?;
    Some(format!(
        "no engine was configured or found, and the demo model is a toy that knows the labels {} only, and not \
         `{unknown}`. For real answers {REAL}, and start anew what serves the toy; or say --model {NAME}",
        KINDS.join(", ")
    ))
}

/// The engine for a data directory, or why there is none and what to do about it.
#[cfg(not(feature = "llama"))]
pub(crate) fn engine(_: &Path) -> Result<EngineConfig, String> {
    Err(
        "this build has no engine of its own: `cargo install --locked --path crates/server --features llama` makes one \
         that has (needs cmake, libclang and a C++ compiler)"
            .to_owned(),
    )
}

#[cfg(feature = "llama")]
pub(crate) fn engine(data: &Path) -> Result<EngineConfig, String> {
    use crate::config::ProcessConfig;
    use crate::endpoint_names::EndpointNames;

    let model = NAME;
    let names = EndpointNames::open(data, std::iter::empty()).map_err(|error| format!("{error:#}"))?;
    if let Some(other) = names.all().find(|name| *name != model) {
        return Err(format!(
            "the demo model is for a first run only, and `{}` has used the engine `{other}`: start that one again",
            data.display()
        ));
    }
    let address = free_address().ok_or("no port is free for the built-in engine")?;
    let text = format!("overnight engine --model {model} --listen {address}");
    let process = ProcessConfig::new(text).expect("it is a command without quotes");
    Ok(EngineConfig {
        models: vec![model.to_owned()],
        process: Some(process),
        ..EngineConfig::at(model, overnight_engine::EngineKind::OpenAi, format!("http://{address}/v1"))
    })
}

/// Below the ports that systems give to outgoing connections, so that nobody has it when the engine is started again. Two
/// servers that look at once begin at different ones.
#[cfg(feature = "llama")]
fn free_address() -> Option<std::net::SocketAddr> {
    use std::net::{Ipv4Addr, TcpListener};

    const PORTS: std::ops::Range<u16> = 20_000..30_000;
    let first = std::process::id() as usize % PORTS.len();
    let mut ports = PORTS.cycle().skip(first).take(PORTS.len());
    let listener = ports.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())?;
    listener.local_addr().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toy_nobody_asked_for_is_given_only_what_it_has_learned() {
        let refuse = |model, endpoint, labels: &str| refuse_labels(model, endpoint, labels.split(','));
        assert_eq!(refuse("demo", "demo", "Invoice,other"), None);
        assert_eq!(refuse("qwen3:8b", "demo", "urgent,later"), None);
        // Somebody started it by hand, under another name.
        assert_eq!(refuse("demo", "overnight", "urgent,later"), None);
        let refusal = refuse("demo", "demo", "invoice,urgent,later").unwrap();
        for said in ["`urgent`", "start Ollama", "hf:Qwen/", "[[engine]]", "or say --model demo"] {
            assert!(refusal.contains(said), "`{said}` is not in {refusal}");
        }
    }

    #[cfg(feature = "llama")]
    #[test]
    fn it_is_called_as_its_model_is() {
        assert_eq!(NAME, overnight_engine_llama::DemoModel::NAME);
    }
}
