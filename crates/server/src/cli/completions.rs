//! `overnight completions SHELL`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::screen::Screen;
use super::{Ending, Overnight};

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overnight completions bash > ~/.local/share/bash-completion/completions/overnight
  overnight completions zsh > ~/.zfunc/_overnight
  overnight completions fish > ~/.config/fish/completions/overnight.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Overnight::command(), "overnight", &mut text);
        Screen::new(false).print(String::from_utf8(text)?.trim_end())?;
        Ok(Ending::Answered)
    }
}
