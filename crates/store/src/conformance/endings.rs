//! How batches end: cancelled, expired, closed, deleted.

use overnight_domain::batch::{Batch, BatchState};
use overnight_domain::chunk::ChunkState;
use overnight_domain::file::{File, Purpose};
use overnight_domain::ids::BatchId;

use super::samples::{
    PROGRESS, at, batch, batch_id, closing, create, file, file_id, illegal, moved_to, owner, planned,
    read, start, take, take_and_begin, tally,
};
use crate::{Closing, Hold, Moved, Result, Store};

async fn states(store: &dyn Store, id: &BatchId) -> Result<Vec<ChunkState>> {
    Ok(store.chunks(id).await?.iter().map(|chunk| chunk.state).collect())
}

fn hard(number: u32, expires_at: u64) -> Batch {
    let mut batch = batch(number);
    batch.options.hard_expiry = true;
    batch.moments.expires_at = at(expires_at);
    batch
}

pub(super) async fn cancel_drops_what_nobody_holds(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 4).await?.id;
    let done = take_and_begin(store, 1).await?.lease;
    store.complete(&done, tally(10, 0), at(51)).await?;
    let parked = take_and_begin(store, 2).await?.lease;
    let held = take_and_begin(store, 3).await?.lease;
    store.park(&parked, PROGRESS).await?;
    let cancelling = moved_to(store.cancel_batch(&owner(), &id, at(55)).await?);
    assert_eq!(cancelling.state, BatchState::Cancelling);
    assert_eq!(cancelling.moments.cancelling_at, Some(at(55)));
    let dropped = ChunkState::Dropped;
    assert_eq!(states(store, &id).await?, [ChunkState::Done, dropped, ChunkState::Leased, dropped]);

    // Its holder still has to fix the cut; until then the batch cannot be closed.
    assert_eq!(store.closable(9).await?, []);
    assert_eq!(illegal(store.close_batch(&id, closing(8, 9), at(56)).await?), cancelling);
    assert_eq!(store.file(&owner(), &file_id(8), at(56)).await?, None);
    assert_eq!(store.park(&held, PROGRESS).await?, Hold::Held);
    assert_eq!(states(store, &id).await?, [ChunkState::Done, dropped, dropped, dropped]);
    assert_eq!(store.closable(9).await?, [cancelling]);
    Ok(())
}

pub(super) async fn cancel_while_validating_is_closable(store: &dyn Store) -> Result<()> {
    create(store, batch(1)).await?;
    let cancelling = moved_to(store.cancel_batch(&owner(), &batch_id(1), at(5)).await?);
    assert_eq!(store.closable(9).await?.first(), Some(&cancelling));
    // Whoever validates comes too late.
    let planned = store.plan_batch(&batch_id(1), planned(1), at(6)).await?;
    assert_eq!(illegal(planned), cancelling);
    let rejected = store.reject_batch(&batch_id(1), Vec::new(), at(6)).await?;
    assert_eq!(illegal(rejected), cancelling);
    assert_eq!(store.chunks(&batch_id(1)).await?, []);
    let nothing = Closing { output: None, error: None, tally: tally(0, 0) };
    let cancelled = moved_to(store.close_batch(&batch_id(1), nothing, at(7)).await?);
    assert_eq!((cancelled.state, cancelled.output_file), (BatchState::Cancelled, None));
    assert_eq!(cancelled.moments.cancelled_at, Some(at(7)));
    Ok(())
}

pub(super) async fn repeated_cancel_is_quiet(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 1).await?.id;
    let cancelling = moved_to(store.cancel_batch(&owner(), &id, at(50)).await?);
    assert_eq!(moved_to(store.cancel_batch(&owner(), &id, at(51)).await?), cancelling);
    let cancelled = moved_to(store.close_batch(&id, closing(8, 9), at(52)).await?);
    assert_eq!(moved_to(store.cancel_batch(&owner(), &id, at(53)).await?), cancelled);
    assert_eq!(read(store, &id).await?, cancelled);
    Ok(())
}

pub(super) async fn expiry_ends_only_hard_ones(store: &dyn Store) -> Result<()> {
    let mut soft = hard(1, 100);
    soft.options.hard_expiry = false;
    start(store, soft, 1).await?;
    start(store, hard(2, 100), 2).await?;
    start(store, hard(3, 101), 1).await?;
    create(store, hard(4, 100)).await?;
    let mut first = hard(5, 100);
    first.options.priority = 1;
    start(store, first, 1).await?;
    let held = take(store, 1).await?.lease;
    assert_eq!(held.batch, batch_id(5));
    assert_eq!(store.expire_batches(at(99)).await?, []);
    assert_eq!(store.expire_batches(at(100)).await?, [batch_id(2), batch_id(5)]);
    assert_eq!(store.expire_batches(at(100)).await?, []);
    let expiring = read(store, &batch_id(2)).await?;
    assert_eq!((expiring.state, expiring.moments.finalizing_at), (BatchState::Expiring, Some(at(100))));
    assert_eq!(states(store, &batch_id(2)).await?, [ChunkState::Dropped; 2]);
    assert_eq!(states(store, &batch_id(5)).await?, [ChunkState::Leased]);
    assert_eq!(store.closable(9).await?, [expiring]);
    let expired = moved_to(store.close_batch(&batch_id(2), closing(8, 9), at(103)).await?);
    assert_eq!((expired.state, expired.moments.expired_at), (BatchState::Expired, Some(at(103))));
    Ok(())
}

pub(super) async fn closable_when_nobody_holds(store: &dyn Store) -> Result<()> {
    for number in 1..=3 {
        let mut batch = batch(number);
        batch.options.priority = i32::from(number == 3);
        start(store, batch, 1).await?;
    }
    assert_eq!(store.closable(9).await?, []);
    for number in 1..=3 {
        store.cancel_batch(&owner(), &batch_id(number), at(50)).await?;
    }
    let ids = |batches: Vec<Batch>| batches.into_iter().map(|batch| batch.id).collect::<Vec<_>>();
    assert_eq!(ids(store.closable(9).await?), [3, 1, 2].map(batch_id));
    assert_eq!(ids(store.closable(2).await?), [3, 1].map(batch_id));
    Ok(())
}

pub(super) async fn closed_with_its_files(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 1).await?.id;
    let lease = take_and_begin(store, 1).await?.lease;
    store.complete(&lease, tally(9, 1), at(60)).await?;
    let completed = moved_to(store.close_batch(&id, closing(8, 9), at(61)).await?);
    assert_eq!((completed.state, completed.moments.completed_at), (BatchState::Completed, Some(at(61))));
    assert_eq!(completed.tally, tally(9, 1));
    assert_eq!((&completed.output_file, &completed.error_file), (&Some(file_id(8)), &Some(file_id(9))));
    let output = File { purpose: Purpose::BatchOutput, ..file(8) };
    assert_eq!(store.file(&owner(), &file_id(8), at(61)).await?, Some(output));

    // Again, as after a lost answer.
    assert_eq!(illegal(store.close_batch(&id, closing(18, 19), at(62)).await?), completed);
    assert_eq!(store.file(&owner(), &file_id(18), at(62)).await?, None);
    assert_eq!(store.closable(9).await?, []);

    // One of the files is there already: neither the other nor the status may be seen.
    let next = start(store, batch(2), 1).await?.id;
    let cancelling = moved_to(store.cancel_batch(&owner(), &next, at(63)).await?);
    assert!(store.close_batch(&next, closing(20, 9), at(64)).await.is_err());
    assert_eq!(read(store, &next).await?, cancelling);
    assert_eq!(store.file(&owner(), &file_id(20), at(64)).await?, None);
    Ok(())
}

pub(super) async fn late_completion_keeps_the_end(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 1).await?.id;
    let lease = take_and_begin(store, 1).await?.lease;
    let cancelling = moved_to(store.cancel_batch(&owner(), &id, at(55)).await?);
    assert_eq!(store.complete(&lease, tally(9, 1), at(56)).await?, Hold::Held);
    assert_eq!(read(store, &id).await?, Batch { tally: tally(9, 1), ..cancelling });
    assert_eq!(states(store, &id).await?, [ChunkState::Done]);

    // The end may also come when all is answered and the files are being written.
    let id = start(store, batch(2), 1).await?.id;
    let lease = take_and_begin(store, 2).await?.lease;
    store.complete(&lease, tally(9, 1), at(60)).await?;
    let cancelling = moved_to(store.cancel_batch(&owner(), &id, at(61)).await?);
    assert_eq!((cancelling.state, cancelling.tally), (BatchState::Cancelling, tally(9, 1)));
    assert_eq!(states(store, &id).await?, [ChunkState::Done]);
    Ok(())
}

pub(super) async fn deleted_with_all_that_is_its_own(store: &dyn Store) -> Result<()> {
    store.create_file(file(1)).await?;
    let running = start(store, batch(1), 2).await?;
    let id = running.id.clone();
    create(store, Batch { parent: Some(id.clone()), ..batch(2) }).await?;
    assert_eq!(illegal(store.delete_batch(&owner(), &id, at(50)).await?), running);
    store.cancel_batch(&owner(), &id, at(51)).await?;
    let cancelled = moved_to(store.close_batch(&id, closing(8, 9), at(52)).await?);
    assert_eq!(moved_to(store.delete_batch(&owner(), &id, at(53)).await?), cancelled);

    assert_eq!(store.batch(&owner(), &id).await?, None);
    assert_eq!(store.chunks(&id).await?, []);
    assert_eq!(store.known_batches(std::slice::from_ref(&id)).await?, []);
    assert_eq!(store.delete_batch(&owner(), &id, at(54)).await?, Moved::NotFound);
    for number in [8, 9] {
        assert_eq!(store.file(&owner(), &file_id(number), at(54)).await?, None);
    }
    let dead = store.dead_files(at(54), 9).await?;
    assert_eq!(dead.iter().map(|file| &file.id).collect::<Vec<_>>(), [&file_id(8), &file_id(9)]);
    assert_eq!(store.file(&owner(), &file_id(1), at(54)).await?, Some(file(1)), "the input stays");
    assert_eq!(read(store, &batch_id(2)).await?.parent, Some(id), "a child keeps running");
    Ok(())
}
