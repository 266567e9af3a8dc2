//! The database of one machine as a file: reopened, refused, and small.

use std::fs;
use std::path::Path;

use overnight_domain::batch::BatchState;
use overnight_domain::chunk::ChunkRange;
use overnight_domain::ids::ChunkNumber;
use overnight_domain::notice::{NoticeEvent, Receiver, Subscription};
use overnight_store::conformance::samples::{
    at, batch, closing, file, owner, planned, read, start, take, take_and_begin, tally, upload,
};
use overnight_store::{Hold, Planned, SqliteStore, Store, StoreError};

fn refusal(path: &Path) -> String {
    match SqliteStore::open(path) {
        Err(StoreError::Damaged(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overnight.db");
    let store = SqliteStore::open(&path).unwrap();
    store.create_file(file(1)).await.unwrap();
    store.create_upload(upload(1)).await.unwrap();
    let id = start(&store, batch(1), 3).await.unwrap().id;
    let done = take_and_begin(&store, 1).await.unwrap().lease;
    store.complete(&done, tally(9, 1), at(60)).await.unwrap();
    let held = take_and_begin(&store, 2).await.unwrap().lease;
    let before = (store.batch(&owner(), &id).await.unwrap(), store.chunks(&id).await.unwrap());
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.file(&owner(), &file(1).id, at(61)).await.unwrap(), Some(file(1)));
    assert_eq!(store.upload(&owner(), &upload(1).id).await.unwrap(), Some(upload(1)));
    let after = (store.batch(&owner(), &id).await.unwrap(), store.chunks(&id).await.unwrap());
    assert_eq!(after, before);
    assert_eq!(store.renew(&[done, held], at(200)).await.unwrap(), [Hold::Lost, Hold::Held]);
    assert_eq!(take(&store, 3).await.unwrap().lease.chunk, ChunkNumber(2));
}

/// A database of the first version, with a batch in it, gets what came later when it is opened.
#[tokio::test]
async fn first_version_is_migrated_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overnight.db");
    let store = SqliteStore::open(&path).unwrap();
    let id = start(&store, batch(1), 1).await.unwrap().id;
    let before = store.batch(&owner(), &id).await.unwrap();
    drop(store);
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("DROP TABLE notices; DROP TABLE receivers; PRAGMA user_version = 1").unwrap();
    drop(db);

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.batch(&owner(), &id).await.unwrap(), before);
    let everything = Subscription { receiver: Receiver::Url, events: NoticeEvent::ALL.to_vec() };
    store.set_receivers(&[everything]).await.unwrap();
    store.cancel_batch(&owner(), &id, at(50)).await.unwrap();
    store.close_batch(&id, closing(8, 9), at(51)).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.due_notices(Receiver::Url, at(51), 9).await.unwrap().len(), 1, "it is durable");
}

#[test]
fn newer_version_is_refused_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overnight.db");
    drop(SqliteStore::open(&path).unwrap());
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let text = refusal(&path);
    assert!(text.contains("`99`") && text.contains("newer program"), "{text}");
}

#[test]
fn foreign_database_and_no_database_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE notes (text)").unwrap();
    drop(db);
    let before = fs::read(&path).unwrap();
    assert!(refusal(&path).contains("another program"));
    assert_eq!(fs::read(&path).unwrap(), before, "a foreign database was changed");

    let path = folder.path().join("letter.txt");
    fs::write(&path, "dear diary, ".repeat(1_000)).unwrap();
    refusal(&path);
    assert!(fs::read_to_string(&path).unwrap().starts_with("dear diary"));
}

#[test]
fn missing_folder_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let opened = SqliteStore::open(folder.path().join("missing").join("overnight.db"));
    assert!(matches!(opened, Err(StoreError::Unavailable(_))), "{opened:?}");
}

/// A request is never a row: ten million of them are 2,000 chunks and some hundred kilobytes.
#[tokio::test]
async fn ten_million_requests_take_less_than_five_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("overnight.db")).unwrap();
    let range =
        |number: u64| ChunkRange { first_entry: number * 5_000, entry_count: 5_000, len: 8 << 20 };
    let plan = Planned { total: 10_000_000, chunks: (0..2_000).map(range).collect(), ..planned(1) };
    let id = start(&store, batch(1), 1).await.unwrap().id;
    let big = batch(2);
    store.create_batch(big.clone(), overnight_store::conformance::samples::roomy(), None).await.unwrap();
    store.plan_batch(&big.id, plan, at(41)).await.unwrap();
    assert_eq!(read(&store, &id).await.unwrap().state, BatchState::InProgress);
    for token in 0..40 {
        let lease = take_and_begin(&store, token).await.unwrap().lease;
        store.complete(&lease, tally(4_999, 1), at(60)).await.unwrap();
    }
    let files = fs::read_dir(folder.path()).unwrap();
    let len: u64 = files.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(len < 5 << 20, "`{len}` bytes");
}
