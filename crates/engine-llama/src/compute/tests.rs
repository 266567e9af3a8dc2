//! Whether sharing a beginning changes an answer, with the demo model and the sample documents; and how the thread ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::Value;
use overnight_domain::time::UnixTime;

use super::*;
use crate::question::{Form, Generation, Sampling};
use crate::schedule::{Change, Row};
use crate::template::{Given, Template};
use crate::token::Token;

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

fn demo() -> Model {
    Model::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("model/demo.gguf"), 0).unwrap()
}

const ONE: Resources = Resources {
    unified: Layout { sequences: 1, pool_len: SEQUENCE_LEN, ..UNIFIED },
    streams: Layout { sequences: 1, ..STREAMS },
    step_len: STEP_LEN,
    embed_len: 64,
    embeds_exactly: false,
    threads: 1,
    generates: true,
};

fn question(model: &Model, id: u64, answer_len_max: u32) -> (Order, mpsc::Receiver<Said>) {
    let (said, answer) = mpsc::channel(16);
    let generation = Generation {
        prompt: model.tokenize("The total of the invoice", false, true).unwrap().into(),
        answer_len_max,
        sampling: GREEDY,
        form: Form::Free,
        stop: Vec::new(),
        top_logprobs: None,
    };
    (Order::Generate(QuestionId(id), generation, said), answer)
}

/// Somebody who had not taken their answer made the thread look stuck.
#[test]
fn the_thread_says_that_it_waits_though_somebody_still_reads() {
    let (model, load) = (demo(), Arc::new(Load::default()));
    let (orders, taken) = mpsc::channel(16);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| run(&model, ONE, taken, &load, || ()).unwrap());
        let (order, mut unread) = question(&model, 0, 1);
        orders.try_send(order).unwrap();
        let patience = Instant::now() + Duration::from_secs(120);
        while load.steps.load(Ordering::Relaxed) == 0 || !load.is_waiting.load(Ordering::Relaxed) {
            assert!(Instant::now() < patience, "the thread never says that it waits");
            std::thread::yield_now();
        }
        assert!(matches!(last(&mut unread), Some(Said::End(_))));
        orders.try_send(Order::Stop).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn a_stop_refuses_all_who_are_in_progress_who_wait_and_who_are_on_their_way() {
    let (model, load) = (demo(), Arc::new(Load::default()));
    let mut thread = Computing::new(&model, ONE, &load).unwrap();
    let (orders, taken) = mpsc::channel(16);
    let (begun, first) = question(&model, 1, SEQUENCE_LEN / 2);
    let (waits, second) = question(&model, 2, SEQUENCE_LEN / 2);
    let (comes, third) = question(&model, 3, 1);
    thread.take(begun);
    thread.turn().unwrap();
    assert_eq!(thread.schedule.live_count(), 1);
    thread.take(waits);
    orders.try_send(comes).unwrap();
    let (reply, mut embedded) = mpsc::channel(1);
    thread.take(Order::Embed(QuestionId(4), vec![[Token(0)].into()], reply));
    let (reply, mut late) = mpsc::channel(1);
    orders.try_send(Order::Embed(QuestionId(5), vec![[Token(0)].into()], reply)).unwrap();
    thread.stop(taken);
    for mut answer in [first, second, third] {
        assert!(matches!(last(&mut answer), Some(Said::Refused(refusal)) if refusal.status == 503));
    }
    for reply in [&mut embedded, &mut late] {
        assert!(matches!(reply.try_recv(), Ok(Err(refusal)) if refusal.status == 503));
    }
    let (order, _) = question(&model, 6, 1);
    assert!(orders.try_send(order).is_err(), "nobody asks it any more");
}

fn last(answer: &mut mpsc::Receiver<Said>) -> Option<Said> {
    std::iter::from_fn(|| answer.try_recv().ok()).last()
}

#[test]
fn a_shared_beginning_changes_no_answer() {
    let model = demo();
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
