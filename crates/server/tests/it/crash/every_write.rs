//! A kill at every 7th (in full: every) write, sync or rename of a small batch, from the first start to the last sync of the stop.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::failpoint::{Fault, arm, disarm, fired, operation_count};
use super::is_full;
use super::outcome::{Client, Outcome};
use crate::harness::{Server, Setup, input};

const STEP: u64 = 7;
/// Two at a time: they wait for the disk more than for the processor.
const AT_ONCE: usize = 2;

#[test]
fn a_kill_at_every_seventh_operation_changes_nothing() {
    let input = mixed_input();
    let (expected, total) = undisturbed(&input);
    assert_eq!(expected.len(), 200);
    let step = if is_full() { 1 } else { STEP };
    let (next, is_over, killed) = (AtomicU64::new(1), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let at = next.fetch_add(1, Ordering::SeqCst) * step;
                    if interrupted(&input, &expected, at, at / step % 2 == 0) {
                        killed.fetch_add(1, Ordering::SeqCst);
                    } else {
                        // The commits of two runs are not grouped alike, so that one may need fewer operations.
                        assert!(at > total * 7 / 10, "the kill at {at} of about {total} did not fire");
                        is_over.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let killed = killed.into_inner();
    println!("killed at {killed} points, one in {step} of about {total} operations");
    assert!(killed >= total * 7 / 10 / step);
}

/// Answers, refusals, one that needs a second attempt, and text that careless readers break.
fn mixed_input() -> Vec<u8> {
    input(200, |at| match at % 20 {
        3 => format!("question {at} [[sim:status=400,code=bad_request]]"),
        7 => format!("question {at} [[sim:unicode]]"),
        11 if at < 20 => format!("question {at} [[sim:status=500,times=1]]"),
        _ => format!("question {at}"),
    })
}

fn undisturbed(input: &[u8]) -> (Outcome, u64) {
    let mut server = Server::idle(Setup::default());
    arm(&mut server, Fault::Trace);
    server.up();
    let batch = Client::new(input).go(&server).expect("nobody kills it");
    let outcome = Outcome::of(&server, &batch);
    server.terminate();
    assert!(server.wait_for_end().success());
    (outcome, operation_count(&server))
}

/// False when the run was over before the kill.
fn interrupted(input: &[u8], expected: &Outcome, at: u64, again: bool) -> bool {
    let mut server = Server::idle(Setup::default());
    let mut client = Client::new(input);
    arm(&mut server, Fault::Kill { at, torn: at % 2 == 1 });
    if !run_until_killed(&mut server, &mut client) {
        return false;
    }
    let first = fired(&server).expect("it was killed by the failpoint");
    // What recovers is killed, too.
    if again {
        arm(&mut server, Fault::Kill { at: at % 45 + 1, torn: true });
        run_until_killed(&mut server, &mut client);
    }
    disarm(&mut server);
    server.up();
    client.check_files(&server).expect("nobody kills it now");
    let batch = client.go(&server).expect("nobody kills it now");
    assert_eq!(client.refusals, 0, "nothing is refused");
    Outcome::of(&server, &batch).assert_same(expected, &format!("killed at {first}"));
    true
}

/// From a start to the kill; false when it came to its end without one.
fn run_until_killed(server: &mut Server, client: &mut Client<'_>) -> bool {
    let ended = server.try_up().unwrap_or_else(|| {
        if client.go(server).is_some() {
            server.terminate();
        }
        server.wait_for_end()
    });
    if fired(server).is_none() {
        assert!(ended.success(), "it ended by itself with {ended}:\n{}", server.log());
        return false;
    }
    assert_eq!(ended.signal(), Some(9), "the failpoint ends it:\n{}", server.log());
    true
}
