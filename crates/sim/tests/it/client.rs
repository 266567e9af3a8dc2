//! A small client that sees the bytes as they come.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

/// One connection to the engine.
pub(crate) struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

/// One HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
    /// Nothing came for as long as the client waits.
    Silent,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, input: Vec::new() }
    }

    /// How long it waits for bytes before it calls the engine silent.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        self
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: sim\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.send_raw(&request);
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send_chat(&mut self, text: &str) {
        self.send("POST", "/v1/chat/completions", "", &chat(text));
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.send(method, path, "", body);
        self.answer().unwrap()
    }

    pub(crate) fn chat(&mut self, text: &str) -> Answer {
        self.send_chat(text);
        self.answer().unwrap()
    }

    /// The next answer, whole; or how the connection ended before.
    pub(crate) fn answer(&mut self) -> Result<Answer, End> {
        loop {
            if let Some((answer, len)) = Answer::read(&self.input) {
                self.input.drain(..len);
                return Ok(answer);
            }
            self.more()?;
        }
    }

    /// Takes exactly these bytes.
    pub(crate) fn expect_raw(&mut self, bytes: &[u8]) {
        while self.input.len() < bytes.len() {
            self.more().unwrap();
        }
        assert_eq!(self.input.drain(..bytes.len()).as_slice(), bytes);
    }

    /// Everything until the connection ends or falls silent, and how it ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.more() {
                return (std::mem::take(&mut self.input), end);
            }
        }
    }

    fn more(&mut self) -> Result<(), End> {
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(End::Closed),
            Ok(len) => {
                self.input.extend_from_slice(&chunk[..len]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(End::Silent)
            }
            Err(error) => panic!("the socket failed: {error}"),
        }
    }
}

impl Answer {
    fn read(input: &[u8]) -> Option<(Self, usize)> {
        let head_end = input.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&input[..head_end]).to_lowercase();
        let len = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))?
            .parse::<usize>()
            .unwrap();
        let body = input.get(head_end + 4..head_end + 4 + len)?.to_vec();
        Some((Self { status: head[9..12].parse().unwrap(), head, body }, head_end + 4 + len))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn content(&self) -> String {
        self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("").to_owned()
    }
}

/// The body of a chat request with this text.
pub(crate) fn chat(text: &str) -> Vec<u8> {
    let body = json!({"model": "sim-model", "messages": [{"role": "user", "content": text}]});
    body.to_string().into_bytes()
}
