//! A server for tests that gives scripted answers, one connection each, and keeps what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use crate::cli::client::Client;
use crate::cli::screen::Screen;
use crate::config::Secret;

pub(in crate::cli) struct Scripted {
    address: String,
    thread: JoinHandle<Vec<String>>,
}

/// An answer with a JSON body.
pub(in crate::cli) fn json(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

impl Scripted {
    /// Answers so many requests, and no more.
    pub(in crate::cli) fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            answers.into_iter().map(|answer| one(&listener.accept().unwrap().0, &answer)).collect()
        };
        Self { address, thread: std::thread::spawn(serve) }
    }

    pub(in crate::cli) fn client(&self) -> Client {
        Client::new(&self.address, Some(Secret::new("sk-1")), Screen::new(true)).unwrap()
    }

    pub(in crate::cli) fn address(&self) -> &str {
        &self.address
    }

    /// What was asked: head and body of each request.
    pub(in crate::cli) fn requests(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

fn one(stream: &TcpStream, answer: &str) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut len) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    let mut writer = stream;
    writer.write_all(answer.as_bytes()).unwrap();
    head + &String::from_utf8(body).unwrap()
}
