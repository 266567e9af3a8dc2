//! One HTTP/1.1 connection: how it is made, driven, measured and closed.
//!
//! The only place of this crate that spawns. A connection lives as long as its [`Connection`] value: dropping it ends
//! the task that drives it, and with that closes the socket, whatever was in flight.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use overnight_domain::limits::{KEEPALIVE_EVERY, KEEPALIVE_IDLE, KEEPALIVE_UNANSWERED_MAX};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

pub(crate) type Sender = http1::SendRequest<Full<Bytes>>;

/// A connection that one call at a time may use.
pub(crate) struct Connection {
    pub(crate) sender: Sender,
    pub(crate) meter: Arc<Meter>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Where and how to connect.
pub(crate) struct Dial<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) tls: Option<&'a TlsConnector>,
    pub(crate) timeout: Duration,
    /// How long the connection may idle before it closes itself.
    pub(crate) idle_max: Duration,
}

impl Dial<'_> {
    /// Gives the reason, for people, when no connection came about.
    pub(crate) async fn connect(&self) -> Result<Connection, String> {
        let connected = timeout(self.timeout, self.open()).await;
        let error = match connected {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {:?}", self.timeout),
        };
        Err(format!("cannot connect to `{}` port {}: {error}", self.host, self.port))
    }

    async fn open(&self) -> io::Result<Connection> {
        let tcp = TcpStream::connect((self.host, self.port)).await?;
        tcp.set_nodelay(true)?;
        keep_alive(&tcp)?;
        let stream = match self.tls {
            None => Stream::Plain(tcp),
            Some(tls) => {
                let name = ServerName::try_from(self.host.to_owned()).map_err(io::Error::other)?;
                Stream::Tls(Box::new(tls.connect(name, tcp).await?))
            }
        };
        let meter = Arc::new(Meter::new());
        let transport = TokioIo::new(Transport { stream, meter: Arc::clone(&meter) });
        let (sender, http) = http1::handshake(transport).await.map_err(io::Error::other)?;
        let driver = spawn(drive(http, Arc::clone(&meter), self.idle_max));
        Ok(Connection { sender, meter, driver })
    }
}

/// See [`KEEPALIVE_IDLE`]. The system asks, so an engine that is busy or stopped counts as there.
fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(tcp, true)?;
    #[cfg(target_os = "linux")]
    {
        sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_EVERY)?;
        sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_UNANSWERED_MAX)?;
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task ends with the connection that holds its handle; a connection's end is data, not a reason to stop"
)]
fn spawn(driver: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(driver).abort_handle()
}

type Http = http1::Connection<TokioIo<Transport>, Full<Bytes>>;

/// Moves the bytes until the connection ends or has idled too long. How it ended is seen by the call that uses it.
async fn drive(mut http: Http, meter: Arc<Meter>, idle_max: Duration) {
    let mut idle = std::pin::pin!(sleep(idle_max));
    loop {
        tokio::select! {
            biased;
            _ = &mut http => return,
            () = &mut idle => {
                let idle_for = meter.idle_for();
                if idle_for >= idle_max {
                    return;
                }
                idle.as_mut().reset(Instant::now() + idle_max.saturating_sub(idle_for));
            }
        }
    }
}

/// What passed over a connection, and when. Written by the connection's own tasks, read by the call and the driver.
pub(crate) struct Meter {
    opened_at: Instant,
    /// Nanoseconds since `opened_at`; a length of 584 years is enough.
    last_at: AtomicU64,
    received: AtomicU64,
    /// Nanoseconds since `opened_at`, or [`IN_USE`].
    idle_since: AtomicU64,
}

const IN_USE: u64 = u64::MAX;

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            opened_at: Instant::now(),
            last_at: AtomicU64::new(0),
            received: AtomicU64::new(0),
            idle_since: AtomicU64::new(IN_USE),
        }
    }

    /// When a byte last came or went.
    pub(crate) fn last_at(&self) -> Instant {
        self.opened_at + Duration::from_nanos(self.last_at.load(Ordering::Relaxed))
    }

    /// Bytes received so far: to see whether a call got any.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn rest(&self) {
        self.idle_since.store(self.nanos(), Ordering::Relaxed);
    }

    pub(crate) fn wake(&self) {
        self.idle_since.store(IN_USE, Ordering::Relaxed);
    }

    fn idle_for(&self) -> Duration {
        match self.idle_since.load(Ordering::Relaxed) {
            IN_USE => Duration::ZERO,
            since => Duration::from_nanos(self.nanos().saturating_sub(since)),
        }
    }

    fn nanos(&self) -> u64 {
        self.opened_at.elapsed().as_nanos() as u64
    }

    pub(crate) fn note(&self) {
        self.last_at.store(self.nanos(), Ordering::Relaxed);
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream that tells its meter what passes.
struct Transport {
    stream: Stream,
    meter: Arc<Meter>,
}

impl Transport {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.meter.note();
        }
        written
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let len = buffer.filled().len() - before;
        if len > 0 {
            self.meter.received.fetch_add(len as u64, Ordering::Relaxed);
            self.meter.note();
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_that_the_other_end_forgot_is_found_out() {
        use overnight_domain::limits::{KEEPALIVE_EVERY, KEEPALIVE_IDLE, KEEPALIVE_UNANSWERED_MAX};
        use rustix::net::sockopt;
        use tokio::net::{TcpListener, TcpStream};

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        super::keep_alive(&tcp).unwrap();
        assert!(sockopt::socket_keepalive(&tcp).unwrap());
        let given_up_after = sockopt::tcp_keepidle(&tcp).unwrap()
            + sockopt::tcp_keepintvl(&tcp).unwrap() * sockopt::tcp_keepcnt(&tcp).unwrap();
        assert_eq!(given_up_after, KEEPALIVE_IDLE + KEEPALIVE_EVERY * KEEPALIVE_UNANSWERED_MAX);
    }
}
