//! The manifest of an ended batch: what its files were when they were written.

use overnight_domain::file::Sha256;
use overnight_domain::ids::{BatchId, BlobKey};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) batch: BatchId,
    pub(crate) requests: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    /// None when the input file was deleted before the batch had ended.
    pub(crate) input_sha256: Option<Sha256>,
    pub(crate) output_sha256: Option<Sha256>,
    pub(crate) error_sha256: Option<Sha256>,
    /// The endpoints that answered.
    pub(crate) endpoints: Vec<String>,
    pub(crate) model: Option<String>,
}

pub(crate) fn blob(batch: &BatchId) -> BlobKey {
    BlobKey::new(format!("results/{batch}.manifest.json"))
}
