//! What people see at the command line while a GPU is too hot.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use overnight_sim::Engine;

use super::stand_in::{Build, Gpu};
use super::{health, slow, wait_for};
use crate::harness::{Server, input};

/// A command of ours that runs, with what it says.
struct Running {
    child: Child,
    says: BufReader<ChildStderr>,
}

impl Running {
    fn start(gpu: &Gpu, folder: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_overnight"))
            .args(arguments)
            .envs([gpu.environment()])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stderr.take().unwrap());
        Self { child, says }
    }

    /// Reads on until a line holds `wanted`. The end of the command is the end of the wait.
    fn hear(&mut self, wanted: &str) -> String {
        let mut heard = String::new();
        loop {
            let mut line = String::new();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "never said `{wanted}`:\n{heard}");
            if line.contains(wanted) {
                return line;
            }
            heard.push_str(&line);
        }
    }

    /// Its exit code and its output.
    fn end(mut self) -> (Option<i32>, String) {
        let mut output = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        (self.child.wait().unwrap().code(), output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn submit(gpu: &Gpu, server: &Server) -> Running {
    let folder = gpu.folder.path();
    fs::write(folder.join("in.jsonl"), input(5, |at| format!("prompt {at}"))).unwrap();
    let address = format!("http://{}", server.address);
    Running::start(gpu, folder, &["submit", "in.jsonl", "--wait", "--server", &address])
}

#[test]
fn submit_waits_for_the_gpu_says_why_and_how_long_and_is_ended_by_ctrl_c() {
    let gpu = Gpu::new(Build::Current);
    let server = gpu.server(slow(), "", "");
    gpu.set("temperature 86");
    wait_for(&server, |health| health["gpu"]["healthy"] == false);

    let mut ended = submit(&gpu, &server);
    ended.hear("waiting: ");
    let interrupt = format!("kill -INT {}", ended.child.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let (code, output) = ended.end();
    assert!(matches!(code, None | Some(130)), "{code:?}");
    assert_eq!(output, "");
    assert_eq!(health(&server)["queue"]["active_jobs"], 0, "nothing was created");

    let mut waits = submit(&gpu, &server);
    let line = waits.hear("waiting: ");
    assert!(line.contains("86 °C") && line.contains("asking again in 15 s"), "{line}");
    gpu.set("temperature 60");
    waits.hear("is back");
    let (code, output) = waits.end();
    assert_eq!(code, Some(0), "{output}");
    assert!(output.starts_with("batch_"), "{output}");
}

#[test]
fn a_run_without_a_server_pauses_until_the_gpu_has_cooled() {
    let gpu = Gpu::new(Build::Current);
    gpu.set("temperature 86");
    let engine = Engine::start(slow()).unwrap();
    let folder = gpu.folder.path();
    let settings = format!(
        "{}\n[[engine]]\nname = \"sim\"\nkind = \"openai\"\nurl = \"{}/v1\"\nconcurrency = 1\n",
        gpu.settings(""),
        engine.url()
    );
    fs::write(folder.join("overnight.toml"), settings).unwrap();
    fs::write(folder.join("in.jsonl"), input(500, |at| format!("prompt {at}"))).unwrap();
    let mut run = Running::start(&gpu, folder, &["run", "in.jsonl", "-o", "out.jsonl"]);
    let line = run.hear("86 °C");
    assert!(line.contains("cooled to 80 °C"), "{line}");
    assert!(engine.calls().total < 500, "it was done before the GPU was looked at");
    assert!(!folder.join("out.jsonl").exists());
    engine.set_script(overnight_sim::Script::default());
    gpu.set("temperature 70");
    let (code, output) = run.end();
    assert_eq!(code, Some(0), "{output}");
    let lines = fs::read_to_string(folder.join("out.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 500);
}
