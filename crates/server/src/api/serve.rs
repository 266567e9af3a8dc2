//! The listening socket: accepting, at most so many connections, and ending in good order.
//!
//! After the stop, calls that are running are finished, new ones are told to come back (503 with `Retry-After`), and
//! when nothing is in flight at the engines any more the socket closes. Connection and drain tasks live in one `JoinSet` here and end with it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use overnight_domain::limits::SHUTDOWN_GRACE;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::api::body::{self, DRAINS_MAX, Drain};
use crate::api::guard::Ends;
use crate::api::router;
use crate::context::Context;
use crate::pulse::Pulse;

/// Each costs a task, a socket and some buffers. A platform's pollers are hundreds.
const CONNECTIONS_MAX: usize = 1_024;
/// From the opening of a connection, or the last answer on it, to the end of the next head.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// A caller that takes nothing of its answer for so long has gone. The SDKs wait as long themselves.
#[cfg(target_os = "linux")]
const TAKEN_WITHIN: Duration = Duration::from_secs(600);
/// After a failed accept, which mostly means that no file descriptor is left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Nobody may call for hours: that the runtime still turns is shown so often.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long new calls are still told to come back before the socket closes, at least.
const REFUSE_FOR: Duration = Duration::from_secs(1);

/// What runs when the socket closes has at least so long, also when the rest of the grace is used up.
const LAST_CALLS_WITHIN: Duration = Duration::from_secs(3);

/// Serves until the stop, and then until the running calls have ended, `SHUTDOWN_GRACE` at most.
pub(crate) async fn serve(ctx: Arc<Context>, listener: TcpListener, pulse: Pulse) -> anyhow::Result<()> {
    let (drain, mut drained) = mpsc::channel(DRAINS_MAX);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let calls = Calls { app: router(Arc::clone(&ctx)), drain, stop: ctx.stop.clone() };
    let mut tasks = JoinSet::new();
    let closing = async {
        ctx.stop.cancelled().await;
        let stopped = tokio::time::Instant::now();
        // As long as calls of engines are awaited, somebody is here to say that we come back.
        let settled = ctx.supervision.settled();
        let _ = tokio::join!(
            tokio::time::timeout(SHUTDOWN_GRACE, settled.cancelled()),
            tokio::time::sleep(REFUSE_FOR)
        );
        SHUTDOWN_GRACE.saturating_sub(stopped.elapsed()).max(LAST_CALLS_WITHIN)
    };
    tokio::pin!(closing);
    let mut beat = tokio::time::interval(BEAT_EVERY);
    let grace = loop {
        tokio::select! {
            grace = &mut closing => break grace,
            _ = beat.tick() => pulse.beat(),
            (permit, stream, peer) = accept(&listener, &permits) => {
                tasks.spawn(connection(calls.clone(), permit, stream, peer));
            }
            Some(rest) = drained.recv() => {
                tasks.spawn(body::forget(rest));
            }
            Some(ended) = tasks.join_next() => note(ended),
        }
    };
    drop(listener);
    drop(calls);
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            note(ended);
        }
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!("calls were still running when the grace of the shutdown was over");
    }
    Ok(())
}

#[derive(Clone)]
struct Calls {
    app: Router,
    drain: Drain,
    stop: CancellationToken,
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection task failed");
    }
}

/// Waits for room, then for a caller.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (permit, stream, peer),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn connection(calls: Calls, permit: OwnedSemaphorePermit, stream: TcpStream, peer: SocketAddr) {
    let _permit = permit;
    // Answers are small and polled for: waiting to fill a packet only makes them late.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    #[cfg(target_os = "linux")]
    if rustix::net::sockopt::set_tcp_user_timeout(&stream, TAKEN_WITHIN.as_millis() as u32).is_err() {
        return;
    }
    let Ok(local) = stream.local_addr() else { return };
    let ends = Ends { peer, local };
    let stop = calls.stop.clone();
    let service = service_fn(move |call: http::Request<Incoming>| answer(calls.clone(), ends, call));
    // A connection that was made after the stop is for one call, to be told so; an older one is closed when it is idle.
    let is_late = stop.is_cancelled();
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if is_late { REFUSE_FOR } else { HEAD_WITHIN })
        .keep_alive(!is_late)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled(), if !is_late => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

async fn answer(
    calls: Calls,
    ends: Ends,
    call: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let mut request: Request = body::watch(call, &calls.drain);
    request.extensions_mut().insert(ends);
    calls.app.oneshot(request).await
}

#[cfg(test)]
mod tests;
