//! The engine of a first run: where none is configured and none is found, our own with the bundled model, started and
//! watched over like any other.
//!
//! It is a toy, so it never steps in for an engine that is merely not there today: a data directory that has used another
//! one does without.

use std::path::Path;

use crate::config::EngineConfig;

/// What it is, and how to get a real one.
pub(crate) const WORDS: &str = "no engine is configured or found, so the built-in one is started with the demo model \
     when there is work. It is a toy of one million parameters that sorts short English documents into seven kinds: do not \
     use its answers. For real ones start Ollama or another engine, or `overnight engine --model \
     hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf` beside this, or name yours in overnight.toml ([[engine]]); then start this \
     anew";

/// The engine for a data directory, or why there is none and what to do about it.
#[cfg(not(feature = "llama"))]
pub(crate) fn engine(_: &Path) -> Result<EngineConfig, String> {
    Err(
        "this build has no engine of its own: `cargo build --release -p overnight-server --features llama` makes one that \
         has (needs cmake, libclang and a C++ compiler)"
            .to_owned(),
    )
}

#[cfg(feature = "llama")]
pub(crate) fn engine(data: &Path) -> Result<EngineConfig, String> {
    use overnight_engine_llama::DemoModel;

    use crate::config::ProcessConfig;
    use crate::endpoint_names::EndpointNames;

    let model = DemoModel::NAME;
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
