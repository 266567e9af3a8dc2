//! The store in plain code and in memory: the executable specification of the verbs, for tests and for the simulator.
//!
//! It keeps nothing when it is dropped, and it is as slow as it is plain.

mod batches;
mod chunks;
mod files;
mod notices;
mod queue;
mod uploads;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use overnight_domain::batch::{Batch, BatchError, BatchState};
use overnight_domain::chunk::{Chunk, Lease, LogPosition};
use overnight_domain::file::{File, Part, Upload};
use overnight_domain::ids::{
    BatchId, BlobKey, ChunkNumber, FileId, NoticeId, PartId, TenantId, UploadId, WorkerId,
};
use overnight_domain::notice::{Notice, NoticeEvent, Receiver, Subscription};
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;

use self::notices::NoticeEntry;
use crate::{
    Admission, BatchPatch, BatchQuery, BatchWithOpenChunks, ClaimQuery, Claimed, Closing, Created,
    CreationKey, Demand, FileQuery, Hold, Moved, Page, Parking, Planned, QueueView, Result, Settlement,
    Store, WORKER_FORGOTTEN_AFTER, WaitingNotice, WorkerView,
};

/// A store that lives as long as the value.
#[derive(Debug, Default)]
pub struct ModelStore(Mutex<State>);

impl ModelStore {
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileId, FileEntry>,
    uploads: BTreeMap<UploadId, Upload>,
    parts: BTreeMap<PartId, Part>,
    batches: BTreeMap<BatchId, BatchEntry>,
    chunks: BTreeMap<(BatchId, ChunkNumber), ChunkEntry>,
    creations: BTreeMap<(TenantId, String), (BatchId, UnixTime)>,
    workers: BTreeMap<WorkerId, WorkerView>,
    receivers: BTreeMap<Receiver, Vec<NoticeEvent>>,
    notices: Vec<NoticeEntry>,
}

#[derive(Debug)]
struct FileEntry {
    file: File,
    is_deleted: bool,
}

#[derive(Debug)]
struct BatchEntry {
    batch: Batch,
    expected_requests: u64,
}

#[derive(Debug)]
struct ChunkEntry {
    chunk: Chunk,
    /// There while the chunk is leased, and only then.
    lease: Option<Lease>,
}

impl State {
    fn heartbeat(&mut self, worker: WorkerView) {
        let seen_at = worker.seen_at;
        self.workers.insert(worker.id.clone(), worker);
        self.workers.retain(|_, other| seen_at.since(other.seen_at) <= WORKER_FORGOTTEN_AFTER);
    }

    fn workers(&self) -> Vec<WorkerView> {
        self.workers.values().cloned().collect()
    }
}

#[async_trait]
impl Store for ModelStore {
    // Files.
    async fn create_file(&self, file: File) -> Result<()> {
        self.state().create_file(file)
    }

    async fn file(&self, tenant: &TenantId, id: &FileId, now: UnixTime) -> Result<Option<File>> {
        Ok(self.state().file(tenant, id, now))
    }

    async fn list_files(
        &self,
        tenant: &TenantId,
        query: FileQuery,
        now: UnixTime,
    ) -> Result<Page<File>> {
        Ok(self.state().list_files(tenant, query, now))
    }

    async fn delete_file(&self, tenant: &TenantId, id: &FileId, now: UnixTime) -> Result<bool> {
        Ok(self.state().delete_file(tenant, id, now))
    }

    async fn dead_files(&self, now: UnixTime, limit: usize) -> Result<Vec<File>> {
        Ok(self.state().dead_files(now, limit))
    }

    async fn forget_file(&self, id: &FileId) -> Result<()> {
        self.state().forget_file(id);
        Ok(())
    }

    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>> {
        Ok(self.state().known_blobs(keys))
    }

    // Uploads.
    async fn create_upload(&self, upload: Upload) -> Result<()> {
        self.state().create_upload(upload)
    }

    async fn upload(&self, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>> {
        Ok(self.state().upload(tenant, id))
    }

    async fn add_part(&self, tenant: &TenantId, part: Part, now: UnixTime) -> Result<bool> {
        self.state().add_part(tenant, part, now)
    }

    async fn parts(&self, tenant: &TenantId, id: &UploadId) -> Result<Vec<Part>> {
        Ok(self.state().parts(tenant, id))
    }

    async fn complete_upload(
        &self,
        tenant: &TenantId,
        id: &UploadId,
        parts: &[PartId],
        file: File,
    ) -> Result<bool> {
        self.state().complete_upload(tenant, id, parts, file)
    }

    async fn cancel_upload(&self, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>> {
        Ok(self.state().cancel_upload(tenant, id))
    }

    async fn sweep_uploads(&self, now: UnixTime, limit: usize) -> Result<Vec<Part>> {
        Ok(self.state().sweep_uploads(now, limit))
    }

    async fn forget_part(&self, id: &PartId) -> Result<()> {
        self.state().forget_part(id);
        Ok(())
    }

    // Batches.
    async fn create_batch(
        &self,
        batch: Batch,
        admission: Admission,
        key: Option<CreationKey>,
    ) -> Result<Created> {
        self.state().create_batch(batch, admission, key)
    }

    async fn batch(&self, tenant: &TenantId, id: &BatchId) -> Result<Option<BatchWithOpenChunks>> {
        Ok(self.state().batch(tenant, id))
    }

    async fn children(&self, tenant: &TenantId, id: &BatchId) -> Result<Vec<Batch>> {
        Ok(self.state().children(tenant, id))
    }

    async fn list_batches(
        &self,
        tenant: &TenantId,
        query: BatchQuery,
    ) -> Result<Page<BatchWithOpenChunks>> {
        Ok(self.state().list_batches(tenant, &query))
    }

    async fn plan_batch(&self, id: &BatchId, planned: Planned, now: UnixTime) -> Result<Moved> {
        self.state().plan_batch(id, planned, now)
    }

    async fn reject_batch(&self, id: &BatchId, errors: Vec<BatchError>, now: UnixTime) -> Result<Moved> {
        Ok(self.state().reject_batch(id, errors, now))
    }

    async fn cancel_batch(&self, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Result<Moved> {
        Ok(self.state().cancel_batch(tenant, id, now))
    }

    async fn update_batch(
        &self,
        tenant: &TenantId,
        id: &BatchId,
        patch: BatchPatch,
        _now: UnixTime,
    ) -> Result<Moved> {
        Ok(self.state().update_batch(tenant, id, patch))
    }

    async fn expire_batches(&self, now: UnixTime) -> Result<Vec<BatchId>> {
        Ok(self.state().expire_batches(now))
    }

    async fn reopen_batch(&self, id: &BatchId, chunks: &[ChunkNumber], now: UnixTime) -> Result<Moved> {
        self.state().reopen_batch(id, chunks, now)
    }

    async fn close_batch(&self, id: &BatchId, closing: Closing, now: UnixTime) -> Result<Moved> {
        self.state().close_batch(id, closing, now)
    }

    async fn delete_batch(&self, tenant: &TenantId, id: &BatchId, _now: UnixTime) -> Result<Moved> {
        Ok(self.state().delete_batch(tenant, id))
    }

    // The queue: what the server's own duties ask, over all tenants.
    async fn queue(&self, states: &[BatchState], limit: usize) -> Result<Vec<BatchWithOpenChunks>> {
        Ok(self.state().queue(states, limit))
    }

    async fn queue_of(&self, tenant: &TenantId, limit: usize) -> Result<Page<BatchWithOpenChunks>> {
        Ok(self.state().queue_of(tenant, limit))
    }

    async fn closable(&self, limit: usize) -> Result<Vec<Batch>> {
        Ok(self.state().closable(limit))
    }

    async fn queue_batch(&self, id: &BatchId) -> Result<Option<Batch>> {
        Ok(self.state().queue_batch(id))
    }

    async fn queue_view(&self) -> Result<QueueView> {
        Ok(self.state().queue_view())
    }

    async fn demand(&self) -> Result<Vec<Demand>> {
        Ok(self.state().demand())
    }

    async fn known_batches(&self, ids: &[BatchId]) -> Result<Vec<BatchId>> {
        Ok(self.state().known_batches(ids))
    }

    // Chunks.
    async fn claim(&self, query: ClaimQuery) -> Result<Option<Claimed>> {
        Ok(self.state().claim(query))
    }

    async fn begin(&self, lease: &Lease, log_from: LogPosition) -> Result<Hold> {
        Ok(self.state().begin(lease, log_from))
    }

    async fn renew(&self, leases: &[Lease], expires_at: UnixTime) -> Result<Vec<Hold>> {
        Ok(self.state().renew(leases, expires_at))
    }

    async fn complete(&self, lease: &Lease, tally: Tally, now: UnixTime) -> Result<Hold> {
        Ok(self.state().complete(lease, tally, now))
    }

    async fn park(&self, lease: &Lease, parking: Parking) -> Result<Hold> {
        Ok(self.state().park(lease, parking))
    }

    async fn split(&self, lease: &Lease, at: u64, lens: (u64, u64)) -> Result<Hold> {
        self.state().split(lease, at, lens)
    }

    async fn recover(&self, worker: &WorkerId, _now: UnixTime) -> Result<Vec<Chunk>> {
        Ok(self.state().recover(worker))
    }

    async fn expire_leases(&self, now: UnixTime) -> Result<Vec<Lease>> {
        Ok(self.state().expire_leases(now))
    }

    async fn chunks(&self, batch: &BatchId) -> Result<Vec<Chunk>> {
        Ok(self.state().chunks(batch))
    }

    // Notices.
    async fn set_receivers(&self, subscriptions: &[Subscription]) -> Result<()> {
        self.state().set_receivers(subscriptions);
        Ok(())
    }

    async fn put_notice(&self, notice: Notice) -> Result<()> {
        self.state().put_notice(&notice);
        Ok(())
    }

    async fn due_notices(
        &self,
        receiver: Receiver,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<WaitingNotice>> {
        Ok(self.state().due_notices(receiver, now, limit))
    }

    async fn settle_notice(
        &self,
        receiver: Receiver,
        id: &NoticeId,
        settlement: Settlement,
    ) -> Result<()> {
        self.state().settle_notice(receiver, id, settlement);
        Ok(())
    }

    // Workers.
    async fn heartbeat(&self, worker: WorkerView) -> Result<()> {
        self.state().heartbeat(worker);
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerView>> {
        Ok(self.state().workers())
    }
}
