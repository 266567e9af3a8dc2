//! The machine is kept awake while work may run, and not longer: also not when the server dies.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script};
use serde_json::json;

use crate::harness::{PATIENCE, Server, Setup, input};

/// Stands in for `systemd-inhibit`: notes how it was called, holds as long as its command runs, notes that it has ended.
const TOOL: &str = "#!/bin/sh
folder=$(dirname \"$0\")
echo \"$@\" >>\"$folder/held\"
while [ \"${1#--}\" != \"$1\" ]; do shift; done
\"$@\"
echo over >>\"$folder/over\"
";

struct Awake {
    server: Server,
    tools: PathBuf,
}

impl Awake {
    fn start(tool: Option<&str>, settings: &str) -> Self {
        let script = Script { latency: Latency::Fixed(Duration::from_millis(200)), ..Script::default() };
        let mut server = Server::idle(Setup {
            script,
            settings: settings.to_owned(),
            engine: "concurrency = 1".to_owned(),
            ..Setup::default()
        });
        let tools = server.folder.path().join("tools");
        std::fs::create_dir(&tools).unwrap();
        if let Some(tool) = tool {
            let path = tools.join("systemd-inhibit");
            std::fs::write(&path, tool).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        // Ours first, and without the real one where it is to be missing: the rest is `cat` and its like.
        let path = if tool.is_some() {
            format!("{}:/usr/bin:/bin", tools.display())
        } else {
            tools.display().to_string()
        };
        server.change_environment(vec![("PATH".to_owned(), path)]);
        server.up();
        Self { server, tools }
    }

    fn submit(&self, requests: usize) -> String {
        self.server.create(&self.server.upload(&input(requests, |at| format!("question {at}"))))
    }

    fn count(&self, name: &str) -> usize {
        std::fs::read_to_string(self.tools.join(name)).unwrap_or_default().lines().count()
    }

    fn wait_for(&self, name: &str, count: usize) {
        let started = Instant::now();
        while self.count(name) < count {
            assert!(
                started.elapsed() < PATIENCE,
                "`{name}` never came to {count}:\n{}",
                self.server.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_lock_is_held_while_there_is_work_and_dies_with_the_server() {
    let mut awake = Awake::start(Some(TOOL), "");
    let first = awake.submit(20);
    awake.wait_for("held", 1);
    let called = std::fs::read_to_string(awake.tools.join("held")).unwrap();
    assert!(called.contains("--what=sleep:idle --mode=block --who=overnight"), "{called}");
    awake.server.wait_for_end_of(&first);
    awake.wait_for("over", 1);

    let second = awake.submit(10_000);
    awake.wait_for("held", 2);
    let paused = awake.server.post(&format!("/v1/batches/{second}/pause"), &json!({}));
    assert_eq!(paused.status, 200, "{}", paused.text());
    awake.wait_for("over", 2);
    awake.server.post(&format!("/v1/batches/{second}/resume"), &json!({}));
    awake.wait_for("held", 3);
    assert_eq!(awake.count("over"), 2);
    awake.server.kill();
    awake.wait_for("over", 3);
}

#[test]
fn a_tool_that_is_missing_or_refuses_costs_nothing() {
    for tool in [None, Some("#!/bin/sh\necho 'Failed to inhibit: Access denied' >&2\nexit 1\n")] {
        let awake = Awake::start(tool, "");
        let batch = awake.server.wait_for_end_of(&awake.submit(30));
        assert_eq!(batch["request_counts"]["completed"], 30);
        let said = awake.server.log().matches("Access denied").count();
        assert_eq!(said, usize::from(tool.is_some()), "{}", awake.server.log());
    }
}

#[test]
fn who_does_not_want_it_is_not_kept_awake() {
    let awake = Awake::start(Some(TOOL), "[server]\ninhibit_sleep = false");
    awake.server.wait_for_end_of(&awake.submit(30));
    assert_eq!(awake.count("held"), 0);
}
