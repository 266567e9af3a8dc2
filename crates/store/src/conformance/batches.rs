//! Batches: the record, its events, and the queue in numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use overnight_domain::batch::{
    Batch, BatchError, BatchEvent, BatchOptions, BatchState, Order, Pause, PausedBy,
};
use overnight_domain::chunk::{Chunk, ChunkState};
use overnight_domain::ids::{BatchId, ChunkNumber};
use overnight_domain::route::Route;
use overnight_domain::tally::Tally;

use super::samples::{
    PROGRESS, at, batch, batch_id, closing, create, illegal, moved_to, owner, planned, read, start,
    stranger, take, take_and_begin, tally,
};
use crate::{
    BatchPatch, BatchQuery, BatchWithOpenChunks, Demand, Hold, Moved, Planned, QueueView, Result, Store,
};

fn ids(rows: &[BatchWithOpenChunks]) -> Vec<&BatchId> {
    rows.iter().map(|row| &row.batch.id).collect()
}

pub(super) async fn visible_to_its_tenant_only(store: &dyn Store) -> Result<()> {
    let mine = start(store, batch(1), 1).await?;
    let (tenant, id) = (stranger(), mine.id.clone());
    assert_eq!(store.batch(&tenant, &id).await?, None);
    // The server's own duties ask for no tenant.
    assert_eq!(store.queue_batch(&id).await?, Some(mine.clone()));
    assert_eq!(store.queue_batch(&batch_id(2)).await?, None);
    let all = BatchQuery { states: Vec::new(), after: None, limit: 9 };
    assert_eq!(store.list_batches(&tenant, all).await?.rows, []);
    assert_eq!(store.children(&tenant, &id).await?, []);
    assert_eq!(store.cancel_batch(&tenant, &id, at(50)).await?, Moved::NotFound);
    assert_eq!(store.delete_batch(&tenant, &id, at(50)).await?, Moved::NotFound);
    let patch = BatchPatch { priority: Some(9), ..BatchPatch::default() };
    assert_eq!(store.update_batch(&tenant, &id, patch, at(50)).await?, Moved::NotFound);
    assert_eq!(read(store, &id).await?, mine);
    Ok(())
}

pub(super) async fn listed_newest_first_in_pages(store: &dyn Store) -> Result<()> {
    for number in [2, 5, 1, 4, 3] {
        create(store, batch(number)).await?;
    }
    store.reject_batch(&batch_id(4), Vec::new(), at(9)).await?;
    let query = |states: &[BatchState], after: Option<u32>| BatchQuery {
        states: states.to_vec(),
        after: after.map(batch_id),
        limit: 2,
    };
    let first = store.list_batches(&owner(), query(&[], None)).await?;
    assert_eq!((ids(&first.rows), first.has_more), (vec![&batch_id(5), &batch_id(4)], true));
    // The cursor keeps its place after its batch was deleted.
    moved_to(store.delete_batch(&owner(), &batch_id(4), at(9)).await?);
    let next = store.list_batches(&owner(), query(&[], Some(4))).await?;
    assert_eq!((ids(&next.rows), next.has_more), (vec![&batch_id(3), &batch_id(2)], true));
    let last = store.list_batches(&owner(), query(&[], Some(2))).await?;
    assert_eq!((ids(&last.rows), last.has_more), (vec![&batch_id(1)], false));

    store.reject_batch(&batch_id(2), Vec::new(), at(9)).await?;
    let failed = store.list_batches(&owner(), query(&[BatchState::Failed], None)).await?;
    assert_eq!((ids(&failed.rows), failed.has_more), (vec![&batch_id(2)], false));
    Ok(())
}

/// Brings a fresh batch, due at second 100 with hard expiry, into a state.
async fn bring(store: &dyn Store, number: u32, state: BatchState) -> Result<Batch> {
    let mut fresh = batch(number);
    fresh.options.hard_expiry = true;
    fresh.moments.expires_at = at(100);
    let id = create(store, fresh).await?.id;
    if matches!(state, BatchState::Failed) {
        store.reject_batch(&id, Vec::new(), at(20)).await?;
    } else if !matches!(state, BatchState::Validating) {
        store.plan_batch(&id, planned(1), at(20)).await?;
    }
    match state {
        BatchState::Validating | BatchState::InProgress | BatchState::Failed => {}
        BatchState::Finalizing | BatchState::Completed => {
            let claimed = take(store, u64::from(number)).await?;
            store.complete(&claimed.lease, tally(9, 1), at(60)).await?;
        }
        BatchState::Expiring | BatchState::Expired => {
            assert!(store.expire_batches(at(100)).await?.contains(&id));
        }
        BatchState::Cancelling | BatchState::Cancelled => {
            moved_to(store.cancel_batch(&owner(), &id, at(70)).await?);
        }
    }
    if matches!(state, BatchState::Completed | BatchState::Expired | BatchState::Cancelled) {
        moved_to(store.close_batch(&id, closing(1_000 + number, 2_000 + number), at(110)).await?);
    }
    let batch = read(store, &id).await?;
    assert_eq!(batch.state, state);
    Ok(batch)
}

/// Whether the event moved the batch, as the store says.
async fn apply(store: &dyn Store, batch: &Batch, event: BatchEvent) -> Result<bool> {
    let id = &batch.id;
    let number = batch.moments.created_at.seconds() as u32;
    let moved = match event {
        BatchEvent::Plan => store.plan_batch(id, planned(2), at(120)).await?,
        BatchEvent::Reject => store.reject_batch(id, Vec::new(), at(120)).await?,
        BatchEvent::Reopen => store.reopen_batch(id, &[ChunkNumber(0)], at(120)).await?,
        BatchEvent::Cancel => store.cancel_batch(&owner(), id, at(120)).await?,
        BatchEvent::Close => {
            store.close_batch(id, closing(3_000 + number, 4_000 + number), at(120)).await?
        }
        BatchEvent::Expire => return Ok(store.expire_batches(at(120)).await?.contains(id)),
        BatchEvent::Finish => {
            let Some(claimed) = store.claim(super::samples::claim(999)).await? else { return Ok(false) };
            assert_eq!(claimed.batch.id, *id);
            return Ok(store.complete(&claimed.lease, tally(9, 1), at(120)).await? == Hold::Held);
        }
    };
    match moved {
        Moved::To(after) => {
            assert_eq!(*after, read(store, id).await?, "the answer is not what was stored");
            Ok(true)
        }
        Moved::Illegal(unchanged) => {
            assert_eq!(*unchanged, *batch);
            Ok(false)
        }
        Moved::NotFound => panic!("batch `{id}` was not found"),
    }
}

pub(super) async fn every_event_in_every_state(store: &dyn Store) -> Result<()> {
    let mut number = 10;
    for state in BatchState::ALL {
        for event in BatchEvent::ALL {
            number += 1;
            let before = bring(store, number, state).await?;
            let has_moved = apply(store, &before, event).await?;
            let after = read(store, &before.id).await?;
            if let Ok(to) = state.next(event) {
                let mut moments = before.moments;
                moments.reach(to, at(120));
                assert!(has_moved, "{event:?} did not move {state:?}");
                assert_eq!((after.state, after.moments), (to, moments), "{event:?} in {state:?}");
            } else {
                let is_repeat = event == BatchEvent::Cancel
                    && matches!(state, BatchState::Cancelling | BatchState::Cancelled);
                assert_eq!(has_moved, is_repeat, "{event:?} moved {state:?}");
                assert_eq!(after, before, "{event:?} changed a batch in {state:?}");
            }
            // Nothing of this cell is left that the next could claim.
            store.cancel_batch(&owner(), &before.id, at(130)).await?;
        }
    }
    for moved in [
        store.plan_batch(&batch_id(1), planned(1), at(1)).await?,
        store.reject_batch(&batch_id(1), Vec::new(), at(1)).await?,
        store.reopen_batch(&batch_id(1), &[ChunkNumber(0)], at(1)).await?,
        store.cancel_batch(&owner(), &batch_id(1), at(1)).await?,
        store.close_batch(&batch_id(1), closing(1, 2), at(1)).await?,
        store.delete_batch(&owner(), &batch_id(1), at(1)).await?,
        store.update_batch(&owner(), &batch_id(1), BatchPatch::default(), at(1)).await?,
    ] {
        assert_eq!(moved, Moved::NotFound);
    }
    Ok(())
}

pub(super) async fn kept_in_every_member(store: &dyn Store) -> Result<()> {
    let full = Batch {
        route: Route::Embeddings,
        metadata: Some(BTreeMap::from([("team".to_owned(), "n\u{e4}chtlich \"x\"".to_owned())])),
        options: BatchOptions {
            priority: -7,
            order: Order::File,
            attempts_max: 3,
            timeout: Some(Duration::from_micros(1_500_001)),
            hard_expiry: true,
            large: true,
            model: Some("small".to_owned()),
            output_ttl: Some(Duration::from_secs(3_600)),
        },
        parent: Some(batch_id(77)),
        pause: Some(Pause { by: PausedBy::Caller, reason: "lunch".to_owned(), since: at(3) }),
        ..batch(1)
    };
    create(store, full.clone()).await?;
    assert_eq!(read(store, &full.id).await?, full);
    let error = BatchError {
        code: "invalid_json_line".to_owned(),
        message: "line 2 is not JSON".to_owned(),
        param: None,
        line: Some(2),
    };
    let rejected = moved_to(store.reject_batch(&full.id, vec![error.clone()], at(9)).await?);
    assert_eq!(rejected.errors, [error]);
    assert_eq!(rejected.moments.failed_at, Some(at(9)));
    assert_eq!(read(store, &full.id).await?, rejected);
    Ok(())
}

pub(super) async fn planned_with_its_chunks(store: &dyn Store) -> Result<()> {
    let fresh = create(store, batch(1)).await?;
    assert_eq!(store.chunks(&fresh.id).await?, []);
    let plan = planned(2);
    let running = moved_to(store.plan_batch(&fresh.id, plan.clone(), at(5)).await?);
    assert_eq!((running.total, running.reserved_len), (20, 2_000));
    assert_eq!(
        (running.model.as_deref(), running.plan_blob.as_ref()),
        (Some("small"), Some(&plan.plan_blob))
    );
    let chunk = |number: u32| Chunk {
        batch: fresh.id.clone(),
        number: ChunkNumber(number),
        range: plan.chunks[number as usize],
        state: ChunkState::Ready,
        log_from: None,
        fruitless_takeovers: 0,
        tally: Tally::default(),
    };
    assert_eq!(store.chunks(&fresh.id).await?, [chunk(0), chunk(1)]);

    // A second plan, as after a lost answer, changes nothing.
    assert_eq!(illegal(store.plan_batch(&fresh.id, planned(3), at(6)).await?), running);
    assert_eq!(store.chunks(&fresh.id).await?.len(), 2);
    Ok(())
}

pub(super) async fn empty_plan_is_an_error(store: &dyn Store) -> Result<()> {
    let fresh = create(store, batch(1)).await?;
    assert!(store.plan_batch(&fresh.id, planned(0), at(5)).await.is_err());
    let uncounted = Planned { total: 0, ..planned(1) };
    assert!(store.plan_batch(&fresh.id, uncounted, at(5)).await.is_err());
    assert_eq!(read(store, &fresh.id).await?, fresh);
    assert_eq!(store.chunks(&fresh.id).await?, []);
    Ok(())
}

pub(super) async fn changed_by_a_patch(store: &dyn Store) -> Result<()> {
    let fresh = create(store, batch(1)).await?;
    let pause = Pause { by: PausedBy::Refusals, reason: "all were refused".to_owned(), since: at(4) };
    let patch =
        BatchPatch { priority: Some(7), expires_at: Some(at(77)), pause: Some(Some(pause.clone())) };
    let patched = moved_to(store.update_batch(&owner(), &fresh.id, patch, at(5)).await?);
    assert_eq!((patched.options.priority, patched.moments.expires_at), (7, at(77)));
    assert_eq!(patched.pause, Some(pause));
    assert_eq!(read(store, &fresh.id).await?, patched);

    let nothing = moved_to(store.update_batch(&owner(), &fresh.id, BatchPatch::default(), at(6)).await?);
    assert_eq!(nothing, patched);
    let resume = BatchPatch { pause: Some(None), ..BatchPatch::default() };
    let resumed = moved_to(store.update_batch(&owner(), &fresh.id, resume.clone(), at(7)).await?);
    assert_eq!(resumed, Batch { pause: None, ..patched });

    let failed = moved_to(store.reject_batch(&fresh.id, Vec::new(), at(8)).await?);
    assert_eq!(illegal(store.update_batch(&owner(), &fresh.id, resume, at(9)).await?), failed);
    Ok(())
}

pub(super) async fn children_are_found(store: &dyn Store) -> Result<()> {
    for number in 1..=4 {
        let parent = (number % 2 == 0).then(|| batch_id(1));
        create(store, Batch { parent, ..batch(number) }).await?;
    }
    let found = store.children(&owner(), &batch_id(1)).await?;
    assert_eq!(found.iter().map(|child| &child.id).collect::<Vec<_>>(), [&batch_id(2), &batch_id(4)]);
    assert_eq!(store.children(&owner(), &batch_id(2)).await?, []);
    Ok(())
}

pub(super) async fn open_chunks_are_those_begun_and_not_done(store: &dyn Store) -> Result<()> {
    let id = start(store, batch(1), 4).await?.id;
    let open = async || -> Result<Vec<ChunkNumber>> {
        let found = store.batch(&owner(), &id).await?.expect("the batch was created");
        let all = BatchQuery { states: Vec::new(), after: None, limit: 1 };
        assert_eq!(store.list_batches(&owner(), all).await?.rows.first(), Some(&found));
        assert_eq!(store.queue(&[found.batch.state], 1).await?.first(), Some(&found));
        Ok(found.open)
    };
    let first = take(store, 1).await?;
    assert_eq!(open().await?, []);
    store.begin(&first.lease, super::samples::log(1)).await?;
    let second = take_and_begin(store, 2).await?;
    let third = take_and_begin(store, 3).await?;
    assert_eq!(open().await?, [0, 1, 2].map(ChunkNumber));
    store.park(&second.lease, PROGRESS).await?;
    assert_eq!(open().await?, [0, 1, 2].map(ChunkNumber));
    store.complete(&first.lease, tally(10, 0), at(60)).await?;
    assert_eq!(open().await?, [1, 2].map(ChunkNumber));

    // What was durable when the batch ended early is counted until the final tally counts it.
    store.cancel_batch(&owner(), &id, at(61)).await?;
    assert_eq!(open().await?, [1, 2].map(ChunkNumber));
    store.park(&third.lease, PROGRESS).await?;
    assert_eq!(open().await?, [1, 2].map(ChunkNumber));
    store.close_batch(&id, closing(8, 9), at(62)).await?;
    assert_eq!(open().await?, []);
    Ok(())
}

pub(super) async fn queue_of_one_tenant(store: &dyn Store) -> Result<()> {
    create(store, batch(1)).await?;
    let mut urgent = batch(2);
    urgent.options.priority = 5;
    let urgent = start(store, urgent, 2).await?;
    create(store, Batch { tenant: stranger(), ..batch(3) }).await?;
    create(store, batch(4)).await?;
    create(store, batch(5)).await?;
    store.reject_batch(&batch_id(4), Vec::new(), at(5)).await?;
    take_and_begin(store, 1).await?;
    let all = store.queue_of(&owner(), 9).await?;
    assert_eq!(ids(&all.rows), [&batch_id(2), &batch_id(1), &batch_id(5)]);
    assert!(!all.has_more);
    assert_eq!(all.rows[0].batch.state, urgent.state);
    assert_eq!(all.rows[0].open, [ChunkNumber(0)]);
    let first = store.queue_of(&owner(), 2).await?;
    assert_eq!(ids(&first.rows), [&batch_id(2), &batch_id(1)]);
    assert!(first.has_more);
    assert_eq!(ids(&store.queue_of(&stranger(), 9).await?.rows), [&batch_id(3)]);
    Ok(())
}

pub(super) async fn queue_in_numbers(store: &dyn Store) -> Result<()> {
    assert_eq!(store.queue_view().await?, QueueView::default());
    create(store, batch(1)).await?;
    let mut urgent = batch(2);
    urgent.options.priority = 5;
    start(store, urgent, 3).await?;
    create(store, batch(3)).await?;
    store.reject_batch(&batch_id(3), Vec::new(), at(5)).await?;
    let claimed = take(store, 1).await?;
    store.complete(&claimed.lease, tally(8, 2), at(6)).await?;
    let view = store.queue_view().await?;
    assert_eq!(view.backlog, [(batch_id(2), 20), (batch_id(1), 10)]);
    let counts = [(BatchState::Validating, 1), (BatchState::InProgress, 1), (BatchState::Failed, 1)];
    assert_eq!(view.batches, BTreeMap::from(counts));
    let known = store.known_batches(&[batch_id(9), batch_id(3), batch_id(1)]).await?;
    assert_eq!(known, [batch_id(3), batch_id(1)]);

    let both = [BatchState::Validating, BatchState::InProgress];
    assert_eq!(ids(&store.queue(&both, 9).await?), [&batch_id(2), &batch_id(1)]);
    assert_eq!(ids(&store.queue(&both, 1).await?), [&batch_id(2)]);
    assert_eq!(ids(&store.queue(&[], 9).await?), Vec::<&BatchId>::new());
    Ok(())
}

pub(super) async fn demand_by_model(store: &dyn Store) -> Result<()> {
    assert_eq!(store.demand().await?, []);
    for (number, priority) in [(1, 2), (2, 5), (3, 9), (4, 0)] {
        let mut batch = batch(number);
        batch.options.priority = priority;
        create(store, batch).await?;
    }
    let plan = async |number, model: Option<&str>| {
        let planned = Planned { model: model.map(str::to_owned), ..planned(1) };
        store.plan_batch(&batch_id(number), planned, at(10)).await
    };
    assert_eq!(store.demand().await?, [], "what is validating is not known yet");
    plan(1, Some("small")).await?;
    plan(2, Some("small")).await?;
    plan(3, Some("small")).await?;
    plan(4, None).await?;
    let pause = Pause { by: PausedBy::Caller, reason: "lunch".to_owned(), since: at(45) };
    let patch = BatchPatch { pause: Some(Some(pause)), ..BatchPatch::default() };
    store.update_batch(&owner(), &batch_id(3), patch, at(45)).await?;
    let of = |model: Option<&str>, priority| Demand { model: model.map(str::to_owned), priority };
    assert_eq!(store.demand().await?, [of(None, 0), of(Some("small"), 5)]);
    store.cancel_batch(&owner(), &batch_id(2), at(46)).await?;
    assert_eq!(store.demand().await?, [of(None, 0), of(Some("small"), 2)]);
    Ok(())
}
