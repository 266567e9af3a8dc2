//! `overnight guard`: the process between the server and an engine that it has started. Nobody types it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use overnight_engine::child::guard::{Options, run};

use super::Ending;

/// Guard an engine that this server has started
#[derive(Debug, Args)]
pub(super) struct Guard {
    /// Where the output of the command is kept
    #[arg(long, value_name = "FILE", required_unless_present = "become_of")]
    log: Option<PathBuf>,
    /// Becomes the command, as the child of this guard
    #[arg(long = "become", value_name = "PROCESS", conflicts_with = "log")]
    become_of: Option<u32>,
    /// The command with its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Guard {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let options = match (self.become_of, self.log) {
            (Some(guard), _) => Options::Become { guard, command: self.command },
            (None, log) => Options::Guard { log: log.context("name the log")?, command: self.command },
        };
        run(options)?;
        Ok(Ending::Answered)
    }
}
