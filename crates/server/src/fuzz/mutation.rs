//! How one input is made from others.

use std::ops::Range;

/// Values at which fields and counters turn over.
const NUMBERS: [u64; 12] =
    [0, 1, 7, 127, 255, 256, 65_535, 1 << 26, u32::MAX as u64, 1 << 32, i64::MAX as u64, u64::MAX];
/// How often something is repeated at most.
const REPEATS_MAX: usize = 300;

/// A repeatable sequence of numbers: splitmix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % end.max(1)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Short ones are likely.
    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.below(len + 1);
        let longest = (len - start).min([1, 8, 64, len][self.below(4)]);
        start..start + self.below(longest + 1)
    }
}

pub(super) fn mutate(dice: &mut Dice, corpus: &[Vec<u8>], words: &[&[u8]], len_max: usize) -> Vec<u8> {
    let mut input = dice.pick(corpus).clone();
    for _ in 0..=dice.below(4) {
        change(dice, &mut input, corpus, words);
    }
    input.truncate(len_max);
    input
}

fn change(dice: &mut Dice, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&[u8]]) {
    let at = dice.below(input.len());
    let range = dice.range(input.len());
    match dice.below(10) {
        0 => {
            let flipped = input.get(at).copied().unwrap_or_default() ^ (1 << dice.below(8));
            write(input, at, &[flipped]);
        }
        1 => write(input, at, &[dice.below(256) as u8]),
        2 => {
            let bytes = dice.pick(&NUMBERS).to_le_bytes();
            write(input, at, &bytes[..[1, 2, 4, 8][dice.below(4)]]);
        }
        3 => drop(input.drain(range)),
        4 => {
            let part = input[range].to_vec();
            insert(input, at, &part);
        }
        5 => {
            let part = input[range].to_vec();
            write(input, at, &part);
        }
        6 => insert(input, at, dice.pick::<&[u8]>(words)),
        7 => write(input, at, dice.pick::<&[u8]>(words)),
        8 => {
            let other = dice.pick(corpus);
            input.truncate(at);
            input.extend_from_slice(&other[dice.below(other.len())..]);
        }
        _ => {
            let part = if range.is_empty() { dice.pick(words).to_vec() } else { input[range].to_vec() };
            let count = 1 + dice.below(REPEATS_MAX.min(1 + 65_536 / part.len().max(1)));
            insert(input, at, &part.repeat(count));
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    drop(input.splice(at..at, part.iter().copied()));
}

/// Over what is there, as far as the input goes.
fn write(input: &mut [u8], at: usize, part: &[u8]) {
    let len = part.len().min(input.len() - at);
    input[at..at + len].copy_from_slice(&part[..len]);
}
