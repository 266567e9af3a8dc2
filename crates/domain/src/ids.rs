//! Identifiers. Each is its own type, so that a file can never be mistaken for a batch.
//!
//! Ids of things that people list are made from a version 7 UUID: they sort by creation, which makes the id itself
//! the pagination cursor, and a cursor stays usable after its object was deleted.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text is not an id of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id that starts with `{prefix}`")]
pub struct InvalidId {
    text: String,
    prefix: &'static str,
}

/// The longest id that we accept from a caller: longer text cannot name anything of ours.
const ID_LEN_MAX: usize = 64;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(format!("{}{}", Self::PREFIX, uuid.simple()))
            }

            /// Accepts what has the prefix and only `[A-Za-z0-9_-]` behind it; whether it exists is the store's question.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let tail = text.strip_prefix(Self::PREFIX);
                let is_id = |tail: &str| {
                    !tail.is_empty()
                        && tail.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
                };
                match tail {
                    Some(tail) if text.len() <= ID_LEN_MAX && is_id(tail) => Ok(Self(text.to_owned())),
                    _ => Err(InvalidId {
                        text: text.chars().take(ID_LEN_MAX).collect(),
                        prefix: Self::PREFIX,
                    }),
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

text_id!(
    /// An OpenAI file.
    FileId,
    "file-"
);
text_id!(
    /// An OpenAI upload: a file that arrives in parts.
    UploadId,
    "upload_"
);
text_id!(
    /// One part of an upload.
    PartId,
    "part_"
);
text_id!(
    /// A batch.
    BatchId,
    "batch_"
);
text_id!(
    /// A process that leases chunks.
    WorkerId,
    "worker_"
);
text_id!(
    /// Something that people are told of. The same for every attempt to deliver it.
    NoticeId,
    "notice_"
);

impl BatchId {
    /// The 16 bytes that a result frame carries, and from which the ids of result lines are derived.
    pub fn digest(&self) -> [u8; 16] {
        match self.0.strip_prefix(Self::PREFIX).map(Uuid::parse_str) {
            Some(Ok(uuid)) => uuid.into_bytes(),
            // An id that did not come from `from_uuid` (an import, a test) still has one stable digest.
            _ => xxhash_rust::xxh3::xxh3_128(self.0.as_bytes()).to_be_bytes(),
        }
    }
}

/// Whose object it is. What belongs to another tenant does not exist for the caller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantId(String);

impl TenantId {
    pub const DEFAULT: &'static str = "default";

    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the bytes of a file, a plan or a part lie in the object store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobKey(String);

impl BlobKey {
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Proof of a lease: what writes for a chunk shows it, and a newer lease makes it worthless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseToken(pub u64);

/// Proof of one dispatch. A lease's token alone is not a fence: a forgotten call of the same lease may still answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DispatchToken(pub u64);

/// The number of a chunk within its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkNumber(pub u32);

/// The place of a request in the input, from 0. Blank lines do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestIndex(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_creation() {
        let first = BatchId::from_uuid(Uuid::from_u128(1));
        let second = BatchId::from_uuid(Uuid::from_u128(2));
        assert!(first < second);
    }

    #[test]
    fn refuses_what_could_be_a_path_or_another_kind() {
        for text in ["file-", "file-../../etc", "batch_1", "file-a b", "", "file-\u{e9}"] {
            assert!(FileId::parse(text).is_err(), "`{text}` was taken");
        }
        assert!(FileId::parse(&format!("file-{}", "x".repeat(100))).is_err());
        assert_eq!(FileId::parse("file-abc_-9").expect("a valid id").as_str(), "file-abc_-9");
    }

    #[test]
    fn digest_is_the_uuid() {
        let uuid = Uuid::from_u128(0x0123_4567_89ab_cdef);
        assert_eq!(BatchId::from_uuid(uuid).digest(), uuid.into_bytes());
    }
}
