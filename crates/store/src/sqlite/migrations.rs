//! The schema and its versions: numbered SQL files, each applied once in a transaction of its own.
//!
//! The number of the last one applied is the database's `user_version`. A database of a newer version is refused, since
//! an older program cannot know what its columns mean. There is no way down.

use rusqlite::{Connection, TransactionBehavior};

use crate::{Result, StoreError};

/// Written into the header of the database, so that another program's file is not mistaken for ours: "OVNT".
const APPLICATION_ID: i32 = 0x4f56_4e54;

/// In order; the first one is version 1. A released one never changes.
const MIGRATIONS: [&str; 2] =
    [include_str!("migrations/0001_first.sql"), include_str!("migrations/0002_notices.sql")];

/// Brings the database to the newest version.
pub(super) fn migrate(db: &mut Connection) -> Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied = check(&tx)?;
    for (version, sql) in (1_u32..).zip(MIGRATIONS).filter(|(version, _)| *version > applied) {
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", version)?;
        tracing::info!(version, "migrated the store");
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.commit()?;
    Ok(())
}

/// The version of the database, when it is ours and not newer than we are.
pub(super) fn check(db: &Connection) -> Result<u32> {
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: u32 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = application == 0 && version == 0 && tables == 0;
    if application != APPLICATION_ID && !is_new {
        return Err(StoreError::Damaged("the database belongs to another program".to_owned()));
    }
    let newest = MIGRATIONS.len() as u32;
    if version > newest {
        return Err(StoreError::Damaged(format!(
            "the database has version `{version}` and this program knows versions up to `{newest}`: \
             start it with the newer program that wrote it"
        )));
    }
    Ok(version)
}
