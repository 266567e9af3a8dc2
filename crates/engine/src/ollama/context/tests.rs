use super::super::sizes::Part;
use super::*;

fn sizes(messages: &[(bool, usize)]) -> Sizes {
    let parts =
        messages.iter().map(|(is_system, len)| Part { is_system: *is_system, len: *len, images: 0 });
    Sizes { parts: parts.collect(), frame_len: 0 }
}

fn seen(sizes: &Sizes, prompt: u64, answer: u64) -> Seen<'_> {
    Seen { prompt: Some(prompt), answer, context: Some(1000), obeys: false, halves: false, sizes }
}

#[test]
fn one_message_is_cut_only_to_exactly_a_context() {
    let one = sizes(&[(true, 4000), (false, 4000)]);
    assert_eq!(judge(seen(&one, 999, 1)), Verdict::Whole);
    assert_eq!(judge(seen(&one, 1000, 0)), Verdict::Cut);
    assert_eq!(judge(seen(&one, 990, 11)), Verdict::Cut, "the answer shifted the prompt out");
    assert_eq!(judge(Seen { halves: true, ..seen(&one, 502, 0) }), Verdict::Doubt);
    assert_eq!(judge(Seen { halves: true, ..seen(&one, 499, 0) }), Verdict::Whole);
}

#[test]
fn what_cannot_have_been_dropped_was_not() {
    let chat = sizes(&[(true, 900), (false, 200), (false, 100), (false, 4000)]);
    assert_eq!(judge(seen(&chat, 700, 5)), Verdict::Whole, "200 bytes would have fitted beside it");
    assert_eq!(judge(seen(&chat, 800, 5)), Verdict::Doubt);
}

/// A version that reckons 768 tokens for each image dropped the oldest message of a prompt whose images it then read as
/// 256 tokens each: by what was read alone, the message had had room.
#[test]
fn what_was_dropped_for_the_images_of_later_messages_is_in_doubt() {
    let mut chat = sizes(&[(false, 100), (false, 40)]);
    assert_eq!(judge(seen(&chat, 300, 5)), Verdict::Whole);
    chat.parts[1].images = 1;
    assert_eq!(judge(seen(&chat, 300, 5)), Verdict::Doubt, "300 + 132 + 768 > 1000");
    assert_eq!(settle(seen(&chat, 300, 5), &[25, 10]), Verdict::Cut);
    assert_eq!(judge(seen(&chat, 100, 5)), Verdict::Whole, "there was room for 768 as well");
    chat.parts.remove(0);
    assert_eq!(judge(seen(&chat, 900, 5)), Verdict::Whole, "there is nothing to drop");
}

#[test]
fn without_a_count_or_a_context_there_is_a_doubt() {
    let long = sizes(&[(false, 4000)]);
    let short = sizes(&[(false, 10)]);
    assert_eq!(judge(Seen { prompt: None, context: Some(1100), ..seen(&short, 0, 0) }), Verdict::Whole);
    assert_eq!(judge(Seen { prompt: None, ..seen(&long, 0, 0) }), Verdict::Doubt);
    assert_eq!(judge(Seen { context: None, ..seen(&short, 5, 0) }), Verdict::Doubt);
    assert_eq!(judge(Seen { context: None, obeys: true, ..seen(&short, 5, 0) }), Verdict::Whole);
}

/// Every conversation of up to four messages, cut as Ollama does: none that was cut is taken for whole, and those
/// that fit well are not refused.
#[test]
fn no_dropped_message_goes_unseen() {
    const MARKS: u64 = 7;
    let lens = [0, 1, 3, 20, 150, 400, 700];
    let mut refused_though_whole = 0;
    let mut whole_count = 0;
    for first in lens {
        for second in lens {
            for last in lens {
                for system in [0, 300] {
                    let counts = [system, first, second, last];
                    let texts: Vec<(bool, usize)> = counts
                        .iter()
                        .enumerate()
                        .map(|(at, count)| (at == 0, *count as usize * 4))
                        .collect();
                    let sizes = sizes(&texts);
                    let whole: u64 = counts.iter().map(|count| count + MARKS).sum();
                    let mut read = whole;
                    for dropped in [first, second] {
                        if read > 1000 {
                            read -= dropped + MARKS;
                        }
                    }
                    let seen = seen(&sizes, read.min(1000), 0);
                    let verdict = match judge(seen) {
                        Verdict::Doubt => settle(seen, &counts),
                        verdict => verdict,
                    };
                    if whole > 1000 {
                        assert_eq!(verdict, Verdict::Cut, "{counts:?} read as {read}");
                    } else {
                        whole_count += 1;
                        refused_though_whole += u32::from(verdict == Verdict::Cut);
                        assert!(
                            verdict == Verdict::Whole || whole > 700,
                            "{counts:?} fits, and is refused"
                        );
                    }
                }
            }
        }
    }
    assert!(refused_though_whole * 10 < whole_count, "{refused_though_whole} of {whole_count}");
}

/// Another request had the model loaded with a larger context right after the one that was cut, and its count was held
/// against the larger one.
#[test]
fn a_context_that_changed_during_the_call_proves_nothing() {
    let long = sizes(&[(false, 4000)]);
    assert_eq!(judge(seen(&long, 500, 1)), Verdict::Whole);
    assert_eq!(judge_between(Some(1000), seen(&long, 500, 1)), Verdict::Whole);
    assert_eq!(judge_between(Some(500), seen(&long, 500, 1)), Verdict::Cut);
    assert_eq!(judge_between(Some(4000), seen(&long, 500, 1)), Verdict::Cut);
    assert_eq!(judge_between(None, seen(&long, 500, 1)), Verdict::Cut);
    let unknown = Seen { context: None, ..seen(&long, 500, 1) };
    assert_eq!(judge_between(Some(1000), unknown), Verdict::Cut);
    assert_eq!(judge_between(None, unknown), Verdict::Doubt);
    // It fits into both.
    let short = sizes(&[(false, 100)]);
    let fits = Seen { context: Some(4000), ..seen(&short, 50, 1) };
    assert_eq!(judge_between(Some(2000), fits), Verdict::Whole);
    assert_eq!(judge_between(Some(1000), fits), Verdict::Cut);
}

#[test]
fn refusals_tell_their_lengths() {
    let told =
        "request (9412 tokens) exceeds the available context size (8192 tokens), try increasing it";
    assert_eq!(read_refusal(told), Some((Some(9412), Some(8192))));
    assert_eq!(read_refusal("the input length exceeds the context length"), Some((None, None)));
    assert_eq!(read_refusal("model not found"), None);
}
