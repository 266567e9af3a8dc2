//! Why a model could not be fetched, and what to do about it.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the variable `{name}` cannot be used: {reason}")]
    Variable { name: &'static str, reason: String },
    #[error(
        "`{address}` is not in the cache `{}`, and `HF_HUB_OFFLINE` is set; fetch it once where there is a network, or \
         unset the variable", .cache.display()
    )]
    Offline { address: String, cache: PathBuf },
    #[error(
        "could not reach the hub at `{endpoint}`: {reason}; once a model is in the cache no network is needed for it"
    )]
    Unreachable { endpoint: String, reason: String },
    #[error("the repository `{repo}` is gated: accept its terms at {endpoint}/{repo}, then {advice}")]
    Gated { endpoint: String, repo: String, advice: &'static str },
    #[error(
        "the hub does not show the repository `{repo}`: it does not exist, or it is private; check its name, or {advice}"
    )]
    NoRepo { repo: String, advice: &'static str },
    #[error(
        "the hub refuses the token in `HF_TOKEN`: it is wrong or has expired; make a new one at {endpoint}/settings/tokens"
    )]
    Token { endpoint: String },
    #[error("the repository `{repo}` has no revision `{revision}`")]
    NoRevision { repo: String, revision: String },
    #[error("the repository `{repo}` has no file `{file}` at `{revision}`{}", named(.close))]
    NoFile { repo: String, revision: String, file: String, close: Vec<String> },
    #[error("the hub at `{endpoint}` answered {status} for `{file}`{said}")]
    Refused { endpoint: String, file: String, status: u16, said: String },
    #[error("the hub at `{endpoint}` answered what no hub answers: {reason}; check `HF_ENDPOINT`")]
    Strange { endpoint: String, reason: String },
    #[error(
        "`{file}` was cut off at {done} of {len} bytes, {repeats} times without progress ({reason}); what came is kept: \
         run it again to go on"
    )]
    Cut { file: String, done: u64, len: u64, repeats: u32, reason: String },
    #[error(
        "`{file}` came with SHA-256 `{found}` where the hub tells `{expected}`; it is deleted, run it again to fetch it \
         anew"
    )]
    Hash { file: String, expected: String, found: String },
    #[error("`{}` has {free} bytes free, and {needed} are needed; make room, or set `HF_HUB_CACHE` to a larger disk", .cache.display())]
    NoRoom { cache: PathBuf, needed: u64, free: u64 },
    #[error(
        "the disk of `{}` is full after {done} of {len} bytes; what came is kept: make room and run it again to go on",
        .path.display()
    )]
    DiskFull { path: PathBuf, done: u64, len: u64 },
    #[error("another process holds `{}` and fetches nothing; end it, or wait for it", .lock.display())]
    Held { lock: PathBuf },
    #[error("failed to {what} `{}`: {error}", .path.display())]
    Cache {
        what: &'static str,
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

fn named(close: &[String]) -> String {
    let mut text = String::new();
    for (number, name) in close.iter().enumerate() {
        let before = if number == 0 { "; it has" } else { "," };
        write!(text, "{before} `{name}`").expect("a string takes any text");
    }
    text
}
