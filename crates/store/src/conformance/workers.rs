//! Workers.

use super::samples::{at, batch_id, worker_id};
use crate::{Result, Store, WORKER_FORGOTTEN_AFTER, WorkerView};

pub(super) async fn seen_and_forgotten(store: &dyn Store) -> Result<()> {
    let worker = |number: u32| WorkerView {
        id: worker_id(number),
        host: "night".to_owned(),
        process: 100 + number,
        started_at: at(1),
        seen_at: at(10),
        activity: "idle".to_owned(),
        batch: None,
    };
    assert_eq!(store.workers().await?, []);
    store.heartbeat(worker(2)).await?;
    store.heartbeat(worker(1)).await?;
    assert_eq!(store.workers().await?, [worker(1), worker(2)]);

    let busy = WorkerView {
        seen_at: at(10).plus(WORKER_FORGOTTEN_AFTER),
        activity: "processing".to_owned(),
        batch: Some(batch_id(1)),
        ..worker(1)
    };
    store.heartbeat(busy.clone()).await?;
    assert_eq!(store.workers().await?, [busy.clone(), worker(2)]);
    let later = WorkerView { seen_at: at(11).plus(WORKER_FORGOTTEN_AFTER), ..busy };
    store.heartbeat(later.clone()).await?;
    assert_eq!(store.workers().await?, [later]);
    Ok(())
}
