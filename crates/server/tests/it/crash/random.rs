//! Kills at random moments of a batch of 50,000.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use overnight_domain::limits::COMMIT_BUFFER_FRAMES;

use super::is_full;
use super::outcome::Outcome;
use crate::harness::{PATIENCE, Server, Setup, input};

const REQUESTS: usize = 50_000;
const WINDOW: u64 = 64;

#[test]
fn kills_at_random_moments_cost_at_most_what_was_under_way() {
    let kills = if is_full() { 20 } else { 4 };
    let content = input(REQUESTS, |at| format!("question {at}"));
    let expected = {
        let server = server();
        let id = server.create(&server.upload(&content));
        let batch = server.wait_for_end_of(&id);
        Outcome::of(&server, &batch)
    };
    assert_eq!(expected.len(), REQUESTS);

    let seed = RandomState::new().build_hasher().finish();
    let mut moments: Vec<u64> = (0..kills).map(|at| mix(seed, at) % REQUESTS as u64).collect();
    moments.sort_unstable();
    println!("kills after so many calls: {moments:?}");
    let mut server = server();
    let id = server.create(&server.upload(&content));
    let mut durable = 0;
    let mut slowest = Duration::ZERO;
    for moment in &moments {
        assert!(
            server.engine.wait_until(|calls| calls.total >= *moment, PATIENCE * 4),
            "{moment} calls do not come:\n{}",
            server.log()
        );
        durable = durable.max(completed(&server, &id));
        server.kill();
        let called = server.engine.calls().total;
        let started = Instant::now();
        server.up();
        let seen = completed(&server, &id);
        assert!(seen >= durable, "{durable} were durable, and after the kill there are {seen}");
        // The last kill may come when everything is answered.
        if seen < REQUESTS as u64 {
            assert!(server.engine.wait_until(|calls| calls.total > called, PATIENCE));
            slowest = slowest.max(started.elapsed());
        }
    }
    let batch = server.wait_for_end_of(&id);
    Outcome::of(&server, &batch).assert_same(&expected, &format!("killed after {moments:?}"));
    let repeated = server.engine.calls().total - REQUESTS as u64;
    println!("{kills} kills, {repeated} calls repeated, first dispatch within {slowest:?}");
    assert!(
        repeated <= kills * (WINDOW + COMMIT_BUFFER_FRAMES as u64),
        "{repeated} calls were repeated after {kills} kills"
    );
}

fn server() -> Server {
    Server::with(Setup { engine: format!("concurrency = {WINDOW}"), ..Setup::default() })
}

fn completed(server: &Server, id: &str) -> u64 {
    server.batch(id)["request_counts"]["completed"].as_u64().unwrap()
}

/// splitmix64
fn mix(seed: u64, at: u64) -> u64 {
    let mut mixed = seed.wrapping_add((at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
