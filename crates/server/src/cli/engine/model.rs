//! The model that `--model` names: a file, one of the hub, or the bundled one.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use overnight_engine_llama::DemoModel;
use overnight_engine_llama::fetch::{Address, Hub, Stage, fetch, split_parts};

use super::super::meter::Meter;
use super::super::screen::Screen;
use crate::config::Environment;

/// A model whose file is on this machine.
pub(super) struct Model {
    pub(super) path: PathBuf,
    /// What requests call it unless they are told otherwise.
    pub(super) name: String,
    /// Its file lives as long as this.
    _demo: Option<DemoModel>,
}

impl Model {
    /// Blocks while a model of the hub is fetched. Whoever ends the process meanwhile loses nothing that came.
    pub(super) fn find(text: &str, environment: &Environment) -> anyhow::Result<Self> {
        if text == DemoModel::NAME {
            let demo = DemoModel::open().context("failed to put the demo model into memory")?;
            let name = DemoModel::NAME.to_owned();
            return Ok(Self { path: demo.path(), name, _demo: Some(demo) });
        }
        let path = match Address::from_model(text) {
            Some(address) => fetched(&address?, environment)?,
            None => PathBuf::from(text),
        };
        Ok(Self { name: name_of(&path), path, _demo: None })
    }
}

/// The file's name without what says that it is a GGUF, or which part of one.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.strip_suffix(".gguf").unwrap_or(&file);
    let is_part = split_parts(&file).is_some();
    let part_at = stem.len().saturating_sub("-00001-of-00001".len());
    if is_part { stem[..part_at].to_owned() } else { stem.to_owned() }
}

fn fetched(address: &Address, environment: &Environment) -> anyhow::Result<PathBuf> {
    let hub = Hub::from_variables(&|name| environment.get(name).map(str::to_owned))?;
    let screen = Screen::new(false);
    let label = format!("fetching {address}");
    let mut meter: Option<Meter> = None;
    let mut said = Stage::Fetching;
    let fetched = fetch(&hub, address, &mut |progress| {
        let meter = meter.get_or_insert_with(|| {
            screen.note(&format!("{label}: {} MB", progress.total_len.div_ceil(1_000_000)));
            Meter::of_bytes(screen, &label, progress.total_len)
        });
        if progress.stage != said {
            said = progress.stage;
            if let Some(words) = words(said) {
                meter.note(&format!("{}: {words}", progress.file));
            }
        }
        meter.set(progress.total_done, progress.total_len, || {
            let percent = progress.total_done.saturating_mul(100) / progress.total_len.max(1);
            format!(
                "{} of {} MB ({percent}%)",
                progress.total_done / 1_000_000,
                progress.total_len / 1_000_000
            )
        });
    });
    if let Some(meter) = meter {
        meter.finish();
    }
    let fetched = fetched?;
    for file in &fetched.unchecked {
        screen.note(&format!("the hub told no SHA-256 of `{file}`: only its length was checked"));
    }
    fetched.paths.into_iter().next().context("the hub gave no file")
}

const fn words(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Waiting => Some("another process fetches it; waiting for that"),
        Stage::Resuming => Some("going on with what an earlier attempt left, once that is read"),
        Stage::Retrying => Some("the connection was cut or the hub asked for patience; trying again"),
        Stage::Fetching => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_as_its_file() {
        for (path, name) in [
            ("/models/Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B-Q4_K_M"),
            ("big-00001-of-00003.gguf", "big"),
            ("model.v1.bin", "model.v1.bin"),
            ("", ""),
        ] {
            assert_eq!(name_of(Path::new(path)), name, "{path}");
        }
    }

    #[test]
    fn the_word_demo_is_the_bundled_model_and_a_path_is_a_path() {
        let environment = Environment::default();
        let demo = Model::find("demo", &environment).unwrap();
        assert_eq!(demo.name, "demo");
        assert!(std::fs::metadata(&demo.path).unwrap().len() > 1_000_000);
        assert_eq!(Model::find("./demo", &environment).unwrap().path, Path::new("./demo"));
        let Err(error) = Model::find("hf:org/repo", &environment) else { panic!("it names no file") };
        assert!(error.to_string().contains("hf:org/repo/file.gguf"), "{error}");
    }
}
