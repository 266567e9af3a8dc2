use super::*;

const GIB: u64 = 1024 * 1024 * 1024;

/// As large as a llama of 8 billion parameters in 4 bits: 128 KiB for each cell.
const SIZES: Sizes =
    Sizes { weights: 5 * GIB, cell: 128 * 1024, buffers: GIB / 2, trained_len: 131_072, is_f32: false };

fn of(wishes: Wishes, available: u64) -> Result<(u32, u32), NoRoom> {
    let plan = SIZES.plan(wishes, Some(available))?;
    assert!(plan.bytes <= wishes.bytes.unwrap_or(available), "{plan:?}");
    Ok((plan.streams.sequences, plan.streams.sequence_len))
}

#[test]
fn slots_are_given_up_before_context_and_both_before_giving_up() {
    let free = Wishes::default();
    assert_eq!(of(free, 64 * GIB), Ok((32, 8_192)));
    assert_eq!(of(free, 16 * GIB), Ok((9, 8_192)));
    assert_eq!(of(free, 8 * GIB), Ok((4, 4_096)));
    assert_eq!(of(free, 6 * GIB + GIB / 4), Ok((2, 2_048)));
    assert!(of(free, 5 * GIB).is_err());
}

#[test]
fn what_was_asked_for_is_kept_or_refused_with_figures() {
    let wishes = Wishes { context_len: Some(16_384), slots: Some(8), bytes: Some(10 * GIB) };
    let error = of(wishes, 64 * GIB).unwrap_err().to_string();
    assert!(error.contains("23.5 GiB") && error.contains("10.0 GiB"), "{error}");
    let wishes = Wishes { bytes: None, ..wishes };
    assert_eq!(of(wishes, 64 * GIB), Ok((8, 16_384)));
}
