//! One connection: read a request, decide, send; again and again.
//!
//! Plain answers are put together in one buffer and written with one system call for all requests that came together.
//! Only a request that has to wait gives up the fast path. While it waits, the connection is watched: a client that
//! leaves frees its slot, as with a real engine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use overnight_domain::route::Route;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::calls::InFlight;
use crate::conduct::{Active, Buffers, Conduct};
use crate::control;
use crate::engine::Shared;
use crate::ollama::{self, Work};
use crate::request::{Head, HeadError, Target};
use crate::shape::Shape;
use crate::shapes::{self, tei};
use crate::steps::Step;
use crate::wire::push_error_answer;

/// Serves a connection until it ends. How it ends matters to the client alone.
pub(crate) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Without it an answer in two writes would wait for an acknowledgement; a socket that cannot is dead already.
    let _ = stream.set_nodelay(true);
    let mut socket = Socket { stream, input: BytesMut::with_capacity(READ_LEN) };
    let mut buffers = Buffers::default();
    let mut version = shared.version();
    let mut active = shared.active();
    let mut answered = 0;
    let mut head = None;
    loop {
        if shared.version() != version {
            version = shared.version();
            active = shared.active();
        }
        let whole = match next_head(&mut head, &socket.input, &active, &mut buffers) {
            Ok(whole) => whole,
            Err(error) => {
                push_head_error(&mut buffers.out, error);
                let _ = socket.flush(&mut buffers.out).await;
                return;
            }
        };
        let flow = match whole {
            Some(head) if active.script.answers_per_connection.is_some_and(|most| answered >= most) => {
                socket.input.advance(head.len + head.body_len);
                return;
            }
            Some(head) => {
                answered += 1;
                answer(head, &mut socket, &active, &shared, &mut buffers).await
            }
            None => {
                // Only a connection that was used can be kept for too long.
                let idle_max = active.script.idle_close.filter(|_| answered > 0);
                socket.more(&mut buffers.out, idle_max, head.as_ref()).await
            }
        };
        if !matches!(flow, Ok(Flow::GoOn)) {
            return;
        }
    }
}

struct Socket {
    stream: TcpStream,
    input: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    End,
}

/// The next request if it is there with its body. A head is read once, however long its body takes.
fn next_head(
    waiting: &mut Option<Head>,
    input: &BytesMut,
    active: &Active,
    buffers: &mut Buffers,
) -> Result<Option<Head>, HeadError> {
    if waiting.is_none() && !input.is_empty() {
        *waiting = Head::read(input, active.script.api_key.as_deref())?;
        if waiting.is_some_and(|head| head.awaits_continue) {
            buffers.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }
    Ok(waiting.take_if(|head| input.len() >= head.len + head.body_len))
}

async fn answer(
    head: Head,
    socket: &mut Socket,
    active: &Active,
    shared: &Shared,
    buffers: &mut Buffers,
) -> io::Result<Flow> {
    let body = head.len..head.len + head.body_len;
    let flow = match head.target {
        Target::Work(_) | Target::Tei(_) if !head.is_authorized => {
            push_error_answer(&mut buffers.out, 401, "", "wrong API key", Some("invalid_api_key"));
            Flow::GoOn
        }
        Target::Work(route) if !shapes::has_route(active.script.shape, route) => {
            push_error_answer(&mut buffers.out, 404, "", "there is no such route", None);
            Flow::GoOn
        }
        Target::Tei(_) if active.script.shape != Shape::Tei => {
            push_error_answer(&mut buffers.out, 404, "", "there is no such route", None);
            Flow::GoOn
        }
        Target::Work(_) | Target::Tei(_) => {
            let arrived = shared.ledger.enter();
            let asked = &socket.input[body.clone()];
            let conduct = meet(head.target, asked, &arrived, active, shared, buffers);
            if conduct.is_immediate() {
                arrived.finish();
                Flow::GoOn
            } else {
                socket.input.advance(body.end);
                let flow = perform(conduct, arrived, socket, shared, &mut buffers.out).await?;
                return Ok(if head.keeps_alive { flow } else { Flow::End });
            }
        }
        Target::Ollama(work) if active.script.shape == Shape::Ollama => {
            let asked = socket.input.split_to(body.end).split_off(body.start).freeze();
            let flow = answer_as_ollama(work, asked, socket, active, shared, buffers).await?;
            return Ok(if head.keeps_alive { flow } else { Flow::End });
        }
        target => {
            let body = &socket.input[body.clone()];
            control::answer(target, body, head.is_authorized, active, shared, &mut buffers.out);
            Flow::GoOn
        }
    };
    socket.input.advance(body.end);
    if !head.keeps_alive || buffers.out.len() > OUT_LEN_MAX {
        socket.flush(&mut buffers.out).await?;
    }
    Ok(if head.keeps_alive { flow } else { Flow::End })
}

/// What the script and the request say goes first; what would be answered plainly is answered as Ollama does.
async fn answer_as_ollama(
    work: Work,
    body: Bytes,
    socket: &mut Socket,
    active: &Active,
    shared: &Shared,
    buffers: &mut Buffers,
) -> io::Result<Flow> {
    let route = match work {
        Work::Chat => Route::ChatCompletions,
        Work::Generate => Route::Completions,
        Work::Embed => Route::Embeddings,
    };
    let arrived = shared.ledger.enter();
    let own_start = buffers.out.len();
    let conduct = active.meet(route, &body, &arrived, &shared.ledger, buffers);
    if !conduct.steps.is_empty() || !buffers.out[own_start..].starts_with(b"HTTP/1.1 200") {
        return perform(conduct, arrived, socket, shared, &mut buffers.out).await;
    }
    buffers.out.truncate(own_start);
    socket.flush(&mut buffers.out).await?;
    let told = socket.watched(ollama::work(work, &body, conduct.delay, active)).await?;
    told.push(&mut buffers.out);
    socket.flush(&mut buffers.out).await?;
    arrived.finish();
    Ok(Flow::GoOn)
}

/// What follows for a request for work. What TEI would answer plainly is answered as TEI does.
fn meet(
    target: Target,
    body: &[u8],
    arrived: &InFlight<'_>,
    active: &Active,
    shared: &Shared,
    buffers: &mut Buffers,
) -> Conduct {
    let work = match target {
        Target::Tei(work) => Some(work),
        _ if active.script.shape == Shape::Tei => Some(tei::Work::OpenAi),
        _ => None,
    };
    let route = match target {
        Target::Work(route) => route,
        // Its plain answer needs nothing of the body.
        _ => Route::Completions,
    };
    let own_start = buffers.out.len();
    let conduct = active.meet(route, body, arrived, &shared.ledger, buffers);
    if let Some(work) = work
        && conduct.steps.is_empty()
        && buffers.out[own_start..].starts_with(b"HTTP/1.1 200")
    {
        buffers.out.truncate(own_start);
        tei::push_answer(work, body, &active.script, &mut buffers.out);
    }
    conduct
}

/// Waits for a slot, for the time the answer takes, and sends it; or whatever the steps say.
async fn perform(
    conduct: Conduct,
    arrived: InFlight<'_>,
    socket: &mut Socket,
    shared: &Shared,
    out: &mut Vec<u8>,
) -> io::Result<Flow> {
    // What earlier requests of this connection are owed does not wait for this one.
    let own = if conduct.steps.is_empty() { out.split_off(conduct.own_start) } else { Vec::new() };
    socket.flush(out).await?;
    let slot = match conduct.slots {
        Some(slots) => Some(socket.watched(acquired(slots)).await?),
        None => None,
    };
    if !conduct.delay.is_zero() {
        socket.watched(sleep(conduct.delay)).await?;
    }
    out.extend_from_slice(&own);
    socket.flush(out).await?;
    for step in conduct.steps {
        if socket.take(step, shared).await? == Flow::End {
            arrived.finish();
            return Ok(Flow::End);
        }
    }
    drop(slot);
    arrived.finish();
    Ok(Flow::GoOn)
}

impl Socket {
    async fn take(&mut self, step: Step, shared: &Shared) -> io::Result<Flow> {
        match step {
            Step::Send(bytes) => self.write(&bytes).await?,
            Step::Repeat { bytes, times } => {
                for _ in 0..times {
                    self.write(&bytes).await?;
                    // A client that takes all at once must not keep the thread from the others.
                    tokio::task::coop::consume_budget().await;
                }
            }
            Step::Trickle { bytes, period } => self.trickle(&bytes, period).await?,
            Step::Wait => {
                self.watched(sleep(HANG_MAX)).await?;
                return Ok(Flow::End);
            }
            Step::Close => return Ok(Flow::End),
            Step::Reset => {
                self.stream.set_zero_linger()?;
                return Ok(Flow::End);
            }
            Step::Crash => {
                shared.ask_to_crash();
                // The lifecycle ends this task together with all the others.
                self.watched(sleep(HANG_MAX)).await?;
                return Ok(Flow::End);
            }
        }
        Ok(Flow::GoOn)
    }

    async fn trickle(&mut self, bytes: &Bytes, period: Duration) -> io::Result<()> {
        for byte in bytes {
            self.watched(sleep(period)).await?;
            self.write(std::slice::from_ref(byte)).await?;
        }
        Ok(())
    }

    /// Sends what is ready, then reads more.
    async fn more(
        &mut self,
        out: &mut Vec<u8>,
        idle_max: Option<Duration>,
        head: Option<&Head>,
    ) -> io::Result<Flow> {
        self.flush(out).await?;
        let wanted = head.map_or(0, |head| head.len + head.body_len);
        self.input.reserve(wanted.saturating_sub(self.input.len()).max(READ_LEN));
        let is_idle = self.input.is_empty();
        let reading = self.stream.read_buf(&mut self.input);
        let read = match idle_max {
            Some(idle) if is_idle => match timeout(idle, reading).await {
                Ok(read) => read?,
                Err(_) => return Ok(Flow::End),
            },
            _ => reading.await?,
        };
        Ok(if read == 0 { Flow::End } else { Flow::GoOn })
    }

    /// Does what is waited for unless the client leaves first, which is an error. What the client sends meanwhile is kept,
    /// up to a bound.
    async fn watched<T>(&mut self, waiting: impl Future<Output = T>) -> io::Result<T> {
        tokio::pin!(waiting);
        loop {
            let may_read = self.input.len() < AHEAD_LEN_MAX;
            tokio::select! {
                biased;
                done = &mut waiting => return Ok(done),
                read = self.stream.read_buf(&mut self.input), if may_read => {
                    if read? == 0 {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
            }
        }
    }

    async fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if !out.is_empty() {
            self.write(out).await?;
            out.clear();
            out.shrink_to(OUT_LEN_MAX);
        }
        Ok(())
    }

    /// Most writes fit into the socket's buffer; the others wait for the client, but not for ever.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = match self.stream.try_write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < bytes.len() {
            timeout(WRITE_MAX, self.stream.write_all(&bytes[written..]))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        }
        Ok(())
    }
}

async fn acquired(slots: Arc<Semaphore>) -> tokio::sync::OwnedSemaphorePermit {
    slots.acquire_owned().await.expect("the semaphore of a script is never closed")
}

fn push_head_error(out: &mut Vec<u8>, error: HeadError) {
    let (status, message) = match error {
        HeadError::Malformed => (400, "the request is no HTTP/1.1"),
        HeadError::TooLarge => (431, "the head of the request is too long"),
        HeadError::LengthRequired => (411, "a request needs a `content-length`"),
        HeadError::BodyTooLarge => (413, "the body of the request is too long"),
    };
    push_error_answer(out, status, "connection: close\r\n", message, None);
}

/// Several requests of common size with one system call.
const READ_LEN: usize = 16 << 10;

/// When so much is ready it is sent, though more requests are waiting to be answered.
const OUT_LEN_MAX: usize = 64 << 10;

/// What a client may send ahead while its request waits.
const AHEAD_LEN_MAX: usize = 1 << 20;

/// Longer than any client of ours waits for an answer.
const HANG_MAX: Duration = Duration::from_secs(6 * 3600);

const WRITE_MAX: Duration = Duration::from_secs(600);
