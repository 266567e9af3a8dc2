//! An engine of its own for each test, in this process, behind a Unix socket; and as much HTTP as is needed to ask it.

use std::path::PathBuf;
use std::time::Duration;

use overnight_domain::time::UnixTime;
use overnight_engine_llama::{Options, Place, serve};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::gguf;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Engine {
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The JSON of a call that was answered well.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// The code and the message of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String, String) {
        let error = &self.json()["error"];
        let text = |name: &str| error[name].as_str().unwrap_or("").to_owned();
        (self.status, text("code"), text("message"))
    }

    /// The deltas of a stream, without its last word.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.text.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let json = |event: &&str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        events.iter().map(json).collect()
    }
}

pub(crate) fn options(folder: &std::path::Path, context_len: u32, slots: u32) -> Options {
    let model = folder.join("random.gguf");
    gguf::write(&model, 32_768);
    Options {
        model,
        name: "random".to_owned(),
        place: Place::Socket(folder.join("engine.sock")),
        context_len: Some(context_len),
        slots: Some(slots),
        threads: Some(1),
        gpu_layers: Some(0),
        memory_bytes: None,
        now: || UnixTime::from_millis(1_767_225_600_000),
    }
}

impl Engine {
    /// With a model whose words make no sense; its tokens are bytes.
    pub(crate) async fn start(context_len: u32, slots: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), context_len, slots);
        Self::serve(folder, options).await
    }

    /// With the demo model.
    pub(crate) async fn demo(context_len: u32, slots: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path(), context_len, slots);
        options.model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("model/demo.gguf");
        Self::serve(folder, options).await
    }

    /// With another model than a plain llama.
    pub(crate) async fn sketch(sketch: &gguf::Sketch<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), sketch.context_len, 2);
        gguf::write_sketch(&options.model, sketch);
        Self::serve(folder, options).await
    }

    pub(crate) async fn serve(folder: tempfile::TempDir, options: Options) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "the runtime of the test ends it")]
        let served = tokio::spawn(serve(options, async move {
            // A dropped sender stops it as well.
            let _ = stopped.await;
        }));
        let socket = folder.path().join("engine.sock");
        let mut engine = Self { socket, stop: Some(stop), served, _folder: folder };
        tokio::time::timeout(PATIENCE, async {
            loop {
                assert!(
                    !engine.served.is_finished(),
                    "the engine ended: {:?}",
                    (&mut engine.served).await
                );
                // The socket is there a moment before anybody listens on it.
                let listens = UnixStream::connect(&engine.socket).await.is_ok();
                if listens && engine.get("/health").await.status == 200 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the model is loaded");
        engine
    }

    /// It is to end; what was asked of it can still be read.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn stop(mut self) {
        self.begin_stop();
        self.served.await.unwrap().unwrap();
    }

    pub(crate) async fn connect(&self, method: &str, path: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.read(self.connect(method, path, body).await).await
    }

    /// The rest of a connection.
    pub(crate) async fn read(&self, mut stream: UnixStream) -> Answer {
        let mut bytes = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("in time").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let text = if is_chunked { dechunked(body) } else { body.to_owned() };
        Answer { status, head: head.to_owned(), text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: &str) -> Answer {
        self.call("POST", path, body).await
    }

    /// A chat of one message, with more members.
    pub(crate) async fn chat(&self, message: &str, more: Value) -> Answer {
        self.post("/v1/chat/completions", &chat(message, more)).await
    }

    /// A value of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("overnight_engine_{name} ")));
        line.unwrap().parse().unwrap()
    }
}

/// What the model said.
pub(crate) fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[expect(clippy::needless_pass_by_value, reason = "a `json!` where it is called")]
pub(crate) fn chat(message: &str, more: Value) -> Value {
    let mut body = json!({"model": "random", "messages": [{"role": "user", "content": message}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn dechunked(mut body: &str) -> String {
    let mut text = String::new();
    loop {
        let (len, rest) = body.split_once("\r\n").unwrap();
        let len = usize::from_str_radix(len, 16).unwrap();
        if len == 0 {
            return text;
        }
        text.push_str(&rest[..len]);
        body = rest[len..].strip_prefix("\r\n").unwrap();
    }
}
