//! Files.

use overnight_domain::file::{File, Purpose};
use overnight_domain::ids::{BlobKey, FileId};
use overnight_domain::time::UnixTime;

use super::samples::{
    at, batch, closing, create, file, file_id, owner, part, planned, stranger, upload,
};
use crate::{Direction, FileQuery, Result, Store};

fn query(direction: Direction, after: Option<FileId>) -> FileQuery {
    FileQuery { purpose: None, direction, after, limit: 2 }
}

fn ids(files: &[File]) -> Vec<&FileId> {
    files.iter().map(|file| &file.id).collect()
}

pub(super) async fn visible_to_its_tenant_only(store: &dyn Store) -> Result<()> {
    store.create_file(file(1)).await?;
    assert_eq!(store.file(&owner(), &file_id(1), at(2)).await?, Some(file(1)));
    assert_eq!(store.file(&stranger(), &file_id(1), at(2)).await?, None);
    assert_eq!(
        store.list_files(&stranger(), query(Direction::NewestFirst, None), at(2)).await?.rows,
        []
    );
    assert!(!store.delete_file(&stranger(), &file_id(1), at(2)).await?);
    assert_eq!(store.file(&owner(), &file_id(1), at(2)).await?, Some(file(1)));
    assert!(store.create_file(file(1)).await.is_err(), "an id was used twice");
    Ok(())
}

pub(super) async fn listed_both_ways_in_pages(store: &dyn Store) -> Result<()> {
    for number in [3, 1, 5, 2, 4] {
        let purpose = if number == 5 { Purpose::UserData } else { Purpose::Batch };
        store.create_file(File { purpose, ..file(number) }).await?;
    }
    let newest = store.list_files(&owner(), query(Direction::NewestFirst, None), at(9)).await?;
    assert_eq!((ids(&newest.rows), newest.has_more), (vec![&file_id(5), &file_id(4)], true));
    let oldest = store.list_files(&owner(), query(Direction::OldestFirst, None), at(9)).await?;
    assert_eq!((ids(&oldest.rows), oldest.has_more), (vec![&file_id(1), &file_id(2)], true));

    // The cursor keeps its place after its file was deleted.
    assert!(store.delete_file(&owner(), &file_id(3), at(9)).await?);
    let after = Some(file_id(3));
    let newest = store.list_files(&owner(), query(Direction::NewestFirst, after.clone()), at(9)).await?;
    assert_eq!((ids(&newest.rows), newest.has_more), (vec![&file_id(2), &file_id(1)], false));
    let oldest = store.list_files(&owner(), query(Direction::OldestFirst, after), at(9)).await?;
    assert_eq!((ids(&oldest.rows), oldest.has_more), (vec![&file_id(4), &file_id(5)], false));

    let only = FileQuery { purpose: Some(Purpose::UserData), ..query(Direction::NewestFirst, None) };
    let page = store.list_files(&owner(), only, at(9)).await?;
    assert_eq!((ids(&page.rows), page.has_more), (vec![&file_id(5)], false));
    Ok(())
}

pub(super) async fn hidden_by_deletion_and_expiry(store: &dyn Store) -> Result<()> {
    let short = File { expires_at: Some(at(10)), ..file(1) };
    store.create_file(short.clone()).await?;
    store.create_file(file(2)).await?;
    assert_eq!(
        store.file(&owner(), &short.id, UnixTime::from_millis(9_999)).await?,
        Some(short.clone())
    );
    assert_eq!(store.file(&owner(), &short.id, at(10)).await?, None);
    assert!(!store.delete_file(&owner(), &short.id, at(10)).await?, "an expired file was there");
    assert!(store.delete_file(&owner(), &file_id(2), at(9)).await?);
    assert!(!store.delete_file(&owner(), &file_id(2), at(9)).await?, "deleted twice");
    assert_eq!(store.file(&owner(), &file_id(2), at(9)).await?, None);
    let page = store.list_files(&owner(), query(Direction::NewestFirst, None), at(10)).await?;
    assert_eq!((page.rows, page.has_more), (vec![], false));
    Ok(())
}

pub(super) async fn dead_only_when_no_batch_needs_it(store: &dyn Store) -> Result<()> {
    for number in 1..=3 {
        store.create_file(file(number)).await?;
    }
    store.create_file(File { expires_at: Some(at(20)), ..file(4) }).await?;
    create(store, batch(1)).await?;
    for number in 1..=2 {
        assert!(store.delete_file(&owner(), &file_id(number), at(9)).await?);
    }
    assert_eq!(ids(&store.dead_files(at(9), 9).await?), [&file_id(2)]);
    assert_eq!(ids(&store.dead_files(at(20), 9).await?), [&file_id(2), &file_id(4)]);
    assert_eq!(ids(&store.dead_files(at(20), 1).await?), [&file_id(2)]);

    // It is needed until the batch is terminal, not only until the batch ends.
    store.cancel_batch(&owner(), &batch(1).id, at(21)).await?;
    assert_eq!(ids(&store.dead_files(at(9), 9).await?), [&file_id(2)]);
    store.close_batch(&batch(1).id, closing(8, 9), at(22)).await?;
    assert_eq!(ids(&store.dead_files(at(9), 9).await?), [&file_id(1), &file_id(2)]);
    Ok(())
}

pub(super) async fn forgotten_only_when_it_may_die(store: &dyn Store) -> Result<()> {
    for number in 1..=3 {
        store.create_file(file(number)).await?;
    }
    create(store, batch(1)).await?;
    for number in 1..=2 {
        assert!(store.delete_file(&owner(), &file_id(number), at(9)).await?);
    }
    for number in 1..=3 {
        store.forget_file(&file_id(number)).await?;
    }
    let blobs = [1, 2, 3].map(|number| file(number).blob);
    assert_eq!(store.known_blobs(&blobs).await?, [blobs[0].clone(), blobs[2].clone()]);
    assert_eq!(store.dead_files(at(9), 9).await?, []);
    assert_eq!(store.file(&owner(), &file_id(3), at(9)).await?, Some(file(3)));
    // The first was needed when somebody wanted it forgotten, and is still there when it no longer is.
    store.cancel_batch(&owner(), &batch(1).id, at(10)).await?;
    store.close_batch(&batch(1).id, closing(8, 9), at(11)).await?;
    assert_eq!(ids(&store.dead_files(at(12), 9).await?), [&file_id(1)]);
    Ok(())
}

pub(super) async fn blobs_that_are_known(store: &dyn Store) -> Result<()> {
    store.create_file(file(1)).await?;
    store.delete_file(&owner(), &file_id(1), at(2)).await?;
    store.create_upload(upload(2)).await?;
    store.add_part(&owner(), part(2, 2), at(3)).await?;
    create(store, batch(3)).await?;
    store.plan_batch(&batch(3).id, planned(1), at(4)).await?;
    let unknown = BlobKey::new("files/unknown");
    let known = [file(1).blob, part(2, 2).blob, batch(3).input_blob, planned(1).plan_blob];
    let mut asked = known.to_vec();
    asked.insert(2, unknown);
    assert_eq!(store.known_blobs(&asked).await?, known);
    assert_eq!(store.known_blobs(&[]).await?, []);
    Ok(())
}
