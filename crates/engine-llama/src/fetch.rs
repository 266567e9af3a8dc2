//! A model from the Hugging Face hub, `hf:org/repo[@revision]/file.gguf`: fetched once, into the cache that the hub's
//! other tools use.
//!
//! Guarantees: a file has its name in the cache only when it is whole and, where the hub tells a SHA-256, has that one;
//! what a cut connection or a killed process leaves is gone on with; two processes do not fetch the same; nothing that
//! the hub answers makes us write outside the cache; the token goes to the hub and to nobody it redirects to. What is in
//! the cache is taken without asking: a batch that starts its engine again gets the same model, also without a network.
//!
//! Deliberately absent: uploads, datasets, and whole repositories.

mod address;
mod cache;
mod download;
mod error;
mod exchange;
mod hub;

use std::path::PathBuf;

pub use address::{Address, AddressError, split_parts};
pub use error::FetchError;
pub use hub::{Hub, Patience, Token};

use cache::RepoFolder;
use exchange::{Exchange, Remote};

/// What lies on the disk now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// In the order of the parts: the first is the one to load.
    pub paths: Vec<PathBuf>,
    /// What the revision meant.
    pub commit: String,
    /// Bytes that came over the network for it; 0 when the cache had it.
    pub fetched_len: u64,
    /// Files of which only the length could be checked, as the hub told no SHA-256 for them.
    pub unchecked: Vec<String>,
}

/// How far it is, told at least once for each file and then with each piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    pub file: &'a str,
    pub stage: Stage,
    /// Of this file.
    pub done: u64,
    pub len: u64,
    /// Of all files together.
    pub total_done: u64,
    pub total_len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Another process fetches the same file.
    Waiting,
    /// What an earlier attempt left is read for the checksum.
    Resuming,
    Fetching,
    /// The connection was cut, or the hub asked for patience.
    Retrying,
}

/// Blocks until the model is there. Returns at once when the cache has it.
pub fn fetch(
    hub: &Hub,
    address: &Address,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched, FetchError> {
    let folder = RepoFolder::new(&hub.cache, &address.repo);
    let files = address.files();
    if let Some((commit, paths)) = folder.find(&address.revision, &files) {
        return Ok(Fetched { paths, commit, fetched_len: 0, unchecked: Vec::new() });
    }
    if hub.is_offline {
        return Err(FetchError::Offline { address: address.to_string(), cache: hub.cache.clone() });
    }
    let exchange = Exchange::new(hub, address)?;
    let (commit, remotes) = look_up(&exchange, address, &files)?;
    folder.check_room(&remotes)?;
    let mut paths = Vec::new();
    let (mut fetched_len, mut total_done) = (0, 0);
    let total_len = remotes.iter().fold(0u64, |sum, remote| sum.saturating_add(remote.len));
    for remote in &remotes {
        let mut tell = |stage, done| {
            let (file, len) = (remote.file.as_str(), remote.len);
            progress(Progress { file, stage, done, len, total_done: total_done + done, total_len });
        };
        let (path, came) = download::download(&exchange, &folder, &commit, remote, &mut tell)?;
        fetched_len += came;
        paths.push(path);
        total_done += remote.len;
    }
    // Last: who finds the revision finds all of its files.
    folder.put_revision(&address.revision, &commit)?;
    let unchecked = remotes
        .into_iter()
        .filter(|remote| remote.sha256().is_none())
        .map(|remote| remote.file)
        .collect();
    Ok(Fetched { paths, commit, fetched_len, unchecked })
}

/// All parts at the commit that the revision means when the first is asked for: a branch that moves meanwhile does not
/// mix two versions.
fn look_up(
    exchange: &Exchange<'_>,
    address: &Address,
    files: &[String],
) -> Result<(String, Vec<Remote>), FetchError> {
    let (first, others) = files.split_first().expect("an address names a file");
    let (commit, remote) = exchange.look_up(&address.revision, first)?;
    let mut remotes = vec![remote];
    for file in others {
        remotes.push(exchange.look_up(&commit, file)?.1);
    }
    Ok((commit, remotes))
}
