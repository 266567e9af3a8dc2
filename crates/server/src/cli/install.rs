//! `overnight serve --install`: this command line as a service of the machine.

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::Ending;
use super::config::ConfigOptions;
use super::screen::Screen;
use crate::config::Environment;
use crate::config::keys::variable;
use crate::service::install::{Installed, Places, is_run_by_systemd, next_steps, write};
use crate::service::unit::{Scope, Unit};

/// Flags of `serve` that make it a service.
#[derive(Debug, Args)]
#[command(next_help_heading = "Service")]
pub(super) struct InstallOptions {
    /// Write a systemd unit that runs this command line, and start nothing
    #[arg(long)]
    install: bool,
    /// A service of the machine, started at boot [default for root]
    #[arg(long, requires = "install", conflicts_with = "user")]
    system: bool,
    /// A service of your own [default for everybody else]
    #[arg(long, requires = "install")]
    user: bool,
    /// Print the unit and write nothing
    #[arg(long, requires = "install")]
    print: bool,
    /// Replace a unit that differs
    #[arg(long, requires = "install", conflicts_with = "print")]
    force: bool,
}

impl InstallOptions {
    pub(super) const fn is_asked(&self) -> bool {
        self.install
    }

    pub(super) fn run(
        &self,
        options: &ConfigOptions,
        environment: &Environment,
    ) -> anyhow::Result<Ending> {
        let screen = Screen::new(false);
        let scope = self.scope();
        let places = Places::of(scope, environment)?;
        let variables = read_variables(&places)?;
        // What cannot be used is said now, not by a service that ends as soon as it is started.
        options.clone().load(&environment.with_lines(&variables))?;
        refuse_literal_secrets(options, &places)?;
        let (program, folder) = (std::env::current_exe(), std::env::current_dir());
        let unit = Unit {
            scope,
            program: program.context("failed to find out where this program lies")?,
            arguments: options.to_arguments()?,
            folder: folder.context("failed to find out the working directory")?,
            variables: places.variables.clone(),
            path: environment.get("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin").to_owned(),
            user: (scope == Scope::System)
                .then(|| environment.get("SUDO_USER").unwrap_or("root").to_owned()),
        };
        let text = unit.text()?;
        if self.print {
            screen.print(text.trim_end())?;
        } else {
            ensure!(
                is_run_by_systemd(),
                "systemd does not run this machine (there is no `/run/systemd/system`), so nobody would read a unit: have \
                 your own init run `overnight serve` and start it again whenever it ends, or look at the unit with --print"
            );
            let what = match write(&places.unit, &text, self.force)? {
                Installed::Written => "written",
                Installed::Unchanged => "is there already, just so",
            };
            screen.note(&format!("`{}` {what}", places.unit.display()));
        }
        for note in notes(options, environment, &variables, &unit) {
            screen.note(&note);
        }
        if !self.print {
            screen.note(next_steps(&unit, environment.get("USER")).trim_end());
        }
        Ok(Ending::Answered)
    }

    fn scope(&self) -> Scope {
        let is_root = rustix::process::geteuid().is_root();
        if self.system || (is_root && !self.user) { Scope::System } else { Scope::User }
    }
}

/// Everybody on the machine can read a unit.
fn refuse_literal_secrets(options: &ConfigOptions, places: &Places) -> anyhow::Result<()> {
    let Some(key) = options.literal_secret() else { return Ok(()) };
    bail!(
        "`--set {key}=...` would stand in the unit, which others can read: put `{}=...` into `{}`, with mode 600, or `{key}` \
         into overnight.toml, and leave the flag out; or name it only, as in `--set {key}=env:NAME` or `file:PATH`",
        variable(key),
        places.variables.display()
    )
}

fn read_variables(places: &Places) -> anyhow::Result<String> {
    match std::fs::read_to_string(&places.variables) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => {
            Err(error).with_context(|| format!("failed to read `{}`", places.variables.display()))
        }
    }
}

/// What the service will not have that this shell has, and who it runs as.
fn notes(
    options: &ConfigOptions,
    environment: &Environment,
    variables: &str,
    unit: &Unit,
) -> Vec<String> {
    let mut notes = Vec::new();
    let alone = Environment::default().with_lines(variables);
    let file = unit.variables.display();
    let missing: Vec<&str> = environment
        .settings()
        .filter(|(name, value)| alone.get(name) != Some(value))
        .map(|(name, _)| name)
        .collect();
    if !missing.is_empty() {
        notes.push(format!(
            "set in this shell and not for the service: {}; give them as flags, or put them into `{file}`",
            missing.join(", ")
        ));
    }
    if let Err(error) = options.clone().load(&alone) {
        notes.push(format!(
            "it cannot start yet: {error:#}; put the variable into `{file}` as NAME=value, with mode 600"
        ));
    }
    if unit.user.as_deref() == Some("root") {
        notes.push(
            "it runs as root, and so do the engines that it starts; edit `User=` to change that"
                .to_owned(),
        );
    }
    notes
}
