//! A disk that is full, and one that fails to sync: work waits or ends, and success is never reported too early.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::crash::failpoint::{
    Fault, Operation, arm, disarm, fired, make_room, operation_count, operations,
};
use crate::crash::is_full;
use crate::crash::outcome::{Client, Outcome};
use crate::harness::{PATIENCE, Server, Setup, input};

const REQUESTS: usize = 20;
const AT_ONCE: usize = 2;

#[test]
fn a_full_disk_at_each_operation_is_waited_out_without_a_restart() {
    let run = Undisturbed::new();
    // What is written before it serves is its start, which a full disk refuses with a reason.
    at_points(run.start_count + 1..=run.work_count, if is_full() { 1 } else { 9 }, |at| {
        let mut server = Server::idle(Setup::default());
        arm(&mut server, Fault::Full { at });
        server.up();
        let mut client = Client::new(&run.input);
        let batch = std::thread::scope(|scope| {
            let working = scope.spawn(|| client.go(&server));
            let started = std::time::Instant::now();
            while fired(&server).is_none() && !working.is_finished() {
                assert!(started.elapsed() < PATIENCE, "nothing is written any more");
                std::thread::sleep(Duration::from_millis(5));
            }
            // Long enough that whoever comes next meets the full disk, too.
            std::thread::sleep(Duration::from_millis(300));
            make_room(&server);
            working.join().unwrap()
        });
        let first = fired(&server).unwrap_or_else(|| "never".to_owned());
        let Some(batch) = batch else { panic!("it ended, full at {first}:\n{}", server.log()) };
        Outcome::of(&server, &batch).assert_same(&run.outcome, &format!("full at {first}"));
        assert_eq!(server.has_ended(), None);
        first != "never"
    });
}

/// On a disk of its own, which takes a mount namespace: where none can be had, it is said.
#[test]
fn a_run_without_room_says_so_and_leaves_the_room_to_the_next() {
    const SCRIPT: &str = "mount -t tmpfs -o size=8m tmpfs disk || { echo NOT TESTED HERE; exit; }
        run() { \"$1\" run in.jsonl -o disk/out.jsonl --engine \"$2\" 2>said; echo $?; }
        run \"$@\"; grep -o 'may need .* and 0 are free .* make room' said
        find disk -path '*/blobs/*' -type f | wc -l
        mount -o remount,size=900m disk
        run \"$@\"; wc -l <disk/out.jsonl";
    let server = Server::idle(Setup::default());
    let folder = server.folder.path();
    std::fs::create_dir(folder.join("disk")).unwrap();
    std::fs::write(folder.join("in.jsonl"), input(REQUESTS, |at| format!("question {at}"))).unwrap();
    let engine = format!("{}/v1", server.engine.url());
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_overnight"), &engine])
        .current_dir(folder)
        .output();
    let said = output.map(|output| String::from_utf8(output.stdout).unwrap()).unwrap_or_default();
    if said.is_empty() || said.starts_with("NOT") {
        eprintln!("NOT TESTED HERE: a disk without room; no mount namespace can be had");
        return;
    }
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let why = "may need 1 MiB of disk, and 0 are free beside the 256 that are held back for the system; make room";
    let requests = REQUESTS.to_string();
    assert_eq!(lines, ["1", why, "0", "0", requests.as_str()]);
}

#[test]
fn a_sync_that_fails_is_never_reported_as_success() {
    let run = Undisturbed::new();
    at_points(run.start_syncs + 1..=run.work_syncs, if is_full() { 1 } else { 3 }, |at| {
        let mut server = Server::idle(Setup::default());
        arm(&mut server, Fault::SyncError { at });
        server.up();
        let mut client = Client::new(&run.input);
        let ended = client.go(&server);
        let Some(first) = fired(&server) else { return false };
        check_answers(&operations(&server));
        if ended.is_none() {
            let status = server.wait_for_end();
            assert!(!status.success(), "it stopped for the sync at {first}, and says so");
        } else {
            server.kill();
        }
        disarm(&mut server);
        server.up();
        client.check_files(&server).expect("it stays up");
        let batch = client.go(&server).expect("it stays up");
        Outcome::of(&server, &batch).assert_same(&run.outcome, &format!("no sync at {first}"));
        true
    });
}

#[test]
fn a_file_and_its_folder_are_synced_before_its_upload_is_answered() {
    let mut server = Server::idle(Setup::default());
    arm(&mut server, Fault::Trace);
    server.up();
    server.upload(&input(REQUESTS, |at| format!("question {at}")));
    let all = operations(&server);
    let folder = server.data().join("blobs/files").to_str().unwrap().to_owned();
    let place = |name: &str, from: usize, is_it: &dyn Fn(&str) -> bool| {
        let found =
            all[from..].iter().position(|found| found.is_ok && found.name == name && is_it(&found.path));
        from + found.unwrap_or_else(|| panic!("no `{name}` behind {from} in {all:#?}"))
    };
    let is_staged = |path: &str| path.starts_with(&folder) && path.contains('#');
    let last_write = all.iter().rposition(|found| found.name == "write" && is_staged(&found.path));
    let synced = place("fsync", last_write.expect("the blob was written"), &is_staged);
    let named = place("rename", synced, &|path| path.starts_with(&folder) && !path.contains('#'));
    let folder_synced = place("fsync", named, &|path| path == folder);
    let recorded = place("fsync", folder_synced, &|path| path.ends_with("overnight.db-wal"));
    let answered = all.iter().rposition(|found| found.name == "answer" && found.path == "200");
    assert!(answered.expect("the upload was answered") > recorded, "{all:#?}");
}

/// While a file is being received nothing else is asked: the answer behind a failed sync of its blob is its own.
fn check_answers(all: &[Operation]) {
    let Some(failed) = all.iter().position(|operation| {
        !operation.is_ok && operation.name == "fsync" && operation.path.contains("/blobs/files")
    }) else {
        return;
    };
    let answer = all[failed..].iter().find(|operation| operation.name == "answer");
    if let Some(answer) = answer {
        assert!(answer.path.starts_with('5'), "the upload was answered with {}", answer.path);
    }
}

/// A run without faults, for comparison: what came of it and how many operations it took.
struct Undisturbed {
    input: Vec<u8>,
    outcome: Outcome,
    start_count: u64,
    start_syncs: u64,
    work_count: u64,
    work_syncs: u64,
}

impl Undisturbed {
    fn new() -> Self {
        let input = input(REQUESTS, |at| format!("question {at}"));
        let mut server = Server::idle(Setup::default());
        arm(&mut server, Fault::Trace);
        server.up();
        let (start_count, start_syncs) = (operation_count(&server), sync_count(&server));
        let batch: Value = Client::new(&input).go(&server).expect("nothing fails");
        let outcome = Outcome::of(&server, &batch);
        let (work_count, work_syncs) = (operation_count(&server), sync_count(&server));
        Self { input, outcome, start_count, start_syncs, work_count, work_syncs }
    }
}

fn sync_count(server: &Server) -> u64 {
    operations(server).iter().filter(|found| found.name.ends_with("sync")).count() as u64
}

/// Runs `at_point` at every `step`th point of the range, and wants most of the faults to have come.
fn at_points(points: std::ops::RangeInclusive<u64>, step: usize, at_point: impl Fn(u64) -> bool + Sync) {
    let points: Vec<u64> = points.step_by(step).collect();
    let (next, met) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(at) = points.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    met.fetch_add(u64::from(at_point(*at)), Ordering::SeqCst);
                }
            });
        }
    });
    let met = met.into_inner();
    assert!(met * 10 >= points.len() as u64 * 7, "only {met} of {} faults came", points.len());
}
