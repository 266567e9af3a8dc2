//! A model over all its files, and what it takes to hold it in memory.

use std::path::{Path, PathBuf};

use super::error::{Flaw, GgufError};
use super::{Gguf, Value};
use crate::fetch::split_parts;

/// What was found of a model whose first file was named.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The head of the first file, which has the metadata.
    pub head: Gguf,
    pub paths: Vec<PathBuf>,
    /// Bytes of the weights in all files.
    pub weights_len: u64,
    /// All matrices are written with 32 bits.
    pub is_f32: bool,
    pub shape: Shape,
}

impl ModelFiles {
    /// Opens the file and, where it is the first of several, all others: they must be there and whole.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |flaw| GgufError { path: path.to_owned(), flaw };
        let head = Gguf::open(path)?;
        let mut weights_len = head.weights_len;
        let paths = parts_of(path, &head).map_err(failed)?;
        let mut is_f32 = has_f32_only(&head);
        for part in paths.iter().skip(1) {
            let part = Gguf::open(part)?;
            weights_len = weights_len.saturating_add(part.weights_len);
            is_f32 &= has_f32_only(&part);
        }
        if weights_len == 0 {
            return Err(failed(Flaw::NoWeights));
        }
        let shape = Shape::of(&head).map_err(failed)?;
        Ok(Self { head, paths, weights_len, is_f32, shape })
    }

    /// Bytes for the weights and so many cells: what a context of that size needs at least. The working memory of the
    /// computing itself comes on top.
    pub fn memory(&self, cells: u64, element_len: u64) -> u64 {
        self.weights_len.saturating_add(self.shape.cells_len(cells, element_len))
    }
}

/// Vectors have 32 bits in every file.
fn has_f32_only(head: &Gguf) -> bool {
    head.tensors.iter().all(|tensor| tensor.dimensions[1] == 1 || tensor.kind.name == "F32")
}

fn parts_of(path: &Path, head: &Gguf) -> Result<Vec<PathBuf>, Flaw> {
    let count = head.number("split.count").unwrap_or_default();
    if count <= 1 {
        return Ok(vec![path.to_owned()]);
    }
    let number = head.number("split.no").unwrap_or_default();
    if number != 0 {
        return Err(Flaw::NotFirstPart { number: number.saturating_add(1), count });
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let names = split_parts(name).filter(|names| names.len() as u64 == count).ok_or_else(|| {
        Flaw::Broken(format!(
            "it is the first of {count} parts, and llama.cpp finds the others only if it is called \
             `NAME-00001-of-{count:05}.gguf`"
        ))
    })?;
    let paths: Vec<PathBuf> = names.iter().map(|name| path.with_file_name(name)).collect();
    match (1..).zip(&paths).find(|(_, path)| !path.exists()) {
        Some((number, path)) => {
            Err(Flaw::PartMissing { number, count: paths.len() as u32, path: path.clone() })
        }
        None => Ok(paths),
    }
}

/// The figures of a model that decide how much memory its context takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub architecture: String,
    pub name: Option<String>,
    pub layers: u64,
    /// What it was trained with.
    pub context_len: Option<u64>,
    pub embedding_len: u64,
    pub vocabulary_len: Option<u64>,
    /// Of the widest layer.
    pub feed_forward_len: Option<u64>,
    /// Encoders look at what follows too, and keep nothing of what they have read.
    pub is_causal: bool,
    pub pooling: Pooling,
    pub heads: u64,
    /// Elements of keys and values in one cell, over all layers.
    pub cell_elements: u64,
}

impl Shape {
    pub fn of(head: &Gguf) -> Result<Self, Flaw> {
        let architecture = head
            .text("general.architecture")
            .ok_or_else(|| Flaw::Lacking("general.architecture".to_owned()))?
            .to_owned();
        let key = |name: &str| format!("{architecture}.{name}");
        let needed = |name: &str| head.number(&key(name)).ok_or_else(|| Flaw::Lacking(key(name)));
        let layers = needed("block_count")?;
        let embedding_len = needed("embedding_length")?;
        let vocabulary_len = head
            .metadata
            .get("tokenizer.ggml.tokens")
            .and_then(Value::list_len)
            .or_else(|| head.number(&key("vocab_size")));
        Ok(Self {
            layers,
            embedding_len,
            vocabulary_len,
            feed_forward_len: largest(head.metadata.get(&key("feed_forward_length"))),
            is_causal: head.metadata.get(&key("attention.causal")) != Some(&Value::Bool(false))
                && !ENCODERS.contains(&architecture.as_str()),
            pooling: Pooling::of(head.number(&key("pooling_type"))),
            heads: heads(head, &architecture),
            name: head.text("general.name").map(str::to_owned),
            context_len: head.number(&key("context_length")),
            cell_elements: cell_elements(head, &architecture, layers, embedding_len),
            architecture,
        })
    }

    /// Why this engine cannot use it, whatever its size: llama.cpp reads the file, and would then compute nonsense or end
    /// the process.
    pub fn unfit(&self) -> Option<&'static str> {
        match self.architecture.as_str() {
            "t5" | "t5encoder" => Some(
                "it reads with an encoder and answers with a decoder of its own, which this engine does not do: use a \
                 model that only decodes, as most do that answer, or one that was made for embeddings",
            ),
            "dream" | "llada" | "llada-moe" | "rnd1" => Some(
                "it makes all words of an answer at once by diffusion, and this engine one after the other: use a model \
                 that does, as most do",
            ),
            "eagle3" | "dflash" | "gemma4-assistant" => {
                Some("it drafts for another model and does not answer by itself: use that one")
            }
            "clip" | "wavtokenizer-dec" | "qwen3tts" | "pockettts" | "clef" => Some(
                "it is a part for images, sound or scores and makes no texts: use one that was made for texts",
            ),
            _ => None,
        }
    }

    /// Whether it was made to continue texts, and not to embed them.
    pub fn generates(&self) -> bool {
        self.is_causal && self.pooling != Pooling::Vector
    }

    /// Bytes of so many cells, with elements of so many bytes: 2 for F16.
    pub fn cells_len(&self, cells: u64, element_len: u64) -> u64 {
        self.cell_elements.saturating_mul(cells).saturating_mul(element_len)
    }
}

/// Encoders by llama.cpp's code, which keeps no cells for them, whatever their files say.
const ENCODERS: [&str; 9] = [
    "bert",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
];

/// What is made of the vectors of an input's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The file says nothing: it was not made for embeddings.
    Unsaid,
    Vector,
    /// One number: how well a text answers a question.
    Rank,
}

impl Pooling {
    /// By llama.cpp's numbers.
    const fn of(number: Option<u64>) -> Self {
        match number {
            None | Some(0) => Self::Unsaid,
            Some(4) => Self::Rank,
            Some(_) => Self::Vector,
        }
    }
}

/// Of the layer that has the most.
fn heads(head: &Gguf, architecture: &str) -> u64 {
    largest(head.metadata.get(&format!("{architecture}.attention.head_count"))).unwrap_or(1).max(1)
}

/// Of a figure that may be one for all layers or one for each.
fn largest(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Numbers(numbers) => numbers.iter().copied().max(),
        other => other.number(),
    }
}

/// Every layer counts as one that looks at the whole context: with a sliding window or a state in place of attention it
/// takes less, so this is a bound and no promise.
fn cell_elements(head: &Gguf, architecture: &str, layers: u64, embedding_len: u64) -> u64 {
    let value = |name: &str| head.metadata.get(&format!("{architecture}.{name}"));
    let number = |name: &str| value(name).and_then(Value::number);
    let heads = heads(head, architecture);
    let head_len = embedding_len / heads;
    let key_len = number("attention.key_length").unwrap_or(head_len);
    let value_len = number("attention.value_length").unwrap_or(head_len);
    let pairs = match value("attention.head_count_kv") {
        Some(Value::Numbers(heads)) => heads.iter().fold(0u64, |sum, heads| sum.saturating_add(*heads)),
        other => other.and_then(Value::number).unwrap_or(heads).saturating_mul(layers),
    };
    pairs.saturating_mul(key_len.saturating_add(value_len))
}
