use std::fs;
use std::path::Path;

use overnight_domain::limits::GGUF_TEXT_LEN_MAX;

use super::*;

/// Writes a file as `gguf-py` does.
#[derive(Clone, Default)]
pub(super) struct Writer {
    pairs: Vec<u8>,
    pair_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data_len: u64,
}

impl Writer {
    pub(super) fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.extend(text(key));
        self.pairs.extend(kind.to_le_bytes());
        self.pairs.extend(value);
        self.pair_count += 1;
        self
    }

    fn number(self, key: &str, number: u32) -> Self {
        self.pair(key, 4, &number.to_le_bytes())
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &text(value))
    }

    fn list(self, key: &str, kind: u32, len: u64, elements: &[u8]) -> Self {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend(len.to_le_bytes());
        value.extend(elements);
        self.pair(key, 9, &value)
    }

    fn tensor(mut self, name: &str, kind: u32, dimensions: &[u64], len: u64) -> Self {
        self.tensors.extend(text(name));
        self.tensors.extend((dimensions.len() as u32).to_le_bytes());
        for dimension in dimensions {
            self.tensors.extend(dimension.to_le_bytes());
        }
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(self.data_len.to_le_bytes());
        self.data_len = (self.data_len + len).next_multiple_of(ALIGNMENT);
        self.tensor_count += 1;
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.pair_count.to_le_bytes());
        bytes.extend(&self.pairs);
        bytes.extend(&self.tensors);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize) + self.data_len as usize, 0);
        bytes
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

pub(super) fn llama() -> Writer {
    let tokens: Vec<u8> = ["a", "bc", ""].iter().flat_map(|token| text(token)).collect();
    Writer::default()
        .text("general.architecture", "llama")
        .text("general.name", "a small one")
        .number("llama.block_count", 2)
        .number("llama.context_length", 4_096)
        .number("llama.embedding_length", 64)
        .number("llama.attention.head_count", 4)
        .number("llama.attention.head_count_kv", 2)
        .list("tokenizer.ggml.tokens", 8, 3, &tokens)
        .list("tokenizer.ggml.scores", 6, 3, &[0; 12])
        .tensor("token_embd.weight", 8, &[64, 3], 3 * 2 * 34)
        .tensor("output_norm.weight", 0, &[64], 256)
}

pub(super) fn read(bytes: &[u8]) -> Result<Gguf, Flaw> {
    Gguf::read(&mut &*bytes, bytes.len() as u64)
}

fn refused(bytes: &[u8]) -> String {
    read(bytes).expect_err("refused").to_string()
}

#[test]
fn a_head_is_read_and_memory_estimated_from_it() {
    let head = read(&llama().bytes()).unwrap();
    assert_eq!((head.version, head.tensors.len(), head.weights_len), (3, 2, 204 + 256));
    assert_eq!(head.tensors[0].kind.name, "Q8_0");
    assert_eq!(head.tensors[0].len, 204);
    assert_eq!(head.number("llama.context_length"), Some(4_096));
    let shape = Shape::of(&head).unwrap();
    // Two layers of two heads with keys and values of 16 elements.
    let expected = Shape {
        architecture: "llama".to_owned(),
        name: Some("a small one".to_owned()),
        layers: 2,
        context_len: Some(4_096),
        embedding_len: 64,
        vocabulary_len: Some(3),
        feed_forward_len: None,
        is_causal: true,
        pooling: Pooling::Unsaid,
        heads: 4,
        cell_elements: 2 * 2 * (16 + 16),
    };
    assert_eq!(shape, expected);
    assert_eq!(shape.cells_len(1_000, 2), 256_000);
}

#[test]
fn figures_for_each_layer_and_lengths_of_their_own_count() {
    let heads: Vec<u8> = [2_u32, 0, 1].iter().flat_map(|heads| heads.to_le_bytes()).collect();
    let head = Writer::default()
        .text("general.architecture", "gemma9")
        .number("gemma9.block_count", 3)
        .number("gemma9.embedding_length", 64)
        .number("gemma9.attention.head_count", 4)
        .list("gemma9.attention.head_count_kv", 5, 3, &heads)
        .number("gemma9.attention.key_length", 32)
        .number("gemma9.attention.value_length", 24)
        .list("gemma9.feed_forward_length", 5, 3, &heads)
        .pair("gemma9.attention.causal", 7, &[0]);
    let shape = Shape::of(&read(&head.bytes()).unwrap()).unwrap();
    assert_eq!(shape.cell_elements, 3 * (32 + 24));
    assert_eq!((shape.feed_forward_len, shape.is_causal), (Some(2), false));
}

/// EmbeddingGemma's file says nothing of its attention: it was taken for a model that answers.
#[test]
fn what_llama_cpp_knows_of_an_architecture_is_known_here() {
    let shape = |architecture: &str| {
        let key = |name: &str| format!("{architecture}.{name}");
        let head = Writer::default()
            .text("general.architecture", architecture)
            .number(&key("block_count"), 3)
            .number(&key("embedding_length"), 64);
        Shape::of(&read(&head.bytes()).unwrap()).unwrap()
    };
    for name in ["gemma-embedding", "bert", "eurobert"] {
        assert!(!shape(name).is_causal && shape(name).unfit().is_none(), "{name}");
    }
    for name in ["gemma3", "llama", "qwen3"] {
        assert!(shape(name).is_causal && shape(name).unfit().is_none(), "{name}");
    }
    assert!(shape("t5").unfit().unwrap().contains("an encoder"));
    assert!(shape("llada").unfit().unwrap().contains("diffusion"));
}

#[test]
fn what_is_no_gguf_is_named_for_what_it_is() {
    assert!(refused(b"").contains("it is empty"));
    assert!(refused(b"GG").contains("no GGUF"));
    assert!(refused(b"not a model at all").contains("does not begin with `GGUF`"));
    assert!(refused(b"PK\x03\x04 archive").contains("PyTorch"));
    assert!(refused(b"version https://git-lfs.github.com/spec/v1").contains("git LFS"));
    assert!(refused(b"<!doctype html>").contains("web page"));
    assert!(refused(b"\x40\x00\x00\x00\x00\x00\x00\x00{").contains("safetensors"));
    let mut bytes = llama().bytes();
    for (version, word) in
        [(1_u32, "version 1"), (4, "version 4"), (0, "version 0"), (0x0300_0000, "big-endian")]
    {
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let error = refused(&bytes);
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_with_figures() {
    let bytes = llama().bytes();
    let head = read(&bytes).unwrap();
    // Behind the last tensor nothing but padding may be missing.
    let end = head.data_start as usize + 224 + 256;
    assert!(read(&bytes[..end]).is_ok());
    for len in 4..end {
        let error = read(&bytes[..len]).expect_err("cut");
        match error {
            Flaw::Cut { len: told, needed } => assert_eq!((told, needed), (len as u64, end as u64)),
            // The counts do not fit into what is left, or the head just ends.
            Flaw::HeadCut { len: told } => assert_eq!(told, len as u64),
            other => panic!("{len}: {other}"),
        }
    }
}

#[test]
fn lengths_that_lie_take_no_memory_and_are_refused() {
    let huge = [u64::MAX, 1 << 62, 1 << 40, u64::from(u32::MAX)];
    for len in huge {
        for at in [8, 16, 24] {
            let mut bytes = llama().bytes();
            bytes[at..at + 8].copy_from_slice(&len.to_le_bytes());
            assert!(read(&bytes).is_err(), "{len} at {at}");
        }
        for kind in 0..13 {
            let list = Writer::default().list("list", kind, len, &[0; 64]);
            assert!(read(&list.bytes()).is_err(), "a list of {len} of type {kind}");
        }
        let tensor = Writer::default().tensor("t", 0, &[len, len], 64);
        assert!(read(&tensor.bytes()).is_err());
    }
    let mut text_of_size = (GGUF_TEXT_LEN_MAX + 1).to_le_bytes().to_vec();
    text_of_size.resize(8 + GGUF_TEXT_LEN_MAX as usize + 1, b'a');
    assert!(
        refused(&Writer::default().pair("template", 8, &text_of_size).bytes()).contains("`template`")
    );
}

#[test]
fn what_llama_cpp_refuses_in_a_head_is_refused() {
    let cases = [
        (llama().number("general.alignment", 24), "power of two"),
        (llama().text("general.alignment", "32"), "power of two"),
        (llama().number("llama.block_count", 2), "there twice"),
        (llama().number("", 2), "is empty"),
        (llama().pair("key", 13, &[0; 8]), "unknown type 13"),
        (llama().list("key", 9, 1, &[0; 16]), "list of lists"),
        (llama().tensor("output_norm.weight", 0, &[1], 4), "there twice"),
        (llama().tensor("t", 0, &[1; 5], 4), "5 dimensions"),
        (llama().tensor("t", 8, &[33], 34), "cannot be 33 x 1"),
        (llama().tensor("t", 4, &[32], 32), "type 4"),
        (llama().tensor("t", 99, &[32], 32), "type 99"),
        (llama().tensor(&"t".repeat(64), 0, &[1], 4), "64 bytes long"),
    ];
    for (writer, word) in cases {
        let error = refused(&writer.bytes());
        assert!(error.contains(word), "{error}");
    }
    let mut moved = llama();
    moved.data_len += 32;
    assert!(refused(&moved.tensor("t", 0, &[1], 4).bytes()).contains("does not lie where"));
}

#[test]
fn another_alignment_moves_the_weights() {
    let writer = Writer::default().number("general.alignment", 1_024).tensor("t", 0, &[8], 32);
    let mut bytes = writer.bytes();
    bytes.resize(1_024 + 32, 0);
    assert_eq!(read(&bytes).unwrap().data_start, 1_024);
}

#[test]
fn a_model_in_parts_needs_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let write = |number: u16, name: &str| {
        let writer = llama().pair("split.no", 2, &number.to_le_bytes()).pair("split.count", 2, &[2, 0]);
        fs::write(folder.path().join(name), writer.bytes()).unwrap();
        folder.path().join(name)
    };
    let first = write(0, "m-00001-of-00002.gguf");
    let error = ModelFiles::open(&first).unwrap_err().to_string();
    assert!(
        error.contains("part 2 of 2 is missing") && error.contains("m-00002-of-00002.gguf"),
        "{error}"
    );
    let second = write(1, "m-00002-of-00002.gguf");
    let model = ModelFiles::open(&first).unwrap();
    assert_eq!(model.paths, [first, second.clone()]);
    assert_eq!(model.weights_len, 2 * 460);
    assert_eq!(model.memory(1_000, 2), 920 + 256_000);
    let error = ModelFiles::open(&second).unwrap_err().to_string();
    assert!(error.contains("part 2 of 2; name the first"), "{error}");
    let error = ModelFiles::open(&write(0, "renamed.gguf")).unwrap_err().to_string();
    assert!(error.contains("NAME-00001-of-00002.gguf"), "{error}");
    let cut = fs::read(&second).unwrap();
    fs::write(&second, &cut[..cut.len() - 100]).unwrap();
    let error = ModelFiles::open(&folder.path().join("m-00001-of-00002.gguf")).unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00002.gguf") && error.contains("not whole"), "{error}");
}

#[test]
fn what_is_no_model_for_us_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |writer: &Writer| {
        let path = folder.path().join("m.gguf");
        fs::write(&path, writer.bytes()).unwrap();
        ModelFiles::open(&path).unwrap_err().to_string()
    };
    let bare = || Writer::default().tensor("t", 0, &[1], 4);
    assert!(refused(&bare()).contains("general.architecture"));
    assert!(refused(&bare().text("general.architecture", "clip")).contains("clip.block_count"));
    assert!(refused(&Writer::default().text("general.architecture", "llama")).contains("no weights"));
    let error = ModelFiles::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not a file"), "{error}");
    let error = ModelFiles::open(Path::new("absent.gguf")).unwrap_err().to_string();
    assert!(error.contains("`absent.gguf`"), "{error}");
}
