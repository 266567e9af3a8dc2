//! Uploads and their parts.

use overnight_domain::file::{Upload, UploadStatus};

use super::samples::{at, file, file_id, owner, part, part_id, stranger, upload, upload_id};
use crate::{Result, Store};

pub(super) async fn visible_to_its_tenant_only(store: &dyn Store) -> Result<()> {
    store.create_upload(upload(1)).await?;
    assert!(store.add_part(&owner(), part(1, 1), at(2)).await?);
    assert_eq!(store.upload(&owner(), &upload_id(1)).await?, Some(upload(1)));
    assert_eq!(store.parts(&owner(), &upload_id(1)).await?, [part(1, 1)]);
    assert_eq!(store.upload(&stranger(), &upload_id(1)).await?, None);
    assert_eq!(store.parts(&stranger(), &upload_id(1)).await?, []);
    assert!(!store.add_part(&stranger(), part(2, 1), at(2)).await?);
    assert!(!store.complete_upload(&stranger(), &upload_id(1), &[part_id(1)], file(1)).await?);
    assert_eq!(store.cancel_upload(&stranger(), &upload_id(1)).await?, None);
    assert_eq!(store.upload(&owner(), &upload_id(1)).await?, Some(upload(1)));
    assert_eq!(store.parts(&owner(), &upload_id(1)).await?, [part(1, 1)]);
    assert!(store.create_upload(upload(1)).await.is_err(), "an id was used twice");
    Ok(())
}

pub(super) async fn completed_once(store: &dyn Store) -> Result<()> {
    store.create_upload(upload(1)).await?;
    for number in 1..=2 {
        assert!(store.add_part(&owner(), part(number, 1), at(2)).await?);
    }
    let order = [part_id(2), part_id(1)];
    assert!(store.complete_upload(&owner(), &upload_id(1), &order, file(7)).await?);
    let completed = Upload {
        status: UploadStatus::Completed,
        file: Some(file_id(7)),
        completed_parts: order.to_vec(),
        ..upload(1)
    };
    assert_eq!(store.upload(&owner(), &upload_id(1)).await?, Some(completed.clone()));
    assert_eq!(store.file(&owner(), &file_id(7), at(3)).await?, Some(file(7)));

    assert!(!store.complete_upload(&owner(), &upload_id(1), &order, file(8)).await?);
    assert_eq!(store.file(&owner(), &file_id(8), at(3)).await?, None);
    assert_eq!(store.cancel_upload(&owner(), &upload_id(1)).await?, Some(completed.clone()));
    store.sweep_uploads(at(500), 9).await?;
    assert_eq!(store.upload(&owner(), &upload_id(1)).await?, Some(completed));
    Ok(())
}

pub(super) async fn cancelled_once(store: &dyn Store) -> Result<()> {
    store.create_upload(upload(1)).await?;
    let cancelled = Upload { status: UploadStatus::Cancelled, ..upload(1) };
    for _ in 0..2 {
        assert_eq!(store.cancel_upload(&owner(), &upload_id(1)).await?, Some(cancelled.clone()));
    }
    assert!(!store.complete_upload(&owner(), &upload_id(1), &[], file(7)).await?);
    assert_eq!(store.file(&owner(), &file_id(7), at(3)).await?, None);
    assert_eq!(store.upload(&owner(), &upload_id(1)).await?, Some(cancelled));
    assert_eq!(store.cancel_upload(&owner(), &upload_id(2)).await?, None);
    Ok(())
}

pub(super) async fn parts_only_while_pending(store: &dyn Store) -> Result<()> {
    store.create_upload(upload(1)).await?;
    store.create_upload(upload(2)).await?;
    assert!(!store.add_part(&owner(), part(1, 3), at(2)).await?, "there is no such upload");
    assert!(!store.add_part(&owner(), part(1, 1), at(100)).await?, "the upload has expired");
    assert!(store.add_part(&owner(), part(1, 1), at(99)).await?);
    assert!(store.add_part(&owner(), part(1, 1), at(99)).await.is_err(), "an id was used twice");
    store.cancel_upload(&owner(), &upload_id(2)).await?;
    assert!(!store.add_part(&owner(), part(2, 2), at(2)).await?);
    Ok(())
}

pub(super) async fn swept_after_its_end(store: &dyn Store) -> Result<()> {
    for number in 1..=3 {
        store
            .create_upload(Upload { expires_at: at(100 * u64::from(number)), ..upload(number) })
            .await?;
        assert!(store.add_part(&owner(), part(number, number), at(2)).await?);
    }
    store.cancel_upload(&owner(), &upload_id(3)).await?;
    assert_eq!(store.sweep_uploads(at(99), 9).await?, [part(3, 3)]);
    assert_eq!(store.sweep_uploads(at(100), 9).await?, [part(1, 1), part(3, 3)]);
    assert_eq!(store.sweep_uploads(at(100), 1).await?, [part(1, 1)]);
    let expired = store.upload(&owner(), &upload_id(1)).await?.map(|upload| upload.status);
    assert_eq!(expired, Some(UploadStatus::Expired));
    let pending = store.upload(&owner(), &upload_id(2)).await?.map(|upload| upload.status);
    assert_eq!(pending, Some(UploadStatus::Pending));
    assert!(!store.complete_upload(&owner(), &upload_id(1), &[part_id(1)], file(7)).await?);
    Ok(())
}

pub(super) async fn parts_forgotten_only_after_its_end(store: &dyn Store) -> Result<()> {
    store.create_upload(upload(1)).await?;
    assert!(store.add_part(&owner(), part(1, 1), at(2)).await?);
    store.forget_part(&part_id(1)).await?;
    assert_eq!(store.parts(&owner(), &upload_id(1)).await?, [part(1, 1)]);
    store.cancel_upload(&owner(), &upload_id(1)).await?;
    store.forget_part(&part_id(1)).await?;
    assert_eq!(store.parts(&owner(), &upload_id(1)).await?, []);
    assert_eq!(store.sweep_uploads(at(3), 9).await?, []);
    assert_eq!(store.known_blobs(&[part(1, 1).blob]).await?, []);
    Ok(())
}
