use std::io::Write as _;

use super::*;

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A llama of two layers and one tensor of 64 F32.
fn model() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(4_u64.to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend(TEXT.to_le_bytes());
    text(&mut bytes, "llama");
    text(&mut bytes, "llama.block_count");
    bytes.extend(4_u32.to_le_bytes());
    bytes.extend(2_u32.to_le_bytes());
    text(&mut bytes, "llama.attention.head_count_kv");
    for number in [LIST, 4] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(2_u64.to_le_bytes());
    for heads in [2_u32, 4] {
        bytes.extend(heads.to_le_bytes());
    }
    text(&mut bytes, "odd");
    bytes.extend(5_u32.to_le_bytes());
    bytes.extend((-1_i32).to_le_bytes());
    text(&mut bytes, "weights");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 256, 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<Head, GgufError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Head::read(file.path())
}

#[test]
fn what_the_head_says_is_known() {
    let head = read(&model()).unwrap();
    assert_eq!(head.own("block_count"), Some(2));
    assert_eq!(head.own_sum("attention.head_count_kv", 2), Some(6));
    assert_eq!(head.own_sum("block_count", 3), Some(6));
    assert_eq!(head.number("odd"), None);
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let whole = model();
    for len in 0..whole.len() {
        let error = read(&whole[..len]).expect_err("it was cut");
        assert!(matches!(error, GgufError::Cut | GgufError::Short { .. }), "at {len}: {error}");
    }
}

#[test]
fn other_files_and_huge_counts_are_refused() {
    assert!(matches!(read(b"PK\x03\x04 a zip"), Err(GgufError::NoGguf(_))));
    let mut wrong = model();
    wrong[4] = 9;
    assert!(matches!(read(&wrong), Err(GgufError::Version(9))));
    for at in [8, 16, 24] {
        let mut huge = model();
        huge[at..at + 8].fill(0xff);
        assert!(matches!(read(&huge), Err(GgufError::Damaged(_))), "at {at}");
    }
}

#[test]
fn a_flipped_bit_is_no_crash() {
    let whole = model();
    for at in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        // Some flips change a name or a weight, and are not seen here.
        let _ = read(&flipped);
    }
}
