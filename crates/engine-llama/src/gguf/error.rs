//! Why a file is no model that we can load, in sentences for whoever named it.

use std::io;
use std::path::PathBuf;

/// A file with what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the model `{}`: {flaw}", .path.display())]
pub struct GgufError {
    pub path: PathBuf,
    pub flaw: Flaw,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    #[error("{0}")]
    Read(io::Error),
    #[error("it is not a file; name the `.gguf` file itself")]
    NoFile,
    #[error("it is no GGUF file{0}")]
    NotGguf(&'static str),
    #[error("it is GGUF version {0}, and only 2 and 3 can be read; convert the model anew")]
    Version(u32),
    #[error("it was written for big-endian machines; take the file for little-endian ones")]
    BigEndian,
    #[error("it ends at byte {len}, in the midst of its head; fetch or copy it again")]
    HeadCut { len: u64 },
    #[error(
        "it has {len} bytes where its head tells of {needed}: it is not whole; fetch or copy it again"
    )]
    Cut { len: u64, needed: u64 },
    #[error("it is damaged: {0}")]
    Broken(String),
    #[error(
        "the tensor {name} is of type {kind}, which this version of llama.cpp does not have: the file is newer \
         than this program, or older than its formats"
    )]
    Kind { name: String, kind: u32 },
    #[error("part {number} of {count} is missing: `{}`; put all parts into one folder", .path.display())]
    PartMissing { number: u32, count: u32, path: PathBuf },
    #[error("it is part {number} of {count}; name the first part, and the others are found beside it")]
    NotFirstPart { number: u64, count: u64 },
    #[error(
        "it lacks `{0}` in its metadata, so nobody can say what it needs; it may be no language model"
    )]
    Lacking(String),
    #[error("it has no weights, only metadata: a vocabulary, or a test of one")]
    NoWeights,
}

/// What people take for a GGUF file.
pub(super) fn resemblance(magic: [u8; 4]) -> &'static str {
    match &magic {
        b"ggjt" | b"ggml" | b"ggmf" | b"tjgg" | b"lmgg" | b"fmgg" => {
            ", but its predecessor of 2023; convert the model anew"
        }
        b"PK\x03\x04" => {
            ", but a zip archive, as PyTorch writes it; convert it with `convert_hf_to_gguf.py`"
        }
        b"vers" => {
            ", but a pointer of git LFS: the file itself was not fetched; run `git lfs pull`, or fetch it with `hf:`"
        }
        b"<!do" | b"<!DO" | b"<htm" | b"<HTM" => {
            ", but a web page: the download got a page instead of the file"
        }
        [_, _, _, 0] => ", but may be safetensors; convert it with `convert_hf_to_gguf.py`",
        _ => ": it does not begin with `GGUF`",
    }
}

/// A name of the file for a message: short, on one line, in backticks.
pub(super) fn shown(name: &str) -> String {
    const LEN_MAX: usize = 80;
    let short: String = name.chars().take(LEN_MAX).collect();
    let dots = if short.len() < name.len() { "..." } else { "" };
    format!("`{}{dots}`", short.escape_debug())
}
