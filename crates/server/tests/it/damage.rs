//! Promise 1 against the disk itself: a result that is damaged after its chunk was committed is answered again, and
//! nothing else is.
//!
//! One request waits for an engine that is down, so that the batch runs while its committed results are damaged.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use overnight_domain::chunk::LogPosition;
use overnight_domain::ids::BatchId;
use overnight_segment::SeriesReader;
use overnight_sim::{Engine, Script};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, Setup, custom_ids, files_below, lines, request_line};

/// Rows that are answered at once: seven chunks of 76 and, with the one that waits, a shorter last one.
const ROWS: usize = 600;
const PAGE_LEN: u64 = 4096;
/// Longer than the results of the last chunk.
const ZEROED_END_LEN: u64 = 64 * 1024;
/// As `docs/formats.md` says.
const FRAME_HEADER_LEN: u64 = 128;

#[test]
fn nothing_answered_is_lost_when_results_are_damaged_while_the_server_runs() {
    let case = Case::start();
    let affected = case.damage();
    case.gate.restart();
    case.check_completed(&affected);
}

#[test]
fn nothing_answered_is_lost_when_results_are_damaged_before_a_kill() {
    let mut case = Case::start();
    let affected = case.damage();
    case.server.restart();
    case.gate.restart();
    case.check_completed(&affected);
}

#[test]
fn nothing_answered_is_lost_when_results_are_damaged_while_the_server_is_down() {
    let mut case = Case::start();
    case.server.kill();
    let affected = case.damage();
    case.server.up();
    case.gate.restart();
    case.check_completed(&affected);
}

#[test]
fn nothing_answered_is_lost_when_the_end_of_the_results_is_zeroed_while_the_server_is_down() {
    let mut case = Case::start();
    case.server.kill();
    let end = case.frames[ROWS - 1].bytes.end;
    let zeroed = end - ZEROED_END_LEN..end;
    case.zero(&zeroed);
    let hit = case.frames.iter().filter(|frame| frame.overlaps(&zeroed)).collect::<Vec<_>>();
    assert!(
        hit.iter().any(|frame| frame.chunk != case.open_chunk()),
        "it reaches into a committed chunk"
    );
    let affected = hit.into_iter().map(|frame| frame.custom_id.clone()).collect();
    case.server.up();
    case.gate.restart();
    case.check_completed(&affected);
}

#[test]
fn nothing_answered_is_lost_when_results_are_damaged_once_more() {
    let case = Case::start();
    let mut affected = case.damage();
    case.server.engine.crash();
    case.gate.restart();
    // Every request was answered; now those wait that are to run again.
    let reopened = case.server.wait_for(&case.id, |batch| {
        batch["status"] == "in_progress" && case.server.log().contains("their requests run again")
    });
    assert_eq!(reopened["finalizing_at"], Value::Null);
    assert_eq!(reopened["request_counts"]["completed"], ROWS + 1 - affected.len(), "{reopened}");
    let again = &case.frames[420];
    assert!(!affected.contains(&again.custom_id));
    case.flip_bit(again.bytes.end - 40);
    affected.insert(again.custom_id.clone());
    case.server.engine.restart();
    case.check_completed(&affected);
}

#[test]
fn exactly_one_line_when_results_are_damaged_and_the_batch_is_cancelled() {
    let case = Case::start();
    let affected = case.damage();
    case.server.post(&format!("/v1/batches/{}/cancel", case.id), &json!({}));
    let batch = case.server.wait_for_end_of(&case.id);
    assert_eq!(batch["status"], "cancelled", "{batch}");
    let mut cancelled = affected.clone();
    cancelled.insert("gate".to_owned());
    let errors = case.server.content(&batch, "error_file_id");
    assert_eq!(custom_ids(&errors).into_iter().collect::<BTreeSet<_>>(), cancelled);
    for line in lines(&errors) {
        assert_eq!(line["error"]["code"], "batch_cancelled", "{line}");
    }
    let answered = rows().filter(|row| !affected.contains(row)).collect::<Vec<_>>();
    assert_eq!(custom_ids(&case.server.content(&batch, "output_file_id")), answered);
    let counts = &batch["request_counts"];
    assert_eq!(counts["completed"], answered.len(), "{batch}");
    assert_eq!(counts["failed"], cancelled.len(), "{batch}");
}

/// A batch of which all rows are answered and one request waits.
struct Case {
    server: Server,
    /// The engine that the last request waits for.
    gate: Engine,
    file: String,
    id: String,
    /// The first results, as somebody had read them before anything was damaged, and where to go on.
    seen: Vec<String>,
    cursor: String,
    /// Where they lie, as long as nothing is damaged.
    frames: Vec<Lying>,
}

/// A frame as it lies in the first segment.
struct Lying {
    chunk: u32,
    custom_id: String,
    bytes: Range<u64>,
}

impl Lying {
    fn overlaps(&self, area: &Range<u64>) -> bool {
        self.bytes.start < area.end && area.start < self.bytes.end
    }
}

impl Case {
    fn start() -> Self {
        let gate = Engine::start(Script { models: vec!["gate".to_owned()], ..Script::default() });
        let gate = gate.unwrap();
        gate.crash();
        assert!(gate.wait_until(|calls| !calls.is_listening, PATIENCE));
        let settings = format!(
            "[[engine]]\nname = \"gate\"\nkind = \"openai\"\nurl = \"{}/v1\"\nmodels = [\"gate\"]\n",
            gate.url()
        );
        let engine = "models = [\"sim-model\"]".to_owned();
        let server = Server::with(Setup { settings, engine, ..Setup::default() });
        let mut input = String::new();
        for row in rows() {
            input.push_str(&request_line(&row, &format!("question [[sim:id={row}]]")));
        }
        input.push_str(&request_line("gate", "[[sim:id=gate]]").replace("sim-model", "gate"));
        let file = server.upload(input.as_bytes());
        let id = server.create(&file);
        server.wait_for(&id, |batch| {
            batch["request_counts"]["completed"] == ROWS && batch["overnight"]["open_chunks"] == 1
        });
        let (seen, cursor, frames) = (Vec::new(), String::new(), Vec::new());
        let mut case = Self { server, gate, file, id, seen, cursor, frames };
        (case.seen, case.cursor) = case.read_results("", ROWS / 2);
        case.frames = case.read_frames();
        case
    }

    /// Reads whole pages until there are `count` results, or no more; returns their ids and the cursor.
    fn read_results(&self, after: &str, count: usize) -> (Vec<String>, String) {
        let (mut found, mut after) = (Vec::new(), after.to_owned());
        loop {
            let path = format!("/v1/batches/{}/results?limit=100&after={after}", self.id);
            let page = self.server.get(&path).unwrap();
            assert_eq!(page.status, 200, "{}", page.text());
            let page = page.json();
            let rows = page["data"].as_array().unwrap().iter();
            found.extend(rows.map(|line| line["custom_id"].as_str().unwrap().to_owned()));
            page["next"].as_str().unwrap().clone_into(&mut after);
            if found.len() >= count || page["has_more"] == false {
                return (found, after);
            }
        }
    }

    fn segment(&self) -> PathBuf {
        let files = files_below(&self.server.data());
        let name = PathBuf::from(&self.id).join("00000001.seg");
        files.into_iter().find(|file| file.ends_with(&name)).unwrap()
    }

    fn read_frames(&self) -> Vec<Lying> {
        let segment = self.segment();
        let log = segment.ancestors().nth(2).unwrap();
        let batch = BatchId::parse(&self.id).unwrap();
        let mut frames = Vec::new();
        let mut note = |frame: &overnight_segment::StoredFrame, payload: &[u8]| {
            let line: Value = serde_json::from_slice(payload).unwrap();
            let from = frame.place.offset - FRAME_HEADER_LEN;
            frames.push(Lying {
                chunk: frame.header.chunk.0,
                custom_id: line["custom_id"].as_str().unwrap().to_owned(),
                bytes: from..frame.place.offset + u64::from(frame.place.len),
            });
            ControlFlow::Continue(())
        };
        let until = Some(ROWS as u64);
        SeriesReader::open(log, &batch).scan(LogPosition::START, until, &mut note).unwrap();
        assert_eq!(frames.len(), ROWS);
        frames
    }

    fn flip_bit(&self, at: u64) {
        let file = File::options().read(true).write(true).open(self.segment()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    /// Flips a bit in a payload and one in a header, and zeroes a page, all in chunks that are committed. Returns whose
    /// results are damaged.
    fn damage(&self) -> BTreeSet<String> {
        let frames = &self.frames;
        let in_payload = frames[100].bytes.end - 40;
        let in_header = frames[200].bytes.start + 40;
        self.flip_bit(in_payload);
        self.flip_bit(in_header);
        let page = frames[300].bytes.start.next_multiple_of(PAGE_LEN);
        let page = page..page + PAGE_LEN;
        self.zero(&page);

        let areas = [in_payload..in_payload + 1, in_header..in_header + 1, page];
        let is_hit = |frame: &&Lying| areas.iter().any(|area| frame.overlaps(area));
        let hit = frames.iter().filter(is_hit).collect::<Vec<_>>();
        assert!(hit.len() > 4, "a page holds several frames");
        assert!(hit.iter().all(|frame| frame.chunk != self.open_chunk()), "their chunks are committed");
        hit.into_iter().map(|frame| frame.custom_id.clone()).collect()
    }

    fn zero(&self, area: &Range<u64>) {
        let file = File::options().write(true).open(self.segment()).unwrap();
        let zeros = vec![0; usize::try_from(area.end - area.start).unwrap()];
        file.write_all_at(&zeros, area.start).unwrap();
    }

    /// The one whose last request waits.
    fn open_chunk(&self) -> u32 {
        self.frames.iter().map(|frame| frame.chunk).max().unwrap()
    }

    fn check_completed(&self, affected: &BTreeSet<String>) {
        let batch = self.server.wait_for_end_of(&self.id);
        assert_eq!(batch["status"], "completed", "{batch}");
        let counts = json!({"total": ROWS + 1, "completed": ROWS + 1, "failed": 0});
        assert_eq!(batch["request_counts"], counts, "{batch}");
        for row in rows() {
            let expected = if affected.contains(&row) { 2 } else { 1 };
            assert_eq!(self.server.engine.calls_of_marker(&row), expected, "calls for `{row}`");
        }
        assert_eq!(self.gate.calls_of_marker("gate"), 1);

        let fresh = self.server.create(&self.file);
        let fresh = self.server.wait_for_end_of(&fresh);
        assert_eq!(batch["usage"], fresh["usage"]);
        assert_eq!(answers(&self.server, &batch), answers(&self.server, &fresh));

        // Who read before goes on where it was: nothing is passed over, and only what was damaged may come twice.
        let (more, _) = self.read_results(&self.cursor, usize::MAX);
        let mut all = self.seen.iter().chain(&more).collect::<Vec<_>>();
        all.sort_unstable();
        let twice = all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].as_str());
        assert!(twice.into_iter().all(|row| affected.contains(row)));
        all.dedup();
        assert_eq!(all.len(), ROWS + 1);
        let (whole, _) = self.read_results("", usize::MAX);
        assert_eq!(whole.len(), ROWS + 1, "from the beginning each comes once");
        assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), ROWS + 1);
    }
}

fn rows() -> impl Iterator<Item = String> {
    (0..ROWS).map(|at| format!("row-{at}"))
}

/// The output without what is different in each run.
fn answers(server: &Server, batch: &Value) -> Vec<(Value, Value)> {
    assert_eq!(batch["error_file_id"], Value::Null);
    let mut lines = lines(&server.content(batch, "output_file_id"));
    lines.iter_mut().map(|line| (line["custom_id"].take(), line["response"]["body"].take())).collect()
}
