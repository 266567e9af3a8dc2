//! The command line. One file per command; what they share is the client, the screen and the meter.
//!
//! Guaranteed: results go to standard output and everything else to standard error; the exit code is 0 when all was
//! answered, 1 for a failure, 2 for wrong usage, 3 when a batch finished with failed requests. Ctrl-C ends a client
//! command by its signal, which a shell shows as 130, and never touches the batch.

mod cancel;
mod classify;
mod client;
mod completions;
mod config;
mod download;
mod engine;
mod engines;
mod failed;
mod guard;
mod install;
mod list;
mod meter;
mod notify;
mod pause;
mod results;
mod resume;
mod retry;
mod run;
mod screen;
mod serve;
mod split;
mod status;
mod submit;
mod upload;
mod verify;
mod view;
mod waits;
mod watch;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Environment, Secret};
use client::{Client, ClientError};
use screen::Screen;

const EXAMPLES: &str = "\
Examples:
  overnight serve                                the API and the workers
  overnight submit requests.jsonl                send a batch; prints its id
  overnight classify inbox --labels a,b,other    a label for each document in a folder
  overnight watch                                how far the newest unfinished batch is
  overnight results batch_... -o out.jsonl       fetch the answers
  overnight failed batch_...                     what failed, and why
  overnight retry batch_...                      send the failed requests again

Exit codes: 0 all answered, 1 failure, 2 usage, 3 finished with failed requests, 130 interrupted.";

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let command = Overnight::parse().command;
    let ending = run(command, &Environment::of_process());
    let code = match ending {
        Ok(ending) => ending.code(),
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            Screen::new(false).note(&format!("overnight: {error:#}"));
            let is_usage = error.downcast_ref::<ConfigError>().is_some_and(ConfigError::is_of_flag);
            if is_usage { 2 } else { 1 }
        }
    };
    ExitCode::from(code)
}

/// Batch inference on your own hardware, through the OpenAI Batch API.
#[derive(Debug, Parser)]
#[command(name = "overnight", version, after_help = EXAMPLES, max_term_width = 110)]
struct Overnight {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Classify(classify::Classify),
    Serve(serve::Serve),
    Submit(submit::Submit),
    List(list::List),
    Status(status::Status),
    Watch(watch::Watch),
    Results(results::Results),
    Failed(failed::Failed),
    Retry(retry::Retry),
    Cancel(cancel::Cancel),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Verify(verify::Verify),
    Config(config::Config),
    Engine(engine::Engine),
    Engines(engines::Engines),
    Notify(notify::Notify),
    Completions(completions::Completions),
    #[command(hide = true)]
    Guard(guard::Guard),
}

fn run(command: Command, environment: &Environment) -> anyhow::Result<Ending> {
    match command {
        Command::Run(run) => run.run(environment),
        Command::Classify(classify) => classify.run(environment),
        Command::Serve(serve) => serve.run(environment),
        Command::Submit(submit) => submit.run(environment),
        Command::List(list) => list.run(environment),
        Command::Status(status) => status.run(environment),
        Command::Watch(watch) => watch.run(environment),
        Command::Results(results) => results.run(environment),
        Command::Failed(failed) => failed.run(environment),
        Command::Retry(retry) => retry.run(environment),
        Command::Cancel(cancel) => cancel.run(environment),
        Command::Pause(pause) => pause.run(environment),
        Command::Resume(resume) => resume.run(environment),
        Command::Verify(verify) => verify.run(environment),
        Command::Config(config) => config.run(environment),
        Command::Engine(engine) => engine.run(environment),
        Command::Engines(engines) => engines.run(environment),
        Command::Notify(notify) => notify.run(environment),
        Command::Completions(completions) => completions.run(),
        Command::Guard(guard) => guard.run(),
    }
}

/// Options of all commands that talk to a server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
struct ClientOptions {
    /// Where the server is [default: OVERNIGHT_URL, or http://127.0.0.1:8642]; a key is taken from OVERNIGHT_API_KEY
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Print JSON: one object, or for lists one object a line
    #[arg(long)]
    json: bool,
}

const DEFAULT_SERVER: &str = "http://127.0.0.1:8642";

impl ClientOptions {
    fn client(&self, environment: &Environment) -> Result<Client, ClientError> {
        self.client_of(self.named(environment).unwrap_or(DEFAULT_SERVER), environment)
    }

    /// A command that is given a configuration of its own does without a server.
    fn refuse_both(&self, is_configured: bool) -> anyhow::Result<()> {
        if is_configured && self.server.is_some() {
            bail!(
                "--server leaves the engines to the server: leave out --server, or what is under Configuration"
            );
        }
        Ok(())
    }

    /// The server that somebody named.
    fn named<'a>(&'a self, environment: &'a Environment) -> Option<&'a str> {
        self.server.as_deref().or_else(|| environment.get("OVERNIGHT_URL"))
    }

    fn client_of(&self, server: &str, environment: &Environment) -> Result<Client, ClientError> {
        let key = environment.get("OVERNIGHT_API_KEY").map(Secret::new);
        Client::new(server, key, self.screen())
    }

    fn screen(&self) -> Screen {
        Screen::new(self.json)
    }
}

/// How a command ended that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Answered,
    /// The batch is over, and some of its requests have no answer.
    WithFailed,
    /// The batch could not run, or the proof did not succeed. It was said why.
    Failure,
    /// A signal ended it; running it again goes on.
    Interrupted,
}

impl Ending {
    const fn code(self) -> u8 {
        match self {
            Self::Answered => 0,
            Self::WithFailed => 3,
            Self::Failure => 1,
            Self::Interrupted => 130,
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests;
