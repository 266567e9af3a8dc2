//! Chunks and their leases.

use std::time::Duration;

use overnight_domain::batch::BatchState;
use overnight_domain::chunk::{Chunk, ChunkRange, ChunkState, Lease};
use overnight_domain::ids::{BatchId, ChunkNumber, LeaseToken};
use overnight_domain::tally::Tally;

use super::samples::{
    NO_PROGRESS, PROGRESS, at, batch, batch_id, claim, log, moved_to, owner, read, start, take,
    take_and_begin, tally, worker_id,
};
use crate::{ClaimQuery, Hold, Result, Store};

async fn chunk(store: &dyn Store, batch: &BatchId, number: usize) -> Result<Chunk> {
    Ok(store.chunks(batch).await?[number].clone())
}

pub(super) async fn begun_once(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 1).await?.id;
    let first = take(store, 1).await?.lease;
    assert_eq!(store.begin(&first, log(5)).await?, Hold::Held);
    assert_eq!(store.begin(&first, log(9)).await?, Hold::Held);
    assert_eq!(chunk(store, &id, 0).await?.log_from, Some(log(5)));
    store.park(&first, PROGRESS).await?;
    let second = take(store, 2).await?;
    assert_eq!(second.chunk.log_from, Some(log(5)));
    assert_eq!(store.begin(&second.lease, log(9)).await?, Hold::Held);
    assert_eq!(chunk(store, &id, 0).await?.log_from, Some(log(5)));
    Ok(())
}

pub(super) async fn renewed_while_held(store: &dyn Store) -> Result<()> {
    start(store, batch(1), 3).await?;
    let (first, second, third) =
        (take(store, 1).await?.lease, take(store, 2).await?.lease, take(store, u64::MAX).await?.lease);
    store.park(&second, PROGRESS).await?;
    let leases = [first.clone(), second, third.clone()];
    assert_eq!(store.renew(&leases, at(200)).await?, [Hold::Held, Hold::Lost, Hold::Held]);
    assert_eq!(store.renew(&[], at(300)).await?, []);
    // Beginning and splitting leave the new end alone.
    store.begin(&first, log(1)).await?;
    assert_eq!(store.split(&first, 5, (50, 50)).await?, Hold::Held);
    assert_eq!(store.expire_leases(at(199)).await?, []);
    let over = store.expire_leases(at(200)).await?;
    let renewed = |lease: Lease| Lease { expires_at: at(200), ..lease };
    assert_eq!(over, [renewed(first), renewed(third)]);
    Ok(())
}

pub(super) async fn stale_lease_changes_nothing(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 1).await?.id;
    let old = take_and_begin(store, 1).await?.lease;
    store.park(&old, PROGRESS).await?;
    let new = take(store, 2).await?.lease;
    let forged = Lease { token: LeaseToken(3), ..new.clone() };
    let elsewhere = Lease { chunk: ChunkNumber(7), ..new.clone() };
    let gone = Lease { batch: batch_id(9), ..new.clone() };
    let (before, chunks) = (read(store, &id).await?, store.chunks(&id).await?);
    for stale in [&old, &forged, &elsewhere, &gone] {
        assert_eq!(store.begin(stale, log(9)).await?, Hold::Lost);
        assert_eq!(store.renew(std::slice::from_ref(stale), at(999)).await?, [Hold::Lost]);
        assert_eq!(store.complete(stale, tally(10, 0), at(60)).await?, Hold::Lost);
        assert_eq!(store.park(stale, NO_PROGRESS).await?, Hold::Lost);
        assert_eq!(store.split(stale, 5, (50, 50)).await?, Hold::Lost);
    }
    assert_eq!((read(store, &id).await?, store.chunks(&id).await?), (before, chunks));
    assert_eq!(store.complete(&new, tally(10, 0), at(60)).await?, Hold::Held);
    assert_eq!(store.complete(&new, tally(10, 0), at(61)).await?, Hold::Lost, "counted twice");
    assert_eq!(read(store, &id).await?.tally, tally(10, 0));
    Ok(())
}

pub(super) async fn last_one_finishes_the_batch(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 2).await?.id;
    let (first, second) = (take_and_begin(store, 1).await?.lease, take_and_begin(store, 2).await?.lease);
    assert_eq!(store.complete(&second, tally(9, 1), at(60)).await?, Hold::Held);
    let running = read(store, &id).await?;
    assert_eq!((running.state, running.tally), (BatchState::InProgress, tally(9, 1)));
    assert_eq!(store.closable(9).await?, []);
    assert_eq!(store.complete(&first, tally(7, 3), at(61)).await?, Hold::Held);
    let finished = read(store, &id).await?;
    assert_eq!(finished.state, BatchState::Finalizing);
    assert_eq!(finished.moments.finalizing_at, Some(at(61)));
    assert_eq!(finished.tally, tally(9, 1) + tally(7, 3));
    let chunks = store.chunks(&id).await?;
    assert_eq!(chunks.iter().map(|chunk| chunk.tally).collect::<Vec<_>>(), [tally(7, 3), tally(9, 1)]);
    assert!(chunks.iter().all(|chunk| chunk.state == ChunkState::Done));
    assert_eq!(store.closable(9).await?, [finished]);
    Ok(())
}

pub(super) async fn parked_and_counted(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 1).await?.id;
    let mut counts = Vec::new();
    for (token, parking) in [(1, NO_PROGRESS), (2, NO_PROGRESS), (3, PROGRESS), (4, NO_PROGRESS)] {
        let claimed = take(store, token).await?;
        assert_eq!(claimed.chunk.state, ChunkState::Leased);
        assert_eq!(store.park(&claimed.lease, parking).await?, Hold::Held);
        let parked = chunk(store, &id, 0).await?;
        assert_eq!((parked.state, parked.tally), (ChunkState::Parked, Tally::default()));
        counts.push(parked.fruitless_takeovers);
    }
    assert_eq!(counts, [1, 2, 0, 1]);
    Ok(())
}

pub(super) async fn split_in_two(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 2).await?.id;
    let fruitless = take_and_begin(store, 1).await?.lease;
    store.park(&fruitless, NO_PROGRESS).await?;
    let lease = take(store, 2).await?.lease;
    assert_eq!(store.split(&lease, 4, (30, 70)).await?, Hold::Held);
    let chunks = store.chunks(&id).await?;
    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks[0].range, ChunkRange { first_entry: 0, entry_count: 4, len: 30 });
    assert_eq!(chunks[0].state, ChunkState::Leased);
    assert_eq!(chunks[1].state, ChunkState::Ready);
    let rest = Chunk {
        number: ChunkNumber(2),
        range: ChunkRange { first_entry: 4, entry_count: 6, len: 70 },
        state: ChunkState::Parked,
        ..chunks[0].clone()
    };
    assert_eq!(chunks[2], rest);
    assert_eq!((rest.log_from, rest.fruitless_takeovers), (Some(log(1)), 1));

    // The holder keeps its lease and the others are claimed as any.
    assert_eq!(store.complete(&lease, tally(4, 0), at(60)).await?, Hold::Held);
    assert_eq!(take(store, 3).await?.lease.chunk, ChunkNumber(2));
    assert_eq!(take(store, 4).await?.lease.chunk, ChunkNumber(1));
    assert_eq!(read(store, &id).await?.state, BatchState::InProgress);
    Ok(())
}

pub(super) async fn split_out_of_range_is_an_error(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 2).await?.id;
    take(store, 1).await?;
    let second = take(store, 2).await?.lease;
    let before = store.chunks(&id).await?;
    for at in [0, 9, 10, 20, u64::MAX] {
        assert!(store.split(&second, at, (50, 50)).await.is_err(), "split at `{at}`");
    }
    assert_eq!(store.chunks(&id).await?, before);
    assert_eq!(store.split(&second, 19, (90, 10)).await?, Hold::Held);
    Ok(())
}

pub(super) async fn recovered_from_others(store: &dyn Store) -> Result<()> {
    let (first, second) = (start(store, batch(1), 4).await?.id, start(store, batch(2), 1).await?.id);
    let done = take_and_begin(store, 1).await?.lease;
    store.complete(&done, tally(10, 0), at(60)).await?;
    let mine = take_and_begin(store, 2).await?.lease;
    let theirs = |token| ClaimQuery { worker: worker_id(2), ..claim(token) };
    let begun = store.claim(theirs(3)).await?.expect("a chunk waits").lease;
    store.begin(&begun, log(3)).await?;
    let untouched = store.claim(theirs(4)).await?.expect("a chunk waits").lease;
    let other = take_and_begin(store, 5).await?.lease;
    store.park(&other, PROGRESS).await?;

    let open = store.recover(&worker_id(1), at(61)).await?;
    let found = open.iter().map(|chunk| (&chunk.batch, chunk.number.0, chunk.state)).collect::<Vec<_>>();
    let expected = [
        (&first, 1, ChunkState::Leased),
        (&first, 2, ChunkState::Parked),
        (&second, 0, ChunkState::Parked),
    ];
    assert_eq!(found, expected);
    assert_eq!(open[1], chunk(store, &first, 2).await?);
    assert_eq!(open[1].fruitless_takeovers, 1);
    let holds = store.renew(&[mine, begun, untouched], at(300)).await?;
    assert_eq!(holds, [Hold::Held, Hold::Lost, Hold::Lost]);
    assert_eq!(chunk(store, &first, 3).await?.state, ChunkState::Parked);

    // A second time there is nothing left to take.
    assert_eq!(store.recover(&worker_id(1), at(62)).await?, open);
    Ok(())
}

pub(super) async fn expired_leases_are_taken_back(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 3).await?.id;
    let query = |token, seconds| ClaimQuery { ttl: Duration::from_secs(seconds), ..claim(token) };
    let mut leases = Vec::new();
    for (token, seconds) in [(1, 30), (2, 10), (3, 20)] {
        leases.push(store.claim(query(token, seconds)).await?.expect("a chunk waits").lease);
    }
    assert_eq!(store.expire_leases(at(59)).await?, []);
    assert_eq!(store.expire_leases(at(70)).await?, leases[1..]);
    assert_eq!(store.expire_leases(at(70)).await?, []);
    let chunks = store.chunks(&id).await?;
    let found = chunks.iter().map(|chunk| (chunk.state, chunk.fruitless_takeovers)).collect::<Vec<_>>();
    let parked = (ChunkState::Parked, 1);
    assert_eq!(found, [(ChunkState::Leased, 0), parked, parked]);
    assert_eq!(store.complete(&leases[1], tally(10, 0), at(71)).await?, Hold::Lost);
    assert_eq!(take(store, 4).await?.lease.chunk, ChunkNumber(1));
    Ok(())
}

pub(super) async fn taken_back_after_the_end_is_dropped(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 3).await?.id;
    for token in 1..=2 {
        take_and_begin(store, token).await?;
    }
    store.cancel_batch(&owner(), &id, at(55)).await?;
    let theirs = store.chunks(&id).await?;
    let states = theirs.iter().map(|chunk| chunk.state).collect::<Vec<_>>();
    assert_eq!(states, [ChunkState::Leased, ChunkState::Leased, ChunkState::Dropped]);
    assert_eq!(store.expire_leases(at(90)).await?.len(), 2);
    let open = store.recover(&worker_id(1), at(91)).await?;
    assert_eq!(open, store.chunks(&id).await?[..2], "their results are still to be written out");
    assert!(open.iter().all(|chunk| chunk.state == ChunkState::Dropped));
    assert_eq!(store.closable(9).await?.len(), 1);
    Ok(())
}

pub(super) async fn reopened_when_done(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 3).await?.id;
    for token in 1..=3 {
        let lease = take_and_begin(store, token).await?.lease;
        store.complete(&lease, tally(10 - token, token), at(60)).await?;
    }
    let finished = read(store, &id).await?;
    assert_eq!(finished.state, BatchState::Finalizing);
    let before = store.chunks(&id).await?;

    let numbers = [ChunkNumber(2), ChunkNumber(0)];
    let reopened = moved_to(store.reopen_batch(&id, &numbers, at(70)).await?);
    assert_eq!(reopened, read(store, &id).await?);
    assert_eq!((reopened.state, reopened.tally), (BatchState::InProgress, tally(8, 2)));
    assert_eq!(reopened.moments.finalizing_at, None, "it was not passed through");
    assert_eq!(reopened.moments.in_progress_at, finished.moments.in_progress_at);
    let parked =
        |chunk: &Chunk| Chunk { state: ChunkState::Parked, tally: Tally::default(), ..chunk.clone() };
    let expected = [parked(&before[0]), before[1].clone(), parked(&before[2])];
    assert_eq!(store.chunks(&id).await?, expected);
    let open = store.batch(&owner(), &id).await?.expect("it was read above").open;
    assert_eq!(open, [ChunkNumber(0), ChunkNumber(2)]);
    assert_eq!(store.closable(9).await?, []);

    // They run as any, and the last one finishes the batch again.
    for (token, number) in [(4, 0), (5, 2)] {
        let claimed = take(store, token).await?;
        assert_eq!(claimed.lease.chunk, ChunkNumber(number));
        assert_eq!(claimed.chunk.log_from, before[number as usize].log_from);
        let tally = before[number as usize].tally;
        assert_eq!(store.complete(&claimed.lease, tally, at(80)).await?, Hold::Held);
    }
    let again = read(store, &id).await?;
    assert_eq!((again.state, again.tally), (BatchState::Finalizing, finished.tally));
    assert_eq!(again.moments.finalizing_at, Some(at(80)));
    assert_eq!(store.chunks(&id).await?, before);
    Ok(())
}

pub(super) async fn reopening_what_is_not_done_is_an_error(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 2).await?.id;
    for token in 1..=2 {
        let lease = take_and_begin(store, token).await?.lease;
        store.complete(&lease, tally(9, 1), at(60)).await?;
    }
    let (before, chunks) = (read(store, &id).await?, store.chunks(&id).await?);
    for numbers in [&[][..], &[0, 2], &[1, 1]] {
        let numbers = numbers.iter().copied().map(ChunkNumber).collect::<Vec<_>>();
        assert!(store.reopen_batch(&id, &numbers, at(70)).await.is_err(), "{numbers:?}");
        assert_eq!((&read(store, &id).await?, &store.chunks(&id).await?), (&before, &chunks));
    }
    Ok(())
}
