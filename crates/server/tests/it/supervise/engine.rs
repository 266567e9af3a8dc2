//! The stand-in engine as a process that the server starts: this test's own program, which becomes an engine when the
//! environment says so.

use std::path::PathBuf;
use std::time::Duration;

use overnight_sim::{Engine, Latency, Rule, Script, Setup, When};

use crate::harness::free_address;

/// Says what the process is to be.
const PORT: &str = "STAND_IN_PORT";
const SCRIPT: &str = "STAND_IN_SCRIPT";
const LOCK: &str = "STAND_IN_LOCK";
const ONCE: &str = "STAND_IN_ONCE";
/// The name of the test below.
const ITSELF: &str = "supervise::engine::stands_in";

/// An engine that a server is to start.
pub(super) struct StandIn {
    name: String,
    script: Script,
    variables: Vec<(String, String)>,
    pub(super) address: std::net::SocketAddr,
    /// Before the program.
    prefix: String,
    folder: tempfile::TempDir,
    marker: String,
}

impl StandIn {
    /// Serves one model of its own name, and refuses others.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            script: Script { models: vec![name.to_owned()], strict_models: true, ..Script::default() },
            variables: Vec::new(),
            address: free_address(),
            prefix: String::new(),
            folder: tempfile::tempdir().unwrap(),
            marker: String::new(),
        }
    }

    pub(super) fn script(mut self, script: &Script) -> Self {
        self.script = Script { models: self.script.models, strict_models: true, ..script.clone() };
        self
    }

    /// Where another one listens too, whenever this one does not.
    pub(super) const fn at(mut self, address: std::net::SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Can be found among all processes.
    pub(super) fn marked(mut self) -> Self {
        self.marker = format!("STAND_IN_MARKER={}", self.address);
        self.variables.push(("STAND_IN_MARKER".to_owned(), self.address.to_string()));
        self
    }

    pub(super) fn marker(&self) -> &str {
        &self.marker
    }

    /// Says so in a file when another engine with the same lock runs.
    pub(super) fn locked(mut self, lock: &std::path::Path) -> Self {
        self.variables.push((LOCK.to_owned(), lock.display().to_string()));
        self
    }

    /// The first process of it takes requests and answers none.
    pub(super) fn hanging_first_time(mut self) -> Self {
        let once = self.folder.path().join("hung").display().to_string();
        self.variables.push((ONCE.to_owned(), once));
        self
    }

    /// Words of a shell that run before the engine does.
    pub(super) fn after(mut self, words: &str) -> Self {
        words.clone_into(&mut self.prefix);
        self
    }

    /// Its `[[engine]]`.
    pub(super) fn table(&self, settings: &str) -> String {
        let script = self.folder.path().join("script.json");
        std::fs::write(&script, serde_json::to_vec(&self.script).unwrap()).unwrap();
        let mut variables = self.variables.clone();
        variables.push((PORT.to_owned(), self.address.to_string()));
        variables.push((SCRIPT.to_owned(), script.display().to_string()));
        let variables: Vec<String> =
            variables.into_iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
        let program = std::env::current_exe().unwrap();
        let command = format!(
            "sh -c '{}exec {} --exact {ITSELF} --ignored --nocapture'",
            self.prefix,
            program.display()
        );
        format!(
            "[[engine]]\nname = \"{}\"\nkind = \"openai\"\nurl = \"http://{}/v1\"\ncommand = \"{command}\"\n\
             environment = {{ {} }}\n{settings}\n",
            self.name,
            self.address,
            variables.join(", ")
        )
    }
}

/// The `[[engine]]` of a command that never answers.
pub(super) fn table(name: &str, command: &str, settings: &str) -> String {
    format!(
        "[[engine]]\nname = \"{name}\"\nkind = \"openai\"\nurl = \"http://{}/v1\"\ncommand = \"{command}\"\n{settings}\n",
        free_address()
    )
}

pub(super) fn slow(latency: Duration) -> Script {
    Script { latency: Latency::Fixed(latency), ..Script::default() }
}

pub(super) fn crash_at(number: u64) -> Rule {
    rule(When::At(number), "crash")
}

fn rule(when: When, directive: &str) -> Rule {
    serde_json::from_value(serde_json::json!({
        "when": serde_json::to_value(when).unwrap(), "do": directive,
    }))
    .unwrap()
}

#[test]
#[ignore = "the engine of other tests: it runs when they start it, with its port in the environment"]
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is how a server tells its engine anything"
)]
fn stands_in() {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(port) = variable(PORT) else { return };
    let _lock = variable(LOCK).map(|lock| {
        let file = std::fs::File::options().create(true).append(true).open(&lock).unwrap();
        if file.try_lock().is_err() {
            std::fs::write(format!("{lock}.both"), "two engines ran at once").unwrap();
        }
        file
    });
    let script = PathBuf::from(variable(SCRIPT).unwrap());
    let mut script: Script = serde_json::from_slice(&std::fs::read(script).unwrap()).unwrap();
    if let Some(once) = variable(ONCE)
        && std::fs::File::create_new(once).is_ok()
    {
        script.rules.push(rule(When::Always, "delay_ms=10000000"));
    }
    let setup = Setup {
        listen: port.parse().unwrap(),
        threads: 1,
        script,
        ends_with_crash: true,
        counts_requests: false,
    };
    Engine::start_with(setup).unwrap().join();
    std::process::exit(134);
}
