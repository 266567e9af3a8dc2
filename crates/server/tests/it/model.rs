//! Random sequences of calls against a model: whatever is asked in whatever order, each batch behaves like one value,
//! ends exactly once, and each of its lines stands in exactly one file.

mod states;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::crash::is_full;
use crate::harness::{Server, Setup, custom_ids, request_line};
use states::{Call, Model, Seen};

/// Sequences at once, each on a thread of its own.
const AT_ONCE: u32 = 4;

#[derive(Debug, Clone, Copy)]
enum Line {
    Plain,
    Slow,
    Refused,
    /// It makes the whole file invalid.
    Broken,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    One(usize, Call),
    Both(usize, Call, Call),
    List,
    Download(usize),
    DeleteInput,
}

#[test]
fn five_hundred_sequences_of_calls_behave_like_the_model() {
    let sequences = if is_full() { 5_000 } else { 500 };
    let settings = "[limits]\nunfinished_batches = 1000\n[queue]\nmax_active_batches = 64".to_owned();
    let engine = "concurrency = 64".to_owned();
    let server = Server::with(Setup { settings, engine, ..Setup::default() });
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let config = Config {
                    cases: sequences / AT_ONCE,
                    failure_persistence: None,
                    max_shrink_iters: 100,
                    ..Config::default()
                };
                let given =
                    (prop::collection::vec(a_line(), 1..7), prop::collection::vec(a_step(), 1..12));
                let outcome = TestRunner::new(config).run(&given, |(lines, steps)| {
                    Sequence::new(&server, &lines).run(&steps);
                    Ok(())
                });
                if let Err(error) = outcome {
                    panic!("{error}");
                }
            });
        }
    });
    let left = server.get("/v1/batches").unwrap().json();
    assert_eq!(left["data"], json!([]), "all were deleted");
}

fn a_line() -> impl Strategy<Value = Line> {
    prop_oneof![
        8 => Just(Line::Plain),
        8 => Just(Line::Slow),
        3 => Just(Line::Refused),
        1 => Just(Line::Broken),
    ]
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Create),
        8 => (0..3_usize, a_call()).prop_map(|(batch, call)| Step::One(batch, call)),
        3 => (0..3_usize, a_racing_call(), a_racing_call())
            .prop_map(|(batch, one, other)| Step::Both(batch, one, other)),
        1 => Just(Step::List),
        2 => (0..3_usize).prop_map(Step::Download),
        1 => Just(Step::DeleteInput),
    ]
}

fn a_call() -> impl Strategy<Value = Call> {
    prop_oneof![3 => Just(Call::Look), 2 => Just(Call::Retry), 5 => a_racing_call()]
}

fn a_racing_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        Just(Call::Cancel),
        Just(Call::Pause),
        Just(Call::Resume),
        Just(Call::Expire),
        Just(Call::Delete),
    ]
}

/// One file and the batches that are made of it.
struct Sequence<'a> {
    server: &'a Server,
    file: String,
    is_file_deleted: bool,
    custom_ids: Vec<String>,
    batches: Vec<Tracked>,
}

struct Tracked {
    id: String,
    model: Model,
    /// Its lines, in order.
    custom_ids: Vec<String>,
    /// Its files when they were read first.
    files: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Sequence<'a> {
    fn new(server: &'a Server, lines: &[Line]) -> Self {
        let custom_ids: Vec<String> = (0..lines.len()).map(|at| format!("row-{at}")).collect();
        let content: String = lines
            .iter()
            .zip(&custom_ids)
            .map(|(line, custom_id)| match line {
                Line::Plain => request_line(custom_id, "question"),
                Line::Slow => request_line(custom_id, "question [[sim:delay_ms=30]]"),
                Line::Refused => request_line(custom_id, "question [[sim:status=400]]"),
                Line::Broken => format!("{{\"custom_id\":\"{custom_id}\"}}\n"),
            })
            .collect();
        let file = server.upload(content.as_bytes());
        Self { server, file, is_file_deleted: false, custom_ids, batches: Vec::new() }
    }

    fn run(mut self, steps: &[Step]) {
        self.create();
        for step in steps {
            match *step {
                Step::Create => self.create(),
                Step::One(batch, call) => self.call(batch, call),
                Step::Both(batch, one, other) => self.call_both(batch, [one, other]),
                Step::List => self.list(),
                Step::Download(batch) => self.download(batch),
                Step::DeleteInput => self.delete_input(),
            }
        }
        while let Some(batch) = self.batches.pop() {
            self.end(batch);
        }
    }

    fn create(&mut self) {
        if self.batches.len() >= 3 {
            return;
        }
        let answer = self.server.try_create(&self.file, &json!({"hard_expiry": true}));
        if self.is_file_deleted {
            assert_eq!(answer.status, 400, "{}", answer.text());
            return;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.track(&answer.json(), self.custom_ids.clone());
    }

    fn track(&mut self, batch: &Value, custom_ids: Vec<String>) {
        let id = batch["id"].as_str().unwrap().to_owned();
        self.batches.push(Tracked { id, model: Model::created(), custom_ids, files: None });
    }

    fn call(&mut self, batch: usize, call: Call) {
        let count = self.batches.len();
        let tracked = &mut self.batches[batch % count];
        let (seen, body) = ask(self.server, &tracked.id, call);
        let before = tracked.model.clone();
        let after = before.explain(call, &seen);
        tracked.model =
            after.unwrap_or_else(|| panic!("{call:?} gave {seen:?}, but it was {before:?}: {body}"));
        if call == Call::Retry && seen.code == 200 {
            // Looked at behind the call: it may have been the end of the batch that made it possible.
            let failed = failed_of(self.server, &tracked.id);
            self.track(&body, failed);
        }
    }

    fn call_both(&mut self, batch: usize, calls: [Call; 2]) {
        let count = self.batches.len();
        let tracked = &mut self.batches[batch % count];
        let (server, id) = (self.server, &tracked.id);
        let seen = std::thread::scope(|scope| {
            let both = calls.map(|call| scope.spawn(move || ask(server, id, call).0));
            // Each may show what the other has made of it.
            both.map(|one| Seen { status: None, ..one.join().unwrap() })
        });
        let before = tracked.model.clone();
        let after = before.explain_both(calls, &seen);
        tracked.model =
            after.unwrap_or_else(|| panic!("{calls:?} gave {seen:?}, but it was {before:?}"));
    }

    fn list(&mut self) {
        let list = self.server.get("/v1/batches?limit=100").unwrap().json();
        let listed = list["data"].as_array().unwrap();
        for tracked in &mut self.batches {
            let entry = listed.iter().find(|entry| entry["id"] == tracked.id.as_str());
            let seen = match entry {
                Some(entry) => Seen { code: 200, status: entry["status"].as_str().map(str::to_owned) },
                None => Seen { code: 404, status: None },
            };
            let before = tracked.model.clone();
            let after = before.explain(Call::Look, &seen);
            tracked.model = after.unwrap_or_else(|| panic!("listed as {seen:?}, but it was {before:?}"));
        }
    }

    /// What can be read once stays as it is.
    fn download(&mut self, batch: usize) {
        let count = self.batches.len();
        let tracked = &mut self.batches[batch % count];
        let answer = self.server.get(&format!("/v1/batches/{}", tracked.id)).unwrap();
        if answer.status == 404 {
            return;
        }
        let shown = answer.json();
        let files = (
            self.server.content(&shown, "output_file_id"),
            self.server.content(&shown, "error_file_id"),
        );
        let is_terminal = is_terminal(&shown);
        assert!(is_terminal || files.0.len() + files.1.len() == 0, "files before the end: {shown}");
        if is_terminal {
            let first = tracked.files.get_or_insert_with(|| files.clone());
            assert!(*first == files, "the files of {shown} have changed");
        }
    }

    /// A batch keeps what it needs of its input, however soon that is deleted.
    fn delete_input(&mut self) {
        let path = format!("/v1/files/{}", self.file);
        let answer = self.server.call("DELETE", &path, &[], b"").unwrap();
        assert_eq!(answer.status, if self.is_file_deleted { 404 } else { 200 }, "{}", answer.text());
        self.is_file_deleted = true;
    }

    /// Lets a batch come to its end, looks at all of it, and deletes it.
    fn end(&self, mut tracked: Tracked) {
        let mut follow = |call: Call| {
            let (seen, body) = ask(self.server, &tracked.id, call);
            let after = tracked.model.explain(call, &seen);
            let before = tracked.model.clone();
            tracked.model =
                after.unwrap_or_else(|| panic!("{call:?} gave {seen:?}, but it was {before:?}: {body}"));
            (seen.code, body)
        };
        if follow(Call::Resume).0 == 404 {
            return;
        }
        self.server.wait_for_end_of(&tracked.id);
        let (_, batch) = follow(Call::Look);
        check_ended(self.server, &batch, &tracked.custom_ids);
        let files: Vec<&str> =
            ["output_file_id", "error_file_id"].iter().filter_map(|name| batch[name].as_str()).collect();
        assert_eq!(follow(Call::Delete).0, 200);
        assert_eq!(follow(Call::Look).0, 404);
        for file in files {
            assert_eq!(self.server.get(&format!("/v1/files/{file}")).unwrap().status, 404);
        }
    }
}

fn ask(server: &Server, id: &str, call: Call) -> (Seen, Value) {
    let path = format!("/v1/batches/{id}");
    let answer = match call {
        Call::Look => server.get(&path).unwrap(),
        Call::Cancel => server.post(&format!("{path}/cancel"), &json!({})),
        Call::Pause => server.post(&format!("{path}/pause"), &json!({})),
        Call::Resume => server.post(&format!("{path}/resume"), &json!({})),
        Call::Expire => server.post(&path, &json!({"expires_at": 1})),
        Call::Retry => server.post(&format!("{path}/retry"), &json!({})),
        Call::Delete => server.call("DELETE", &path, &[], b"").unwrap(),
    };
    let body = answer.json();
    // A retry shows its own batch, a deletion none.
    let shows_it = answer.status == 200 && !matches!(call, Call::Retry | Call::Delete);
    let status = if shows_it { body["status"].as_str().map(str::to_owned) } else { None };
    (Seen { code: answer.status, status }, body)
}

/// The failed requests of a batch that has ended.
fn failed_of(server: &Server, id: &str) -> Vec<String> {
    custom_ids(&server.content(&server.batch(id), "error_file_id"))
}

fn is_terminal(batch: &Value) -> bool {
    ["completed", "failed", "expired", "cancelled"].contains(&batch["status"].as_str().unwrap())
}

/// One end, and every line in exactly one file, in input order.
fn check_ended(server: &Server, batch: &Value, expected: &[String]) {
    let status = batch["status"].as_str().unwrap();
    let ends = ["completed_at", "failed_at", "expired_at", "cancelled_at"];
    let reached: Vec<&str> = ends.into_iter().filter(|name| batch[name].is_u64()).collect();
    assert_eq!(reached, [format!("{status}_at")], "{batch}");
    let output = custom_ids(&server.content(batch, "output_file_id"));
    let errors = custom_ids(&server.content(batch, "error_file_id"));
    let counts = &batch["request_counts"];
    assert_eq!((&counts["completed"], &counts["failed"]), (&json!(output.len()), &json!(errors.len())));
    let was_planned = batch["in_progress_at"].is_u64();
    assert!(was_planned || matches!(status, "failed" | "cancelled"), "{batch}");
    if !was_planned {
        assert_eq!((output.len(), errors.len()), (0, 0), "{batch}");
        return;
    }
    assert_eq!(counts["total"], expected.len(), "{batch}");
    for file in [&output, &errors] {
        let in_order: Vec<&String> = expected.iter().filter(|id| file.contains(id)).collect();
        assert_eq!(file.iter().collect::<Vec<_>>(), in_order, "input order: {batch}");
    }
    let all: BTreeSet<&String> = output.iter().chain(&errors).collect();
    assert_eq!(all.len(), output.len() + errors.len(), "a line stands twice: {batch}");
    assert_eq!(all, expected.iter().collect(), "{batch}");
}
