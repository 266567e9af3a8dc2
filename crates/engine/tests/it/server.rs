//! A server that does to each request what a script says, byte for byte, and tells what it saw.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use overnight_domain::route::Route;
use overnight_engine::{Call, EndpointConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Longer than anything here takes; a test that waits so long has failed.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What follows a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Write these bytes and go on reading.
    Say(Vec<u8>),
    /// Write these bytes and close.
    SayAndClose(Vec<u8>),
    /// Write these bytes and then nothing, until the client leaves.
    SayAndHang(Vec<u8>),
    /// Close with a reset.
    Reset,
    /// Stop listening for good, then close: the engine is gone.
    Die,
}

/// What the server saw.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The number of the connection, from 0, the head and the body.
    Request {
        connection: usize,
        head: String,
        body: Vec<u8>,
    },
    Closed {
        connection: usize,
    },
}

pub(crate) struct Server {
    port: u16,
    seen: mpsc::Receiver<Seen>,
}

impl Server {
    /// Requests take the acts in turn, whatever connection they come over; the last act is for all that follow.
    pub(crate) async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        Self::start_with(acts, None).await
    }

    pub(crate) async fn start_with(
        acts: impl IntoIterator<Item = Act>,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tx, seen) = mpsc::channel(1000);
        let acts = Arc::new(std::sync::Mutex::new(acts.into_iter().collect::<Vec<_>>()));
        spawn(serve(listener, acts, tx, tls));
        Self { port, seen }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn config(&self) -> EndpointConfig {
        EndpointConfig::new("gpu0", format!("http://127.0.0.1:{}/v1", self.port))
    }

    pub(crate) async fn next(&mut self) -> Seen {
        timeout(WAIT_MAX, self.seen.recv()).await.expect("the server saw nothing").unwrap()
    }

    /// The next request: its connection, head and body.
    pub(crate) async fn next_request(&mut self) -> (usize, String, Vec<u8>) {
        loop {
            if let Seen::Request { connection, head, body } = self.next().await {
                return (connection, head, body);
            }
        }
    }
}

/// A reply with this status line, these extra header lines and a fitting content-length.
pub(crate) fn reply(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for header in headers {
        bytes.extend_from_slice(format!("{header}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) const CHAT: &str = r#"{"id":"c1","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;

pub(crate) fn good() -> Act {
    Act::Say(reply("200 OK", &["x-request-id: req_7"], CHAT))
}

pub(crate) fn call() -> Call {
    Call {
        route: Route::ChatCompletions,
        body: Bytes::from_static(b"{\"model\":\"tiny\",\"messages\":[]}"),
        deadline: WAIT_MAX,
        stall: WAIT_MAX,
        gap: Duration::MAX,
    }
}

pub(crate) fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

type Acts = Arc<std::sync::Mutex<Vec<Act>>>;

#[expect(clippy::disallowed_methods, reason = "the runtime of the test ends it")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
    tokio::spawn(task).abort_handle()
}

async fn serve(listener: TcpListener, acts: Acts, tx: mpsc::Sender<Seen>, tls: Option<TlsAcceptor>) {
    let (die, mut died) = mpsc::channel::<()>(1);
    for connection in 0.. {
        let tcp = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = died.recv() => break,
        };
        let (acts, tx, die, tls) = (Arc::clone(&acts), tx.clone(), die.clone(), tls.clone());
        spawn(async move {
            match tls {
                None => {
                    talk(connection, tcp, acts, &tx, die, |tcp| tcp.set_zero_linger().unwrap()).await;
                }
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        talk(connection, stream, acts, &tx, die, |_| {}).await;
                    }
                }
            }
            // The test may have ended.
            let _ = tx.send(Seen::Closed { connection }).await;
        });
    }
    // Closed before `Die` goes on: who connects from now on is refused.
    drop(listener);
    died.close();
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    connection: usize,
    mut stream: S,
    acts: Acts,
    tx: &mpsc::Sender<Seen>,
    die: mpsc::Sender<()>,
    reset: impl Fn(&S),
) {
    while let Ok((head, body)) = read_request(&mut stream).await {
        if tx.send(Seen::Request { connection, head, body }).await.is_err() {
            return;
        }
        let act = {
            let mut acts = acts.lock().unwrap();
            if acts.len() > 1 { acts.remove(0) } else { acts[0].clone() }
        };
        match act {
            Act::Say(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Act::SayAndClose(bytes) => {
                // A client that has left already is as good as closed.
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Act::SayAndHang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read(&mut [0; 1]).await;
                return;
            }
            Act::Reset => {
                reset(&stream);
                return;
            }
            Act::Die => {
                let _ = die.send(()).await;
                die.closed().await;
                return;
            }
        }
    }
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let len = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Ok((head, body))
}

/// A port where nobody listens.
pub(crate) async fn closed_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether `connect` would be refused.
pub(crate) async fn is_refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).await.is_err()
}
