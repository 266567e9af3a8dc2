//! Creation of batches: the limits and the key.

use overnight_domain::batch::Batch;

use super::samples::{at, batch, claim, closing, create, owner, planned, roomy, start, stranger, tally};
use crate::{Admission, AdmissionRefusal, BatchQuery, Created, CreationKey, Hold, Result, Store};

fn key(text: &str, is_repeat: bool) -> CreationKey {
    CreationKey { key: text.to_owned(), not_before: at(0), is_repeat }
}

fn large(number: u32) -> Batch {
    let mut batch = batch(number);
    batch.options.large = true;
    batch
}

/// Nothing of a refused batch is kept, its key neither.
async fn assert_refused(
    store: &dyn Store,
    batch: Batch,
    admission: Admission,
    why: AdmissionRefusal,
) -> Result<()> {
    let id = batch.id.clone();
    let created = store.create_batch(batch, admission, Some(key("refused", false))).await?;
    assert_eq!(created, Created::Refused(why));
    assert_eq!(store.batch(&owner(), &id).await?, None);
    assert_eq!(store.known_batches(&[id]).await?, []);
    Ok(())
}

pub(super) async fn refused_by_each_limit(store: &dyn Store) -> Result<()> {
    let two_batches = Admission { unfinished_batches_max: 2, ..roomy() };
    for number in 1..=2 {
        let created = store.create_batch(batch(number), two_batches, None).await?;
        assert_eq!(created, Created::New);
    }
    assert_refused(store, batch(3), two_batches, AdmissionRefusal::UnfinishedBatches { now: 2 }).await?;

    // Two batches that announced ten requests each; the limit itself may be reached.
    let requests =
        |queued_requests_max| Admission { queued_requests_max, expected_requests: 5, ..roomy() };
    assert_refused(store, batch(3), requests(24), AdmissionRefusal::QueuedRequests { now: 20 }).await?;
    assert_eq!(store.create_batch(batch(3), requests(25), None).await?, Created::New);

    // What is planned counts as it is, and what has a committed result no longer counts.
    store.plan_batch(&batch(1).id, planned(4), at(5)).await?;
    assert_refused(store, batch(4), requests(59), AdmissionRefusal::QueuedRequests { now: 55 }).await?;
    let claimed = store.claim(claim(1)).await?.expect("a chunk waits");
    assert_eq!(store.complete(&claimed.lease, tally(9, 1), at(6)).await?, Hold::Held);
    assert_refused(store, batch(4), requests(49), AdmissionRefusal::QueuedRequests { now: 45 }).await?;

    // The plan has raised the first reservation from 1,000 to 2,000.
    let disk = |disk_free| Admission { disk_free, ..roomy() };
    let refusal = AdmissionRefusal::Disk { needed: 1_000, free: 999 };
    assert_refused(store, batch(4), disk(4_999), refusal).await?;
    assert_refused(store, batch(4), disk(10), AdmissionRefusal::Disk { needed: 1_000, free: 0 }).await?;
    assert_eq!(store.create_batch(batch(4), disk(5_000), None).await?, Created::New);

    // A terminal batch takes no room.
    store.reject_batch(&batch(2).id, Vec::new(), at(7)).await?;
    assert_eq!(store.create_batch(batch(5), disk(5_000), None).await?, Created::New);
    Ok(())
}

pub(super) async fn large_batch_is_held_to_the_disk_only(store: &dyn Store) -> Result<()> {
    let closed = Admission { unfinished_batches_max: 0, queued_requests_max: 0, ..roomy() };
    assert_eq!(store.create_batch(large(1), closed, None).await?, Created::New);
    let full = Admission { disk_free: 1_999, ..closed };
    assert_refused(store, large(2), full, AdmissionRefusal::Disk { needed: 1_000, free: 999 }).await?;

    // Others are not held to what a large one brought.
    start(store, large(3), 100).await?;
    let one = Admission { unfinished_batches_max: 1, queued_requests_max: 10, ..roomy() };
    assert_eq!(store.create_batch(batch(4), one, None).await?, Created::New);
    Ok(())
}

pub(super) async fn repeated_with_its_key(store: &dyn Store) -> Result<()> {
    let closed = Admission { unfinished_batches_max: 0, ..roomy() };
    assert_eq!(store.create_batch(batch(1), roomy(), Some(key("night", true))).await?, Created::New);
    // The first is found as it is now, before any limit is looked at.
    store.plan_batch(&batch(1).id, planned(1), at(5)).await?;
    let first = store.batch(&owner(), &batch(1).id).await?.expect("it was created").batch;
    let again = store.create_batch(batch(2), closed, Some(key("night", true))).await?;
    assert_eq!(again, Created::Existing(Box::new(first)));
    assert_eq!(store.batch(&owner(), &batch(2).id).await?, None);

    // Another key, another tenant, or one that was too long ago: a new batch.
    assert_eq!(store.create_batch(batch(3), roomy(), Some(key("day", true))).await?, Created::New);
    let foreign = Batch { tenant: stranger(), ..batch(4) };
    assert_eq!(store.create_batch(foreign, roomy(), Some(key("night", true))).await?, Created::New);
    let late = CreationKey { key: "night".to_owned(), not_before: at(2), is_repeat: true };
    assert_eq!(store.create_batch(batch(5), roomy(), Some(late.clone())).await?, Created::New);
    let again = store.create_batch(batch(6), roomy(), Some(late)).await?;
    assert_eq!(again, Created::Existing(Box::new(batch(5))));
    Ok(())
}

pub(super) async fn key_without_repeat_creates_again(store: &dyn Store) -> Result<()> {
    for number in 1..=2 {
        let created = store.create_batch(batch(number), roomy(), Some(key("night", false))).await?;
        assert_eq!(created, Created::New);
    }
    let again = store.create_batch(batch(3), roomy(), Some(key("night", true))).await?;
    assert_eq!(again, Created::Existing(Box::new(batch(2))), "the newest creation has the key");
    create(store, batch(4)).await?;
    let all = BatchQuery { states: Vec::new(), after: None, limit: 9 };
    assert_eq!(store.list_batches(&owner(), all).await?.rows.len(), 3);
    assert!(store.create_batch(batch(4), roomy(), None).await.is_err(), "an id was used twice");
    Ok(())
}

pub(super) async fn key_of_refused_or_deleted_batch_is_free(store: &dyn Store) -> Result<()> {
    let closed = Admission { unfinished_batches_max: 0, ..roomy() };
    let refused = store.create_batch(batch(1), closed, Some(key("night", true))).await?;
    assert_eq!(refused, Created::Refused(AdmissionRefusal::UnfinishedBatches { now: 0 }));
    assert_eq!(store.create_batch(batch(2), roomy(), Some(key("night", true))).await?, Created::New);
    store.cancel_batch(&owner(), &batch(2).id, at(3)).await?;
    store.close_batch(&batch(2).id, closing(8, 9), at(4)).await?;
    store.delete_batch(&owner(), &batch(2).id, at(5)).await?;
    assert_eq!(store.create_batch(batch(3), roomy(), Some(key("night", true))).await?, Created::New);
    Ok(())
}
