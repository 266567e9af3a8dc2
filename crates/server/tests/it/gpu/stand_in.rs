//! The library in place of NVIDIA's, and what it tells.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use overnight_sim::Script;

use crate::harness::{Server, Setup};

/// Of which age the library is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Build {
    Current,
    /// Without what newer drivers have.
    Old,
    /// Without anything that we could begin with.
    Ancient,
}

pub(super) struct Gpu {
    pub(super) folder: tempfile::TempDir,
    pub(super) library: PathBuf,
}

impl Gpu {
    pub(super) fn new(build: Build) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("nvml.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/gpu/nvml.c");
        let defines: &[&str] = match build {
            Build::Current => &[],
            Build::Old => &["-DOLD"],
            Build::Ancient => &["-DOLD", "-DANCIENT"],
        };
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"])
            .args(defines)
            .arg("-o")
            .args([&library, &PathBuf::from(source)])
            .output()
            .expect("a C compiler is there: `./check` installs one");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let gpu = Self { folder, library };
        gpu.set("");
        gpu
    }

    /// What it tells from now on; replaced whole, because it may be read at any moment.
    pub(super) fn set(&self, figures: &str) {
        let new = self.folder.path().join("figures.new");
        fs::write(&new, format!("{figures}\n")).unwrap();
        fs::rename(new, self.figures()).unwrap();
    }

    /// A server over this GPU, with lines for the engine's table and for `[gpu]`.
    pub(super) fn server(&self, script: Script, engine: &str, settings: &str) -> Server {
        Server::with(Setup {
            script,
            settings: self.settings(settings),
            engine: engine.to_owned(),
            environment: vec![self.environment()],
            engines: None,
        })
    }

    pub(super) fn settings(&self, more: &str) -> String {
        format!("[gpu]\nlibrary = \"{}\"\n{more}", self.library.display())
    }

    pub(super) fn environment(&self) -> (String, String) {
        ("GPU_FIGURES".to_owned(), self.figures().display().to_string())
    }

    /// A command of ours, to its end.
    pub(super) fn overnight(&self, server: &Server, arguments: &[&str]) -> Output {
        let (name, value) = self.environment();
        Command::new(env!("CARGO_BIN_EXE_overnight"))
            .args(arguments)
            .env("OVERNIGHT_URL", format!("http://{}", server.address))
            .env(name, value)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    fn figures(&self) -> PathBuf {
        self.folder.path().join("figures")
    }
}
