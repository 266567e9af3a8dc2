//! Writes a small llama with random weights: real inference, of which only the words make no sense.
//!
//! The vocabulary has one token for each byte and those of ChatML, so that any text can be asked and any answer is text.

use std::io::Write as _;
use std::path::Path;

const DIM: u64 = 64;
const HEADS: u64 = 4;
const INNER: u64 = 128;
/// The bytes, one pair of letters and three tokens of control.
const VOCABULARY: u64 = 260;

/// What a chat looks like to it; without the start token, which the vocabulary has.
pub(crate) const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                            {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

enum Member<'a> {
    Text(&'a str),
    Number(u32),
    Fraction(f32),
    Flag(bool),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
    Fractions(Vec<f32>),
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn member(bytes: &mut Vec<u8>, name: &str, member: &Member<'_>) {
    text(bytes, name);
    let kind = |bytes: &mut Vec<u8>, kind: u32| bytes.extend(kind.to_le_bytes());
    match member {
        Member::Text(value) => {
            kind(bytes, 8);
            text(bytes, value);
        }
        Member::Number(value) => {
            kind(bytes, 4);
            bytes.extend(value.to_le_bytes());
        }
        Member::Fraction(value) => {
            kind(bytes, 6);
            bytes.extend(value.to_le_bytes());
        }
        Member::Flag(value) => {
            kind(bytes, 7);
            bytes.push(u8::from(*value));
        }
        Member::Texts(values) => {
            kind(bytes, 9);
            kind(bytes, 8);
            bytes.extend((values.len() as u64).to_le_bytes());
            for value in values {
                text(bytes, value);
            }
        }
        Member::Fractions(values) => {
            kind(bytes, 9);
            kind(bytes, 6);
            bytes.extend((values.len() as u64).to_le_bytes());
            for value in values {
                bytes.extend(value.to_le_bytes());
            }
        }
        Member::Numbers(values) => {
            kind(bytes, 9);
            kind(bytes, 5);
            bytes.extend((values.len() as u64).to_le_bytes());
            for value in values {
                bytes.extend(value.to_le_bytes());
            }
        }
    }
}

/// The printable letter that stands for each byte in a byte-level vocabulary, as GPT-2 has it.
fn letters() -> Vec<String> {
    let is_plain = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut extra = 256;
    (0..256_u32)
        .map(|byte| {
            let letter = if is_plain(byte) {
                byte
            } else {
                extra += 1;
                extra - 1
            };
            char::from_u32(letter).expect("these are letters").to_string()
        })
        .collect()
}

/// SplitMix64, as a number around 0.
fn random(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}

/// The names and shapes of a llama's weights.
fn tensors(vocabulary: u64, layers: u64) -> Vec<(String, Vec<u64>)> {
    let mut tensors: Vec<(String, Vec<u64>)> = vec![
        ("token_embd.weight".into(), vec![DIM, vocabulary]),
        ("output_norm.weight".into(), vec![DIM]),
        ("output.weight".into(), vec![DIM, vocabulary]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("attn_norm", vec![DIM]),
            ("attn_q", vec![DIM, DIM]),
            ("attn_k", vec![DIM, DIM]),
            ("attn_v", vec![DIM, DIM]),
            ("attn_output", vec![DIM, DIM]),
            ("ffn_norm", vec![DIM]),
            ("ffn_gate", vec![DIM, INNER]),
            ("ffn_up", vec![DIM, INNER]),
            ("ffn_down", vec![INNER, DIM]),
        ] {
            tensors.push((format!("blk.{layer}.{name}.weight"), shape));
        }
    }
    tensors
}

/// What is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sketch<'a> {
    pub(crate) architecture: &'a str,
    pub(crate) template: &'a str,
    pub(crate) context_len: u32,
    pub(crate) layers: u32,
    /// Matrices of 8 bits instead of 32.
    pub(crate) is_q8: bool,
    /// In llama.cpp's numbers.
    pub(crate) pooling: Option<u32>,
    /// A vocabulary that begins every text with a space.
    pub(crate) has_spaces: bool,
    /// How texts are cut into words before the vocabulary is asked.
    pub(crate) pre: &'a str,
}

impl Sketch<'static> {
    pub(crate) const fn llama(context_len: u32) -> Self {
        Self {
            architecture: "llama",
            template: TEMPLATE,
            context_len,
            layers: 2,
            is_q8: false,
            pooling: None,
            has_spaces: false,
            pre: "gpt-2",
        }
    }

    /// Looks at what follows too, and generates nothing.
    pub(crate) const fn encoder(context_len: u32) -> Self {
        Self { architecture: "llama-embed", pooling: Some(1), ..Self::llama(context_len) }
    }
}

impl Sketch<'_> {
    fn is_q8(&self, shape: &[u64]) -> bool {
        self.is_q8 && shape.len() > 1
    }

    fn bytes_of(&self, shape: &[u64]) -> u64 {
        let count: u64 = shape.iter().product();
        if self.is_q8(shape) { count / 32 * 34 } else { count * 4 }
    }
}

/// A scale of 16 bits and 32 numbers of 8.
fn quantize(block: &[f32], bytes: &mut Vec<u8>) {
    let scale = block.iter().fold(0.0_f32, |max, weight| max.max(weight.abs())) / 127.0;
    // The upper bits of a scale that is neither tiny nor huge: 5 of the exponent, 10 behind the point.
    let half = u16::try_from((scale.to_bits() - (112 << 23)) >> 13).expect("weights are near 1");
    let scale = f32::from_bits((u32::from(half) << 13) + (112 << 23));
    bytes.extend(half.to_le_bytes());
    bytes.extend(block.iter().map(|weight| (weight / scale).round().clamp(-127.0, 127.0) as i8 as u8));
}

pub(crate) fn write(path: &Path, context_len: u32) {
    write_sketch(path, &Sketch::llama(context_len));
}

/// One token for each byte, one of two letters, and those of ChatML.
fn words_of_bytes(pre: &str) -> Vec<(&'static str, Member<'_>)> {
    let letters = letters();
    let (left, right) = (&letters[usize::from(b't')], &letters[usize::from(b'h')]);
    let (merged, merges) = (format!("{left}{right}"), vec![format!("{left} {right}")]);
    let mut tokens = letters;
    tokens.extend([merged, "<|endoftext|>".into(), "<|im_start|>".into(), "<|im_end|>".into()]);
    let kinds: Vec<i32> = (0..tokens.len()).map(|at| if at < 257 { 1 } else { 3 }).collect();
    assert_eq!(tokens.len() as u64, VOCABULARY);
    vec![
        ("model", Member::Text("gpt2")),
        ("pre", Member::Text(pre)),
        ("tokens", Member::Texts(tokens)),
        ("token_type", Member::Numbers(kinds)),
        ("merges", Member::Texts(merges)),
        ("bos_token_id", Member::Number(257)),
        ("eos_token_id", Member::Number(259)),
        ("add_bos_token", Member::Flag(false)),
    ]
}

/// As SentencePiece has it: every text is begun with a space, and what has no token of its own is bytes.
fn words_with_spaces() -> Vec<(&'static str, Member<'static>)> {
    let mut tokens: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..0x20).chain(0x80..=0xff).map(|byte: u8| format!("<0x{byte:02X}>")));
    kinds.resize(tokens.len(), 6);
    tokens.extend(["\u{2581}".into(), "\u{2581}{".into(), "\"a".into()]);
    tokens.extend((0x21..0x7f_u8).map(|letter| char::from(letter).to_string()));
    kinds.resize(tokens.len(), 1);
    assert_eq!(tokens.len() as u64, VOCABULARY);
    let scores = (0..tokens.len()).map(|at| -(at as f32)).collect();
    vec![
        ("model", Member::Text("llama")),
        ("tokens", Member::Texts(tokens)),
        ("token_type", Member::Numbers(kinds)),
        ("scores", Member::Fractions(scores)),
        ("bos_token_id", Member::Number(1)),
        ("eos_token_id", Member::Number(2)),
    ]
}

fn members<'a>(sketch: &Sketch<'a>) -> Vec<(String, Member<'a>)> {
    let own = |name: &str| format!("{}.{name}", sketch.architecture);
    let mut members: Vec<(String, Member<'_>)> = vec![
        ("general.architecture".to_owned(), Member::Text(sketch.architecture)),
        ("general.name".to_owned(), Member::Text("random")),
        (own("context_length"), Member::Number(sketch.context_len)),
        (own("embedding_length"), Member::Number(DIM as u32)),
        (own("block_count"), Member::Number(sketch.layers)),
        (own("feed_forward_length"), Member::Number(INNER as u32)),
        (own("attention.head_count"), Member::Number(HEADS as u32)),
        (own("attention.head_count_kv"), Member::Number(HEADS as u32)),
        (own("attention.layer_norm_rms_epsilon"), Member::Fraction(1e-5)),
        (own("rope.dimension_count"), Member::Number((DIM / HEADS) as u32)),
        (own("vocab_size"), Member::Number(VOCABULARY as u32)),
        ("general.file_type".to_owned(), Member::Number(0)),
        ("tokenizer.chat_template".to_owned(), Member::Text(sketch.template)),
    ];
    let words = if sketch.has_spaces { words_with_spaces() } else { words_of_bytes(sketch.pre) };
    members.extend(words.into_iter().map(|(name, member)| (format!("tokenizer.ggml.{name}"), member)));
    if let Some(pooling) = sketch.pooling {
        members.push((own("pooling_type"), Member::Number(pooling)));
    }
    if sketch.architecture != "llama" {
        members.push((own("attention.causal"), Member::Flag(false)));
    }
    members
}

pub(crate) fn write_sketch(path: &Path, sketch: &Sketch<'_>) {
    let members = members(sketch);
    let tensors = tensors(VOCABULARY, sketch.layers.into());
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((members.len() as u64).to_le_bytes());
    for (name, value) in members {
        member(&mut bytes, &name, &value);
    }
    let mut offset = 0_u64;
    for (name, shape) in &tensors {
        text(&mut bytes, name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        for len in shape {
            bytes.extend(len.to_le_bytes());
        }
        bytes.extend(if sketch.is_q8(shape) { 8_u32 } else { 0 }.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += sketch.bytes_of(shape).next_multiple_of(32);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let mut state = 7;
    for (name, shape) in &tensors {
        let scale = if name.starts_with("token_embd") { 1.0 } else { 1.7 / (shape[0] as f32).sqrt() };
        let weights: Vec<f32> = (0..shape.iter().product::<u64>())
            .map(|_| if shape.len() == 1 { 1.0 } else { random(&mut state) * scale })
            .collect();
        if sketch.is_q8(shape) {
            for block in weights.chunks(32) {
                quantize(block, &mut bytes);
            }
        } else {
            for weight in weights {
                bytes.extend(weight.to_le_bytes());
            }
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
    }
    std::fs::File::create(path)
        .and_then(|mut file| file.write_all(&bytes))
        .expect("the model is written");
}
