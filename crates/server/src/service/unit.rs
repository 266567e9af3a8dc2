//! The text of the systemd unit.
//!
//! Nothing in it may stand between the engines that we start and their GPU or models: no private devices, no device
//! policy, no hidden home folders. Nothing in it is a secret: variables come from a file of their own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use overnight_domain::limits::STOPPED_WITHIN;

/// Whose service it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The machine's; it starts at boot.
    System,
    /// One user's, of that user's own manager.
    User,
}

impl Scope {
    const fn wanted_by(self) -> &'static str {
        match self {
            Self::System => "multi-user.target",
            Self::User => "default.target",
        }
    }
}

/// What differs between installations.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) scope: Scope,
    /// The program, absolute.
    pub(crate) program: PathBuf,
    /// What follows `serve`.
    pub(crate) arguments: Vec<String>,
    /// Relative paths of the configuration are relative to it.
    pub(crate) folder: PathBuf,
    /// Variables, one a line; it need not exist.
    pub(crate) variables: PathBuf,
    /// Where the commands of engines are looked for, as in the shell of the installation.
    pub(crate) path: String,
    /// Who it runs as, for the machine's.
    pub(crate) user: Option<String>,
}

/// The manager waits for so long after a stop; then it ends the engines that we started with us.
const STOP_SECONDS: u64 = STOPPED_WITHIN.as_secs() + 15;

impl Unit {
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let mut command = word(path(&self.program)?, true)?;
        for argument in ["serve"].into_iter().chain(self.arguments.iter().map(String::as_str)) {
            let _ = write!(command, " {}", word(argument, true)?);
        }
        let user = match &self.user {
            Some(user) => format!("User={}\n", plain(user)?),
            None => String::new(),
        };
        let after = match self.scope {
            Scope::System => "Wants=network-online.target\nAfter=network-online.target\n",
            Scope::User => "",
        };
        Ok(format!(
            "\
# Written by `overnight serve --install`, which writes it anew with --force.
[Unit]
Description=Overnight: batch inference on this machine
{after}# It is started again however often it ends: work waits for an engine or a disk, never for a person.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
WorkingDirectory={folder}
{user}Environment={environment}
# Secrets that the configuration names as env:NAME, one NAME=value a line, readable by nobody else.
EnvironmentFile=-{variables}
Restart=always
RestartSec=5
# A command line that is wrong does not become right by itself.
RestartPreventExitStatus=2
# Ends it when it does not even find out that a part of it is stuck.
WatchdogSec=120
# What a crash left behind is read before it is ready.
TimeoutStartSec=15min
# Only the main process is told to stop: it stops the engines that it started. What is left then is killed.
KillMode=mixed
TimeoutStopSec={STOP_SECONDS}
# An engine that is killed for want of memory is started again by us; the rest goes on.
OOMPolicy=continue
LimitNOFILE=65536

[Install]
WantedBy={wanted_by}
",
            folder = plain(path(&self.folder)?)?,
            variables = plain(path(&self.variables)?)?,
            environment = word(&format!("PATH={}", self.path), false)?,
            wanted_by = self.scope.wanted_by(),
        ))
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str();
    text.ok_or_else(|| anyhow::anyhow!("`{}` is no text, which a unit is", path.display()))
}

/// A value that systemd takes to the end of its line.
fn plain(text: &str) -> anyhow::Result<String> {
    let is_whole = !text.contains(char::is_control) && text.trim() == text && !text.is_empty();
    ensure!(is_whole, "`{}` cannot stand in a unit", text.escape_debug());
    Ok(text.replace('%', "%%"))
}

/// One word of a line that systemd takes apart as a shell would; commands have variables besides.
fn word(text: &str, is_command: bool) -> anyhow::Result<String> {
    ensure!(!text.contains(char::is_control), "`{}` cannot stand in a unit", text.escape_debug());
    let mut escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    if is_command {
        escaped = escaped.replace('$', "$$");
    }
    let is_simple = |letter: char| letter.is_ascii_alphanumeric() || "/._-:=,@+%[]".contains(letter);
    let is_word = !escaped.is_empty() && escaped.chars().all(is_simple);
    Ok(if is_word { escaped } else { format!("\"{escaped}\"") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        Unit {
            scope: Scope::User,
            program: PathBuf::from("/opt/over night/overnight"),
            arguments: vec!["--set".to_owned(), r#"a="50%" $HOME\x"#.to_owned(), String::new()],
            folder: PathBuf::from("/srv/50% of it"),
            variables: PathBuf::from("/people/me/.config/overnight/environment"),
            path: "/usr/bin:/people/me/my tools".to_owned(),
            user: None,
        }
    }

    fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    #[test]
    fn what_systemd_would_read_otherwise_is_escaped() {
        let text = unit().text().unwrap();
        assert_eq!(
            line(&text, "ExecStart"),
            Some(r#""/opt/over night/overnight" serve --set "a=\"50%%\" $$HOME\\x" """#)
        );
        assert_eq!(line(&text, "WorkingDirectory"), Some("/srv/50%% of it"));
        assert_eq!(line(&text, "Environment"), Some(r#""PATH=/usr/bin:/people/me/my tools""#));
    }

    #[test]
    fn what_would_begin_another_line_is_refused() {
        for text in ["a\nExecStartPre=/bin/evil", "a\u{0}b", " ", ""] {
            assert!(Unit { folder: PathBuf::from(text), ..unit() }.text().is_err(), "{text:?}");
        }
        let arguments = vec!["a\nUser=root".to_owned()];
        assert!(Unit { arguments, ..unit() }.text().is_err());
        assert!(Unit { user: Some("a\nb".to_owned()), ..unit() }.text().is_err());
    }

    #[test]
    fn nothing_hides_devices_or_folders_from_engines() {
        for scope in [Scope::System, Scope::User] {
            let text = Unit { scope, ..unit() }.text().unwrap();
            for key in [
                "PrivateDevices",
                "DeviceAllow",
                "DevicePolicy",
                "Protect",
                "DynamicUser",
                "Memory",
                "Restrict",
            ] {
                assert!(text.lines().all(|line| !line.starts_with(key)), "{key}");
            }
        }
    }

    #[test]
    fn a_stop_has_the_time_that_it_takes() {
        let text = unit().text().unwrap();
        let seconds: u64 = line(&text, "TimeoutStopSec").unwrap().parse().unwrap();
        assert!(seconds > STOPPED_WITHIN.as_secs());
    }
}
