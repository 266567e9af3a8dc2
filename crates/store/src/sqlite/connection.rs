//! The connections: one that writes, on a thread of its own, and a few that read.
//!
//! Guarantees: writes happen one after another, each in one transaction that is on the disk (`synchronous = FULL`)
//! before it is answered; a read sees one moment. Every wait is bounded. When a reply is lost the caller is told
//! [`StoreError::Unknown`], never that nothing happened.
//!
//! Absent on purpose: retries. Whether to ask again is for the caller, who knows what it wanted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::migrations;
use crate::{Result, StoreError};

/// Readers beside the one writer. A read takes well under a millisecond, so that a few serve every caller.
const READERS: usize = 4;
/// Writes that wait for the writer. Each is one verb; a longer queue would only hide that the disk is too slow.
const WRITE_QUEUE_LEN_MAX: usize = 256;
/// How long a verb waits for its turn before it reports that the store is busy.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a verb waits for its answer. Longer than the turn of all that may stand before it on a slow disk.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long SQLite waits for another process that has the database open, as a backup may.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept by each connection: more than there are different ones.
const STATEMENTS_MAX: usize = 128;

type Write = Box<dyn FnOnce(&mut Connection) + Send>;

/// The way to the database. When it is dropped, what was asked for is written and the database is closed.
#[derive(Debug)]
pub(super) struct Connections {
    /// There until the drop.
    writer: Option<mpsc::Sender<Write>>,
    writer_thread: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
    turns: Arc<Semaphore>,
}

impl Connections {
    /// Opens the database, creating it and bringing its schema up to date. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let is_new = !path.exists();
        let mut db = Connection::open(path)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        // First of all, so that a database which is refused is left as it was.
        migrations::check(&db)?;
        prepare(&db)?;
        migrations::migrate(&mut db)?;
        if is_new {
            sync_folder(path)?;
        }
        let readers = Arc::new(Readers { path: path.to_owned(), idle: Mutex::default() });
        readers.give_back(readers.open()?);
        let (writer, writes) = mpsc::channel(WRITE_QUEUE_LEN_MAX);
        let writer_thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(db, writes))
            .map_err(|error| StoreError::Unavailable(format!("failed to start the writer: {error}")))?;
        Ok(Self {
            writer: Some(writer),
            writer_thread: Some(writer_thread),
            readers,
            turns: Arc::new(Semaphore::new(READERS)),
        })
    }

    /// Runs `verb` in one transaction, alone; what it returns is durable unless it is an error.
    pub(super) async fn write<T, F>(&self, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let write: Write = Box::new(move |db| {
            // Nobody may be waiting any more; the change is made all the same, as it was asked for.
            let _ = reply.send(transact(db, verb));
        });
        let stopped = || StoreError::Unavailable("the writer has stopped".to_owned());
        let writer = self.writer.as_ref().ok_or_else(stopped)?;
        let turn = timeout(TURN_TIMEOUT, writer.reserve())
            .await
            .map_err(|_| StoreError::Unavailable("too many writes are waiting".to_owned()))?
            .map_err(|_| stopped())?;
        turn.send(write);
        timeout(REPLY_TIMEOUT, answer)
            .await
            .map_err(|_| StoreError::Unknown("the writer did not answer in time".to_owned()))?
            .map_err(|_| StoreError::Unknown("the writer stopped before it answered".to_owned()))?
    }

    /// Runs `question` on one moment of the database, beside others and beside the writer.
    pub(super) async fn read<T, F>(&self, question: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let turn = timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| StoreError::Unavailable("too many reads are waiting".to_owned()))?
            .map_err(|_| StoreError::Unavailable("the readers have stopped".to_owned()))?;
        let readers = Arc::clone(&self.readers);
        let answer = tokio::task::spawn_blocking(move || {
            let mut db = readers.take()?;
            let answer = ask(&mut db, question);
            readers.give_back(db);
            // Only now may another take it, whoever stopped waiting for this answer.
            drop(turn);
            answer
        });
        timeout(REPLY_TIMEOUT, answer)
            .await
            .map_err(|_| StoreError::Unavailable("a read took too long".to_owned()))?
            .map_err(|error| StoreError::Unavailable(format!("a read ended early: {error}")))?
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // The writer comes last: only a connection that may write can empty the log into the database when it closes.
        self.readers.close_idle();
        self.writer = None;
        if let Some(thread) = self.writer_thread.take() {
            // A verb that panicked has told its caller already.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&self.path, flags)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(db)
    }

    /// An idle connection, or a new one: there are never more than there are turns.
    fn take(&self) -> Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.open(), Ok)
    }

    fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn give_back(&self, db: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
    }
}

fn prepare(db: &Connection) -> Result<()> {
    db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", "ON")?;
    Ok(())
}

/// Makes the name of a new database durable: SQLite syncs the file only.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| {
        StoreError::Unavailable(format!("failed to sync the folder `{}`: {error}", folder.display()))
    })
}

/// The writer's life: one verb after another until the last handle is gone.
fn write_all(mut db: Connection, mut writes: mpsc::Receiver<Write>) {
    while let Some(write) = writes.blocking_recv() {
        write(&mut db);
    }
}

fn transact<T>(db: &mut Connection, verb: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let answer = verb(&tx)?;
    tx.commit().map_err(commit_error)?;
    Ok(answer)
}

fn ask<T>(db: &mut Connection, question: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
    let tx = db.transaction()?;
    question(&tx)
}

/// When the sync of a commit fails, its bytes may be in the log all the same and be found at the next start.
fn commit_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => StoreError::Unknown(error.to_string()),
        _ => error.into(),
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(text),
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Unavailable(text),
            // Corrupt, not a database, a broken constraint, a value that cannot be read back.
            _ => Self::Damaged(text),
        }
    }
}

#[cfg(test)]
mod tests;
