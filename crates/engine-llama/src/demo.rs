//! The bundled model: a toy of one million parameters, in the binary so that a bare machine has something to run.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

static BYTES: &[u8] = include_bytes!("../model/demo.gguf");

/// The bundled model as a file that lies in memory alone: there is no folder that must take it, nothing to clear up,
/// and nobody who could change it.
#[derive(Debug)]
pub struct DemoModel(File);

impl DemoModel {
    /// What `--model` and requests call it.
    pub const NAME: &'static str = "demo";
    /// What everybody should know who is about to use it.
    pub const WARNING: &'static str = "the demo model is a toy of one million parameters: it sorts short English documents into invoice, contract, \
         resume, email, report, recipe and other, knows nothing else, and is often wrong; do not use its answers";

    pub fn open() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match memfd_create(Self::NAME, flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memfd_create(Self::NAME, flags),
            created => created,
        };
        let mut file = File::from(file?);
        file.write_all(BYTES)?;
        let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, all)?;
        Ok(Self(file))
    }

    /// Where this process finds it, for as long as the value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::ModelFiles;

    #[test]
    fn it_is_a_model_that_nobody_can_change() {
        let demo = DemoModel::open().unwrap();
        assert_eq!(ModelFiles::open(&demo.path()).unwrap().shape.architecture, "llama");
        let opened = File::options().write(true).open(demo.path());
        assert!(opened.and_then(|mut file| file.write_all(b"GGUX")).is_err());
        assert_eq!(std::fs::read(demo.path()).unwrap(), BYTES);
    }
}
