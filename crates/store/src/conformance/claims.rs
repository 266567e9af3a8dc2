//! Which chunk is claimed next.

use overnight_domain::batch::{Batch, BatchMoments, Pause, PausedBy};
use overnight_domain::ids::{BatchId, ChunkNumber, LeaseToken};

use super::samples::{
    NO_PROGRESS, at, batch, batch_id, claim, create, owner, planned, start, take, tally, worker_id,
};
use crate::{BatchPatch, ClaimQuery, Hold, Planned, Result, Store};

fn urgent(number: u32, priority: i32) -> Batch {
    let mut batch = batch(number);
    batch.options.priority = priority;
    batch
}

async fn claimed_batch(store: &dyn Store, query: ClaimQuery) -> Result<Option<BatchId>> {
    Ok(store.claim(query).await?.map(|claimed| claimed.lease.batch))
}

pub(super) async fn in_the_order_of_the_queue(store: &dyn Store) -> Result<()> {
    start(store, urgent(4, 0), 1).await?;
    start(store, urgent(3, -1), 1).await?;
    start(store, urgent(2, 0), 1).await?;
    start(store, urgent(5, 9), 2).await?;
    // As old as the fourth: the id decides.
    let twin = Batch { moments: BatchMoments::new(at(4), at(1_000)), ..urgent(1, 0) };
    start(store, twin, 1).await?;
    let mut order = Vec::new();
    for token in 1..=6 {
        let claimed = take(store, token).await?;
        assert_eq!(claimed.lease.token, LeaseToken(token));
        assert_eq!(claimed.lease.worker, worker_id(1));
        assert_eq!(claimed.lease.expires_at, at(80));
        assert_eq!(claimed.lease.chunk, claimed.chunk.number);
        assert_eq!(claimed.chunk.log_from, None);
        assert_eq!(claimed.batch.id, claimed.chunk.batch);
        order.push((claimed.lease.batch, claimed.lease.chunk.0));
    }
    let expected = [(5, 0), (5, 1), (2, 0), (1, 0), (4, 0), (3, 0)];
    assert_eq!(order, expected.map(|(number, chunk)| (batch_id(number), chunk)));
    assert!(store.claim(claim(7)).await?.is_none());
    Ok(())
}

pub(super) async fn parked_chunks_first(store: &dyn Store) -> Result<()> {
    start(store, batch(1), 4).await?;
    let mut leases = Vec::new();
    for token in 1..=3 {
        leases.push(take(store, token).await?.lease);
    }
    assert_eq!(store.park(&leases[2], NO_PROGRESS).await?, Hold::Held);
    assert_eq!(store.park(&leases[1], NO_PROGRESS).await?, Hold::Held);
    for (token, number) in [(4, 1), (5, 2), (6, 3)] {
        assert_eq!(take(store, token).await?.lease.chunk, ChunkNumber(number));
    }
    Ok(())
}

pub(super) async fn paused_and_excepted_are_skipped(store: &dyn Store) -> Result<()> {
    for number in 1..=3 {
        start(store, batch(number), 2).await?;
    }
    let pause = Pause { by: PausedBy::Caller, reason: "lunch".to_owned(), since: at(45) };
    let patch = |pause| BatchPatch { pause: Some(pause), ..BatchPatch::default() };
    store.update_batch(&owner(), &batch_id(1), patch(Some(pause)), at(45)).await?;
    assert_eq!(claimed_batch(store, claim(1)).await?, Some(batch_id(2)));
    let except = |numbers: &[u32], token| ClaimQuery {
        except: numbers.iter().copied().map(batch_id).collect(),
        ..claim(token)
    };
    assert_eq!(claimed_batch(store, except(&[2], 2)).await?, Some(batch_id(3)));
    assert_eq!(claimed_batch(store, except(&[2, 3], 3)).await?, None);
    store.update_batch(&owner(), &batch_id(1), patch(None), at(46)).await?;
    assert_eq!(claimed_batch(store, except(&[2, 3], 3)).await?, Some(batch_id(1)));
    Ok(())
}

pub(super) async fn models_that_nobody_serves_are_skipped(store: &dyn Store) -> Result<()> {
    for (number, model) in [(1, Some("a")), (2, Some("b")), (3, None)] {
        create(store, batch(number)).await?;
        let planned = Planned { model: model.map(str::to_owned), ..planned(1) };
        store.plan_batch(&batch_id(number), planned, at(10)).await?;
    }
    let without = |models: &[&str], token| ClaimQuery {
        unserved_models: models.iter().map(|model| (*model).to_owned()).collect(),
        ..claim(token)
    };
    assert_eq!(claimed_batch(store, without(&["a", "c"], 1)).await?, Some(batch_id(2)));
    // A batch of several models may have requests for others.
    assert_eq!(claimed_batch(store, without(&["a", "b"], 2)).await?, Some(batch_id(3)));
    assert_eq!(claimed_batch(store, without(&["a"], 3)).await?, None);
    assert_eq!(claimed_batch(store, claim(4)).await?, Some(batch_id(1)));
    Ok(())
}

pub(super) async fn only_before_a_batch(store: &dyn Store) -> Result<()> {
    start(store, urgent(1, 0), 1).await?;
    start(store, urgent(2, 0), 1).await?;
    start(store, urgent(3, 1), 1).await?;
    let before = |number, token| ClaimQuery { before: Some(batch_id(number)), ..claim(token) };
    assert_eq!(claimed_batch(store, before(3, 1)).await?, None);
    assert_eq!(
        claimed_batch(store, before(9, 1)).await?,
        None,
        "nothing comes before what is not there"
    );
    assert_eq!(claimed_batch(store, before(1, 1)).await?, Some(batch_id(3)));
    assert_eq!(claimed_batch(store, before(1, 2)).await?, None);
    assert_eq!(claimed_batch(store, before(2, 2)).await?, Some(batch_id(1)));
    Ok(())
}

pub(super) async fn active_batches_are_limited(store: &dyn Store) -> Result<()> {
    for number in 1..=3 {
        start(store, batch(number), 2).await?;
    }
    let two = |token| ClaimQuery { active_batches_max: 2, ..claim(token) };
    let none = ClaimQuery { active_batches_max: 0, ..claim(1) };
    assert_eq!(claimed_batch(store, none).await?, None);
    let mut leases = Vec::new();
    for (token, number) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
        let claimed = store.claim(two(token)).await?.expect("two batches may be active");
        assert_eq!(claimed.lease.batch, batch_id(number));
        leases.push(claimed.lease);
    }
    assert_eq!(claimed_batch(store, two(5)).await?, None, "a third batch became active");
    // An active batch is served even when there are more of them than may be.
    store.park(&leases[3], NO_PROGRESS).await?;
    let one = ClaimQuery { active_batches_max: 1, ..claim(5) };
    assert_eq!(claimed_batch(store, one).await?, Some(batch_id(2)));
    store.complete(&leases[0], tally(10, 0), at(60)).await?;
    assert_eq!(claimed_batch(store, two(6)).await?, None);
    store.complete(&leases[1], tally(10, 0), at(60)).await?;
    assert_eq!(claimed_batch(store, two(6)).await?, Some(batch_id(3)));
    Ok(())
}

pub(super) async fn higher_priority_passes_the_limit(store: &dyn Store) -> Result<()> {
    start(store, urgent(1, 0), 2).await?;
    let one = |token| ClaimQuery { active_batches_max: 1, ..claim(token) };
    assert_eq!(claimed_batch(store, one(1)).await?, Some(batch_id(1)));
    start(store, urgent(2, 0), 1).await?;
    start(store, urgent(3, 1), 1).await?;
    assert_eq!(claimed_batch(store, one(2)).await?, Some(batch_id(3)));
    // Both are active now; what comes before neither of them waits.
    assert_eq!(claimed_batch(store, one(3)).await?, Some(batch_id(1)));
    assert_eq!(claimed_batch(store, one(4)).await?, None);
    Ok(())
}

pub(super) async fn nothing_to_claim(store: &dyn Store) -> Result<()> {
    assert!(store.claim(claim(1)).await?.is_none());
    create(store, batch(1)).await?;
    assert!(store.claim(claim(1)).await?.is_none(), "a batch was served before it was planned");
    start(store, batch(2), 1).await?;
    store.cancel_batch(&owner(), &batch_id(2), at(50)).await?;
    assert!(store.claim(claim(1)).await?.is_none(), "a cancelled batch was served");
    Ok(())
}
