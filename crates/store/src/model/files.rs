//! Files, in the model.

use overnight_domain::file::File;
use overnight_domain::ids::{BlobKey, FileId, TenantId};
use overnight_domain::time::UnixTime;

use super::{FileEntry, State};
use crate::{Direction, FileQuery, Page, Result, StoreError};

impl FileEntry {
    fn is_expired(&self, now: UnixTime) -> bool {
        self.file.expires_at.is_some_and(|end| end <= now)
    }

    fn is_visible(&self, tenant: &TenantId, now: UnixTime) -> bool {
        self.file.tenant == *tenant && !self.is_deleted && !self.is_expired(now)
    }
}

impl State {
    pub(super) fn create_file(&mut self, file: File) -> Result<()> {
        if self.files.contains_key(&file.id) {
            return Err(StoreError::Damaged(format!("there is a file `{}` already", file.id)));
        }
        self.files.insert(file.id.clone(), FileEntry { file, is_deleted: false });
        Ok(())
    }

    pub(super) fn file(&self, tenant: &TenantId, id: &FileId, now: UnixTime) -> Option<File> {
        let entry = self.files.get(id).filter(|entry| entry.is_visible(tenant, now));
        entry.map(|entry| entry.file.clone())
    }

    pub(super) fn list_files(&self, tenant: &TenantId, query: FileQuery, now: UnixTime) -> Page<File> {
        let mut rows = self
            .files
            .values()
            .filter(|entry| entry.is_visible(tenant, now))
            .map(|entry| entry.file.clone())
            .filter(|file| query.purpose.is_none_or(|purpose| file.purpose == purpose))
            .collect::<Vec<_>>();
        if query.direction == Direction::NewestFirst {
            rows.reverse();
        }
        if let Some(after) = query.after {
            rows.retain(|file| match query.direction {
                Direction::NewestFirst => file.id < after,
                Direction::OldestFirst => file.id > after,
            });
        }
        Page::cut(rows, query.limit)
    }

    pub(super) fn delete_file(&mut self, tenant: &TenantId, id: &FileId, now: UnixTime) -> bool {
        let entry = self.files.get_mut(id).filter(|entry| entry.is_visible(tenant, now));
        entry.map(|entry| entry.is_deleted = true).is_some()
    }

    pub(super) fn hide_file(&mut self, id: &FileId) {
        if let Some(entry) = self.files.get_mut(id) {
            entry.is_deleted = true;
        }
    }

    pub(super) fn dead_files(&self, now: UnixTime, limit: usize) -> Vec<File> {
        self.files
            .values()
            .filter(|entry| entry.is_deleted || entry.is_expired(now))
            .filter(|entry| !self.is_needed(&entry.file.id))
            .map(|entry| entry.file.clone())
            .take(limit)
            .collect()
    }

    pub(super) fn forget_file(&mut self, id: &FileId) {
        let can_die =
            self.files.get(id).is_some_and(|entry| entry.is_deleted || entry.file.expires_at.is_some());
        if can_die && !self.is_needed(id) {
            self.files.remove(id);
        }
    }

    pub(super) fn known_blobs(&self, keys: &[BlobKey]) -> Vec<BlobKey> {
        keys.iter().filter(|key| self.is_known_blob(key)).cloned().collect()
    }

    fn is_known_blob(&self, key: &BlobKey) -> bool {
        self.files.values().any(|entry| entry.file.blob == *key)
            || self.parts.values().any(|part| part.blob == *key)
            || self.batches.values().any(|entry| {
                entry.batch.input_blob == *key || entry.batch.plan_blob.as_ref() == Some(key)
            })
    }

    /// An unfinished batch reads its input until it is closed.
    fn is_needed(&self, id: &FileId) -> bool {
        self.unfinished().any(|entry| entry.batch.input_file == *id)
    }
}
