//! Starts the real server with the stand-in engine, talks HTTP to it, kills it and starts it again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use overnight_sim::{Engine, Script, Shape};
use serde_json::{Value, json};

/// Longer than anything in a test takes on a busy machine; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory, an engine, and the server over them.
pub(crate) struct Server {
    pub(crate) engine: Engine,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    child: Option<Child>,
    /// Given to every start: lines of overnight.toml besides the engine.
    settings: String,
    environment: Vec<(String, String)>,
    log: PathBuf,
}

/// What a test may choose.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) script: Script,
    /// Lines of overnight.toml before the engine; may hold whole tables.
    pub(crate) settings: String,
    /// Lines of the engine's table.
    pub(crate) engine: String,
    /// Whole tables instead of that of the stand-in engine.
    pub(crate) engines: Option<String>,
    /// Environment of the server process, for preloaded failpoints.
    pub(crate) environment: Vec<(String, String)>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let mut server = Self::idle(setup);
        server.up();
        server
    }

    /// Everything but the process.
    pub(crate) fn idle(setup: Setup) -> Self {
        let engine = Engine::start(setup.script).unwrap();
        let (kind, path) = match engine.script().shape {
            Shape::Ollama => ("ollama", ""),
            _ => ("openai", "/v1"),
        };
        let engines = setup.engines.unwrap_or_else(|| {
            format!(
                "[[engine]]\nname = \"sim\"\nkind = \"{kind}\"\nurl = \"{}{path}\"\n{}",
                engine.url(),
                setup.engine
            )
        });
        let settings = format!("{}\n{engines}\n", setup.settings);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("server.log");
        let address = free_address();
        Self { engine, folder, address, child: None, settings, environment: setup.environment, log }
    }

    /// Starts the process and waits until it is ready.
    pub(crate) fn up(&mut self) {
        if let Some(status) = self.try_up() {
            panic!("the server ended with {status}:\n{}", self.log());
        }
    }

    /// Starts the process and waits until it is ready or has ended; then its status is returned.
    pub(crate) fn try_up(&mut self) -> Option<ExitStatus> {
        self.spawn();
        self.wait_until_ready()
    }

    /// Waits until the process is ready or has ended.
    pub(crate) fn wait_until_ready(&mut self) -> Option<ExitStatus> {
        let started = Instant::now();
        while self.get("/health/ready").is_none_or(|answer| answer.status != 200) {
            if let Some(status) = self.has_ended() {
                return Some(status);
            }
            assert!(started.elapsed() < PATIENCE, "the server is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    /// The status of a process that has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut().expect("the server was started").try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Starts the process without waiting.
    pub(crate) fn spawn(&mut self) {
        let config = self.folder.path().join("overnight.toml");
        std::fs::write(&config, &self.settings).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_overnight"))
            .args(["serve", "--listen", &self.address.to_string(), "--log", "info"])
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(self.data())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `kill -TERM`.
    pub(crate) fn terminate(&self) {
        let killed = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.process())]).status();
        assert!(killed.unwrap().success());
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the server does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn restart(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        self.up();
    }

    pub(crate) fn change_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    pub(crate) fn get(&self, path: &str) -> Option<Answer> {
        self.call("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).expect("the server answers")
    }

    pub(crate) fn try_post(&self, path: &str, body: &Value) -> Option<Answer> {
        let headers = [("Content-Type", "application/json")];
        self.call("POST", path, &headers, body.to_string().as_bytes())
    }

    /// One HTTP call on a fresh connection. None when nobody answers.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if !body.is_empty() {
            head.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
        }
        head.push_str("\r\n");
        self.raw(&[head.as_bytes(), body].concat())
    }

    /// Sends bytes as they are and reads one answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A server that refuses early closes while we still write; its answer counts.
        let _ = stream.write_all(bytes);
        Answer::read(&mut BufReader::new(stream))
    }

    /// Uploads a file for a batch, as openai-python does; returns its id.
    pub(crate) fn upload(&self, content: &[u8]) -> String {
        let answer = self.upload_as(&[("purpose", "batch")], "in.jsonl", content);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn upload_as(&self, fields: &[(&str, &str)], filename: &str, content: &[u8]) -> Answer {
        self.try_upload_as(fields, filename, content).expect("the server answers")
    }

    /// None when the server dies before it has answered.
    pub(crate) fn try_upload_as(
        &self,
        fields: &[(&str, &str)],
        filename: &str,
        content: &[u8],
    ) -> Option<Answer> {
        let mut body = Vec::new();
        for (name, value) in fields {
            let part =
                format!("--sep\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        let part = format!(
            "--sep\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(part.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n--sep--\r\n");
        let headers = [("Content-Type", "multipart/form-data; boundary=sep")];
        self.call("POST", "/v1/files", &headers, &body)
    }

    /// Creates a batch of chat completions; returns its id.
    pub(crate) fn create(&self, file: &str) -> String {
        self.create_with(file, &json!({}))
    }

    pub(crate) fn create_with(&self, file: &str, overnight: &Value) -> String {
        let answer = self.try_create(file, overnight);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn try_create(&self, file: &str, overnight: &Value) -> Answer {
        let body = json!({
            "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "overnight": overnight,
        });
        self.post("/v1/batches", &body)
    }

    pub(crate) fn batch(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/batches/{id}")).expect("the server answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Polls until the batch is as asked. Patience ends when nothing of it changes any more.
    pub(crate) fn wait_for(&self, id: &str, is_there: impl Fn(&Value) -> bool) -> Value {
        self.wait_within(PATIENCE, id, is_there)
    }

    pub(crate) fn wait_within(
        &self,
        patience: Duration,
        id: &str,
        is_there: impl Fn(&Value) -> bool,
    ) -> Value {
        let (mut changed, mut last) = (Instant::now(), Value::Null);
        loop {
            let batch = self.batch(id);
            if is_there(&batch) {
                return batch;
            }
            let progress = json!([batch["status"], batch["request_counts"]]);
            if progress != last {
                (changed, last) = (Instant::now(), progress);
            }
            assert!(changed.elapsed() < patience, "not reached: {batch}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn wait_for_end_of(&self, id: &str) -> Value {
        self.wait_for(id, |batch| {
            let status = batch["status"].as_str().unwrap();
            ["completed", "failed", "expired", "cancelled"].contains(&status)
        })
    }

    /// The bytes of a file by the member of the batch that names it; empty when it names none.
    pub(crate) fn content(&self, batch: &Value, member: &str) -> Vec<u8> {
        let Some(id) = batch[member].as_str() else { return Vec::new() };
        let answer = self.get(&format!("/v1/files/{id}/content")).expect("the server answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.body
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "what the server said is what a failed test needs")]
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// Reads one answer; interim ones (`100 Continue`) are passed over.
    pub(crate) fn read(reader: &mut impl std::io::BufRead) -> Option<Self> {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let status: u16 = line.split(' ').nth(1)?.parse().ok()?;
            let mut headers = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let line = line.trim_end();
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(':')?;
                headers.push((name.to_lowercase(), value.trim().to_owned()));
            }
            if (100..200).contains(&status) {
                continue;
            }
            let mut answer = Self { status, headers, body: Vec::new() };
            answer.read_body(reader)?;
            return Some(answer);
        }
    }

    fn read_body(&mut self, reader: &mut impl std::io::BufRead) -> Option<()> {
        if self.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let len = usize::from_str_radix(line.trim(), 16).ok()?;
                let from = self.body.len();
                self.body.resize(from + len, 0);
                reader.read_exact(&mut self.body[from..]).ok()?;
                reader.read_line(&mut line).ok()?;
                if len == 0 {
                    return Some(());
                }
            }
        }
        match self.header("content-length").and_then(|len| len.parse().ok()) {
            Some(len) => {
                self.body.resize(len, 0);
                reader.read_exact(&mut self.body).ok()
            }
            None => reader.read_to_end(&mut self.body).ok().map(|_| ()),
        }
    }
}

/// Request lines `row-0` to `row-n` whose prompts `prompt` makes.
pub(crate) fn input(count: usize, prompt: impl Fn(usize) -> String) -> Vec<u8> {
    (0..count).flat_map(|at| request_line(&format!("row-{at}"), &prompt(at)).into_bytes()).collect()
}

pub(crate) fn request_line(custom_id: &str, prompt: &str) -> String {
    let line = json!({
        "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "sim-model", "messages": [{"role": "user", "content": prompt}]},
    });
    format!("{line}\n")
}

/// The lines of a result file.
pub(crate) fn lines(content: &[u8]) -> Vec<Value> {
    content.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

pub(crate) fn custom_ids(content: &[u8]) -> Vec<String> {
    lines(content).iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect()
}

/// What a command says and how it ends. It knows of no server but what it is told.
pub(crate) fn overnight(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_overnight"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("OVERNIGHT_URL")
        .output()
        .unwrap()
}

/// A port that nobody uses now; the kernel does not give it out again soon.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Whether a path is somewhere below a folder, for tests about what is left behind.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
