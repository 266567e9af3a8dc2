//! What was learnt of engines that we started: how long they take to load, and what they serve. It is kept across
//! restarts, so that a batch for a model is known to be servable before its engine has ever run in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::one_batch::write_whole;

const FILE_NAME: &str = "measured.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// What was started; another command tells nothing about this one.
    command: String,
    load_ms: u64,
    /// None: it does not list its models.
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
        self.of.get(engine).filter(|measure| measure.command == command)
    }

    pub(super) async fn note(
        &mut self,
        engine: &str,
        command: &str,
        load: Duration,
        models: Option<Vec<String>>,
    ) {
        let load_ms = load.as_millis() as u64;
        let measure = Measure { command: command.to_owned(), load_ms, models };
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
}
