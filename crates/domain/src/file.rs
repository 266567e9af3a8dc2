//! The OpenAI file and the OpenAI upload, as they are kept.

use serde::{Deserialize, Serialize};

use crate::ids::{BlobKey, FileId, PartId, TenantId, UploadId};
use crate::time::UnixTime;

/// Why a file exists. The strings are the closed list that typed clients parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    Assistants,
    Batch,
    BatchOutput,
    Evals,
    #[serde(rename = "fine-tune")]
    FineTune,
    UserData,
    Vision,
}

impl Purpose {
    /// What a caller may upload: `batch_output` is ours alone.
    pub const UPLOADABLE: [Self; 6] =
        [Self::Assistants, Self::Batch, Self::FineTune, Self::Vision, Self::UserData, Self::Evals];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assistants => "assistants",
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
            Self::Evals => "evals",
            Self::FineTune => "fine-tune",
            Self::UserData => "user_data",
            Self::Vision => "vision",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::BatchOutput].into_iter().chain(Self::UPLOADABLE).find(|purpose| purpose.as_str() == text)
    }
}

/// SHA-256 of a file's bytes, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = [0_u8; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(format!("`{text}` is not 64 hexadecimal digits"));
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)
                .map_err(|_| format!("`{text}` is not 64 hexadecimal digits"))?;
        }
        Ok(Self(bytes))
    }
}

/// A stored file. Its bytes never change; it is visible only when they are all durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub id: FileId,
    pub tenant: TenantId,
    pub filename: String,
    pub purpose: Purpose,
    pub len: u64,
    /// Lines as counted on the way in, blank ones included: what admission goes by before anybody has validated.
    pub lines: u64,
    pub sha256: Sha256,
    pub blob: BlobKey,
    pub created_at: UnixTime,
    pub expires_at: Option<UnixTime>,
    /// The caller asked for a batch of any size from this file, with the right to do so.
    pub large: bool,
}

/// The life of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadStatus {
    Pending,
    Completed,
    Cancelled,
    Expired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UploadEvent {
    Complete,
    Cancel,
    Expire,
}

impl UploadStatus {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Completed, Self::Cancelled, Self::Expired];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub fn next(self, event: UploadEvent) -> Result<Self, crate::batch::IllegalTransition> {
        match (self, event) {
            (Self::Pending, UploadEvent::Complete) => Ok(Self::Completed),
            (Self::Pending, UploadEvent::Cancel) => Ok(Self::Cancelled),
            (Self::Pending, UploadEvent::Expire) => Ok(Self::Expired),
            _ => Err(crate::batch::IllegalTransition::new(self.as_str(), event)),
        }
    }
}

/// A file that arrives in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub id: UploadId,
    pub tenant: TenantId,
    pub filename: String,
    pub mime_type: String,
    pub purpose: Purpose,
    /// The length that the caller declared, and that the listed parts must add up to.
    pub len: u64,
    pub status: UploadStatus,
    pub created_at: UnixTime,
    pub expires_at: UnixTime,
    /// Life of the file to be, counted from its own creation.
    pub file_ttl_seconds: Option<u64>,
    pub large: bool,
    pub file: Option<FileId>,
    /// The ordered parts of which the file was made: completing twice with the same list is one completion.
    pub completed_parts: Vec<PartId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub id: PartId,
    pub upload: UploadId,
    pub len: u64,
    pub blob: BlobKey,
    pub created_at: UnixTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_are_read_back() {
        for purpose in Purpose::UPLOADABLE {
            assert_eq!(Purpose::parse(purpose.as_str()), Some(purpose));
        }
        assert_eq!(Purpose::parse("banana"), None);
    }

    #[test]
    fn sha256_is_read_back() {
        let digest = Sha256([0xab; 32]);
        assert_eq!(Sha256::try_from(digest.to_string()), Ok(digest));
        assert!(Sha256::try_from("ab".to_owned()).is_err());
        assert!(Sha256::try_from("zz".repeat(32)).is_err());
    }
}
