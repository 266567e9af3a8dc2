//! Inputs that wait to be embedded, and which of them are computed together.
//!
//! A step has room for so many tokens. The input that has waited longest is always in the next one, so nobody waits for
//! ever; what is left of the step is filled with the longest that still fit, so that little of it stays empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::token::{QuestionId, Token};

/// An input, by who asked and which of theirs it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) id: QuestionId,
    pub(crate) number: usize,
    pub(crate) tokens: Arc<[Token]>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct InputQueue {
    by_len: BTreeMap<(usize, QuestionId, usize), Arc<[Token]>>,
    /// How long each is, the oldest first: questions are numbered as they come.
    by_age: BTreeMap<(QuestionId, usize), usize>,
}

impl InputQueue {
    pub(crate) fn push(&mut self, input: Input) {
        let Input { id, number, tokens } = input;
        self.by_age.insert((id, number), tokens.len());
        self.by_len.insert((tokens.len(), id, number), tokens);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_len.len()
    }

    pub(crate) fn forget(&mut self, id: QuestionId) {
        while let Some(((_, number), _)) = self.by_age.range((id, 0)..=(id, usize::MAX)).next() {
            let number = *number;
            self.take(id, number);
        }
    }

    /// Those of the next step: at most `count_max` with at most `room` tokens together, or one that is longer by itself.
    pub(crate) fn next_step(&mut self, room: usize, count_max: usize) -> Vec<Input> {
        let mut step: Vec<Input> = Vec::new();
        let mut left = room;
        while step.len() < count_max {
            let next = if step.is_empty() { self.oldest() } else { self.longest_within(left) };
            let Some((id, number)) = next else { break };
            let input = self.take(id, number).expect("it was just found");
            left = left.saturating_sub(input.tokens.len());
            step.push(input);
        }
        step
    }

    fn oldest(&self) -> Option<(QuestionId, usize)> {
        self.by_age.first_key_value().map(|(key, _)| *key)
    }

    /// The oldest of the longest that fit.
    fn longest_within(&self, room: usize) -> Option<(QuestionId, usize)> {
        let last = (room, QuestionId(u64::MAX), usize::MAX);
        let ((len, _, _), _) = self.by_len.range(..=last).next_back()?;
        let ((_, id, number), _) = self.by_len.range((*len, QuestionId(0), 0)..).next()?;
        Some((*id, *number))
    }

    fn take(&mut self, id: QuestionId, number: usize) -> Option<Input> {
        let len = self.by_age.remove(&(id, number))?;
        let tokens = self.by_len.remove(&(len, id, number)).expect("both maps have the same inputs");
        Some(Input { id, number, tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(questions: &[&[usize]]) -> InputQueue {
        let mut queue = InputQueue::default();
        for (id, lens) in (0..).zip(questions) {
            for (number, len) in lens.iter().enumerate() {
                let tokens = vec![Token(1); *len].into();
                queue.push(Input { id: QuestionId(id), number, tokens });
            }
        }
        queue
    }

    /// Question and length of each, step by step.
    fn steps(queue: &mut InputQueue, room: usize, count_max: usize) -> Vec<Vec<(u64, usize)>> {
        let mut steps = Vec::new();
        loop {
            let step = queue.next_step(room, count_max);
            if step.is_empty() {
                return steps;
            }
            steps.push(step.iter().map(|input| (input.id.0, input.tokens.len())).collect());
        }
    }

    #[test]
    fn a_step_is_filled_around_the_oldest() {
        let mut queue = queue(&[&[300], &[100, 150, 40], &[260, 60, 500]]);
        let expected =
            vec![vec![(0, 300), (1, 150), (2, 60)], vec![(1, 100), (2, 260), (1, 40)], vec![(2, 500)]];
        assert_eq!(steps(&mut queue, 512, 64), expected);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn an_input_that_is_longer_than_a_step_has_one_for_itself() {
        let mut queue = queue(&[&[10, 600, 700]]);
        let expected = vec![vec![(0, 10)], vec![(0, 600)], vec![(0, 700)]];
        assert_eq!(steps(&mut queue, 512, 64), expected);
    }

    #[test]
    fn no_step_has_more_inputs_than_the_context_has_sequences() {
        let mut queue = queue(&[&[1; 5]]);
        let counts: Vec<usize> = steps(&mut queue, 512, 2).iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 2, 1]);
    }

    /// Whoever asks for short inputs all the time does not keep a long one waiting.
    #[test]
    fn a_long_input_is_computed_though_shorter_ones_keep_coming() {
        let mut queue = queue(&[&[8], &[400]]);
        for id in 2..100 {
            queue.push(Input { id: QuestionId(id), number: 0, tokens: vec![Token(1); 8].into() });
        }
        let mut taken = Vec::new();
        for id in 100..103 {
            taken.extend(queue.next_step(16, 64));
            queue.push(Input { id: QuestionId(id), number: 0, tokens: vec![Token(1); 16].into() });
        }
        assert!(taken.iter().any(|input| input.tokens.len() == 400), "{taken:?}");
    }

    #[test]
    fn what_nobody_waits_for_is_not_computed() {
        let mut queue = queue(&[&[1, 2], &[3, 4], &[5]]);
        queue.forget(QuestionId(1));
        queue.forget(QuestionId(7));
        assert_eq!(steps(&mut queue, 512, 64), [vec![(0, 1), (2, 5), (0, 2)]]);
        assert_eq!(queue.len(), 0);
    }
}
