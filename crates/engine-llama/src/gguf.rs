//! What a GGUF file says of itself: its metadata and which tensors lie where. Read before llama.cpp sees the file, so
//! that one that is cut off, damaged or no GGUF at all is refused with a sentence, and memory is estimated from figures.
//!
//! Guarantees: no byte of the file is trusted. Every length is held against the length of the file and against a limit
//! before memory is taken for it; what llama.cpp refuses in a header is refused here too, in its order. Deliberately
//! absent: the weights, the tokens of the vocabulary (only their count), and files of big-endian machines.

mod error;
mod model;
mod reader;
mod tensor;
mod value;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use overnight_domain::limits::{
    GGUF_HEADER_LEN_MAX, GGUF_KEPT_LEN_MAX, GGUF_KEY_LEN_MAX, GGUF_KEYS_MAX, GGUF_TENSORS_MAX,
};

pub use error::{Flaw, GgufError};
pub use model::{ModelFiles, Pooling, Shape};
pub use tensor::{Tensor, TensorKind};
pub use value::Value;

use reader::Reader;
use value::ValueKind;

/// Where the format has nothing else to say about it.
const ALIGNMENT: u64 = 32;
/// The shortest that a pair and a tensor can be: what a count must fit into what is left of the file with.
const PAIR_LEN_MIN: u64 = 8 + 1 + 4 + 1;
const TENSOR_LEN_MIN: u64 = 8 + 4 + 4 + 8;
/// Room for a key and a value in the map, beside their bytes.
const PAIR_OVERHEAD: u64 = 96;

/// The head of one file.
#[derive(Debug, Clone)]
pub struct Gguf {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<Tensor>,
    /// Where the first tensor's bytes begin.
    pub data_start: u64,
    /// Bytes of all tensors together.
    pub weights_len: u64,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let read = || {
            let file = File::open(path).map_err(Flaw::Read)?;
            let found = file.metadata().map_err(Flaw::Read)?;
            if !found.is_file() {
                return Err(Flaw::NoFile);
            }
            Self::read(&mut BufReader::with_capacity(256 << 10, file), found.len())
        };
        read().map_err(|flaw| GgufError { path: path.to_owned(), flaw })
    }

    /// `len`: of the whole file, the weights too.
    pub fn read(source: &mut dyn BufRead, len: u64) -> Result<Self, Flaw> {
        let mut reader = Reader::new(source, len.min(GGUF_HEADER_LEN_MAX), len);
        let version = read_version(&mut reader)?;
        let tensor_count = reader.count("tensors", GGUF_TENSORS_MAX, TENSOR_LEN_MIN)?;
        let pair_count = reader.count("pairs of metadata", GGUF_KEYS_MAX, PAIR_LEN_MIN)?;
        let metadata = read_metadata(&mut reader, pair_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = read_tensors(&mut reader, tensor_count)?;
        let data_start = reader.at().next_multiple_of(alignment);
        let weights_len = check_places(&tensors, alignment, data_start, len)?;
        Ok(Self { version, metadata, tensors, data_start, weights_len })
    }

    /// A number of the metadata, whichever integer type the writer took for it.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.metadata.get(key)?.number()
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<u32, Flaw> {
    let magic = reader.magic()?;
    if &magic != b"GGUF" {
        return Err(Flaw::NotGguf(error::resemblance(magic)));
    }
    let version = reader.u32()?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(Flaw::Version(1)),
        // The bytes of a small number, read from the wrong end.
        1.. if version.trailing_zeros() >= 16 => Err(Flaw::BigEndian),
        _ => Err(Flaw::Version(version)),
    }
}

fn read_metadata(reader: &mut Reader<'_>, count: u64) -> Result<BTreeMap<String, Value>, Flaw> {
    let mut metadata = BTreeMap::new();
    let mut room = GGUF_KEPT_LEN_MAX;
    for _ in 0..count {
        let key = reader.text("a key", GGUF_KEY_LEN_MAX)?;
        if key.is_empty() {
            return Err(Flaw::Broken("a key of the metadata is empty".to_owned()));
        }
        let value = value::read(reader, &key)?;
        let kept = key.len() as u64 + value.kept_len() + PAIR_OVERHEAD;
        room = room.checked_sub(kept).ok_or_else(|| {
            Flaw::Broken(format!("its metadata is longer than {GGUF_KEPT_LEN_MAX} bytes without lists"))
        })?;
        if metadata.contains_key(&key) {
            return Err(Flaw::Broken(format!("the key {} is there twice", error::shown(&key))));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, Flaw> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(alignment, ValueKind::U32)) if alignment.is_power_of_two() => {
            Ok(*alignment)
        }
        Some(other) => {
            Err(Flaw::Broken(format!("`general.alignment` is {other}, not a power of two of 32 bits")))
        }
    }
}

fn read_tensors(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Tensor>, Flaw> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        let tensor = tensor::read(reader)?;
        if !names.insert(tensor.name.clone()) {
            let name = error::shown(&tensor.name);
            return Err(Flaw::Broken(format!("the tensor {name} is there twice")));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// The tensors lie one behind the other, and all of them in the file: what an interrupted download leaves out is seen
/// here.
fn check_places(tensors: &[Tensor], alignment: u64, start: u64, len: u64) -> Result<u64, Flaw> {
    let (mut expected, mut weights_len) = (0u64, 0u64);
    for tensor in tensors {
        let too_far = || {
            let name = error::shown(&tensor.name);
            Flaw::Broken(format!("the tensor {name} does not lie where the one before it ends"))
        };
        if tensor.offset != expected {
            return Err(too_far());
        }
        let end = expected.checked_add(tensor.len).ok_or_else(too_far)?;
        expected = end.checked_next_multiple_of(alignment).ok_or_else(too_far)?;
        let needed = start.checked_add(end).ok_or_else(too_far)?;
        if needed > len {
            let whole = tensors.iter().fold(start, |sum, tensor| {
                sum.saturating_add(tensor.len.checked_next_multiple_of(alignment).unwrap_or(u64::MAX))
            });
            return Err(Flaw::Cut { len, needed: whole.max(needed) });
        }
        weights_len += tensor.len;
    }
    Ok(weights_len)
}
