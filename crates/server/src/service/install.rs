//! `overnight serve --install`: writes the unit, and says what comes next.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::unit::{Scope, Unit};
use crate::config::Environment;
use crate::whole::write_whole;

const UNIT_NAME: &str = "overnight.service";

/// Where the parts of an installation lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) unit: PathBuf,
    /// The variables of the service.
    pub(crate) variables: PathBuf,
}

impl Places {
    pub(crate) fn of(scope: Scope, environment: &Environment) -> anyhow::Result<Self> {
        let (units, ours) = match scope {
            Scope::System => (PathBuf::from("/etc/systemd/system"), PathBuf::from("/etc/overnight")),
            Scope::User => {
                let config =
                    match environment.get("XDG_CONFIG_HOME").filter(|folder| folder.starts_with('/')) {
                        Some(folder) => PathBuf::from(folder),
                        None => Path::new(
                            environment.get("HOME").context("HOME is not set: whose service is it?")?,
                        )
                        .join(".config"),
                    };
                (config.join("systemd/user"), config.join("overnight"))
            }
        };
        Ok(Self { unit: units.join(UNIT_NAME), variables: ours.join("environment") })
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    Written,
    /// The same unit was there already.
    Unchanged,
}

/// Whether a unit would be read by anybody here.
pub(crate) fn is_run_by_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Writes the unit. One that is there and differs may be somebody's work: it is replaced only by `force`.
pub(crate) fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<Installed> {
    match std::fs::read_to_string(path) {
        Ok(there) if there == text => return Ok(Installed::Unchanged),
        Ok(_) if !force => bail!(
            "`{}` is there and differs: compare it with what --print shows, and replace it with --force",
            path.display()
        ),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("failed to read `{}`", path.display())),
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to make the folder `{}`", folder.display()))?;
    }
    write_whole(path, |out| out.write_all(text.as_bytes()))?;
    Ok(Installed::Written)
}

/// What to type next.
pub(crate) fn next_steps(unit: &Unit, user: Option<&str>) -> String {
    let (manager, log) = match unit.scope {
        Scope::System => ("systemctl", "journalctl"),
        Scope::User => ("systemctl --user", "journalctl --user"),
    };
    let steps = format!(
        "next:\n  {manager} daemon-reload\n  {manager} enable --now overnight\n  {log} -u overnight -f\n"
    );
    if unit.scope == Scope::System {
        return steps;
    }
    let user = user.unwrap_or("$USER");
    format!("{steps}and, so that it runs while nobody is logged in:\n  loginctl enable-linger {user}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_unit_is_left_and_another_replaced_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("systemd/user").join(UNIT_NAME);
        assert_eq!(write(&path, "one\n", false).unwrap(), Installed::Written);
        assert_eq!(write(&path, "one\n", false).unwrap(), Installed::Unchanged);
        let refused = write(&path, "two\n", false).unwrap_err().to_string();
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(write(&path, "two\n", true).unwrap(), Installed::Written);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn places_follow_the_scope_and_the_habits_of_the_desktop() {
        let of = |scope, pairs: &[(&str, &str)]| {
            Places::of(scope, &Environment::from_pairs(pairs.iter().copied()))
                .map(|places| places.unit.to_str().unwrap().to_owned())
        };
        assert_eq!(of(Scope::System, &[]).unwrap(), "/etc/systemd/system/overnight.service");
        assert_eq!(
            of(Scope::User, &[("HOME", "/people/me")]).unwrap(),
            "/people/me/.config/systemd/user/overnight.service"
        );
        let both = [("HOME", "/people/me"), ("XDG_CONFIG_HOME", "/conf")];
        assert_eq!(of(Scope::User, &both).unwrap(), "/conf/systemd/user/overnight.service");
        assert!(of(Scope::User, &[]).is_err());
    }
}
