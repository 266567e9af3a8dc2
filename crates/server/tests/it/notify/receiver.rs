//! An address that is told: takes what is posted to it, or behaves badly.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// What happens to a message that was read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conduct {
    Take,
    Refuse(u16),
    /// It is never answered.
    Hang,
}

#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Value,
}

#[derive(Clone)]
pub(super) struct Receiver {
    address: SocketAddr,
    conduct: Arc<Mutex<Conduct>>,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Receiver {
    pub(super) fn start() -> Self {
        let receiver = Self::absent();
        receiver.arrive();
        receiver
    }

    /// Nobody listens at its address until it arrives.
    pub(super) fn absent() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { address, conduct: Arc::new(Mutex::new(Conduct::Take)), posts: Arc::default() }
    }

    pub(super) fn arrive(&self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let receiver = self.clone();
        // It lives as long as the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let receiver = receiver.clone();
                std::thread::spawn(move || receiver.serve(&stream));
            }
        });
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn conduct(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap() = conduct;
    }

    /// All that came, also what was refused or not answered.
    pub(super) fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    pub(super) fn messages(&self) -> Vec<Value> {
        self.posts().into_iter().map(|post| post.body).collect()
    }

    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let path = line.split(' ').nth(1)?.to_owned();
            let mut headers = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                headers.push((name.to_lowercase(), value.to_owned()));
            }
            let len = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
            let mut body = vec![0; len];
            reader.read_exact(&mut body).ok()?;
            let conduct = *self.conduct.lock().unwrap();
            let body = serde_json::from_slice(&body).unwrap();
            self.posts.lock().unwrap().push(Post { path, headers, body });
            let status = match conduct {
                Conduct::Take => 204,
                Conduct::Refuse(status) => status,
                Conduct::Hang => {
                    // Until the other side gives up.
                    let _ = reader.read(&mut [0]);
                    return None;
                }
            };
            let words = if status == 204 { "" } else { "go away" };
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{words}", words.len());
            stream.write_all(head.as_bytes()).ok()?;
        }
    }
}
