//! One tensor as the head tells of it, and how long its bytes are.

use super::error::{Flaw, shown};
use super::reader::Reader;

/// ggml keeps a name in 64 bytes, the last of which is zero.
const NAME_LEN_MAX: u64 = 63;
const DIMENSIONS_MAX: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub kind: TensorKind,
    pub dimensions: [u64; DIMENSIONS_MAX as usize],
    /// From the start of the file's weights.
    pub offset: u64,
    pub len: u64,
}

/// How the elements of a tensor are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorKind {
    code: u32,
    pub name: &'static str,
    /// Elements of a row that are written together, and the bytes that they take.
    block: u64,
    block_len: u64,
}

const fn kind(code: u32, name: &'static str, block: u64, block_len: u64) -> TensorKind {
    TensorKind { code, name, block, block_len }
}

/// Those of the llama.cpp that we build, by their number; the sums are those of its `ggml-common.h`.
const KINDS: [TensorKind; 35] = [
    kind(0, "F32", 1, 4),
    kind(1, "F16", 1, 2),
    kind(2, "Q4_0", 32, 2 + 16),
    kind(3, "Q4_1", 32, 4 + 16),
    kind(6, "Q5_0", 32, 2 + 4 + 16),
    kind(7, "Q5_1", 32, 4 + 4 + 16),
    kind(8, "Q8_0", 32, 2 + 32),
    kind(9, "Q8_1", 32, 4 + 32),
    kind(10, "Q2_K", 256, 4 + 16 + 64),
    kind(11, "Q3_K", 256, 2 + 64 + 32 + 12),
    kind(12, "Q4_K", 256, 4 + 12 + 128),
    kind(13, "Q5_K", 256, 4 + 12 + 128 + 32),
    kind(14, "Q6_K", 256, 2 + 16 + 192),
    kind(15, "Q8_K", 256, 4 + 256 + 32),
    kind(16, "IQ2_XXS", 256, 2 + 64),
    kind(17, "IQ2_XS", 256, 2 + 64 + 8),
    kind(18, "IQ3_XXS", 256, 2 + 96),
    kind(19, "IQ1_S", 256, 2 + 32 + 16),
    kind(20, "IQ4_NL", 32, 2 + 16),
    kind(21, "IQ3_S", 256, 2 + 104 + 4),
    kind(22, "IQ2_S", 256, 2 + 64 + 16),
    kind(23, "IQ4_XS", 256, 2 + 2 + 4 + 128),
    kind(24, "I8", 1, 1),
    kind(25, "I16", 1, 2),
    kind(26, "I32", 1, 4),
    kind(27, "I64", 1, 8),
    kind(28, "F64", 1, 8),
    kind(29, "IQ1_M", 256, 32 + 16 + 8),
    kind(30, "BF16", 1, 2),
    kind(34, "TQ1_0", 256, 2 + 4 + 48),
    kind(35, "TQ2_0", 256, 2 + 64),
    kind(39, "MXFP4", 32, 1 + 16),
    kind(40, "NVFP4", 64, 4 + 32),
    kind(41, "Q1_0", 128, 2 + 16),
    kind(42, "Q2_0", 64, 2 + 16),
];

impl TensorKind {
    pub(super) fn of(code: u32) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.code == code)
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Tensor, Flaw> {
    let name = reader.text("the name of a tensor", NAME_LEN_MAX)?;
    let count = reader.u32()?;
    if count > DIMENSIONS_MAX {
        return Err(Flaw::Broken(format!("the tensor {} has {count} dimensions", shown(&name))));
    }
    let mut dimensions = [1; DIMENSIONS_MAX as usize];
    for dimension in &mut dimensions[..count as usize] {
        *dimension = reader.u64()?;
    }
    let code = reader.u32()?;
    let kind = TensorKind::of(code).ok_or_else(|| Flaw::Kind { name: shown(&name), kind: code })?;
    let len = bytes_of(kind, dimensions).ok_or_else(|| {
        let shape = dimensions.map(|dimension| dimension.to_string()).join(" x ");
        Flaw::Broken(format!("the tensor {} of type {} cannot be {shape}", shown(&name), kind.name))
    })?;
    Ok(Tensor { name, kind, dimensions, offset: reader.u64()?, len })
}

/// None: no tensor can be like that. Counts are of 63 bits in ggml.
fn bytes_of(kind: TensorKind, dimensions: [u64; DIMENSIONS_MAX as usize]) -> Option<u64> {
    let signed = |number: u64| i64::try_from(number).ok().map(|_| number);
    let elements = dimensions
        .into_iter()
        .try_fold(1u64, |product, dimension| signed(product.checked_mul(signed(dimension)?)?))?;
    if !dimensions[0].is_multiple_of(kind.block) {
        return None;
    }
    (elements / kind.block).checked_mul(kind.block_len)
}
