//! Random sequences of verbs: the database answers as the model does, and holds the same in the end.
//!
//! The numbers of a step are reduced to a few files, batches and leases, so that most verbs meet something.

use std::fmt::Debug;
use std::time::Duration;

use overnight_domain::batch::{Batch, BatchState, Pause, PausedBy};
use overnight_domain::chunk::Lease;
use overnight_domain::file::File;
use overnight_domain::ids::{BatchId, ChunkNumber, LeaseToken, TenantId};
use overnight_domain::notice::{Notice, NoticeEvent, Receiver, Subscription};
use overnight_domain::time::UnixTime;
use overnight_store::conformance::samples::{
    at, batch, batch_id, closing, file, file_id, log, owner, part, part_id, planned, roomy, stranger,
    tally, upload, upload_id, worker_id,
};
use overnight_store::{
    Admission, BatchPatch, BatchQuery, ClaimQuery, Claimed, Closing, CreationKey, Direction, FileQuery,
    ModelStore, Parking, Result, Settlement, SqliteStore, Store, WorkerView,
};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};

const FILES: u32 = 6;
const BATCHES: u32 = 5;
const WORKERS: u32 = 2;

/// One verb and what it is called with.
#[derive(Debug, Clone, Copy)]
struct Step {
    verb: u32,
    a: u32,
    b: u32,
    c: u32,
    now: UnixTime,
    /// Unique in the sequence.
    number: u32,
}

impl Step {
    fn tenant(self) -> TenantId {
        if self.c % 8 == 7 { stranger() } else { owner() }
    }

    fn batch(self) -> BatchId {
        batch_id(1 + self.a % BATCHES)
    }

    fn lease(self, leases: &[Lease]) -> Option<&Lease> {
        // The newest are the likeliest to be held.
        let back = (self.a % 6) as usize;
        leases.iter().rev().nth(back)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn database_answers_as_the_model_does(numbers in vec(any::<(u8, u8, u8, u8)>(), 100..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(&numbers));
    }
}

async fn compare(numbers: &[(u8, u8, u8, u8)]) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let database = SqliteStore::open(folder.path().join("overnight.db")).expect("a new database opens");
    let model = ModelStore::new();
    let mut leases = Vec::new();
    for (number, (verb, a, b, c)) in (1_u32..).zip(numbers.iter().copied()) {
        let step = Step {
            verb: u32::from(verb) % 44,
            a: a.into(),
            b: b.into(),
            c: c.into(),
            now: at(u64::from(number)),
            number,
        };
        let expected = apply(&model, step, &leases).await;
        let found = apply(&database, step, &leases).await;
        assert_eq!(found.text, expected.text, "{step:?}");
        leases.extend(expected.claimed.map(|claimed| claimed.lease));
        if number.is_multiple_of(50) {
            assert_eq!(dump(&database, step.now).await, dump(&model, step.now).await, "after {step:?}");
        }
    }
    let now = at(numbers.len() as u64);
    assert_eq!(dump(&database, now).await, dump(&model, now).await);
}

/// What a verb answered, as text; of an error only that it is one.
struct Answer {
    text: String,
    claimed: Option<Claimed>,
}

fn said<T: Debug>(answer: Result<T>) -> Answer {
    Answer { text: format!("{:?}", answer.map_err(|_| "error")), claimed: None }
}

async fn apply(store: &dyn Store, step: Step, leases: &[Lease]) -> Answer {
    match step.verb {
        0..=6 => apply_to_files(store, step).await,
        7..=12 => apply_to_uploads(store, step).await,
        13..=24 => apply_to_batches(store, step).await,
        40.. => apply_to_notices(store, step).await,
        _ => apply_to_chunks(store, step, leases).await,
    }
}

async fn apply_to_files(store: &dyn Store, step: Step) -> Answer {
    let Step { a, b, now, .. } = step;
    let (tenant, id) = (step.tenant(), file_id(1 + a % FILES));
    match step.verb {
        0 => {
            let expires_at = (b % 3 == 0).then(|| now.plus(Duration::from_secs(u64::from(b))));
            said(store.create_file(File { tenant, expires_at, ..file(1 + a % FILES) }).await)
        }
        1 => said(store.file(&tenant, &id, now).await),
        2 => {
            let direction = if b % 2 == 0 { Direction::NewestFirst } else { Direction::OldestFirst };
            let after = (b % 3 == 0).then_some(id);
            let query = FileQuery { purpose: None, direction, after, limit: (b % 4) as usize };
            said(store.list_files(&tenant, query, now).await)
        }
        3 => said(store.delete_file(&tenant, &id, now).await),
        4 => said(store.dead_files(now, (b % 4) as usize).await),
        5 => said(store.forget_file(&id).await),
        _ => {
            let blobs = [file(1 + a % FILES).blob, part(1 + b % 4, 1).blob, planned(1).plan_blob];
            said(store.known_blobs(&blobs).await)
        }
    }
}

async fn apply_to_uploads(store: &dyn Store, step: Step) -> Answer {
    let Step { a, b, now, .. } = step;
    let (tenant, number, part_number) = (step.tenant(), 1 + a % 3, 1 + b % 6);
    let id = upload_id(number);
    match step.verb {
        7 => said(store.create_upload(upload(number)).await),
        8 => said(store.add_part(&tenant, part(part_number, number), now).await),
        9 => {
            let parts = [part_id(part_number), part_id(1)];
            said(store.complete_upload(&tenant, &id, &parts, file(1 + b % FILES)).await)
        }
        10 => said(store.cancel_upload(&tenant, &id).await),
        11 => said(store.sweep_uploads(now, (b % 4) as usize).await),
        _ => {
            let forgotten = said(store.forget_part(&part_id(part_number)).await);
            let upload = said(store.upload(&tenant, &id).await);
            let parts = said(store.parts(&tenant, &id).await);
            Answer { text: format!("{} {} {}", forgotten.text, upload.text, parts.text), claimed: None }
        }
    }
}

async fn apply_to_batches(store: &dyn Store, step: Step) -> Answer {
    let Step { a, b, c, now, .. } = step;
    let (tenant, id) = (step.tenant(), step.batch());
    match step.verb {
        13 | 14 => create(store, step).await,
        15..=17 => said(store.plan_batch(&id, planned(b % 6), now).await),
        18 => match b % 4 {
            0 => said(store.reject_batch(&id, Vec::new(), now).await),
            _ => said(store.batch(&tenant, &id).await),
        },
        19 => match b % 3 {
            0 => said(store.cancel_batch(&tenant, &id, now).await),
            _ => said(store.queue_view().await),
        },
        20 => {
            let by = if c % 4 == 0 { PausedBy::Refusals } else { PausedBy::Caller };
            let pause = Pause { by, reason: "lunch".to_owned(), since: now };
            let patch = BatchPatch {
                priority: (b % 2 == 0).then_some((c % 3) as i32 - 1),
                expires_at: (b % 5 == 0).then(|| now.plus(Duration::from_secs(40))),
                pause: (b % 3 != 0).then(|| (b % 3 == 1 && c % 2 == 0).then_some(pause)),
            };
            said(store.update_batch(&tenant, &id, patch, now).await)
        }
        21 => said(store.expire_batches(now).await),
        22 => {
            let files = closing(100 + step.number, 500 + step.number);
            let files = if b % 2 == 0 { Closing { error: None, ..files } } else { files };
            said(store.close_batch(&id, files, now).await)
        }
        23 if b % 2 == 0 => {
            // Mostly the first chunk alone; at times none, several, or ones that are not there.
            let numbers = (0..(b / 2) % 4).map(|at| ChunkNumber(at * (1 + c % 3))).collect::<Vec<_>>();
            said(store.reopen_batch(&id, &numbers, now).await)
        }
        23 => said(store.delete_batch(&tenant, &id, now).await),
        _ => {
            let states = if b % 2 == 0 { vec![] } else { vec![BatchState::InProgress] };
            let after = (b % 3 == 0).then(|| batch_id(1 + a % BATCHES));
            let query = BatchQuery { states, after, limit: (c % 4) as usize };
            said(store.list_batches(&tenant, query).await)
        }
    }
}

async fn create(store: &dyn Store, step: Step) -> Answer {
    let Step { a, b, c, now, .. } = step;
    let mut fresh = Batch { tenant: step.tenant(), ..batch(1 + a % BATCHES) };
    fresh.options.priority = (c % 3) as i32;
    fresh.options.hard_expiry = b % 4 == 0;
    fresh.options.large = b % 5 == 0;
    fresh.moments.created_at = now;
    fresh.moments.expires_at = now.plus(Duration::from_secs(60));
    fresh.parent = (b % 3 == 0).then(|| batch_id(1));
    fresh.input_file = file_id(1 + c % FILES);
    let key = CreationKey {
        key: format!("key {}", c % 3),
        not_before: UnixTime::from_millis(now.millis().saturating_sub(50_000)),
        is_repeat: c % 2 == 0,
    };
    let admission = Admission {
        unfinished_batches_max: 4,
        queued_requests_max: 120,
        expected_requests: u64::from(b % 30),
        disk_free: 7_000,
    };
    let admission = if c % 4 == 0 { roomy() } else { admission };
    said(store.create_batch(fresh, admission, (c % 5 != 0).then_some(key)).await)
}

async fn apply_to_chunks(store: &dyn Store, step: Step, leases: &[Lease]) -> Answer {
    let Step { b, c, now, .. } = step;
    if let 25..=29 = step.verb {
        return claim(store, step).await;
    }
    if let 36..=39 = step.verb {
        return apply_to_leases(store, step, leases).await;
    }
    let Some(lease) = step.lease(leases) else { return said(store.closable((b % 4) as usize).await) };
    match step.verb {
        30 => said(store.begin(lease, log(u64::from(b))).await),
        31..=33 => said(store.complete(lease, tally(u64::from(b % 10), u64::from(c % 3)), now).await),
        34 => said(store.park(lease, Parking { has_progress: b % 2 == 0 }).await),
        _ => said(store.split(lease, u64::from(b % 50), (u64::from(b), u64::from(c))).await),
    }
}

async fn claim(store: &dyn Store, step: Step) -> Answer {
    let Step { a, b, c, now, .. } = step;
    let query = ClaimQuery {
        worker: worker_id(1 + a % WORKERS),
        token: LeaseToken(u64::MAX - u64::from(step.number)),
        ttl: Duration::from_secs(u64::from(b % 60)),
        active_batches_max: if c % 4 == 0 { usize::MAX } else { (c % 4) as usize },
        except: if b % 6 == 0 { vec![step.batch()] } else { vec![] },
        unserved_models: if b % 5 == 0 { vec!["small".to_owned()] } else { Vec::new() },
        before: (b % 7 == 0).then(|| step.batch()),
        now,
    };
    let answer = store.claim(query).await.map_err(|_| "error");
    Answer { text: format!("{answer:?}"), claimed: answer.ok().flatten() }
}

async fn apply_to_leases(store: &dyn Store, step: Step, leases: &[Lease]) -> Answer {
    let Step { a, b, now, .. } = step;
    match step.verb {
        36 => said(store.expire_leases(now).await),
        37 if b % 4 == 0 => said(store.recover(&worker_id(1 + a % WORKERS), now).await),
        38 => {
            let worker = WorkerView {
                id: worker_id(1 + a % WORKERS),
                host: "night".to_owned(),
                process: b,
                started_at: now,
                seen_at: now,
                activity: "processing".to_owned(),
                batch: Some(step.batch()),
            };
            said(store.heartbeat(worker).await)
        }
        _ => {
            let last = &leases[leases.len().saturating_sub(4)..];
            said(store.renew(last, now.plus(Duration::from_secs(u64::from(b)))).await)
        }
    }
}

async fn apply_to_notices(store: &dyn Store, step: Step) -> Answer {
    let Step { a, b, c, now, .. } = step;
    let receiver = Receiver::ALL[(a % 2) as usize];
    let outage = |second| Notice::no_endpoint([], Duration::ZERO, 0, second);
    match step.verb {
        40 => {
            let events = NoticeEvent::ALL.into_iter().take(1 + (b % 4) as usize).collect();
            let command = Subscription { receiver: Receiver::Command, events };
            let url = Subscription { receiver: Receiver::Url, events: NoticeEvent::ALL.to_vec() };
            let wanted: &[Subscription] = if c % 8 == 0 {
                &[]
            } else if c % 3 == 0 {
                &[url]
            } else {
                &[command, url]
            };
            said(store.set_receivers(wanted).await)
        }
        41 => said(store.put_notice(outage(at(u64::from(b % 8)))).await),
        _ => {
            let due = store.due_notices(receiver, now, 9).await.unwrap_or_default();
            let Some(first) = due.get((b % 3) as usize) else { return said(Ok(due)) };
            let settlement = if c % 2 == 0 {
                Settlement::Done
            } else {
                Settlement::RetryAt(now.plus(Duration::from_secs(u64::from(b % 9))))
            };
            said(store.settle_notice(receiver, &first.notice.id, settlement).await)
        }
    }
}

/// All that can be read.
async fn dump(store: &dyn Store, now: UnixTime) -> Vec<String> {
    let mut lines = Vec::new();
    let ids = (1..=BATCHES).map(batch_id).collect::<Vec<_>>();
    for tenant in [owner(), stranger()] {
        let files =
            FileQuery { purpose: None, direction: Direction::OldestFirst, after: None, limit: 999 };
        lines.push(said(store.list_files(&tenant, files, now).await).text);
        let batches = BatchQuery { states: Vec::new(), after: None, limit: 999 };
        lines.push(said(store.list_batches(&tenant, batches).await).text);
        lines.push(said(store.children(&tenant, &batch_id(1)).await).text);
        for number in 1..=3 {
            lines.push(said(store.upload(&tenant, &upload_id(number)).await).text);
            lines.push(said(store.parts(&tenant, &upload_id(number)).await).text);
        }
    }
    for id in &ids {
        lines.push(said(store.chunks(id).await).text);
    }
    lines.push(said(store.known_batches(&ids).await).text);
    lines.push(said(store.dead_files(now, 999).await).text);
    lines.push(said(store.queue(&BatchState::ALL, 999).await).text);
    lines.push(said(store.closable(999).await).text);
    lines.push(said(store.queue_view().await).text);
    lines.push(said(store.workers().await).text);
    for receiver in Receiver::ALL {
        lines.push(
            said(store.due_notices(receiver, UnixTime::from_millis(u64::MAX / 2), 9_999).await).text,
        );
    }
    lines
}
