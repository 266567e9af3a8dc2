//! Heads that somebody has tampered with: seeded mutations, the same on every machine, so a finding is there again in
//! the next run.

use super::tests::{llama, read};
use super::{Flaw, Gguf, Shape};

const EXECUTIONS: u64 = 60_000;
const CORPUS_MAX: usize = 512;
const LEN_MAX: usize = 16 << 10;

/// Values at which lengths, counts and types turn over.
const NUMBERS: [u64; 14] =
    [0, 1, 8, 9, 12, 13, 63, 64, 65_535, 1 << 31, u32::MAX as u64, 1 << 60, i64::MAX as u64, u64::MAX];

/// A repeatable sequence of numbers: splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % end.max(1)
    }
}

fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(3) {
        let at = dice.below(input.len());
        let len = dice.below(16).min(input.len() - at);
        match dice.below(6) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 => {
                let number = NUMBERS[dice.below(NUMBERS.len())].to_le_bytes();
                let len = [1, 4, 8][dice.below(3)].min(input.len() - at);
                input[at..at + len].copy_from_slice(&number[..len]);
            }
            2 => drop(input.drain(at..at + len)),
            3 => {
                let part = input[at..at + len].to_vec();
                let to = dice.below(input.len());
                drop(input.splice(to..to, part));
            }
            4 => input.truncate(at),
            _ => {
                let other = &corpus[dice.below(corpus.len())];
                input.truncate(at);
                input.extend(&other[dice.below(other.len())..]);
            }
        }
    }
    input.truncate(LEN_MAX);
    input
}

/// What must hold for whatever bytes, and which way they went.
fn target(input: &[u8]) -> u64 {
    let head = match read(input) {
        Ok(head) => head,
        Err(flaw) => {
            let told = flaw.to_string();
            assert!(told.len() < 1_000 && !told.contains('\n'), "{told}");
            return way(&flaw);
        }
    };
    let kept: usize =
        head.metadata.iter().map(|(key, value)| key.len() + value.kept_len() as usize).sum();
    assert!(kept <= 8 * input.len(), "more is kept than there was");
    assert!(
        head.tensors
            .iter()
            .all(|tensor| head.data_start + tensor.offset + tensor.len <= input.len() as u64)
    );
    assert!(head.weights_len <= input.len() as u64);
    // What llama.cpp would be given says the same a second time.
    let again = Gguf::read(&mut &*input, input.len() as u64).expect("it was read before");
    assert_eq!((again.data_start, again.tensors), (head.data_start, head.tensors.clone()));
    let shape = Shape::of(&head).map(|shape| shape.cells_len(u64::MAX, 2) > 0);
    100 + u64::from(shape.is_ok()) * 50 + (head.metadata.len() + head.tensors.len()) as u64
}

/// Findings of one kind differ in their words; those are what tells the ways of one flaw apart.
fn way(flaw: &Flaw) -> u64 {
    match flaw {
        Flaw::Broken(words) => {
            let plain = words.bytes().filter(u8::is_ascii_lowercase).take(24);
            plain.fold(1_000, |sum, byte| sum * 31 % 1_000_003 + u64::from(byte))
        }
        Flaw::Kind { .. } => 1,
        Flaw::Cut { .. } => 2,
        Flaw::HeadCut { .. } => 3,
        Flaw::NotGguf(_) => 4,
        Flaw::Version(_) => 5,
        Flaw::BigEndian => 6,
        _ => 7,
    }
}

#[test]
fn no_head_makes_the_reader_panic_or_believe_it() {
    let mut corpus = vec![llama().bytes(), llama().pair("some.flag", 7, &[1]).bytes()];
    let (mut dice, mut ways) = (Dice(5), std::collections::HashSet::new());
    for execution in 0..EXECUTIONS {
        let input = mutate(&mut dice, &corpus);
        let caught = std::panic::catch_unwind(|| target(&input));
        let Ok(way) = caught else {
            panic!("execution {execution}: a property does not hold for b\"{}\"", input.escape_ascii())
        };
        if ways.insert(way) && corpus.len() < CORPUS_MAX {
            corpus.push(input);
        }
    }
    // The mutations do come past the magic: without that, the properties were held against nothing.
    assert!(ways.len() > 20, "only {} ways", ways.len());
    assert!(ways.iter().any(|way| (150..1_000).contains(way)), "no mutant was a model still");
}
