//! What the cases are made of, and what other tests of a store may be made of.

use std::time::Duration;

use overnight_domain::batch::{Batch, BatchMoments, BatchOptions, BatchState, Order};
use overnight_domain::chunk::{ChunkRange, LogPosition};
use overnight_domain::file::{File, Part, Purpose, Sha256, Upload, UploadStatus};
use overnight_domain::ids::{
    BatchId, BlobKey, FileId, LeaseToken, PartId, TenantId, UploadId, WorkerId,
};
use overnight_domain::route::Route;
use overnight_domain::tally::{Tally, Usage};
use overnight_domain::time::UnixTime;

use crate::{
    Admission, ClaimQuery, Claimed, Closing, Created, Hold, Moved, Parking, Planned, Result, Store,
};

pub const PROGRESS: Parking = Parking { has_progress: true };
pub const NO_PROGRESS: Parking = Parking { has_progress: false };
/// Requests in a chunk of [`planned`].
pub const CHUNK_LEN: u64 = 10;

pub fn at(seconds: u64) -> UnixTime {
    UnixTime::from_millis(seconds * 1000)
}

pub fn owner() -> TenantId {
    TenantId::default()
}

pub fn stranger() -> TenantId {
    TenantId::new("stranger")
}

pub fn file_id(number: u32) -> FileId {
    FileId::parse(&format!("file-{number:08}")).expect("digits behind the prefix are an id")
}

pub fn upload_id(number: u32) -> UploadId {
    UploadId::parse(&format!("upload_{number:08}")).expect("digits behind the prefix are an id")
}

pub fn part_id(number: u32) -> PartId {
    PartId::parse(&format!("part_{number:08}")).expect("digits behind the prefix are an id")
}

pub fn batch_id(number: u32) -> BatchId {
    BatchId::parse(&format!("batch_{number:08}")).expect("digits behind the prefix are an id")
}

pub fn worker_id(number: u32) -> WorkerId {
    WorkerId::parse(&format!("worker_{number:08}")).expect("digits behind the prefix are an id")
}

pub fn file(number: u32) -> File {
    File {
        id: file_id(number),
        tenant: owner(),
        filename: format!("file {number}.jsonl"),
        purpose: Purpose::Batch,
        len: u64::from(number) * 100,
        lines: u64::from(number),
        sha256: Sha256([number as u8; 32]),
        blob: BlobKey::new(format!("files/{number}")),
        created_at: at(u64::from(number)),
        expires_at: None,
        large: false,
    }
}

/// Pending until second 100.
pub fn upload(number: u32) -> Upload {
    Upload {
        id: upload_id(number),
        tenant: owner(),
        filename: format!("upload {number}.jsonl"),
        mime_type: "application/jsonl".to_owned(),
        purpose: Purpose::Batch,
        len: 1_000,
        status: UploadStatus::Pending,
        created_at: at(u64::from(number)),
        expires_at: at(100),
        file_ttl_seconds: Some(3_600),
        large: true,
        file: None,
        completed_parts: Vec::new(),
    }
}

pub fn part(number: u32, upload: u32) -> Part {
    Part {
        id: part_id(number),
        upload: upload_id(upload),
        len: 500,
        blob: BlobKey::new(format!("parts/{number}")),
        created_at: at(u64::from(number)),
    }
}

/// Created at second `number`, due at second 1,000; its input is the file of the same number.
pub fn batch(number: u32) -> Batch {
    Batch {
        id: batch_id(number),
        tenant: owner(),
        route: Route::ChatCompletions,
        input_file: file_id(number),
        input_blob: BlobKey::new(format!("files/{number}")),
        input_len: 1_000,
        completion_window: "24h".to_owned(),
        metadata: None,
        options: BatchOptions {
            priority: 0,
            order: Order::Prefix,
            attempts_max: 5,
            timeout: None,
            hard_expiry: false,
            large: false,
            model: None,
            output_ttl: None,
        },
        parent: None,
        model: None,
        state: BatchState::Validating,
        moments: BatchMoments::new(at(u64::from(number)), at(1_000)),
        pause: None,
        errors: Vec::new(),
        plan_blob: None,
        total: 0,
        tally: Tally::default(),
        output_file: None,
        error_file: None,
        reserved_len: 1_000,
    }
}

/// No limit is reached.
pub fn roomy() -> Admission {
    Admission {
        unfinished_batches_max: u64::MAX,
        queued_requests_max: u64::MAX,
        expected_requests: 10,
        disk_free: u64::MAX,
    }
}

pub fn planned(chunks: u32) -> Planned {
    let range = |number: u32| ChunkRange {
        first_entry: u64::from(number) * CHUNK_LEN,
        entry_count: CHUNK_LEN as u32,
        len: 100,
    };
    Planned {
        total: u64::from(chunks) * CHUNK_LEN,
        model: Some("small".to_owned()),
        plan_blob: BlobKey::new("plans/sample"),
        chunks: (0..chunks).map(range).collect(),
        reserved_len: 2_000,
    }
}

pub fn tally(completed: u64, failed: u64) -> Tally {
    let usage = Usage {
        input_tokens: 7 * completed,
        cached_tokens: 1,
        output_tokens: completed,
        reasoning_tokens: 2,
        cut_short: 1,
    };
    Tally { completed, failed, usage }
}

pub fn log(sequence: u64) -> LogPosition {
    LogPosition { segment: 1, offset: sequence * 100, sequence }
}

/// By worker 1, at second 50, for 30 seconds, with no limit.
pub fn claim(token: u64) -> ClaimQuery {
    ClaimQuery {
        worker: worker_id(1),
        token: LeaseToken(token),
        ttl: Duration::from_secs(30),
        active_batches_max: usize::MAX,
        except: Vec::new(),
        unserved_models: Vec::new(),
        before: None,
        now: at(50),
    }
}

pub fn closing(output: u32, error: u32) -> Closing {
    let file = |number| File { purpose: Purpose::BatchOutput, ..file(number) };
    Closing { output: Some(file(output)), error: Some(file(error)), tally: tally(9, 1) }
}

pub async fn create(store: &dyn Store, batch: Batch) -> Result<Batch> {
    let created = store.create_batch(batch.clone(), roomy(), None).await?;
    assert_eq!(created, Created::New);
    Ok(batch)
}

/// Creates and plans.
pub async fn start(store: &dyn Store, batch: Batch, chunks: u32) -> Result<Batch> {
    let batch = create(store, batch).await?;
    Ok(moved_to(store.plan_batch(&batch.id, planned(chunks), at(40)).await?))
}

/// Claims with a token, which must succeed.
pub async fn take(store: &dyn Store, token: u64) -> Result<Claimed> {
    let claimed = store.claim(claim(token)).await?;
    Ok(claimed.expect("the case has made a chunk that can be claimed"))
}

/// Claims with a token and notes that the chunk is begun.
pub async fn take_and_begin(store: &dyn Store, token: u64) -> Result<Claimed> {
    let claimed = take(store, token).await?;
    assert_eq!(store.begin(&claimed.lease, log(token)).await?, Hold::Held);
    Ok(claimed)
}

pub async fn read(store: &dyn Store, id: &BatchId) -> Result<Batch> {
    let found = store.batch(&owner(), id).await?;
    Ok(found.expect("the case has created the batch").batch)
}

pub fn moved_to(moved: Moved) -> Batch {
    match moved {
        Moved::To(batch) => *batch,
        other => panic!("not moved: {other:?}"),
    }
}

pub fn illegal(moved: Moved) -> Batch {
    match moved {
        Moved::Illegal(batch) => *batch,
        other => panic!("not illegal: {other:?}"),
    }
}
