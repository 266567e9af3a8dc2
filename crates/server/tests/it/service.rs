//! `overnight serve --install`: the unit is one that systemd takes, and no secret stands in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CONFIG: &str = "\
[[engine]]
name = \"gpu0\"
kind = \"openai\"
url = \"http://127.0.0.1:9/v1\"
api_key = \"env:GPU0_KEY\"
";

/// A folder with a name that has to be escaped, a configuration with a secret in it, and a home.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(machine.work()).unwrap();
        std::fs::write(machine.work().join("overnight.toml"), CONFIG).unwrap();
        machine
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("50% of \"$HOME\" here")
    }

    fn install(&self, flags: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_overnight"))
            .args(["serve", "--install"])
            .args(flags)
            .current_dir(self.work())
            .env("HOME", self.folder.path().join("home"))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("SUDO_USER")
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let machine = Machine::new();
    let key = [("GPU0_KEY", "a-secret-value")];
    for scope in ["--system", "--user"] {
        let flags = ["--print", scope, "--data", "data here", "--set", "dispatch.commit_after=5ms"];
        let printed = machine.install(&flags, &key);
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        let unit = text(&printed.stdout);
        assert!(!unit.contains("a-secret-value") && !unit.contains("GPU0_KEY"), "{unit}");
        let command = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        assert!(command.contains(env!("CARGO_BIN_EXE_overnight")), "{command}");
        assert!(command.contains("50%% of \\\"$$HOME\\\" here/overnight.toml"), "{command}");
        assert!(command.contains("50%% of \\\"$$HOME\\\" here/data here"), "{command}");
        assert!(command.contains(" --set dispatch.commit_after=5ms"), "{command}");
        verify(machine.folder.path(), &unit, scope);
    }
    assert!(!machine.folder.path().join("home").exists(), "--print writes nothing");
}

/// Asks systemd itself, where it is installed; `./check` installs it.
#[expect(clippy::print_stderr, reason = "that a check was left out has to be seen")]
fn verify(folder: &Path, unit: &str, scope: &str) {
    let path = folder.join("overnight.service");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Command::new("systemd-analyze")
            .args(["verify", "--man=no", if scope == "--user" { "--user" } else { "--system" }])
            .arg(&path)
            .env("XDG_RUNTIME_DIR", folder)
            .output()
    };
    let Ok(verified) = check(unit) else {
        eprintln!("systemd-analyze is not installed: the unit was not verified");
        return;
    };
    let said = text(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{scope}: {said}\n{unit}");
    // It would have said so.
    let broken = check(&unit.replace("WatchdogSec=120", "WatchdogSec=soon")).unwrap();
    assert!(text(&broken.stderr).contains("soon"), "{}", text(&broken.stderr));
}

/// An address of a service such as ntfy is a secret, and once stood in the unit word for word.
#[test]
fn a_flag_that_is_a_secret_is_refused() {
    let machine = Machine::new();
    let variables = [("GPU0_KEY", "one"), ("HOOK", "https://ntfy.example/s3cret-topic")];
    for more in [&[][..], &["--print"]] {
        let flags = ["--user", "--set", "notify.url=https://ntfy.example/s3cret-topic"];
        let refused = machine.install(&[&flags, more].concat(), &variables);
        let said = text(&refused.stderr);
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(1), String::new()), "{said}");
        assert!(said.contains("`OVERNIGHT_NOTIFY_URL=...`") && said.contains("/environment`"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
    assert!(!machine.folder.path().join("home").exists(), "nothing is written");

    // Both ways that it names work.
    let named = machine.install(&["--print", "--user", "--set", "notify.url=env:HOOK"], &variables);
    assert!(named.status.success(), "{}", text(&named.stderr));
    let unit = text(&named.stdout);
    assert!(unit.contains("--set notify.url=env:HOOK") && !unit.contains("s3cret"), "{unit}");

    let folder = machine.folder.path().join("home/.config/overnight");
    std::fs::create_dir_all(&folder).unwrap();
    let address = "GPU0_KEY=one\nOVERNIGHT_NOTIFY_URL=https://ntfy.example/s3cret-topic\n";
    std::fs::write(folder.join("environment"), address).unwrap();
    let kept = machine.install(&["--print", "--user"], &[]);
    assert_eq!((kept.status.code(), text(&kept.stderr)), (Some(0), String::new()));
    assert!(!text(&kept.stdout).contains("s3cret"));
}

#[test]
fn what_the_service_will_not_have_is_said() {
    let machine = Machine::new();
    let lacking = machine.install(&["--print", "--user"], &[]);
    assert_eq!(lacking.status.code(), Some(1), "the key is nowhere");
    assert!(text(&lacking.stderr).contains("GPU0_KEY"), "{}", text(&lacking.stderr));

    let variables = [("GPU0_KEY", "one"), ("OVERNIGHT_PROFILE", "server")];
    let said = text(&machine.install(&["--print", "--user"], &variables).stderr);
    assert!(said.contains("OVERNIGHT_PROFILE") && said.contains("it cannot start yet"), "{said}");
    assert!(said.contains(".config/overnight/environment"), "{said}");

    let folder = machine.folder.path().join("home/.config/overnight");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("environment"), "GPU0_KEY=\"one\"\nOVERNIGHT_PROFILE=server\n").unwrap();
    let complete = machine.install(&["--print", "--user"], &[]);
    assert!(complete.status.success(), "{}", text(&complete.stderr));
    assert_eq!(text(&complete.stderr), "");
}

#[test]
fn a_unit_is_written_once_and_only_where_systemd_reads_it() {
    let machine = Machine::new();
    let key = [("GPU0_KEY", "one")];
    let path = machine.folder.path().join("home/.config/systemd/user/overnight.service");
    let first = machine.install(&["--user"], &key);
    let said = text(&first.stderr);
    if !Path::new("/run/systemd/system").is_dir() {
        assert_eq!(first.status.code(), Some(1));
        assert!(said.contains("systemd does not run this machine") && !path.exists(), "{said}");
        return;
    }
    assert!(
        first.status.success() && said.contains("systemctl --user enable --now overnight"),
        "{said}"
    );
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(text(&machine.install(&["--user"], &key).stderr).contains("already"));
    let other = ["--user", "--listen", "127.0.0.1:9999"];
    assert!(!machine.install(&other, &key).status.success(), "another unit is not replaced unasked");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
    assert!(machine.install(&[other.as_slice(), &["--force"]].concat(), &key).status.success());
    assert_ne!(std::fs::read_to_string(&path).unwrap(), written);
}

#[test]
fn flags_that_mean_nothing_alone_are_refused() {
    for flags in
        [&["serve", "--user"][..], &["serve", "--print"], &["serve", "--install", "--user", "--system"]]
    {
        let refused = Command::new(env!("CARGO_BIN_EXE_overnight")).args(flags).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{flags:?}");
    }
}
