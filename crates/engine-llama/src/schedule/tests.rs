use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::token::common_len;

fn layout(is_unified: bool) -> Layout {
    Layout { is_unified, sequences: 4, sequence_len: 128, pool_len: 512 }
}

fn tokens(range: std::ops::Range<i32>) -> Vec<Token> {
    range.map(Token).collect()
}

fn question(id: u64, prompt: Vec<Token>, answer_len_max: u32) -> Waiting {
    Waiting { id: QuestionId(id), prompt: prompt.into(), answer_len_max }
}

/// A cache that complains about everything that llama.cpp would answer with nonsense or a crash, and an engine whose
/// next token is a digest of all tokens before it.
struct Machine {
    layout: Layout,
    cells: HashMap<u32, Vec<Token>>,
    steps: usize,
}

impl Machine {
    fn new(layout: Layout) -> Self {
        Self { layout, cells: HashMap::new(), steps: 0 }
    }

    fn digest(tokens: &[Token]) -> Token {
        Token(
            tokens.iter().fold(7_i32, |sum, token| sum.wrapping_mul(31).wrapping_add(token.0)) & 0xffff,
        )
    }

    fn compute(&mut self, step: &Step) -> Vec<(QuestionId, Token)> {
        self.steps += 1;
        for change in &step.changes {
            match *change {
                Change::Cut { sequence, from } => {
                    self.cells.entry(sequence).or_default().truncate(from as usize);
                }
                Change::Copy { from, to, len } => {
                    assert!(self.cells.get(&to).is_none_or(Vec::is_empty), "copied over something");
                    let held = self.cells[&from][..len as usize].to_vec();
                    self.cells.insert(to, held);
                }
            }
        }
        let mut outputs = Vec::new();
        for (at, row) in step.rows.iter().enumerate() {
            let cells = self.cells.entry(row.sequence).or_default();
            assert_eq!(cells.len(), row.position as usize, "a gap or an overlap in {row:?}");
            cells.push(row.token);
            assert!(cells.len() <= self.layout.sequence_len as usize);
            assert_eq!(row.wants_logits, step.outputs.iter().any(|(_, output)| *output == at));
            if let Some((id, _)) = step.outputs.iter().find(|(_, output)| *output == at) {
                outputs.push((*id, Self::digest(cells)));
            }
        }
        outputs
    }
}

/// Runs all questions to the end of their answers; returns the answers, and the prompt tokens computed.
fn run(layout: Layout, step_len: usize, questions: &[Waiting]) -> (HashMap<u64, Vec<Token>>, u64) {
    let mut schedule = Schedule::new(layout, step_len);
    let mut machine = Machine::new(layout);
    let mut answers: HashMap<u64, Vec<Token>> = HashMap::new();
    for question in questions {
        schedule.ask(question.clone());
    }
    while let Some(step) = schedule.step() {
        assert!(step.rows.len() <= step_len);
        for (id, token) in machine.compute(&step) {
            let answer = answers.entry(id.0).or_default();
            answer.push(token);
            let question = questions.iter().find(|question| question.id == id).unwrap();
            let rest = layout.sequence_len - question.prompt.len() as u32;
            if answer.len() as u32 >= question.answer_len_max.min(rest) {
                schedule.forget(id);
            } else {
                schedule.go_on(id, &[token]);
            }
        }
        assert!(machine.steps < 100_000, "it never ends");
    }
    assert!(schedule.is_idle());
    (answers, schedule.computed())
}

fn alone(prompt: &[Token], count: usize) -> Vec<Token> {
    let mut all = prompt.to_vec();
    for _ in 0..count {
        all.push(Machine::digest(&all));
    }
    all[prompt.len()..].to_vec()
}

#[test]
fn a_common_beginning_is_computed_once() {
    let questions: Vec<Waiting> = (0..20)
        .map(|id| {
            let mut prompt = tokens(0..64);
            prompt.extend(tokens(1_000 + id..1_008 + id));
            question(id as u64, prompt, 4)
        })
        .collect();
    for is_unified in [true, false] {
        let (answers, computed) = run(layout(is_unified), 32, &questions);
        assert_eq!(answers.len(), 20);
        assert_eq!(computed, 64 + 20 * 8);
    }
}

#[test]
fn live_sequences_go_on_before_prompts_are_read() {
    let mut schedule = Schedule::new(layout(false), 8);
    schedule.ask(question(1, tokens(0..4), 10));
    let step = schedule.step().unwrap();
    assert_eq!(step.outputs, [(QuestionId(1), 3)]);
    schedule.go_on(QuestionId(1), &[Token(9)]);
    schedule.ask(question(2, tokens(100..130), 10));
    let step = schedule.step().unwrap();
    assert_eq!(step.rows[0], Row { sequence: 0, position: 4, token: Token(9), wants_logits: true });
    assert_eq!(step.rows.len(), 8, "the rest of the step is filled");
    assert_eq!(step.outputs, [(QuestionId(1), 0)]);
}

#[test]
fn everybody_s_turn_comes_though_others_arrive_before_them_in_the_order() {
    let mut schedule = Schedule::new(Layout { sequences: 1, ..layout(false) }, 64);
    schedule.ask(question(0, tokens(500..510), 1));
    for id in 1..50 {
        // Each of these stands before the first one in the order of the queue.
        schedule.ask(question(id, tokens(id as i32..id as i32 + 10), 1));
        let step = schedule.step().unwrap();
        let (answered, _) = step.outputs[0];
        schedule.forget(answered);
        if answered == QuestionId(0) {
            return;
        }
    }
    panic!("the first question never had its turn");
}

#[test]
fn a_cancelled_question_leaves_its_place() {
    let mut schedule = Schedule::new(Layout { sequences: 1, ..layout(true) }, 4);
    schedule.ask(question(1, tokens(0..10), 5));
    schedule.ask(question(2, tokens(50..60), 5));
    schedule.step().unwrap();
    schedule.forget(QuestionId(1));
    let step = schedule.step().unwrap();
    assert_eq!(step.changes, [Change::Cut { sequence: 0, from: 0 }]);
    assert!(step.rows.iter().all(|row| row.token.0 >= 50));
    schedule.forget(QuestionId(2));
    assert!(schedule.step().is_none() && schedule.is_idle());
}

#[test]
fn one_pool_is_wanted_where_most_is_shared() {
    let mut schedule = Schedule::new(layout(false), 8);
    let with_own = |id: i32, own: i32| {
        let mut prompt = tokens(0..80);
        prompt.extend(tokens(1_000 * id..1_000 * id + own));
        question(id as u64, prompt, 4)
    };
    for id in 1..9 {
        schedule.ask(with_own(id, 10));
    }
    assert!(schedule.wants_unified());
    for id in 1..9 {
        schedule.forget(QuestionId(id as u64));
        schedule.ask(with_own(id, 40));
    }
    assert!(!schedule.wants_unified());
}

#[test]
fn a_stream_keeps_the_beginning_for_the_next_of_the_group() {
    let layout = Layout { sequences: 1, ..layout(false) };
    let mut schedule = Schedule::new(layout, 256);
    let mut machine = Machine::new(layout);
    let in_group = |id: u64| {
        let mut prompt = tokens(0..64);
        prompt.extend(tokens(1_000 * id as i32..1_000 * id as i32 + 8));
        question(id, prompt, 1)
    };
    for id in 1..4 {
        schedule.ask(in_group(id));
    }
    let mut copies = 0;
    while let Some(step) = schedule.step() {
        copies += step.changes.iter().filter(|change| matches!(change, Change::Copy { .. })).count();
        for (id, _) in machine.compute(&step) {
            assert_eq!(schedule.cached_len(id), 64);
            schedule.forget(id);
        }
    }
    assert_eq!(copies, 1, "a stream is copied whole, so it is not copied twice");
    assert_eq!(schedule.computed(), 64 + 3 * 8);
}

#[test]
fn a_beginning_that_somebody_has_is_not_computed_again() {
    for is_unified in [true, false] {
        let mut schedule = Schedule::new(layout(is_unified), 256);
        let mut machine = Machine::new(layout(is_unified));
        let in_group = |id: u64| {
            let mut prompt = tokens(0..64);
            prompt.extend(tokens(1_000 * id as i32..1_000 * id as i32 + 8));
            question(id, prompt, 4)
        };
        // The first comes alone, and is still being answered when the others come.
        schedule.ask(in_group(1));
        machine.compute(&schedule.step().unwrap());
        for id in 2..4 {
            schedule.ask(in_group(id));
        }
        let answered: HashMap<QuestionId, Token> =
            machine.compute(&schedule.step().unwrap()).into_iter().collect();
        assert_eq!(schedule.computed(), 72 + 2 * 8, "unified: {is_unified}");
        for id in 2..4 {
            assert_eq!(answered[&QuestionId(id)], alone(&in_group(id).prompt, 1)[0]);
        }
    }
}

#[test]
fn who_came_first_is_read_first_whatever_its_sequence() {
    let mut schedule = Schedule::new(Layout { sequences: 2, ..layout(true) }, 4);
    schedule.ask(question(1, tokens(0..4), 1));
    schedule.ask(question(2, tokens(50..70), 1));
    let first = schedule.step().unwrap();
    assert_eq!(first.outputs[0].0, QuestionId(1));
    schedule.forget(QuestionId(1));
    // The third has the lower sequence, which is free again.
    schedule.ask(question(3, tokens(100..120), 1));
    for _ in 0..5 {
        let step = schedule.step().unwrap();
        assert!(step.rows.iter().all(|row| (50..70).contains(&row.token.0)), "{step:?}");
    }
}

#[test]
fn rows_come_in_the_order_of_their_sequences() {
    let mut schedule = Schedule::new(layout(false), 64);
    for id in 0..4 {
        schedule.ask(question(id, tokens(100 * id as i32..100 * id as i32 + 10), 10));
    }
    let step = schedule.step().unwrap();
    let sequences: Vec<u32> = step.rows.iter().map(|row| row.sequence).collect();
    assert!(sequences.is_sorted());
    schedule.forget(QuestionId(1));
    for id in [0, 2, 3] {
        schedule.go_on(QuestionId(id), &[Token(7)]);
    }
    schedule.ask(question(9, tokens(500..510), 10));
    let step = schedule.step().unwrap();
    let sequences: Vec<u32> = step.rows.iter().map(|row| row.sequence).collect();
    assert!(sequences.is_sorted(), "one that is read stands between those that are answered");
    assert_eq!(step.rows.len(), 3 + 10);
}

#[test]
fn nobody_is_admitted_where_the_sequences_are_to_run_empty() {
    let mut schedule = Schedule::new(layout(true), 64);
    schedule.ask(question(1, tokens(0..4), 2));
    schedule.step().unwrap();
    schedule.ask(question(2, tokens(50..60), 2));
    schedule.set_closed(true);
    schedule.go_on(QuestionId(1), &[Token(9)]);
    assert_eq!(schedule.step().unwrap().outputs.len(), 1);
    schedule.forget(QuestionId(1));
    assert!(schedule.step().is_none() && schedule.waiting_count() == 1);
    schedule.set_closed(false);
    assert_eq!(schedule.step().unwrap().outputs[0].0, QuestionId(2));
}

#[test]
fn one_pool_is_kept_longer_than_it_would_be_asked_for() {
    let with_own = |id: i32, own: i32| {
        let mut prompt = tokens(0..80);
        prompt.extend(tokens(1_000 * id..1_000 * id + own));
        question(id as u64, prompt, 4)
    };
    for (own, from_streams, from_one_pool) in [(20, true, true), (30, false, true), (41, false, false)] {
        for (is_unified, wants) in [(false, from_streams), (true, from_one_pool)] {
            let mut schedule = Schedule::new(layout(is_unified), 8);
            for id in 1..9 {
                schedule.ask(with_own(id, own));
            }
            assert_eq!(schedule.wants_unified(), wants, "{own} own tokens, unified: {is_unified}");
        }
    }
}

#[test]
fn a_few_who_wait_do_not_empty_the_sequences() {
    let mut schedule = Schedule::new(layout(true), 64);
    schedule.ask(question(1, tokens(0..4), 20));
    schedule.step().unwrap();
    for id in 2..5 {
        schedule.ask(question(id, tokens(100 * id as i32..100 * id as i32 + 10), 2));
    }
    assert!(schedule.wants_unified(), "three wait, and there are four sequences");
    schedule.ask(question(5, tokens(900..910), 2));
    assert!(!schedule.wants_unified());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Sharing, chunked prompts and the company of others change no answer; nobody is forgotten; no cell is written
    /// twice; less is never computed than must be.
    #[test]
    fn answers_are_those_of_a_question_asked_alone(
        is_unified: bool,
        step_len in 1_usize..40,
        pool_len in 130_u32..400,
        sequences in 1_u32..6,
        shapes in prop::collection::vec((0_i32..4, 0_usize..60, 1_usize..30, 1_u32..20), 1..40),
    ) {
        let layout = Layout { is_unified, sequences, sequence_len: 128, pool_len };
        let questions: Vec<Waiting> = (0_u64..)
            .zip(&shapes)
            .map(|(id, (group, shared, own, answer))| {
                let mut prompt = tokens(group * 1_000..group * 1_000 + *shared as i32);
                prompt.extend(tokens(100_000 + id as i32 * 100..100_000 + id as i32 * 100 + *own as i32));
                question(id, prompt, *answer)
            })
            .collect();
        let (answers, computed) = run(layout, step_len, &questions);
        for asked in &questions {
            let count = asked.answer_len_max.min(128 - asked.prompt.len() as u32) as usize;
            prop_assert_eq!(&answers[&asked.id.0], &alone(&asked.prompt, count));
        }
        let total: usize = questions.iter().map(|asked| asked.prompt.len()).sum();
        let mut sorted: Vec<&[Token]> = questions.iter().map(|asked| asked.prompt.as_ref()).collect();
        sorted.sort_unstable();
        let shared: usize = sorted.windows(2).map(|pair| common_len(pair[0], pair[1])).sum();
        prop_assert!(computed as usize >= total - shared);
    }
}
