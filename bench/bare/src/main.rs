//! The least that could answer a file of requests and lose nothing: what Overnight is measured against.
//!
//! One thread, one task and one connection a slot, the next line for whoever is free, the answer into the same result
//! log as the server's. Deliberately absent: everything else. No validation, no plan, no retry, no deadline, no lease,
//! no API, no output file; a line that is not as the bench writes it, or an answer other than 200, ends the program.
//!
//! `overnight-bare ADDRESS INPUT LOG_DIR SLOTS` prints one JSON object: requests, seconds until the last result was
//! durable, and the processor time of the process.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use overnight_domain::ids::{BatchId, ChunkNumber, DispatchToken, LeaseToken, RequestIndex};
use overnight_domain::tally::{Outcome, Usage};
use overnight_domain::time::UnixTime;
use overnight_segment::{
    Commit, ContentKind, Frame, FrameHeader, Log, LogHandle, LogOptions, RejectReason,
};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, input, log_dir, slots] = arguments.as_slice() else {
        bail!("usage: overnight-bare ADDRESS INPUT LOG_DIR SLOTS");
    };
    let slots: usize = slots.parse().context("SLOTS is no number")?;
    let started = Instant::now();
    let commits = Arc::new(Commits::default());
    let log = open_log(Path::new(log_dir), &commits)?;
    let text = Bytes::from(std::fs::read(input).with_context(|| format!("failed to read `{input}`"))?);
    let work = Work {
        address: address.clone(),
        text,
        at: Cell::new(0),
        index: Cell::new(0),
        batch: BatchId::from_uuid(uuid::Uuid::now_v7()),
        log: log.handle(),
        commits,
    };
    let work = Rc::new(work);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(work.clone(), slots))?;
    let requests = u64::from(work.index.get());
    drop(work);
    println!(
        "{{\"requests\":{requests},\"seconds\":{:.4},\"cpu_ticks\":{}}}",
        started.elapsed().as_secs_f64(),
        cpu_ticks()?
    );
    log.close()?;
    Ok(())
}

struct Work {
    address: String,
    text: Bytes,
    at: Cell<usize>,
    index: Cell<u32>,
    batch: BatchId,
    log: LogHandle,
    commits: Arc<Commits>,
}

/// What the log's thread reports.
#[derive(Default)]
struct Commits {
    durable: AtomicU64,
    arrived: Notify,
}

fn open_log(dir: &Path, commits: &Arc<Commits>) -> anyhow::Result<Log> {
    let commits = Arc::clone(commits);
    let on_commit = move |commit| match commit {
        Commit::Durable(frames) => {
            commits.durable.fetch_add(frames.len() as u64, Ordering::Release);
            commits.arrived.notify_waiters();
        }
        Commit::Stalled { error, .. } | Commit::Poisoned(error) => panic!("the log failed: {error}"),
    };
    Ok(Log::open(dir, LogOptions::default(), Box::new(on_commit))?)
}

/// Returns when every result is durable.
async fn run(work: Rc<Work>, slots: usize) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..slots {
        tasks.spawn_local(slot(work.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    loop {
        let arrived = work.commits.arrived.notified();
        if work.commits.durable.load(Ordering::Acquire) >= u64::from(work.index.get()) {
            return Ok(());
        }
        arrived.await;
    }
}

async fn slot(work: Rc<Work>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(&work.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let driver = tokio::task::spawn_local(connection);
    while let Some((index, line)) = work.next_line() {
        let body = member(&line, b"\"body\":", b'}')?;
        let custom_id = member(&line, b"\"custom_id\":", b',')?;
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/chat/completions")
            .header("host", &work.address)
            .header("content-type", "application/json")
            .body(Full::new(line.slice(body)))?;
        let started = Instant::now();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == 200, "the engine answered {}", response.status());
        let answer = whole(response.into_body()).await?;
        let payload = payload(&line[custom_id], &answer);
        work.append(frame(&work.batch, index, started.elapsed(), payload)).await?;
    }
    drop(sender);
    driver.await??;
    Ok(())
}

impl Work {
    fn next_line(&self) -> Option<(RequestIndex, Bytes)> {
        let from = self.at.get();
        let len = memchr::memchr(b'\n', self.text.get(from..)?)?;
        self.at.set(from + len + 1);
        let index = self.index.get();
        self.index.set(index + 1);
        Some((RequestIndex(index), self.text.slice(from..from + len)))
    }

    async fn append(&self, mut frame: Frame) -> anyhow::Result<()> {
        loop {
            let arrived = self.commits.arrived.notified();
            match self.log.append(frame) {
                Ok(()) => return Ok(()),
                Err(rejected) if rejected.reason == RejectReason::Full => frame = rejected.frame,
                Err(rejected) => bail!("the log refused a frame: {:?}", rejected.reason),
            }
            arrived.await;
        }
    }
}

/// Where a member's value lies. The body is the line's last member and ends before the brace that ends the line.
fn member(line: &[u8], name: &[u8], end: u8) -> anyhow::Result<std::ops::Range<usize>> {
    let from = memchr::memmem::find(line, name).context("a line lacks a member")? + name.len();
    let to = match end {
        b'}' => Some(line.len() - 1),
        _ => memchr::memchr(end, &line[from..]).map(|len| from + len),
    };
    Ok(from..to.context("a line ends early")?)
}

async fn whole(mut body: hyper::body::Incoming) -> anyhow::Result<Bytes> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(piece) = body.frame().await {
        let Ok(piece) = piece?.into_data() else { continue };
        if first.is_empty() {
            first = piece;
        } else {
            rest.extend_from_slice(&piece);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(first.len() + rest.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&rest);
    Ok(all.freeze())
}

/// As long as the server's result line.
fn payload(custom_id: &[u8], answer: &[u8]) -> Vec<u8> {
    const ID: &[u8] = b"00000000000000000000000000000000";
    let mut line = Vec::with_capacity(answer.len() + custom_id.len() + 192);
    line.extend_from_slice(b"{\"id\":\"batch_req_");
    line.extend_from_slice(ID);
    line.extend_from_slice(b"\",\"custom_id\":");
    line.extend_from_slice(custom_id);
    line.extend_from_slice(b",\"response\":{\"status_code\":200,\"request_id\":\"");
    line.extend_from_slice(ID);
    line.extend_from_slice(b"\",\"body\":");
    line.extend_from_slice(answer);
    line.extend_from_slice(b"},\"error\":null}\n");
    line
}

fn frame(batch: &BatchId, index: RequestIndex, duration: Duration, payload: Vec<u8>) -> Frame {
    Frame {
        batch: batch.clone(),
        header: FrameHeader {
            content: ContentKind::Json,
            outcome: Outcome::Completed,
            chunk: ChunkNumber(0),
            index,
            lease: LeaseToken(1),
            dispatch: DispatchToken(u64::from(index.0)),
            attempts: 1,
            endpoint: 0,
            model: 0,
            status: 200,
            fault: 0,
            started_at: UnixTime::from_millis(1),
            duration,
            usage: Usage::default(),
        },
        payload,
    }
}

/// User and system time of this process, in hundredths of a second.
fn cpu_ticks() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |at: usize| fields.get(at).context("/proc/self/stat is short")?.parse().map_err(anyhow::Error::from);
    let (user, system): (u64, u64) = (field(11)?, field(12)?);
    Ok(user + system)
}
