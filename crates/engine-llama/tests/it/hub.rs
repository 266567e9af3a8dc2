//! A stand-in of the Hugging Face hub: one socket that answers as the hub does, and another, as the one that large files
//! are redirected to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

pub(crate) const COMMIT: &str = "1111111111111111111111111111111111111111";
pub(crate) const NEXT_COMMIT: &str = "2222222222222222222222222222222222222222";

pub(crate) struct HubStandIn {
    pub(crate) hub: SocketAddr,
    pub(crate) store: SocketAddr,
    conduct: Arc<Mutex<Conduct>>,
    threads: Vec<JoinHandle<()>>,
}

/// What it has and how it behaves.
pub(crate) struct Conduct {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) commit: String,
    /// In place of the SHA-256 of the bytes.
    pub(crate) etag: Option<String>,
    /// In place of the length of the bytes.
    pub(crate) len: Option<u64>,
    /// Only this token may read.
    pub(crate) token: Option<String>,
    /// Status and `X-Error-Code` for whatever is asked next, at the hub.
    pub(crate) refusals: VecDeque<(u16, &'static str)>,
    /// Of the answers with bytes, each of the next ends after so many.
    pub(crate) cuts: VecDeque<usize>,
    /// What was cut is not closed either: nothing comes any more.
    pub(crate) falls_silent: bool,
    pub(crate) has_ranges: bool,
    /// In place of the address of the bytes.
    pub(crate) redirect: Option<String>,
    /// The branch moves when a file has been asked for.
    pub(crate) moves: bool,
    pub(crate) seen: Vec<Seen>,
    is_ended: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at_store: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// Bytes of a file that went out.
    pub(crate) sent: usize,
}

impl HubStandIn {
    pub(crate) fn with(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let conduct = Arc::new(Mutex::new(Conduct {
            files,
            commit: COMMIT.to_owned(),
            etag: None,
            len: None,
            token: None,
            refusals: VecDeque::new(),
            cuts: VecDeque::new(),
            falls_silent: false,
            has_ranges: true,
            redirect: None,
            moves: false,
            seen: Vec::new(),
            is_ended: false,
        }));
        let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [hub, store] = [0, 1].map(|of| sockets[of].local_addr().unwrap());
        let threads = sockets
            .into_iter()
            .zip([false, true])
            .map(|(socket, at_store)| {
                let conduct = Arc::clone(&conduct);
                std::thread::spawn(move || listen(&socket, at_store, store, &conduct))
            })
            .collect();
        Self { hub, store, conduct, threads }
    }

    pub(crate) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap()
    }

    /// The requests for bytes.
    pub(crate) fn pulls(&self) -> Vec<Seen> {
        let seen = self.conduct().seen.clone();
        seen.into_iter().filter(|seen| seen.at_store).collect()
    }
}

impl Drop for HubStandIn {
    fn drop(&mut self) {
        self.conduct().is_ended = true;
        for address in [self.hub, self.store] {
            drop(TcpStream::connect(address));
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn listen(socket: &TcpListener, at_store: bool, store: SocketAddr, conduct: &Arc<Mutex<Conduct>>) {
    std::thread::scope(|scope| {
        for connection in socket.incoming() {
            if conduct.lock().unwrap().is_ended {
                return;
            }
            let connection = connection.unwrap();
            // Whoever hangs up has no answer coming.
            scope.spawn(move || answer(&connection, at_store, store, conduct).unwrap_or_default());
        }
    });
}

fn answer(
    connection: &TcpStream,
    at_store: bool,
    store: SocketAddr,
    conduct: &Mutex<Conduct>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(first) = lines.first() else { return Ok(()) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let pairs = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let headers = pairs.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let mut seen = Seen { at_store, method, path, headers, sent: 0 };
    // Nobody waits for bytes to go out while he holds the conduct.
    let (head, body, falls_silent) = {
        let mut conduct = conduct.lock().unwrap();
        let falls_silent = at_store && conduct.falls_silent && !conduct.cuts.is_empty();
        let (head, body) =
            if at_store { conduct.bytes(&seen) } else { conduct.answer_of_hub(&seen, store) };
        seen.sent = body.len();
        conduct.seen.push(seen);
        (head, body, falls_silent)
    };
    let mut writer = connection;
    write!(writer, "HTTP/1.1 {head}\r\nconnection: close\r\n\r\n")?;
    writer.write_all(&body)?;
    if falls_silent {
        // Until the other side hangs up.
        reader.read_line(&mut String::new())?;
    }
    Ok(())
}

impl Conduct {
    fn answer_of_hub(&mut self, seen: &Seen, store: SocketAddr) -> (String, Vec<u8>) {
        let none = |head: String| (format!("{head}\r\ncontent-length: 0"), Vec::new());
        if let Some((status, code)) = self.refusals.pop_front() {
            return none(format!("{status} Refused\r\nx-error-code: {code}\r\nretry-after: 0"));
        }
        let given = seen.headers.get("authorization");
        if self.token.as_ref().is_some_and(|token| given != Some(&format!("Bearer {token}"))) {
            return none("401 Unauthorized\r\nx-error-code: GatedRepo".to_owned());
        }
        if seen.path.starts_with("/api/models/org/repo/revision/") {
            let names: Vec<_> =
                self.files.keys().map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
            let body = format!("{{\"siblings\":[{}]}}", names.join(","));
            return (format!("200 OK\r\ncontent-length: {}", body.len()), body.into_bytes());
        }
        let rest = seen.path.strip_prefix("/org/repo/resolve/").unwrap_or_default();
        let (revision, file) = rest.split_once('/').unwrap_or_default();
        if !["main", COMMIT, NEXT_COMMIT].contains(&revision) {
            return none("404 Not Found\r\nx-error-code: RevisionNotFound".to_owned());
        }
        let Some(bytes) = self.files.get(&file.replace("%20", " ")) else {
            return none("404 Not Found\r\nx-error-code: EntryNotFound".to_owned());
        };
        let etag = self.etag.clone().unwrap_or_else(|| sha256(bytes));
        let len = self.len.unwrap_or(bytes.len() as u64);
        let commit = if revision == "main" { self.commit.clone() } else { revision.to_owned() };
        let location = self.redirect.clone().unwrap_or_else(|| format!("http://{store}/{file}?signed"));
        if self.moves {
            NEXT_COMMIT.clone_into(&mut self.commit);
        }
        none(format!(
            "302 Found\r\nlocation: {location}\r\nx-repo-commit: {commit}\r\nx-linked-etag: \"{etag}\"\r\n\
             x-linked-size: {len}"
        ))
    }

    fn bytes(&mut self, seen: &Seen) -> (String, Vec<u8>) {
        let file = seen.path.trim_start_matches('/').trim_end_matches("?signed").replace("%20", " ");
        let bytes = &self.files[&file];
        let range = seen.headers.get("range").filter(|_| self.has_ranges);
        let from = range.map_or(0, |range| {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap()
        });
        let rest = &bytes[from..];
        let status = match range {
            Some(_) => {
                let end = bytes.len() - 1;
                format!("206 Partial Content\r\ncontent-range: bytes {from}-{end}/{}", bytes.len())
            }
            None => "200 OK".to_owned(),
        };
        let sent = self.cuts.pop_front().unwrap_or(usize::MAX).min(rest.len());
        (format!("{status}\r\ncontent-length: {}", rest.len()), rest[..sent].to_vec())
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from_digit(four.into(), 16).unwrap();
    Sha256::digest(bytes).iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
