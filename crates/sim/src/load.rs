//! A load as fast as one machine makes it, to show that the stand-in engine is not the brake of a bench.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memmem;

/// How the engine is called.
#[derive(Debug, Clone)]
pub struct Load {
    pub addr: SocketAddr,
    pub connections: usize,
    pub span: Duration,
    /// Bytes of a request's body.
    pub body_len: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadView {
    pub answers: u64,
    pub span: Duration,
}

impl Load {
    /// Sends one request on each connection, then takes the answers in turn: as many requests are in flight as there are
    /// connections, and the load itself costs two system calls a request.
    pub fn run(&self) -> io::Result<LoadView> {
        let request = self.request();
        let mut streams = Vec::with_capacity(self.connections);
        for _ in 0..self.connections.max(1) {
            let stream = TcpStream::connect(self.addr)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            streams.push(stream);
        }
        let mut answer = vec![0; ANSWER_LEN_MAX];
        let started = Instant::now();
        for stream in &mut streams {
            stream.write_all(&request)?;
        }
        let mut answers = 0;
        while started.elapsed() < self.span {
            for stream in &mut streams {
                read_answer(stream, &mut answer)?;
                stream.write_all(&request)?;
                answers += 1;
            }
        }
        Ok(LoadView { answers, span: started.elapsed() })
    }

    fn request(&self) -> Vec<u8> {
        let mut body =
            b"{\"model\":\"sim-model\",\"messages\":[{\"role\":\"user\",\"content\":\"".to_vec();
        body.resize(self.body_len.saturating_sub(4).max(body.len()), b'x');
        body.extend_from_slice(b"\"}]}");
        let mut request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.addr,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        request
    }
}

impl LoadView {
    pub fn answers_per_second(&self) -> f64 {
        self.answers as f64 / self.span.as_secs_f64()
    }
}

/// Reads one answer, whole, and checks that it is one.
fn read_answer(stream: &mut TcpStream, answer: &mut [u8]) -> io::Result<()> {
    let mut len = 0;
    loop {
        let read = stream.read(&mut answer[len..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        len += read;
        let Some(head_end) = memmem::find(&answer[..len], b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&answer[..head_end]).unwrap_or("");
        let body_len: usize = head
            .rsplit_once("content-length: ")
            .and_then(|(_, rest)| rest.split("\r\n").next()?.parse().ok())
            .ok_or_else(|| io::Error::other("an answer without a length"))?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("not answered: {head}")));
        }
        if len >= head_end + 4 + body_len {
            return Ok(());
        }
    }
}

const ANSWER_MAX: Duration = Duration::from_secs(30);
const ANSWER_LEN_MAX: usize = 64 << 10;
