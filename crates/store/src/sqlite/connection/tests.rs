use std::path::PathBuf;

use super::Connections;
use crate::StoreError;

fn database() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overnight.db");
    (folder, path)
}

#[tokio::test]
async fn what_fails_changes_nothing() {
    let (_folder, path) = database();
    let connections = Connections::open(&path).unwrap();
    let failed: Result<(), _> = connections
        .write(|db| {
            db.execute_batch("CREATE TABLE half (a)")?;
            Err(StoreError::Unavailable("on purpose".to_owned()))
        })
        .await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))));
    let tables: u32 = connections
        .read(|db| {
            Ok(db.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'half'", [], |row| {
                row.get(0)
            })?)
        })
        .await
        .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn full_disk_is_told_and_leaves_the_store_usable() {
    let (_folder, path) = database();
    let connections = Connections::open(&path).unwrap();
    connections
        .write(|db| {
            db.execute_batch("CREATE TABLE filling (bytes BLOB)")?;
            let pages: u32 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let _: u32 =
                db.query_row(&format!("PRAGMA max_page_count = {}", pages + 10), [], |row| row.get(0))?;
            Ok(())
        })
        .await
        .unwrap();
    let fill = |len: u32| {
        connections.write(move |db| {
            db.execute("INSERT INTO filling VALUES (zeroblob(?1))", [len])?;
            Ok(())
        })
    };
    assert!(matches!(fill(1_000_000).await, Err(StoreError::Full(_))));
    fill(1_000).await.unwrap();
    let rows: u32 = connections
        .read(|db| Ok(db.query_row("SELECT count(*) FROM filling", [], |row| row.get(0))?))
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn reader_cannot_write() {
    let (_folder, path) = database();
    let connections = Connections::open(&path).unwrap();
    let written = connections.read(|db| Ok(db.execute_batch("CREATE TABLE mine (a)")?)).await;
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
}

/// A verb that panics takes the writer with it. Its caller must not believe that nothing happened, and those who come
/// later must not wait for ever.
#[tokio::test]
async fn lost_reply_is_unknown_and_a_dead_writer_is_unavailable() {
    let (_folder, path) = database();
    let connections = Connections::open(&path).unwrap();
    let lost: Result<(), _> = connections.write(|_| panic!("on purpose")).await;
    assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
    while !connections.writer_thread.as_ref().unwrap().is_finished() {
        tokio::task::yield_now().await;
    }
    let after = connections.write(|_| Ok(())).await;
    assert!(matches!(after, Err(StoreError::Unavailable(_))), "{after:?}");
    connections.read(|_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn connections_are_durable_and_checked() {
    let (_folder, path) = database();
    let connections = Connections::open(&path).unwrap();
    let settings = connections
        .write(|db| {
            let setting = |name| db.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
            Ok((setting("synchronous")?, setting("foreign_keys")?))
        })
        .await
        .unwrap();
    assert_eq!(settings, (2, 1));
}

#[tokio::test]
async fn closing_empties_the_log_into_the_database() {
    let (folder, path) = database();
    let connections = Connections::open(&path).unwrap();
    connections.write(|db| Ok(db.execute_batch("CREATE TABLE kept (a)")?)).await.unwrap();
    connections.read(|_| Ok(())).await.unwrap();
    drop(connections);
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["overnight.db"]);
}
