//! A value of the metadata. Numbers and short texts are kept, of long lists only how long they are.

use std::fmt;

use overnight_domain::limits::{GGUF_LIST_KEPT_MAX, GGUF_TEXT_LEN_MAX};

use super::error::{Flaw, shown};
use super::reader::Reader;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64, ValueKind),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    /// A short list of numbers: some models have a figure for each layer.
    Numbers(Vec<u64>),
    /// Any other list: its length, in elements.
    List(u64),
}

/// The types of the format that a list or a value can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Value {
    /// As a count: what is negative or no number is none.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number, _) => Some(*number),
            Self::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Of a list: how many elements it has.
    pub fn list_len(&self) -> Option<u64> {
        match self {
            Self::Numbers(numbers) => Some(numbers.len() as u64),
            Self::List(len) => Some(*len),
            _ => None,
        }
    }

    pub(super) fn kept_len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Numbers(numbers) => 8 * numbers.len() as u64,
            _ => 0,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number, _) => write!(f, "{number}"),
            Self::Signed(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::Text(text) => f.write_str(&shown(text)),
            Self::Numbers(numbers) => write!(f, "a list of {} numbers", numbers.len()),
            Self::List(len) => write!(f, "a list of {len}"),
        }
    }
}

impl ValueKind {
    fn of(code: u32, key: &str) -> Result<Self, Flaw> {
        const ALL: [ValueKind; 13] = [
            ValueKind::U8,
            ValueKind::I8,
            ValueKind::U16,
            ValueKind::I16,
            ValueKind::U32,
            ValueKind::I32,
            ValueKind::F32,
            ValueKind::Bool,
            ValueKind::Text,
            ValueKind::List,
            ValueKind::U64,
            ValueKind::I64,
            ValueKind::F64,
        ];
        ALL.get(code as usize)
            .copied()
            .ok_or_else(|| Flaw::Broken(format!("the key {} is of the unknown type {code}", shown(key))))
    }

    /// None: of differing lengths.
    fn element_len(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::List => None,
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>, key: &str) -> Result<Value, Flaw> {
    match ValueKind::of(reader.u32()?, key)? {
        ValueKind::List => read_list(reader, key),
        kind => read_one(reader, kind, key),
    }
}

fn read_one(reader: &mut Reader<'_>, kind: ValueKind, key: &str) -> Result<Value, Flaw> {
    Ok(match kind {
        ValueKind::U8 => Value::Unsigned(reader.bytes::<1>()?[0].into(), kind),
        ValueKind::U16 => Value::Unsigned(u16::from_le_bytes(reader.bytes()?).into(), kind),
        ValueKind::U32 => Value::Unsigned(reader.u32()?.into(), kind),
        ValueKind::U64 => Value::Unsigned(reader.u64()?, kind),
        ValueKind::I8 => Value::Signed(i8::from_le_bytes(reader.bytes()?).into()),
        ValueKind::I16 => Value::Signed(i16::from_le_bytes(reader.bytes()?).into()),
        ValueKind::I32 => Value::Signed(i32::from_le_bytes(reader.bytes()?).into()),
        ValueKind::I64 => Value::Signed(i64::from_le_bytes(reader.bytes()?)),
        ValueKind::F32 => Value::Float(f32::from_le_bytes(reader.bytes()?).into()),
        ValueKind::F64 => Value::Float(f64::from_le_bytes(reader.bytes()?)),
        ValueKind::Bool => Value::Bool(reader.bytes::<1>()?[0] != 0),
        ValueKind::Text => {
            Value::Text(reader.text(&format!("the value of {}", shown(key)), GGUF_TEXT_LEN_MAX)?)
        }
        ValueKind::List => return Err(nested(key)),
    })
}

fn read_list(reader: &mut Reader<'_>, key: &str) -> Result<Value, Flaw> {
    let kind = ValueKind::of(reader.u32()?, key)?;
    let len = reader.u64()?;
    let Some(element_len) = kind.element_len() else {
        return read_texts(reader, kind, len, key);
    };
    reader.reserve(len.saturating_mul(element_len))?;
    let is_kept = len <= GGUF_LIST_KEPT_MAX && !matches!(kind, ValueKind::F32 | ValueKind::F64);
    if !is_kept {
        reader.skip(len * element_len)?;
        return Ok(Value::List(len));
    }
    let mut numbers = Vec::with_capacity(len as usize);
    for _ in 0..len {
        let number = match read_one(reader, kind, key)? {
            Value::Bool(truth) => Some(truth.into()),
            value => value.number(),
        };
        numbers.extend(number);
    }
    // With a negative number in it, it counts nothing.
    Ok(if numbers.len() as u64 == len { Value::Numbers(numbers) } else { Value::List(len) })
}

/// The vocabulary, mostly: passed over.
fn read_texts(reader: &mut Reader<'_>, kind: ValueKind, len: u64, key: &str) -> Result<Value, Flaw> {
    if kind == ValueKind::List {
        return Err(nested(key));
    }
    reader.reserve(len.saturating_mul(8))?;
    for _ in 0..len {
        let text_len = reader.u64()?;
        reader.skip(text_len)?;
    }
    Ok(Value::List(len))
}

fn nested(key: &str) -> Flaw {
    Flaw::Broken(format!("the key {} is a list of lists, which llama.cpp does not read", shown(key)))
}
