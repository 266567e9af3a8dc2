//! A disk in memory that fails on demand and forgets what was not synced.
//!
//! Each file has what the system's cache shows and what the disk has. A sync carries the one over to the other, sector
//! by sector. A failed sync carries some over and then takes the others for clean, as Linux does: a later sync
//! succeeds without writing them. A name is durable after a sync of its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile};
use crate::sample::Dice;

pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EIO: i32 = 5;

const SECTOR: usize = 512;

/// Decides whether the n-th operation, from 1, fails, and with which number.
pub(crate) type Fails = Box<dyn Fn(u64, &'static str) -> Option<i32> + Send>;

pub(crate) struct ModelDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    files: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
    durable_folders: BTreeSet<PathBuf>,
    operations: u64,
    fails: Fails,
    dice: Dice,
}

#[derive(Clone, Default)]
struct Node {
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ and that no sync carries over any more.
    forgotten: BTreeSet<usize>,
}

struct ModelFile {
    state: Arc<Mutex<State>>,
    node: usize,
}

impl ModelDisk {
    pub(crate) fn new() -> Self {
        Self::of(Vec::new(), BTreeMap::new(), BTreeSet::new())
    }

    fn of(files: Vec<Node>, names: BTreeMap<PathBuf, usize>, folders: BTreeSet<PathBuf>) -> Self {
        let state = State {
            files,
            durable_names: names.clone(),
            names,
            durable_folders: folders.clone(),
            folders,
            operations: 0,
            fails: Box::new(|_, _| None),
            dice: Dice(0),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(Self { state: Arc::clone(&self.state) })
    }

    /// Counts operations from here on.
    pub(crate) fn fail(&self, fails: Fails) {
        let mut state = self.lock();
        state.operations = 0;
        state.fails = fails;
    }

    pub(crate) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// What is there after the power was cut: the disk, and by chance some of what was on its way.
    pub(crate) fn cut_power(&self, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let percent = [0, 10, 50, 90, 100][dice.below(5) as usize];
        self.keep_of_unsynced(percent, dice)
    }

    /// The same, and nothing that was on its way has arrived.
    pub(crate) fn cut_power_at_worst(&self) -> Self {
        self.keep_of_unsynced(0, Dice(0))
    }

    fn keep_of_unsynced(&self, percent: u64, mut dice: Dice) -> Self {
        let state = self.lock();
        let files = state
            .files
            .iter()
            .map(|node| {
                let mut bytes = node.durable.clone();
                let len = if dice.is_likely(percent) { node.cache.len() } else { bytes.len() };
                bytes.resize(len, 0);
                for sector in 0..len.div_ceil(SECTOR) {
                    if !node.forgotten.contains(&sector) && dice.is_likely(percent) {
                        copy_sector(&node.cache, &mut bytes, sector);
                    }
                }
                Node { durable: bytes.clone(), cache: bytes, forgotten: BTreeSet::new() }
            })
            .collect();
        let mut folders = state.durable_folders.clone();
        for folder in &state.folders {
            if dice.is_likely(percent) {
                folders.insert(folder.clone());
            }
        }
        let mut names = state.durable_names.clone();
        for (path, node) in &state.names {
            if dice.is_likely(percent) {
                names.insert(path.clone(), *node);
            }
        }
        for path in state.durable_names.keys() {
            if !state.names.contains_key(path) && dice.is_likely(percent) {
                names.remove(path);
            }
        }
        names.retain(|path, _| path.parent().is_some_and(|parent| folders.contains(parent)));
        Self::of(files, names, folders)
    }

    /// The bytes of a file, to look at or to damage: on the disk and in the cache alike.
    pub(crate) fn edit<T>(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut state = self.lock();
        let node = state.names[path];
        let node = &mut state.files[node];
        let result = edit(&mut node.cache);
        node.durable.clone_from(&node.cache);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn open_node(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let node = *self.lock().names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(ModelFile { state: Arc::clone(&self.state), node }))
    }
}

impl State {
    fn step(&mut self, operation: &'static str) -> io::Result<()> {
        self.operations += 1;
        match (self.fails)(self.operations, operation) {
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None => Ok(()),
        }
    }
}

impl Disk for ModelDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_node(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_node(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.step("create")?;
        let parent = path.parent().expect("a file lies in a folder");
        if !state.folders.contains(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let node = state.names.get(path).copied().unwrap_or(state.files.len());
        if node == state.files.len() {
            state.files.push(Node::default());
            state.names.insert(path.to_owned(), node);
        }
        state.files[node].cache.clear();
        drop(state);
        self.open_node(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step("create_folder")?;
        state.folders.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Option<Vec<String>>> {
        let state = self.lock();
        let names = state.names.keys().chain(&state.folders);
        let names = names
            .filter(|path| path.parent() == Some(folder))
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        Ok(state.folders.contains(folder).then(|| names.collect()))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step("sync_folder")?;
        let State { names, durable_names, folders, durable_folders, .. } = &mut *state;
        let is_in = |entry: &PathBuf| entry.parent() == Some(path);
        durable_names.retain(|entry, _| !is_in(entry));
        durable_names
            .extend(names.iter().filter(|(entry, _)| is_in(entry)).map(|(p, n)| (p.clone(), *n)));
        durable_folders.retain(|entry| !is_in(entry));
        durable_folders.extend(folders.iter().filter(|entry| is_in(entry)).cloned());
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step("remove_file")?;
        state.names.remove(path).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step("remove_folder")?;
        if state.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.folders.remove(path);
        Ok(())
    }
}

impl ModelFile {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn sync(&self, operation: &'static str) -> io::Result<()> {
        let mut state = self.lock();
        let result = state.step(operation);
        let State { files, dice, .. } = &mut *state;
        let node = &mut files[self.node];
        node.durable.resize(node.cache.len(), 0);
        for sector in 0..node.cache.len().div_ceil(SECTOR) {
            if node.forgotten.contains(&sector) {
                continue;
            }
            if result.is_ok() || dice.is_likely(50) {
                copy_sector(&node.cache, &mut node.durable, sector);
            } else {
                node.forgotten.insert(sector);
            }
        }
        result
    }
}

impl DiskFile for ModelFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().files[self.node].cache.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.lock();
        let bytes = &state.files[self.node].cache;
        let from = (offset as usize).min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        let result = state.step("write");
        let bytes = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let node = &mut state.files[self.node];
        let range = offset as usize..offset as usize + bytes.len();
        if node.cache.len() < range.end {
            node.cache.resize(range.end, 0);
        }
        node.forgotten
            .retain(|sector| !(range.start / SECTOR..range.end.div_ceil(SECTOR)).contains(sector));
        node.cache[range].copy_from_slice(bytes);
        result
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.step("allocate")?;
        let node = &mut state.files[self.node];
        let len = node.cache.len().max((offset + len) as usize);
        node.cache.resize(len, 0);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.step("truncate")?;
        state.files[self.node].cache.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync("sync_data")
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync("sync_all")
    }

    fn evict(&self) {
        let mut state = self.lock();
        let node = &mut state.files[self.node];
        for sector in std::mem::take(&mut node.forgotten) {
            copy_sector(&node.durable, &mut node.cache, sector);
        }
    }
}

/// As far as both files reach.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let range = sector * SECTOR..((sector + 1) * SECTOR).min(from.len()).min(to.len());
    if !range.is_empty() {
        to[range.clone()].copy_from_slice(&from[range]);
    }
}
