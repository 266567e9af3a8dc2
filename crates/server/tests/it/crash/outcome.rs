//! A client that goes on where it was, and what a batch came to, without what differs between any two runs.

use std::time::Instant;

use serde_json::Value;

use crate::harness::{PATIENCE, Server, lines};

/// Uploads, creates a batch and waits for its end; when the server dies, it goes on with the next one. What was
/// acknowledged to it must still be there.
pub(crate) struct Client<'a> {
    input: &'a [u8],
    file: Option<String>,
    batch: Option<String>,
    /// How often it was told to come back.
    pub(crate) refusals: usize,
}

impl<'a> Client<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self { input, file: None, batch: None, refusals: 0 }
    }

    /// The ended batch. None when the server has gone before.
    pub(crate) fn go(&mut self, server: &Server) -> Option<Value> {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "no end after {} refusals", self.refusals);
            let batch = match (&self.file, &self.batch) {
                (None, _) => {
                    self.upload(server)?;
                    continue;
                }
                (Some(file), None) => {
                    let file = file.clone();
                    self.create(server, &file)?;
                    continue;
                }
                (_, Some(batch)) => server.get(&format!("/v1/batches/{batch}"))?,
            };
            if self.is_refused(&batch) {
                continue;
            }
            let batch = batch.json();
            let status = batch["status"].as_str().unwrap();
            if ["completed", "failed", "expired", "cancelled"].contains(&status) {
                return Some(batch);
            }
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }

    /// What was acknowledged is there, whole; what was not may be there, but not in part.
    pub(crate) fn check_files(&self, server: &Server) -> Option<()> {
        let list = server.get("/v1/files?purpose=batch")?.json();
        let ids: Vec<&str> =
            list["data"].as_array().unwrap().iter().map(|file| file["id"].as_str().unwrap()).collect();
        for id in &ids {
            let content = server.get(&format!("/v1/files/{id}/content"))?;
            assert_eq!(content.status, 200, "{}", content.text());
            assert!(content.body == self.input, "`{id}` is listed, but not whole");
        }
        if let Some(file) = &self.file {
            assert!(ids.contains(&file.as_str()), "`{file}` was acknowledged and is gone");
        }
        Some(())
    }

    fn upload(&mut self, server: &Server) -> Option<()> {
        let answer = server.try_upload_as(&[("purpose", "batch")], "in.jsonl", self.input)?;
        if !self.is_refused(&answer) {
            self.file = Some(answer.json()["id"].as_str().unwrap().to_owned());
        }
        Some(())
    }

    /// A creation whose answer was lost may have happened.
    fn create(&mut self, server: &Server, file: &str) -> Option<()> {
        let list = server.get("/v1/batches")?;
        if self.is_refused(&list) {
            return Some(());
        }
        let list = list.json();
        let earlier = list["data"].as_array().unwrap();
        assert!(earlier.len() <= 1, "one creation made several batches: {list}");
        if let Some(batch) = earlier.first() {
            self.batch = Some(batch["id"].as_str().unwrap().to_owned());
            return Some(());
        }
        let body = serde_json::json!({
            "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        });
        let answer = server.try_post("/v1/batches", &body)?;
        if !self.is_refused(&answer) {
            self.batch = Some(answer.json()["id"].as_str().unwrap().to_owned());
        }
        Some(())
    }

    fn is_refused(&mut self, answer: &crate::harness::Answer) -> bool {
        if answer.status == 200 {
            return false;
        }
        assert!(answer.status >= 500, "refused for good: {}", answer.text());
        self.refusals += 1;
        std::thread::sleep(std::time::Duration::from_millis(20));
        true
    }
}

/// What a batch came to: byte for byte but for generated ids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    status: String,
    counts: Value,
    output: Vec<Vec<u8>>,
    errors: Vec<Vec<u8>>,
}

impl Outcome {
    pub(crate) fn of(server: &Server, batch: &Value) -> Self {
        Self {
            status: batch["status"].as_str().unwrap().to_owned(),
            counts: batch["request_counts"].clone(),
            output: without_ids(&server.content(batch, "output_file_id")),
            errors: without_ids(&server.content(batch, "error_file_id")),
        }
    }

    pub(crate) fn assert_same(&self, expected: &Self, when: &str) {
        assert_eq!((&self.status, &self.counts), (&expected.status, &expected.counts), "{when}");
        for (name, got, wanted) in
            [("output", &self.output, &expected.output), ("error file", &self.errors, &expected.errors)]
        {
            assert_eq!(got.len(), wanted.len(), "{when}: lines of the {name}");
            for (got, wanted) in got.iter().zip(wanted) {
                let (got, wanted) = (String::from_utf8_lossy(got), String::from_utf8_lossy(wanted));
                assert_eq!(got, wanted, "{when}: {name}");
            }
        }
    }

    /// Lines in both files together.
    pub(crate) fn len(&self) -> usize {
        self.output.len() + self.errors.len()
    }
}

fn without_ids(content: &[u8]) -> Vec<Vec<u8>> {
    let parsed = lines(content);
    let raw = content.split_inclusive(|byte| *byte == b'\n');
    parsed
        .iter()
        .zip(raw)
        .map(|(line, raw)| {
            let mut text = String::from_utf8(raw.to_vec()).unwrap();
            for id in [&line["id"], &line["response"]["request_id"]] {
                if let Some(id) = id.as_str() {
                    assert!(id.len() >= 32, "an id of ours: {id}");
                    text = text.replacen(id, "ID", 1);
                }
            }
            text.into_bytes()
        })
        .collect()
}
