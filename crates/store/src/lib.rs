//! What Overnight knows about files, uploads, batches, chunks and workers, and the verbs that change it.
//!
//! Each method of [`Store`] is one transaction and one verb of the domain. A request is never a row: a million requests
//! are some two hundred chunks.
//!
//! [`SqliteStore`] is the store of one machine. With the feature `testing` come an in-memory model, which says in plain
//! code what each verb means, and the conformance suite that every store passes.

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "testing")]
mod model;
mod sqlite;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use overnight_domain::batch::{Batch, BatchError, BatchState, Pause};
use overnight_domain::chunk::{Chunk, ChunkRange, Lease, LogPosition};
use overnight_domain::file::{File, Part, Purpose, Upload};
use overnight_domain::ids::{
    BatchId, BlobKey, ChunkNumber, FileId, LeaseToken, NoticeId, PartId, TenantId, UploadId, WorkerId,
};
use overnight_domain::notice::{Notice, Receiver, Subscription};
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;
use serde::{Deserialize, Serialize};

#[cfg(feature = "testing")]
pub use model::ModelStore;
pub use sqlite::SqliteStore;

/// A worker that has been silent for so long before another's heartbeat is forgotten: each start of a process is a new
/// worker, and the list must not grow with them.
pub const WORKER_FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest list of children: a batch is sent again a few times, not a thousand.
pub const CHILDREN_MAX: usize = 1_000;

/// The operation could not be carried out. What is expected (not found, refused, lost) is in `Ok`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Worth trying again later: busy, disk full, connection gone. Nothing was changed.
    #[error("the store cannot be reached now: {0}")]
    Unavailable(String),
    /// The disk is full. Nothing was changed.
    #[error("the disk of the store is full: {0}")]
    Full(String),
    /// The reply was lost: the change may or may not have happened. Read again, never retry blindly.
    #[error("the store did not say whether the change happened: {0}")]
    Unknown(String),
    /// What is stored contradicts itself, or was written by a newer version.
    #[error("the store is damaged or of another version: {0}")]
    Damaged(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// One page of a list, and whether there is more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    pub has_more: bool,
}

impl<T> Page<T> {
    /// Cuts what was asked for with one row beyond the limit.
    fn cut(mut rows: Vec<T>, limit: usize) -> Self {
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self { rows, has_more }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    #[default]
    NewestFirst,
    OldestFirst,
}

#[derive(Debug, Clone)]
pub struct FileQuery {
    pub purpose: Option<Purpose>,
    pub direction: Direction,
    /// Exclusive. Ids sort by creation, so a deleted or unknown id is still a place in the list.
    pub after: Option<FileId>,
    pub limit: usize,
}

#[derive(Debug, Clone)]
pub struct BatchQuery {
    /// Only these states; all when empty.
    pub states: Vec<BatchState>,
    pub after: Option<BatchId>,
    pub limit: usize,
}

/// The limits that creation of a batch is held to, checked in the transaction that creates it.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Unfinished batches of all tenants, `large` ones not counted.
    pub unfinished_batches_max: u64,
    /// Requests without a durable result, over all unfinished batches that are not `large`. A batch still validating
    /// counts what its creator expected.
    pub queued_requests_max: u64,
    /// Requests that the new batch is expected to have, as far as known.
    pub expected_requests: u64,
    /// Bytes of free disk, less what is held back for the system.
    pub disk_free: u64,
}

/// Names a creation, so that a repeated one finds the first.
#[derive(Debug, Clone)]
pub struct CreationKey {
    /// Unique per tenant: the caller's `Idempotency-Key`, or a digest of the body.
    pub key: String,
    /// Older creations with this key are forgotten.
    pub not_before: UnixTime,
    /// Only look for an earlier creation when set; the key is recorded in either case.
    pub is_repeat: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    New,
    /// An earlier creation with the same key.
    Existing(Box<Batch>),
    Refused(AdmissionRefusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionRefusal {
    UnfinishedBatches {
        now: u64,
    },
    QueuedRequests {
        now: u64,
    },
    /// Every unfinished batch has its own reservation; this one needs more than the disk has free beside them. What a
    /// running batch has used of its reservation already is counted twice, so that the answer is rather too careful.
    Disk {
        needed: u64,
        free: u64,
    },
}

/// What validation and planning found out.
#[derive(Debug, Clone)]
pub struct Planned {
    pub total: u64,
    pub model: Option<String>,
    pub plan_blob: BlobKey,
    pub chunks: Vec<ChunkRange>,
    /// Measured now, where creation could only estimate.
    pub reserved_len: u64,
}

/// What an event of a batch led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Moved {
    To(Box<Batch>),
    /// The state does not allow it; the batch as it is.
    Illegal(Box<Batch>),
    NotFound,
}

/// A change that a caller makes to an unfinished batch. `None` leaves a member as it is.
#[derive(Debug, Clone, Default)]
pub struct BatchPatch {
    pub priority: Option<i32>,
    pub expires_at: Option<UnixTime>,
    /// `Some(None)` resumes.
    pub pause: Option<Option<Pause>>,
}

/// How a batch ends: its files become visible and its status terminal in one transaction.
#[derive(Debug, Clone)]
pub struct Closing {
    pub output: Option<File>,
    pub error: Option<File>,
    pub tally: Tally,
}

/// What a worker wants to claim.
#[derive(Debug, Clone)]
pub struct ClaimQuery {
    pub worker: WorkerId,
    pub token: LeaseToken,
    pub ttl: Duration,
    /// At most this many batches have leased chunks at once; chunks of a batch of higher priority may still be claimed,
    /// its holder then parks the others.
    pub active_batches_max: usize,
    /// Batches that cannot be served now (all their endpoints are out of use, or their writes fail).
    pub except: Vec<BatchId>,
    /// Batches of which every request asks for one of these models are passed over: nobody serves them now.
    pub unserved_models: Vec<String>,
    /// Only from a batch that comes before this one in the order of the queue. None: from any.
    pub before: Option<BatchId>,
    pub now: UnixTime,
}

/// A claimed chunk and what is needed to run it.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub lease: Lease,
    pub chunk: Chunk,
    pub batch: Batch,
}

/// Whether what was shown is still the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Held,
    /// The lease was taken away or the chunk has ended. What its holder wanted did not happen.
    Lost,
}

/// What the holder learnt when it puts a chunk back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parking {
    /// New results became durable under this lease.
    pub has_progress: bool,
}

/// A batch and the numbers of its chunks that are begun and not done: what live counts are added for. Dropped chunks are
/// among them until the batch is terminal, when its tally says it all.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchWithOpenChunks {
    pub batch: Batch,
    pub open: Vec<ChunkNumber>,
}

/// What is asked for by the batches that are in progress and not paused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Demand {
    /// None: of batches that name several models.
    pub model: Option<String>,
    /// The highest of them.
    pub priority: i32,
}

/// The queue in numbers, over all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueView {
    pub batches: BTreeMap<BatchState, u64>,
    /// Requests of unfinished batches that have no committed result, by batch, in the order of the queue.
    pub backlog: Vec<(BatchId, u64)>,
}

/// A notice that waits for a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingNotice {
    pub notice: Notice,
    /// Attempts to deliver it so far.
    pub attempts: u32,
}

/// What became of an attempt to deliver a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It was delivered, or given up: it is forgotten.
    Done,
    RetryAt(UnixTime),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    pub id: WorkerId,
    pub host: String,
    pub process: u32,
    pub started_at: UnixTime,
    pub seen_at: UnixTime,
    /// `idle`, `processing` or `error`.
    pub activity: String,
    pub batch: Option<BatchId>,
}

/// The verbs. A method that touches one file or batch on behalf of a caller takes the caller's tenant, and what belongs
/// to another tenant is not found.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // Files.
    async fn create_file(&self, file: File) -> Result<()>;
    /// A file that is neither deleted nor past its expiry.
    async fn file(&self, tenant: &TenantId, id: &FileId, now: UnixTime) -> Result<Option<File>>;
    async fn list_files(&self, tenant: &TenantId, query: FileQuery, now: UnixTime)
    -> Result<Page<File>>;
    /// Hides the file at once; false when there is none. Its bytes stay while an unfinished batch needs them.
    async fn delete_file(&self, tenant: &TenantId, id: &FileId, now: UnixTime) -> Result<bool>;
    /// Files that are deleted or expired and that no unfinished batch needs as input: their bytes may go.
    async fn dead_files(&self, now: UnixTime, limit: usize) -> Result<Vec<File>>;
    /// Forgets a dead file, after its bytes are gone.
    async fn forget_file(&self, id: &FileId) -> Result<()>;
    /// Those of the keys that a file (hidden ones too), a part, an input or a plan of a batch refers to.
    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>>;

    // Uploads.
    async fn create_upload(&self, upload: Upload) -> Result<()>;
    async fn upload(&self, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>>;
    /// Adds a part to a pending upload; false when it is not pending (any more) or past its expiry.
    async fn add_part(&self, tenant: &TenantId, part: Part, now: UnixTime) -> Result<bool>;
    async fn parts(&self, tenant: &TenantId, id: &UploadId) -> Result<Vec<Part>>;
    /// Makes the file visible and the upload completed, in one step; false when it is not pending.
    async fn complete_upload(
        &self,
        tenant: &TenantId,
        id: &UploadId,
        parts: &[PartId],
        file: File,
    ) -> Result<bool>;
    /// Cancels a pending upload and returns the upload as it then is; None when there is none.
    async fn cancel_upload(&self, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>>;
    /// Marks pending uploads past their expiry as expired, and returns the parts of uploads that are no longer
    /// pending: their bytes may go.
    async fn sweep_uploads(&self, now: UnixTime, limit: usize) -> Result<Vec<Part>>;
    /// Forgets a part, after its bytes are gone.
    async fn forget_part(&self, id: &PartId) -> Result<()>;

    // Batches.
    /// Creates a batch in `validating`, when the limits admit it.
    async fn create_batch(
        &self,
        batch: Batch,
        admission: Admission,
        key: Option<CreationKey>,
    ) -> Result<Created>;
    async fn batch(&self, tenant: &TenantId, id: &BatchId) -> Result<Option<BatchWithOpenChunks>>;
    /// The batches that were made from failed requests of this one, oldest first; at most 1,000.
    async fn children(&self, tenant: &TenantId, id: &BatchId) -> Result<Vec<Batch>>;
    /// Newest first.
    async fn list_batches(
        &self,
        tenant: &TenantId,
        query: BatchQuery,
    ) -> Result<Page<BatchWithOpenChunks>>;
    /// `Plan`: the batch gets its total and its chunks and is in progress; with no request at all it is an error.
    async fn plan_batch(&self, id: &BatchId, planned: Planned, now: UnixTime) -> Result<Moved>;
    /// `Reject`: the input cannot be used.
    async fn reject_batch(&self, id: &BatchId, errors: Vec<BatchError>, now: UnixTime) -> Result<Moved>;
    /// `Cancel`: chunks that nobody holds are dropped at once; a holder drops its own when it has fixed the cut.
    /// Cancelling a batch that is being cancelled, or was, changes nothing and is `To`.
    async fn cancel_batch(&self, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Result<Moved>;
    /// Changes an unfinished batch; `Illegal` when it is terminal.
    async fn update_batch(
        &self,
        tenant: &TenantId,
        id: &BatchId,
        patch: BatchPatch,
        now: UnixTime,
    ) -> Result<Moved>;
    /// `Expire`, for batches in progress with hard expiry that are past their end. Chunks as in `cancel_batch`.
    async fn expire_batches(&self, now: UnixTime) -> Result<Vec<BatchId>>;
    /// `Reopen`: results of these chunks, which are done, were found damaged. They are parked again with their
    /// `log_from`, and what they came to is taken off the batch's tally. No chunk, or one that is not done, is an error.
    async fn reopen_batch(&self, id: &BatchId, chunks: &[ChunkNumber], now: UnixTime) -> Result<Moved>;
    /// `Close`: the terminal status, the final tally and both files in one step. Legal only when no chunk is held.
    async fn close_batch(&self, id: &BatchId, closing: Closing, now: UnixTime) -> Result<Moved>;
    /// Deletes a terminal batch with its chunks and hides its output and error file (the input stays); its children keep
    /// running. `Illegal` when it is not terminal.
    async fn delete_batch(&self, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Result<Moved>;

    // The queue: what the server's own duties ask, over all tenants.
    /// Batches in one of the states, in the order of the queue: higher priority first, then older.
    async fn queue(&self, states: &[BatchState], limit: usize) -> Result<Vec<BatchWithOpenChunks>>;
    /// The unfinished batches of one tenant, in the order of the queue.
    async fn queue_of(&self, tenant: &TenantId, limit: usize) -> Result<Page<BatchWithOpenChunks>>;
    /// Batches that are finalizing, expiring or cancelling and of which nobody holds a chunk: ready to be closed.
    async fn closable(&self, limit: usize) -> Result<Vec<Batch>>;
    /// A batch of any tenant.
    async fn queue_batch(&self, id: &BatchId) -> Result<Option<Batch>>;
    async fn queue_view(&self) -> Result<QueueView>;
    /// One for each model, in the order of the models.
    async fn demand(&self) -> Result<Vec<Demand>>;
    /// Those of the batches that are still known (terminal ones too): the segments of others may go.
    async fn known_batches(&self, ids: &[BatchId]) -> Result<Vec<BatchId>>;

    // Chunks.
    /// Leases the next chunk of the first batch in the order of the queue that is in progress, not paused and has one:
    /// parked chunks first, then by number.
    async fn claim(&self, query: ClaimQuery) -> Result<Option<Claimed>>;
    /// Notes where the results of a chunk may begin, before its first dispatch. Once set it stays.
    async fn begin(&self, lease: &Lease, log_from: LogPosition) -> Result<Hold>;
    /// Extends all leases that are still held; one statement for all. Returns what became of each, in order.
    async fn renew(&self, leases: &[Lease], expires_at: UnixTime) -> Result<Vec<Hold>>;
    /// The chunk is done; when it was the last, the batch finishes in the same step.
    async fn complete(&self, lease: &Lease, tally: Tally, now: UnixTime) -> Result<Hold>;
    /// Puts a chunk back: parked while its batch goes on, dropped when that has ended early.
    async fn park(&self, lease: &Lease, parking: Parking) -> Result<Hold>;
    /// Cuts a held chunk in two: the holder keeps the entries before the plan's entry `at`, the rest becomes a parked
    /// chunk with the same `log_from` and as many fruitless takeovers. Both lengths are given, because the store does
    /// not know the plan. An entry that does not lie inside the chunk is an error.
    async fn split(&self, lease: &Lease, at: u64, lens: (u64, u64)) -> Result<Hold>;
    /// Takes back at once every lease of workers other than `worker`, as one process that owns the data may at start.
    /// Returns all chunks of unfinished batches that are begun and not done, dropped ones too: their results are still
    /// to be written out.
    async fn recover(&self, worker: &WorkerId, now: UnixTime) -> Result<Vec<Chunk>>;
    /// Takes back leases that have expired, and returns them.
    async fn expire_leases(&self, now: UnixTime) -> Result<Vec<Lease>>;
    async fn chunks(&self, batch: &BatchId) -> Result<Vec<Chunk>>;

    // Notices. The end of a batch, and a pause that nobody asked for, are put by the verb that brings them about, in its
    // transaction; others by `put_notice`.
    /// Who is told of what from now on. Notices for receivers that are not listed are forgotten.
    async fn set_receivers(&self, subscriptions: &[Subscription]) -> Result<()>;
    /// Puts a notice for each receiver that wants its event and does not have it already. Beyond
    /// [`NOTICES_MAX`](overnight_domain::limits::NOTICES_MAX) the oldest of the receiver are forgotten.
    async fn put_notice(&self, notice: Notice) -> Result<()>;
    /// Notices whose next attempt is due, the longest due first.
    async fn due_notices(
        &self,
        receiver: Receiver,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<WaitingNotice>>;
    /// What became of an attempt. Settling a notice that is gone changes nothing.
    async fn settle_notice(
        &self,
        receiver: Receiver,
        id: &NoticeId,
        settlement: Settlement,
    ) -> Result<()>;

    // Workers.
    async fn heartbeat(&self, worker: WorkerView) -> Result<()>;
    async fn workers(&self) -> Result<Vec<WorkerView>>;
}
