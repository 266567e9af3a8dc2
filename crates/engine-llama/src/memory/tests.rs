use super::*;

const GIB: u64 = 1024 * 1024 * 1024;

/// As large as a llama of 8 billion parameters in 4 bits: 128 KiB for each cell.
const SIZES: Sizes = Sizes {
    weights: 5 * GIB,
    cell_elements: 64 * 1024,
    vocabulary_len: 32_000,
    row_elements: 4 * 4_096 + 3 * 14_336,
    heads: 32,
    trained_len: 131_072,
    is_f32: false,
    is_causal: true,
    generates: true,
    is_for_embeddings: false,
};

fn of(wishes: Wishes, available: u64) -> Result<(u32, u32), NoRoom> {
    let plan = SIZES.plan(wishes, Some(available))?;
    assert!(plan.bytes <= wishes.bytes.unwrap_or(available), "{plan:?}");
    Ok((plan.streams.sequences, plan.streams.sequence_len))
}

#[test]
fn slots_are_given_up_before_context_and_both_before_giving_up() {
    let free = Wishes::default();
    assert_eq!(of(free, 64 * GIB), Ok((32, 8_192)));
    let (slots, context_len) = of(free, 16 * GIB).unwrap();
    assert!((5..12).contains(&slots) && context_len == 8_192, "{slots} of {context_len}");
    let (slots, context_len) = of(free, 19 * GIB / 2).unwrap();
    assert!(slots == 4 && context_len < 8_192, "{slots} of {context_len}");
    let (slots, context_len) = of(free, 8 * GIB).unwrap();
    assert!(slots < 4 && context_len == 2_048, "{slots} of {context_len}");
    assert!(of(free, 5 * GIB).is_err());
}

#[test]
fn what_was_asked_for_is_kept_or_refused_with_figures() {
    let wishes = Wishes { context_len: Some(16_384), slots: Some(8), bytes: Some(10 * GIB) };
    let error = of(wishes, 64 * GIB).unwrap_err().to_string();
    assert!(error.contains("18.0 GiB for 8 requests of 16384 tokens"), "{error}");
    assert!(error.contains("5.0 GiB weights") && error.contains("there are 10.0 GiB"), "{error}");
    let wishes = Wishes { bytes: None, ..wishes };
    assert_eq!(of(wishes, 64 * GIB), Ok((8, 16_384)));
}

#[test]
fn others_keep_a_part_of_what_is_left_unless_somebody_says_how_much_to_use() {
    let wishes = Wishes { slots: Some(8), ..Wishes::default() };
    let needs = SIZES.plan(wishes, None).unwrap().bytes;
    assert!(of(wishes, needs * 8 / 7 + 8).is_ok_and(|(_, context_len)| context_len == 8_192));
    assert!(of(wishes, needs).is_ok_and(|(_, context_len)| context_len < 8_192));
    let told = Wishes { bytes: Some(needs), ..wishes };
    assert!(of(told, 0).is_ok_and(|(_, context_len)| context_len == 8_192));
}

/// A model with 150,000 words took 2.4 GiB for inputs of 2,048 tokens, which most who chat with it never send.
#[test]
fn a_model_that_was_not_made_for_embeddings_keeps_little_free_for_them() {
    let wordy = Sizes { vocabulary_len: 150_000, ..SIZES };
    let embed_len = |sizes: Sizes, wishes, has| sizes.plan(wishes, Some(has)).unwrap().embed_len;
    let long = Wishes { context_len: Some(12_288), ..Wishes::default() };
    assert_eq!(embed_len(wordy, Wishes::default(), 64 * GIB), 2_048);
    assert_eq!(embed_len(wordy, long, 64 * GIB), 2_048, "that is for its answers");
    assert_eq!(embed_len(wordy, Wishes::default(), 10 * GIB), 512);
    assert_eq!(embed_len(wordy, Wishes::default(), 8 * GIB), 512);
}

#[test]
fn a_model_for_embeddings_keeps_no_cells_for_answers() {
    let embeds = Sizes { generates: false, is_for_embeddings: true, ..SIZES };
    let plan = embeds.plan(Wishes::default(), Some(8 * GIB)).unwrap();
    assert_eq!((plan.embed_len, plan.streams.sequence_len), (2_048, 2_048));
    let wishes = Wishes { context_len: Some(8_192), ..Wishes::default() };
    assert_eq!(embeds.plan(wishes, Some(64 * GIB)).unwrap().embed_len, 8_192);
    let error = embeds.plan(wishes, Some(8 * GIB)).unwrap_err().to_string();
    assert!(error.contains("to compute") && !error.contains("requests"), "{error}");
    assert_eq!(embeds.plan(Wishes::default(), Some(6 * GIB + GIB / 2)).unwrap().embed_len, 1_024);
    let exact = Sizes { is_f32: true, ..embeds };
    assert!(exact.plan(Wishes::default(), None).unwrap().bytes > plan.bytes + GIB / 2);
}
