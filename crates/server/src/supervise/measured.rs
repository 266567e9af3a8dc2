//! What was learnt of engines that we started: how long they take to load, and what they serve. It is kept across
//! restarts, so that a batch for a model is known to be servable before its engine has ever run in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use overnight_domain::file::Sha256;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::blocking::blocking;
use crate::whole::write_whole;

const FILE_NAME: &str = "measured.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// The SHA-256 of what was started, which may hold a key; another command tells nothing about this one.
    command: String,
    load_ms: u64,
    /// None: it does not list its models, or has none yet.
    pub(crate) models: Option<Vec<String>>,
}

impl Measure {
    pub(crate) const fn load(&self) -> Duration {
        Duration::from_millis(self.load_ms)
    }
}

/// By the name of the engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    path: PathBuf,
    of: BTreeMap<String, Measure>,
}

impl Measured {
    /// A file that is not there or cannot be read costs what was learnt, and is written anew.
    pub(crate) fn open(data: &Path) -> Self {
        let path = data.join("engines").join(FILE_NAME);
        let of = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "what was measured of engines cannot be read");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, of }
    }

    pub(crate) fn of(&self, engine: &str, command: &str) -> Option<&Measure> {
        self.of.get(engine).filter(|measure| measure.command == digest_of(command))
    }

    pub(super) async fn note(
        &mut self,
        engine: &str,
        command: &str,
        load: Duration,
        models: Option<Vec<String>>,
    ) {
        let load_ms = load.as_millis() as u64;
        let models = models.filter(|models| !models.is_empty());
        let measure = Measure { command: digest_of(command), load_ms, models };
        self.of.insert(engine.to_owned(), measure);
        let (path, of) = (self.path.clone(), self.of.clone());
        let written = blocking(move || -> anyhow::Result<()> {
            let text = serde_json::to_vec_pretty(&of).context("failed to write it as JSON")?;
            std::fs::create_dir_all(path.parent().context("it has no folder")?)?;
            write_whole(&path, |out| out.write_all(&text))?;
            Ok(())
        })
        .await;
        if let Err(error) = written {
            tracing::warn!(error = format!("{error:#}"), "what was measured of an engine is not kept");
        }
    }
}

fn digest_of(command: &str) -> String {
    Sha256(sha2::Sha256::digest(command).into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_learnt_of_a_command_outlives_the_process_and_not_the_command() {
        let data = tempfile::tempdir().unwrap();
        let mut measured = Measured::open(data.path());
        let models = Some(vec!["a".to_owned()]);
        measured.note("big", "vllm serve a", Duration::from_millis(95_500), models.clone()).await;
        let measured = Measured::open(data.path());
        let measure = measured.of("big", "vllm serve a").unwrap();
        assert_eq!((measure.load(), &measure.models), (Duration::from_millis(95_500), &models));
        assert_eq!(measured.of("big", "vllm serve b"), None);
        std::fs::write(data.path().join("engines/measured.json"), "{").unwrap();
        assert_eq!(Measured::open(data.path()).of("big", "vllm serve a"), None);
    }

    /// An engine that had no model yet when it was first ready was never asked for one again.
    #[tokio::test]
    async fn that_an_engine_had_no_model_yet_is_not_kept() {
        let data = tempfile::tempdir().unwrap();
        let mut measured = Measured::open(data.path());
        measured.note("big", "ollama serve", Duration::from_secs(1), Some(Vec::new())).await;
        assert_eq!(Measured::open(data.path()).of("big", "ollama serve").unwrap().models, None);
    }

    #[tokio::test]
    async fn a_key_in_the_command_is_not_written() {
        let data = tempfile::tempdir().unwrap();
        let command = "vllm serve a --api-key sk-secret";
        let mut measured = Measured::open(data.path());
        measured.note("big", command, Duration::from_secs(1), None).await;
        let text = std::fs::read_to_string(data.path().join("engines").join(FILE_NAME)).unwrap();
        assert!(!text.contains("sk-secret") && !text.contains("vllm"), "{text}");
        assert!(Measured::open(data.path()).of("big", command).is_some());
    }
}
