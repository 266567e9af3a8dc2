//! Notices: put once for each receiver that wants them, in the transaction of what they tell, and kept until settled.

use std::time::Duration;

use overnight_domain::batch::{Batch, BatchError, BatchStatus, Pause, PausedBy};
use overnight_domain::limits::NOTICES_MAX;
use overnight_domain::notice::{BatchFacts, News, Notice, NoticeEvent, Receiver, Subscription};
use overnight_domain::time::UnixTime;

use super::samples::{
    at, batch, batch_id, closing, create, illegal, moved_to, owner, start, take_and_begin, tally,
};
use crate::{BatchPatch, Result, Settlement, Store, WaitingNotice};

const ALL: &[NoticeEvent] = &NoticeEvent::ALL;

fn outage(second: u64) -> Notice {
    let endpoints = [("gpu0".to_owned(), "connection refused".to_owned())];
    Notice::no_endpoint(endpoints, Duration::from_secs(60), 1, at(second))
}

async fn subscribe(store: &dyn Store, wanted: &[(Receiver, &[NoticeEvent])]) -> Result<()> {
    let subscriptions = wanted
        .iter()
        .map(|(receiver, events)| Subscription { receiver: *receiver, events: events.to_vec() })
        .collect::<Vec<_>>();
    store.set_receivers(&subscriptions).await
}

async fn due(store: &dyn Store, receiver: Receiver, now: UnixTime) -> Result<Vec<WaitingNotice>> {
    store.due_notices(receiver, now, usize::MAX).await
}

async fn news(store: &dyn Store, receiver: Receiver) -> Result<Vec<News>> {
    let due = due(store, receiver, at(9_999)).await?;
    Ok(due.into_iter().map(|waiting| waiting.notice.news).collect())
}

fn pause(by: PausedBy, second: u64) -> BatchPatch {
    let pause = Pause { by, reason: "all refused".to_owned(), since: at(second) };
    BatchPatch { pause: Some(Some(pause)), ..BatchPatch::default() }
}

pub(super) async fn none_while_nobody_is_told(store: &dyn Store) -> Result<()> {
    store.put_notice(outage(1)).await?;
    create(store, batch(1)).await?;
    moved_to(store.reject_batch(&batch_id(1), Vec::new(), at(2)).await?);
    subscribe(store, &[(Receiver::Url, ALL)]).await?;
    assert_eq!(due(store, Receiver::Url, at(99)).await?, [], "old news");
    Ok(())
}

pub(super) async fn put_once_for_each_that_wants_it(store: &dyn Store) -> Result<()> {
    subscribe(store, &[(Receiver::Command, &[NoticeEvent::BatchEnded]), (Receiver::Url, ALL)]).await?;
    for second in [1, 1, 2] {
        store.put_notice(outage(second)).await?;
    }
    let waiting = |second| WaitingNotice { notice: outage(second), attempts: 0 };
    assert_eq!(due(store, Receiver::Url, at(0)).await?, [], "not yet due");
    assert_eq!(due(store, Receiver::Url, at(2)).await?, [waiting(1), waiting(2)]);
    assert_eq!(store.due_notices(Receiver::Url, at(2), 1).await?, [waiting(1)]);
    assert_eq!(due(store, Receiver::Command, at(2)).await?, []);
    Ok(())
}

pub(super) async fn put_with_every_end_of_a_batch(store: &dyn Store) -> Result<()> {
    subscribe(store, &[(Receiver::Url, ALL)]).await?;
    // Rejected, completed, cancelled, expired.
    create(store, batch(1)).await?;
    let problem = BatchError {
        code: "invalid_json_line".to_owned(),
        message: "no JSON".to_owned(),
        param: None,
        line: Some(7),
    };
    moved_to(store.reject_batch(&batch_id(1), vec![problem], at(41)).await?);
    start(store, batch(2), 1).await?;
    let lease = take_and_begin(store, 1).await?.lease;
    store.complete(&lease, tally(9, 1), at(42)).await?;
    moved_to(store.close_batch(&batch_id(2), closing(8, 9), at(43)).await?);
    start(store, batch(3), 1).await?;
    moved_to(store.cancel_batch(&owner(), &batch_id(3), at(44)).await?);
    moved_to(store.close_batch(&batch_id(3), closing(18, 19), at(45)).await?);
    let mut hard = batch(4);
    hard.options.hard_expiry = true;
    start(store, hard, 1).await?;
    store.expire_batches(at(1_000)).await?;
    moved_to(store.close_batch(&batch_id(4), closing(28, 29), at(1_001)).await?);
    // Again, as after a lost answer.
    illegal(store.close_batch(&batch_id(4), closing(38, 39), at(1_002)).await?);

    let ended = due(store, Receiver::Url, at(9_999)).await?;
    let batches = ended.iter().filter_map(|waiting| waiting.notice.news.batch()).collect::<Vec<_>>();
    let told = |facts: &&BatchFacts| (facts.id.clone(), facts.status, facts.completed, facts.failed);
    assert_eq!(
        batches.iter().map(told).collect::<Vec<_>>(),
        [
            (batch_id(1), BatchStatus::Failed, 0, 0),
            (batch_id(2), BatchStatus::Completed, 9, 1),
            (batch_id(3), BatchStatus::Cancelled, 9, 1),
            (batch_id(4), BatchStatus::Expired, 9, 1),
        ]
    );
    assert_eq!(batches[0].problem.as_deref(), Some("line 7: no JSON"));
    assert!(ended.iter().all(|waiting| waiting.notice.news.event() == NoticeEvent::BatchEnded));
    let moments = ended.iter().map(|waiting| waiting.notice.at).collect::<Vec<_>>();
    assert_eq!(moments, [41, 43, 45, 1_001].map(at));
    Ok(())
}

pub(super) async fn put_with_a_pause_that_nobody_asked_for(store: &dyn Store) -> Result<()> {
    subscribe(store, &[(Receiver::Url, ALL)]).await?;
    let running = start(store, batch(1), 1).await?;
    let update = |patch| store.update_batch(&running.tenant, &running.id, patch, at(50));
    let resume = || BatchPatch { pause: Some(None), ..BatchPatch::default() };
    moved_to(update(pause(PausedBy::Caller, 50)).await?);
    assert_eq!(news(store, Receiver::Url).await?, [], "whoever paused it knows");
    moved_to(update(pause(PausedBy::Refusals, 51)).await?);
    // Neither a pause on top of that nor another change is news.
    moved_to(update(pause(PausedBy::Refusals, 52)).await?);
    moved_to(update(BatchPatch { priority: Some(3), ..BatchPatch::default() }).await?);
    let batch = BatchFacts::of(&running);
    let paused = News::BatchPaused { batch, reason: "all refused".to_owned() };
    assert_eq!(news(store, Receiver::Url).await?, vec![paused.clone()]);
    // After somebody let it go on, it is.
    moved_to(update(resume()).await?);
    moved_to(update(pause(PausedBy::Refusals, 60)).await?);
    assert_eq!(news(store, Receiver::Url).await?, [paused.clone(), paused]);
    Ok(())
}

pub(super) async fn settled_for_each_receiver(store: &dyn Store) -> Result<()> {
    subscribe(store, &[(Receiver::Command, ALL), (Receiver::Url, ALL)]).await?;
    store.put_notice(outage(1)).await?;
    store.put_notice(outage(2)).await?;
    let (first, second) = (outage(1).id, outage(2).id);
    store.settle_notice(Receiver::Url, &first, Settlement::RetryAt(at(10))).await?;
    store.settle_notice(Receiver::Url, &first, Settlement::RetryAt(at(20))).await?;
    store.settle_notice(Receiver::Command, &first, Settlement::Done).await?;
    let waiting = |second, attempts| WaitingNotice { notice: outage(second), attempts };
    assert_eq!(due(store, Receiver::Url, at(19)).await?, [waiting(2, 0)]);
    assert_eq!(due(store, Receiver::Url, at(20)).await?, [waiting(2, 0), waiting(1, 2)]);
    assert_eq!(due(store, Receiver::Command, at(20)).await?, [waiting(2, 0)]);
    store.settle_notice(Receiver::Url, &second, Settlement::Done).await?;
    // Settled already: nothing changes.
    store.settle_notice(Receiver::Url, &second, Settlement::RetryAt(at(30))).await?;
    assert_eq!(due(store, Receiver::Url, at(99)).await?, [waiting(1, 2)]);
    Ok(())
}

pub(super) async fn forgotten_with_their_receiver(store: &dyn Store) -> Result<()> {
    subscribe(store, &[(Receiver::Command, ALL), (Receiver::Url, ALL)]).await?;
    store.put_notice(outage(1)).await?;
    // As at the next start: what waits for a receiver that is still there goes on waiting.
    subscribe(store, &[(Receiver::Url, &[NoticeEvent::BatchEnded])]).await?;
    store.put_notice(outage(2)).await?;
    assert_eq!(news(store, Receiver::Url).await?, [outage(1).news]);
    subscribe(store, &[(Receiver::Command, ALL)]).await?;
    assert_eq!(due(store, Receiver::Command, at(99)).await?, []);
    assert_eq!(due(store, Receiver::Url, at(99)).await?, []);
    Ok(())
}

pub(super) async fn the_oldest_go_when_there_are_too_many(store: &dyn Store) -> Result<()> {
    subscribe(store, &[(Receiver::Command, ALL), (Receiver::Url, ALL)]).await?;
    let max = NOTICES_MAX as u64;
    store.put_notice(outage(1)).await?;
    store.settle_notice(Receiver::Command, &outage(1).id, Settlement::Done).await?;
    for second in 2..=max + 1 {
        store.put_notice(outage(second)).await?;
    }
    for receiver in Receiver::ALL {
        let due = due(store, receiver, at(max + 1)).await?;
        assert_eq!((due.len(), &due[0].notice.id), (NOTICES_MAX, &outage(2).id), "{receiver:?}");
    }
    Ok(())
}

/// The id is the same for the same news: a receiver can tell a repeated delivery.
pub(super) async fn named_by_what_happened(store: &dyn Store) -> Result<()> {
    subscribe(store, &[(Receiver::Url, ALL)]).await?;
    let ended = Batch { pause: None, ..start(store, batch(1), 1).await? };
    moved_to(store.cancel_batch(&owner(), &ended.id, at(44)).await?);
    let ended = moved_to(store.close_batch(&ended.id, closing(8, 9), at(45)).await?);
    let waiting = due(store, Receiver::Url, at(45)).await?;
    assert_eq!(waiting[0].notice, Notice::batch_ended(&ended, at(45)));
    assert_eq!(waiting[0].notice.id, Notice::batch_ended(&ended, at(46)).id, "it ends once");
    assert_ne!(outage(1).id, outage(2).id);
    Ok(())
}
