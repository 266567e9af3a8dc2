//! Uploads and their parts, in the model.

use overnight_domain::file::{File, Part, Upload, UploadEvent, UploadStatus};
use overnight_domain::ids::{PartId, TenantId, UploadId};
use overnight_domain::time::UnixTime;

use super::State;
use crate::{Result, StoreError};

impl State {
    pub(super) fn create_upload(&mut self, upload: Upload) -> Result<()> {
        if self.uploads.contains_key(&upload.id) {
            return Err(StoreError::Damaged(format!("there is an upload `{}` already", upload.id)));
        }
        self.uploads.insert(upload.id.clone(), upload);
        Ok(())
    }

    pub(super) fn upload(&self, tenant: &TenantId, id: &UploadId) -> Option<Upload> {
        self.uploads.get(id).filter(|upload| upload.tenant == *tenant).cloned()
    }

    pub(super) fn add_part(&mut self, tenant: &TenantId, part: Part, now: UnixTime) -> Result<bool> {
        let is_open = self
            .upload(tenant, &part.upload)
            .is_some_and(|upload| upload.status == UploadStatus::Pending && upload.expires_at > now);
        if !is_open {
            return Ok(false);
        }
        if self.parts.contains_key(&part.id) {
            return Err(StoreError::Damaged(format!("there is a part `{}` already", part.id)));
        }
        self.parts.insert(part.id.clone(), part);
        Ok(true)
    }

    pub(super) fn parts(&self, tenant: &TenantId, id: &UploadId) -> Vec<Part> {
        match self.upload(tenant, id) {
            Some(_) => self.parts.values().filter(|part| part.upload == *id).cloned().collect(),
            None => Vec::new(),
        }
    }

    pub(super) fn complete_upload(
        &mut self,
        tenant: &TenantId,
        id: &UploadId,
        parts: &[PartId],
        file: File,
    ) -> Result<bool> {
        let Some(mut upload) = self.upload(tenant, id) else { return Ok(false) };
        let Ok(status) = upload.status.next(UploadEvent::Complete) else { return Ok(false) };
        upload.status = status;
        upload.file = Some(file.id.clone());
        upload.completed_parts = parts.to_vec();
        self.create_file(file)?;
        self.uploads.insert(id.clone(), upload);
        Ok(true)
    }

    pub(super) fn cancel_upload(&mut self, tenant: &TenantId, id: &UploadId) -> Option<Upload> {
        let upload = self.uploads.get_mut(id).filter(|upload| upload.tenant == *tenant)?;
        if let Ok(status) = upload.status.next(UploadEvent::Cancel) {
            upload.status = status;
        }
        Some(upload.clone())
    }

    pub(super) fn sweep_uploads(&mut self, now: UnixTime, limit: usize) -> Vec<Part> {
        for upload in self.uploads.values_mut().filter(|upload| upload.expires_at <= now) {
            if let Ok(status) = upload.status.next(UploadEvent::Expire) {
                upload.status = status;
            }
        }
        self.parts.values().filter(|part| !self.is_pending(part)).take(limit).cloned().collect()
    }

    pub(super) fn forget_part(&mut self, id: &PartId) {
        if self.parts.get(id).is_some_and(|part| !self.is_pending(part)) {
            self.parts.remove(id);
        }
    }

    fn is_pending(&self, part: &Part) -> bool {
        self.uploads.get(&part.upload).is_some_and(|upload| upload.status == UploadStatus::Pending)
    }
}
