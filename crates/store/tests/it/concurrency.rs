//! Many tasks on one store: no chunk is worked on twice and no tally is lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use overnight_domain::batch::BatchState;
use overnight_domain::tally::Tally;
use overnight_store::conformance::samples::{
    NO_PROGRESS, at, batch, claim, read, start, tally, worker_id,
};
use overnight_store::{ClaimQuery, Hold, SqliteStore, Store};
use tokio::task::JoinSet;

const CHUNKS: u32 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_chunk_is_completed_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(folder.path().join("overnight.db")).unwrap());
    let id = start(&*store, batch(1), CHUNKS).await.unwrap().id;
    let mut workers = JoinSet::new();
    for number in 1..=8 {
        let store = Arc::clone(&store);
        workers.spawn(async move {
            let mut completed = Vec::new();
            for turn in 0.. {
                let token = u64::from(number) << 32 | turn;
                let query = ClaimQuery { worker: worker_id(number), ..claim(token) };
                let Some(claimed) = store.claim(query).await.unwrap() else { break };
                // Every third one is put back, so that chunks change hands.
                if turn % 3 == 2 {
                    assert_eq!(store.park(&claimed.lease, NO_PROGRESS).await.unwrap(), Hold::Held);
                    continue;
                }
                let before = read(&*store, &claimed.lease.batch).await.unwrap().tally;
                assert_eq!(
                    store.complete(&claimed.lease, tally(1, 0), at(60)).await.unwrap(),
                    Hold::Held
                );
                let after = read(&*store, &claimed.lease.batch).await.unwrap().tally;
                assert!(after.completed > before.completed, "a tally was lost");
                completed.push(claimed.lease.chunk);
            }
            completed
        });
    }
    let mut seen = BTreeSet::new();
    while let Some(completed) = workers.join_next().await {
        for number in completed.unwrap() {
            assert!(seen.insert(number), "{number:?} was completed twice");
        }
    }
    assert_eq!(seen.len(), CHUNKS as usize);
    let finished = read(&*store, &id).await.unwrap();
    let sum = (0..CHUNKS).fold(Tally::default(), |sum, _| sum + tally(1, 0));
    assert_eq!((finished.state, finished.tally), (BatchState::Finalizing, sum));
}
