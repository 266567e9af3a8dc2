//! Whether sharing a beginning changes an answer, with the demo model and the sample documents.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::Value;
use overnight_domain::time::UnixTime;

use crate::llama::{Model, Session};
use crate::question::Sampling;
use crate::schedule::{Change, Layout, Row, Schedule, Step, Waiting};
use crate::template::{Given, Template};
use crate::token::{QuestionId, Token};

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    frequency_penalty: 0.0,
    presence_penalty: 0.0,
    repeat_penalty: 1.0,
    seed: 0,
};
const SEQUENCE_LEN: u32 = 768;
const STEP_LEN: usize = 512;
const ANSWER_LEN: usize = 10;
/// Of each document: enough to tell its class by, and soon computed.
const LETTERS: usize = 200;
const STREAMS: Layout =
    Layout { is_unified: false, sequences: 8, sequence_len: SEQUENCE_LEN, pool_len: 0 };
const UNIFIED: Layout = Layout { is_unified: true, pool_len: 9 * SEQUENCE_LEN, ..STREAMS };

const SYSTEM: &str = "Sort the document into one of these classes: invoice, contract, resume, email, report, recipe, \
    other. Answer as JSON with the member category, and say nothing else.";

fn prompts(model: &Model) -> Vec<Arc<[Token]>> {
    let source = model.template().unwrap();
    let template = Template::new(source, model.start_text(), model.end_text()).unwrap();
    let message = |role: &str, text: &str| Value::from_pairs([("role", role), ("content", text)]);
    let prompt = |document: &PathBuf| {
        let text = std::fs::read_to_string(document).unwrap();
        let text: String = text.chars().take(LETTERS).collect();
        let messages = [message("system", SYSTEM), message("user", &text)];
        let values = BTreeMap::new();
        let now = UnixTime::from_millis(0);
        let given = Given { messages: &messages, tools: &[], values: &values, now };
        model.tokenize(&template.render(&given).unwrap(), false, true).unwrap().into()
    };
    documents().iter().map(prompt).collect()
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/documents");
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    entries(&root).iter().filter(|path| path.is_dir()).flat_map(|folder| entries(folder)).collect()
}

/// The next token, the likeliest.
fn next(model: &Model, session: &mut Session<'_>, row: usize) -> Token {
    session.choose(row, &mut model.chooser(&GREEDY)).unwrap()
}

/// One after another, each computed whole.
fn alone(model: &Model, prompts: &[Arc<[Token]>]) -> Vec<Vec<Token>> {
    let mut session = Session::new(model, STREAMS, STEP_LEN, 1).unwrap();
    let mut answer = |prompt: &Arc<[Token]>| {
        let (mut said, mut pending, mut position) = (Vec::new(), prompt.to_vec(), 0);
        let mut changes = vec![Change::Cut { sequence: 0, from: 0 }];
        while said.len() < ANSWER_LEN {
            let last = pending.len() - 1;
            let row = |(at, token)| Row {
                sequence: 0,
                position: position + at as u32,
                token,
                wants_logits: at == last,
            };
            let rows: Vec<Row> = pending.iter().copied().enumerate().map(row).collect();
            session
                .compute(&Step { changes: std::mem::take(&mut changes), rows, outputs: Vec::new() })
                .unwrap();
            position += pending.len() as u32;
            let token = next(model, &mut session, last);
            if model.ends(token) {
                break;
            }
            said.push(token);
            pending = vec![token];
        }
        said
    };
    prompts.iter().map(&mut answer).collect()
}

/// As the schedule has it; returns as well how many prompt tokens were computed.
fn together(model: &Model, prompts: &[Arc<[Token]>], layout: Layout) -> (Vec<Vec<Token>>, u64) {
    let mut session = Session::new(model, layout, STEP_LEN, 1).unwrap();
    let mut schedule = Schedule::new(layout, STEP_LEN);
    for (at, prompt) in prompts.iter().enumerate() {
        let id = QuestionId(at as u64);
        schedule.ask(Waiting { id, prompt: prompt.clone(), answer_len_max: ANSWER_LEN as u32 });
    }
    let mut said: HashMap<QuestionId, Vec<Token>> = HashMap::new();
    while let Some(step) = schedule.step() {
        session.compute(&step).unwrap();
        for (id, row) in &step.outputs {
            let token = next(model, &mut session, *row);
            let said = said.entry(*id).or_default();
            let is_over = model.ends(token) || {
                said.push(token);
                said.len() >= ANSWER_LEN
            };
            if is_over { schedule.forget(*id) } else { schedule.go_on(*id, &[token]) }
        }
    }
    assert!(schedule.is_idle());
    let said = (0..prompts.len()).map(|at| said.remove(&QuestionId(at as u64)).unwrap()).collect();
    (said, schedule.computed())
}

#[test]
fn a_shared_beginning_changes_no_answer() {
    let model = Model::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("model/demo.gguf"), 0).unwrap();
    let prompts = prompts(&model);
    assert!(prompts.len() >= 200);
    let total: u64 = prompts.iter().map(|prompt| prompt.len() as u64).sum();
    let alone = alone(&model, &prompts);
    let is_label = |said: &Vec<Token>| {
        let text: Vec<u8> = said.iter().flat_map(|token| model.piece(*token)).collect();
        text.starts_with(b"{\"category\":\"")
    };
    assert!(alone.iter().all(is_label), "the model does what it was made for");

    let (streams, computed) = together(&model, &prompts, STREAMS);
    assert!(computed < total * 9 / 10, "{computed} of {total} were computed: the beginning is shared");
    assert_eq!(streams, alone);

    // Here the sums have another order: where two labels are nearly alike, the other one may win.
    let (unified, computed) = together(&model, &prompts, UNIFIED);
    assert!(computed < total * 9 / 10, "{computed} of {total} were computed: the beginning is shared");
    let same = unified.iter().zip(&alone).filter(|(unified, alone)| unified == alone).count();
    println!("{same} of {} are the same with a unified cache", prompts.len());
    assert!(same * 100 >= prompts.len() * 99, "{same} of {} are the same", prompts.len());
}
