//! The store of one machine: a SQLite database.
//!
//! Guarantees: a verb that was answered is on the disk; verbs are applied one after another, and a read sees one moment.
//! One process at a time owns the database.

mod admission;
mod batches;
mod chunks;
mod connection;
mod files;
mod migrations;
mod notices;
mod queue;
mod uploads;
mod values;
mod workers;

use std::path::Path;

use async_trait::async_trait;
use overnight_domain::batch::{Batch, BatchError, BatchState};
use overnight_domain::chunk::{Chunk, Lease, LogPosition};
use overnight_domain::file::{File, Part, Upload};
use overnight_domain::ids::{
    BatchId, BlobKey, ChunkNumber, FileId, NoticeId, PartId, TenantId, UploadId, WorkerId,
};
use overnight_domain::notice::{Notice, Receiver, Subscription};
use overnight_domain::tally::Tally;
use overnight_domain::time::UnixTime;

use self::connection::Connections;
use crate::{
    Admission, BatchPatch, BatchQuery, BatchWithOpenChunks, ClaimQuery, Claimed, Closing, Created,
    CreationKey, Demand, FileQuery, Hold, Moved, Page, Parking, Planned, QueueView, Result, Settlement,
    Store, WaitingNotice, WorkerView,
};

/// A handle on the database, which is closed when the handle is dropped.
#[derive(Debug)]
pub struct SqliteStore(Connections);

impl SqliteStore {
    /// Opens the database at `path`, creating it when there is none and bringing its schema up to date. Blocks: call it
    /// before there is anything to serve.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Connections::open(path.as_ref()).map(Self)
    }
}

#[async_trait]
impl Store for SqliteStore {
    // Files.
    async fn create_file(&self, file: File) -> Result<()> {
        self.0.write(move |db| files::create(db, &file)).await
    }

    async fn file(&self, tenant: &TenantId, id: &FileId, now: UnixTime) -> Result<Option<File>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.read(move |db| files::file(db, &tenant, &id, now)).await
    }

    async fn list_files(
        &self,
        tenant: &TenantId,
        query: FileQuery,
        now: UnixTime,
    ) -> Result<Page<File>> {
        let tenant = tenant.clone();
        self.0.read(move |db| files::list(db, &tenant, &query, now)).await
    }

    async fn delete_file(&self, tenant: &TenantId, id: &FileId, now: UnixTime) -> Result<bool> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.write(move |db| files::delete(db, &tenant, &id, now)).await
    }

    async fn dead_files(&self, now: UnixTime, limit: usize) -> Result<Vec<File>> {
        self.0.read(move |db| files::dead(db, now, limit)).await
    }

    async fn forget_file(&self, id: &FileId) -> Result<()> {
        let id = id.clone();
        self.0.write(move |db| files::forget(db, &id)).await
    }

    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>> {
        let keys = keys.to_vec();
        self.0.read(move |db| files::known_blobs(db, &keys)).await
    }

    // Uploads.
    async fn create_upload(&self, upload: Upload) -> Result<()> {
        self.0.write(move |db| uploads::create(db, &upload)).await
    }

    async fn upload(&self, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.read(move |db| uploads::upload(db, &tenant, &id)).await
    }

    async fn add_part(&self, tenant: &TenantId, part: Part, now: UnixTime) -> Result<bool> {
        let tenant = tenant.clone();
        self.0.write(move |db| uploads::add_part(db, &tenant, &part, now)).await
    }

    async fn parts(&self, tenant: &TenantId, id: &UploadId) -> Result<Vec<Part>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.read(move |db| uploads::parts(db, &tenant, &id)).await
    }

    async fn complete_upload(
        &self,
        tenant: &TenantId,
        id: &UploadId,
        parts: &[PartId],
        file: File,
    ) -> Result<bool> {
        let (tenant, id, parts) = (tenant.clone(), id.clone(), parts.to_vec());
        self.0.write(move |db| uploads::complete(db, &tenant, &id, &parts, &file)).await
    }

    async fn cancel_upload(&self, tenant: &TenantId, id: &UploadId) -> Result<Option<Upload>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.write(move |db| uploads::cancel(db, &tenant, &id)).await
    }

    async fn sweep_uploads(&self, now: UnixTime, limit: usize) -> Result<Vec<Part>> {
        self.0.write(move |db| uploads::sweep(db, now, limit)).await
    }

    async fn forget_part(&self, id: &PartId) -> Result<()> {
        let id = id.clone();
        self.0.write(move |db| uploads::forget_part(db, &id)).await
    }

    // Batches.
    async fn create_batch(
        &self,
        batch: Batch,
        admission: Admission,
        key: Option<CreationKey>,
    ) -> Result<Created> {
        self.0.write(move |db| admission::create(db, &batch, admission, key.as_ref())).await
    }

    async fn batch(&self, tenant: &TenantId, id: &BatchId) -> Result<Option<BatchWithOpenChunks>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.read(move |db| batches::batch(db, &tenant, &id)).await
    }

    async fn children(&self, tenant: &TenantId, id: &BatchId) -> Result<Vec<Batch>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.read(move |db| batches::children(db, &tenant, &id)).await
    }

    async fn list_batches(
        &self,
        tenant: &TenantId,
        query: BatchQuery,
    ) -> Result<Page<BatchWithOpenChunks>> {
        let tenant = tenant.clone();
        self.0.read(move |db| batches::list(db, &tenant, &query)).await
    }

    async fn plan_batch(&self, id: &BatchId, planned: Planned, now: UnixTime) -> Result<Moved> {
        let id = id.clone();
        self.0.write(move |db| batches::plan(db, &id, &planned, now)).await
    }

    async fn reject_batch(&self, id: &BatchId, errors: Vec<BatchError>, now: UnixTime) -> Result<Moved> {
        let id = id.clone();
        self.0.write(move |db| batches::reject(db, &id, errors, now)).await
    }

    async fn cancel_batch(&self, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Result<Moved> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.write(move |db| batches::cancel(db, &tenant, &id, now)).await
    }

    async fn update_batch(
        &self,
        tenant: &TenantId,
        id: &BatchId,
        patch: BatchPatch,
        _now: UnixTime,
    ) -> Result<Moved> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.write(move |db| batches::update(db, &tenant, &id, patch)).await
    }

    async fn expire_batches(&self, now: UnixTime) -> Result<Vec<BatchId>> {
        self.0.write(move |db| batches::expire(db, now)).await
    }

    async fn reopen_batch(&self, id: &BatchId, chunks: &[ChunkNumber], now: UnixTime) -> Result<Moved> {
        let (id, chunks) = (id.clone(), chunks.to_vec());
        self.0.write(move |db| batches::reopen(db, &id, &chunks, now)).await
    }

    async fn close_batch(&self, id: &BatchId, closing: Closing, now: UnixTime) -> Result<Moved> {
        let id = id.clone();
        self.0.write(move |db| batches::close(db, &id, closing, now)).await
    }

    async fn delete_batch(&self, tenant: &TenantId, id: &BatchId, now: UnixTime) -> Result<Moved> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.0.write(move |db| batches::delete(db, &tenant, &id, now)).await
    }

    // The queue: what the server's own duties ask, over all tenants.
    async fn queue(&self, states: &[BatchState], limit: usize) -> Result<Vec<BatchWithOpenChunks>> {
        let states = states.to_vec();
        self.0.read(move |db| queue::queue(db, &states, limit)).await
    }

    async fn queue_of(&self, tenant: &TenantId, limit: usize) -> Result<Page<BatchWithOpenChunks>> {
        let tenant = tenant.clone();
        self.0.read(move |db| queue::queue_of(db, &tenant, limit)).await
    }

    async fn closable(&self, limit: usize) -> Result<Vec<Batch>> {
        self.0.read(move |db| queue::closable(db, limit)).await
    }

    async fn queue_batch(&self, id: &BatchId) -> Result<Option<Batch>> {
        let id = id.clone();
        self.0.read(move |db| batches::find(db, &id)).await
    }

    async fn queue_view(&self) -> Result<QueueView> {
        self.0.read(move |db| queue::view(db)).await
    }

    async fn demand(&self) -> Result<Vec<Demand>> {
        self.0.read(move |db| queue::demand(db)).await
    }

    async fn known_batches(&self, ids: &[BatchId]) -> Result<Vec<BatchId>> {
        let ids = ids.to_vec();
        self.0.read(move |db| queue::known_batches(db, &ids)).await
    }

    // Chunks.
    async fn claim(&self, query: ClaimQuery) -> Result<Option<Claimed>> {
        self.0.write(move |db| queue::claim(db, &query)).await
    }

    async fn begin(&self, lease: &Lease, log_from: LogPosition) -> Result<Hold> {
        let lease = lease.clone();
        self.0.write(move |db| chunks::begin(db, &lease, log_from)).await
    }

    async fn renew(&self, leases: &[Lease], expires_at: UnixTime) -> Result<Vec<Hold>> {
        let leases = leases.to_vec();
        self.0.write(move |db| chunks::renew(db, &leases, expires_at)).await
    }

    async fn complete(&self, lease: &Lease, tally: Tally, now: UnixTime) -> Result<Hold> {
        let lease = lease.clone();
        self.0.write(move |db| chunks::complete(db, &lease, tally, now)).await
    }

    async fn park(&self, lease: &Lease, parking: Parking) -> Result<Hold> {
        let lease = lease.clone();
        self.0.write(move |db| chunks::park(db, &lease, parking)).await
    }

    async fn split(&self, lease: &Lease, at: u64, lens: (u64, u64)) -> Result<Hold> {
        let lease = lease.clone();
        self.0.write(move |db| chunks::split(db, &lease, at, lens)).await
    }

    async fn recover(&self, worker: &WorkerId, _now: UnixTime) -> Result<Vec<Chunk>> {
        let worker = worker.clone();
        self.0.write(move |db| chunks::recover(db, &worker)).await
    }

    async fn expire_leases(&self, now: UnixTime) -> Result<Vec<Lease>> {
        self.0.write(move |db| chunks::expire_leases(db, now)).await
    }

    async fn chunks(&self, batch: &BatchId) -> Result<Vec<Chunk>> {
        let batch = batch.clone();
        self.0.read(move |db| chunks::chunks(db, &batch)).await
    }

    // Notices.
    async fn set_receivers(&self, subscriptions: &[Subscription]) -> Result<()> {
        let subscriptions = subscriptions.to_vec();
        self.0.write(move |db| notices::set_receivers(db, &subscriptions)).await
    }

    async fn put_notice(&self, notice: Notice) -> Result<()> {
        self.0.write(move |db| notices::put(db, &notice)).await
    }

    async fn due_notices(
        &self,
        receiver: Receiver,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<WaitingNotice>> {
        self.0.read(move |db| notices::due(db, receiver, now, limit)).await
    }

    async fn settle_notice(
        &self,
        receiver: Receiver,
        id: &NoticeId,
        settlement: Settlement,
    ) -> Result<()> {
        let id = id.clone();
        self.0.write(move |db| notices::settle(db, receiver, &id, settlement)).await
    }

    // Workers.
    async fn heartbeat(&self, worker: WorkerView) -> Result<()> {
        self.0.write(move |db| workers::heartbeat(db, &worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerView>> {
        self.0.read(move |db| workers::workers(db)).await
    }
}
