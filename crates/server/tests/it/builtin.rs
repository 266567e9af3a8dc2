//! The built-in engine with the demo model, as people get it: by a command, by a first run, by `[[engine]]`; killed,
//! stopped, and given files that are no models. Real inference, so it needs the feature `llama`.

mod command;
mod crashes;
mod first_run;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::harness::{Server, Setup, free_address};

/// An `[[engine]]` of a server.
struct Builtin {
    address: SocketAddr,
    model: String,
}

impl Builtin {
    fn new(model: impl Into<String>) -> Self {
        Self { address: free_address(), model: model.into() }
    }

    fn table(&self, settings: &str) -> String {
        let Self { address, model } = self;
        format!(
            "[[engine]]\nname = \"one\"\nurl = \"http://{address}/v1\"\n\
             command = \"overnight engine --model {model} --listen {address} --name demo\"\n{settings}\n"
        )
    }

    fn server(&self, settings: &str) -> Server {
        Server::with(Setup { engines: Some(self.table(settings)), ..Setup::default() })
    }

    /// The engine itself, without the guard before it.
    fn processes(&self) -> Vec<u32> {
        engines_at(&self.address.to_string())
    }

    fn send(&self, signal: Signal) -> Option<u32> {
        let process = self.processes().pop()?;
        send(process, signal).then_some(process)
    }
}

/// Processes of the built-in engine that were started with an address.
fn engines_at(address: &str) -> Vec<u32> {
    let is_engine = |process: &u32| {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(b"overnight")
            && words.next() == Some(b"engine")
            && words.any(|word| word == address.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_engine).collect()
}

fn send(process: u32, signal: Signal) -> bool {
    let process = Pid::from_raw(process.try_into().unwrap()).unwrap();
    kill_process(process, signal).is_ok()
}

/// Documents of different lengths, with the question before them that all have in common.
fn documents(count: usize) -> String {
    const WORDS: [&str; 12] = [
        "invoice",
        "total",
        "dear",
        "agreement",
        "flour",
        "quarter",
        "skills",
        "payment",
        "oven",
        "regards",
        "party",
        "due",
    ];
    let mut lines = String::new();
    for at in 0..count {
        let word = |step: usize| WORDS[(at * 7 + step * step + at / 5) % WORDS.len()];
        let document: Vec<&str> = (0..10 + at % 40).map(word).collect();
        let line = json!({
            "custom_id": format!("row-{at}"), "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "demo", "temperature": 0, "messages": [
                {"role": "system", "content": "Sort the document: invoice, contract, resume, email, report, recipe or other?"},
                {"role": "user", "content": document.join(" ")},
            ]},
        });
        writeln!(lines, "{line}").unwrap();
    }
    lines
}

fn submit(server: &Server, count: usize) -> String {
    server.create(&server.upload(documents(count).as_bytes()))
}

fn overnight(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overnight"));
    command.args(arguments);
    command
}

fn words(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

/// The proof from the bytes, as people ask for it.
fn verify(server: &Server, id: &str) {
    let url = format!("http://{}", server.address);
    let proof = overnight(&["verify", id, "--server", &url]).output().unwrap();
    assert!(proof.status.success(), "{}", words(&proof));
}
