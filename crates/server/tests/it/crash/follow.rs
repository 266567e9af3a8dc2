//! A client that follows `results?after=` while the server is killed under it.

use std::collections::HashSet;

use serde_json::Value;

use crate::harness::{Server, Setup, input};

const REQUESTS: usize = 6_000;

#[test]
fn a_client_that_follows_results_through_three_kills_gets_each_line_once() {
    let mut server = Server::with(Setup { engine: "concurrency = 16".to_owned(), ..Setup::default() });
    let id = server.create(&server.upload(&input(REQUESTS, |at| format!("question {at}"))));
    let mut follower = Follower::new(&id);
    for kill in 1..=3 {
        while follower.seen.len() < REQUESTS * kill / 4 {
            follower.step(&server);
        }
        server.restart();
    }
    while !follower.is_final {
        follower.step(&server);
    }
    assert_eq!(follower.seen.len(), REQUESTS);
    let batch = server.batch(&id);
    assert_eq!(batch["status"], "completed", "{batch}");

    // The cursors of before are good for the files, too.
    let mut again = Follower::new(&id);
    while !again.is_final {
        again.step(&server);
    }
    assert_eq!(again.order, follower.order, "numbered once and for all");
}

struct Follower {
    id: String,
    cursor: String,
    seen: HashSet<String>,
    order: Vec<String>,
    is_final: bool,
}

impl Follower {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            cursor: String::new(),
            seen: HashSet::new(),
            order: Vec::new(),
            is_final: false,
        }
    }

    /// One page; a page that never arrived is asked for again.
    fn step(&mut self, server: &Server) {
        let path = format!("/v1/batches/{}/results?after={}&limit=250", self.id, self.cursor);
        let answer = server.get(&path).expect("it is up between the kills");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page: Value = answer.json();
        for line in page["data"].as_array().unwrap() {
            let custom_id = line["custom_id"].as_str().unwrap().to_owned();
            assert!(self.seen.insert(custom_id.clone()), "`{custom_id}` came twice");
            self.order.push(custom_id);
        }
        page["next"].as_str().unwrap().clone_into(&mut self.cursor);
        self.is_final = page["is_final"].as_bool().unwrap();
        if page["data"].as_array().unwrap().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}
