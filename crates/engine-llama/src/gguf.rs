//! The head of a GGUF file, read before llama.cpp sees it: what is damaged is told in words, and what memory it needs is
//! known before anything is loaded.
//!
//! From the format's description (`docs/gguf.md` in ggml-org/ggml), versions 2 and 3, little-endian. Everything is bounded:
//! the file comes from anybody.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;

/// Vocabularies have up to some hundred thousand.
const ENTRIES_MAX: u64 = 16 * 1024 * 1024;
const TEXT_LEN_MAX: u64 = 16 * 1024 * 1024;
const TENSORS_MAX: u64 = 1024 * 1024;
const PAIRS_MAX: u64 = 64 * 1024;
const DIMENSIONS_MAX: u32 = 4;
/// Lists up to this length are kept, such as one number for each layer.
const LIST_KEPT_MAX: u64 = 1_024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum GgufError {
    #[error("failed to read the model: {0}")]
    Io(#[from] io::Error),
    #[error("it is no GGUF file: it begins with {0:02x?}")]
    NoGguf([u8; 4]),
    #[error("its GGUF version is {0}, and 2 and 3 are known")]
    Version(u32),
    #[error("it ends in the middle of its head: it was cut, or not downloaded to its end")]
    Cut,
    #[error("its head is damaged: {0}")]
    Damaged(&'static str),
    #[error(
        "it has {has} bytes, and its tensors need {needs}: it was cut, or not downloaded to its end"
    )]
    Short { has: u64, needs: u64 },
}

#[derive(Debug, Clone, PartialEq)]
enum Member {
    Number(u64),
    Text(String),
    Numbers(Vec<u64>),
}

/// What the head says.
#[derive(Debug)]
pub(crate) struct Head {
    members: HashMap<String, Member>,
    pub(crate) file_len: u64,
}

impl Head {
    pub(crate) fn read(path: &Path) -> Result<Self, GgufError> {
        let file = File::open(path)?;
        let file_len = file.metadata()?.len();
        let mut reader = Reader { file: BufReader::new(file), at: 0, file_len };
        let magic = reader.bytes::<4>()?;
        if &magic != b"GGUF" {
            return Err(GgufError::NoGguf(magic));
        }
        let version = reader.u32()?;
        if version != 2 && version != 3 {
            return Err(GgufError::Version(version));
        }
        let (tensors, pairs) = (reader.u64()?, reader.u64()?);
        if tensors > TENSORS_MAX || pairs > PAIRS_MAX {
            return Err(GgufError::Damaged("it counts more tensors or values than any model has"));
        }
        let mut members = HashMap::new();
        for _ in 0..pairs {
            let name = reader.text()?;
            let kind = reader.u32()?;
            if let Some(member) = reader.member(kind)? {
                members.insert(name, member);
            }
        }
        let head = Self { members, file_len };
        let mut end = 0;
        for _ in 0..tensors {
            end = reader.tensor()?.max(end);
        }
        let alignment =
            head.number("general.alignment").filter(|len| len.is_power_of_two()).unwrap_or(32);
        let needs = reader.at.next_multiple_of(alignment).saturating_add(end);
        if needs > file_len {
            return Err(GgufError::Short { has: file_len, needs });
        }
        Ok(head)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.members.get(name)? {
            Member::Number(number) => Some(*number),
            Member::Text(_) | Member::Numbers(_) => None,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.members.get(name)? {
            Member::Text(text) => Some(text),
            Member::Number(_) | Member::Numbers(_) => None,
        }
    }

    /// A value of the model's architecture.
    pub(crate) fn own(&self, name: &str) -> Option<u64> {
        self.number(&self.own_name(name)?)
    }

    /// The same, where it may differ from layer to layer.
    pub(crate) fn own_sum(&self, name: &str, layers: u64) -> Option<u64> {
        match self.members.get(&self.own_name(name)?)? {
            Member::Number(number) => number.checked_mul(layers),
            Member::Numbers(numbers) => numbers.iter().try_fold(0_u64, |sum, one| sum.checked_add(*one)),
            Member::Text(_) => None,
        }
    }

    fn own_name(&self, name: &str) -> Option<String> {
        Some(format!("{}.{name}", self.text("general.architecture")?))
    }
}

struct Reader {
    file: BufReader<File>,
    at: u64,
    file_len: u64,
}

impl Reader {
    fn bytes<const LEN: usize>(&mut self) -> Result<[u8; LEN], GgufError> {
        let mut bytes = [0; LEN];
        self.file.read_exact(&mut bytes).map_err(cut)?;
        self.at += LEN as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn skip(&mut self, len: u64) -> Result<(), GgufError> {
        if len > self.file_len - self.at.min(self.file_len) {
            return Err(GgufError::Cut);
        }
        let step = i64::try_from(len).map_err(|_| GgufError::Damaged("a length is beyond any file"))?;
        self.file.seek_relative(step)?;
        self.at += len;
        Ok(())
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let len = self.u64()?;
        if len > TEXT_LEN_MAX {
            return Err(GgufError::Damaged("a text is longer than any text of a model"));
        }
        if len > self.file_len - self.at.min(self.file_len) {
            return Err(GgufError::Cut);
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact(&mut bytes).map_err(cut)?;
        self.at += len;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A value by the number of its type; None for what is of no use here.
    fn member(&mut self, kind: u32) -> Result<Option<Member>, GgufError> {
        if kind == TEXT {
            return Ok(Some(Member::Text(self.text()?)));
        }
        if kind != LIST {
            return Ok(self.number(kind)?.map(Member::Number));
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if count > ENTRIES_MAX {
            return Err(GgufError::Damaged("a list is longer than any vocabulary"));
        }
        if kind == TEXT {
            for _ in 0..count {
                let len = self.u64()?;
                self.skip(len)?;
            }
            // Of a vocabulary it is the size that counts here.
            return Ok(Some(Member::Number(count)));
        }
        if count > LIST_KEPT_MAX {
            self.skip(count * width(kind)?)?;
            return Ok(None);
        }
        let numbers: Vec<Option<u64>> =
            (0..count).map(|_| self.number(kind)).collect::<Result<_, _>>()?;
        Ok(numbers.into_iter().collect::<Option<_>>().map(Member::Numbers))
    }

    /// None for a fraction or a negative number.
    fn number(&mut self, kind: u32) -> Result<Option<u64>, GgufError> {
        let width = width(kind)?;
        let mut bytes = [0; 8];
        self.file.read_exact(&mut bytes[..width as usize]).map_err(cut)?;
        self.at += width;
        let number = u64::from_le_bytes(bytes);
        let is_signed = matches!(kind, 1 | 3 | 5 | 11);
        let is_negative = is_signed && number >> (width * 8 - 1) == 1;
        Ok((!is_negative && kind != F32 && kind != F64).then_some(number))
    }

    /// Where the tensor ends, counted from the first; as far as it is known how its type is stored.
    fn tensor(&mut self) -> Result<u64, GgufError> {
        self.text()?;
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(GgufError::Damaged("a tensor has more than 4 dimensions"));
        }
        let mut count: u64 = 1;
        for _ in 0..dimensions {
            count = count
                .checked_mul(self.u64()?)
                .ok_or(GgufError::Damaged("a tensor is beyond any file"))?;
        }
        let (kind, offset) = (self.u32()?, self.u64()?);
        let beyond = GgufError::Damaged("a tensor is beyond any file");
        let len = stored_as(kind).map_or(Some(0), |(block, len)| (count / block).checked_mul(len));
        let Some(len) = len else { return Err(beyond) };
        offset.checked_add(len).ok_or(beyond)
    }
}

const F32: u32 = 6;
const TEXT: u32 = 8;
const LIST: u32 = 9;
const F64: u32 = 12;

fn width(kind: u32) -> Result<u64, GgufError> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4 | 5 | F32 => Ok(4),
        10 | 11 | F64 => Ok(8),
        _ => Err(GgufError::Damaged("a value has a type that does not exist")),
    }
}

/// Values of one block and its bytes, for the types whose numbers are fixed since long (`ggml.h`).
const fn stored_as(kind: u32) -> Option<(u64, u64)> {
    match kind {
        0 | 26 => Some((1, 4)),
        1 | 25 | 30 => Some((1, 2)),
        2 => Some((32, 18)),
        3 => Some((32, 20)),
        6 => Some((32, 22)),
        7 => Some((32, 24)),
        8 => Some((32, 34)),
        10 => Some((256, 84)),
        11 => Some((256, 110)),
        12 => Some((256, 144)),
        13 => Some((256, 176)),
        14 => Some((256, 210)),
        _ => None,
    }
}

fn cut(error: io::Error) -> GgufError {
    if error.kind() == io::ErrorKind::UnexpectedEof { GgufError::Cut } else { GgufError::Io(error) }
}

#[cfg(test)]
mod tests;
