//! Reads an input once: checks every line, finds repeated custom ids, and collects what the plan orders by.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use overnight_domain::batch::{Batch, BatchError};
use overnight_domain::ids::RequestIndex;
use overnight_domain::limits::{
    BATCH_ERRORS_MAX, CUSTOM_ID_RUN_ENTRIES, MODELS_PER_BATCH_MAX, PLAN_RUN_ENTRIES,
};
use overnight_domain::plan::{PlanEntry, SortKey};
use overnight_domain::request::{LineError, LineRules, Request};
use xxhash_rust::xxh3::xxh3_128;

use super::sorter::{Sorted, Sorter};
use crate::lines::Line;
use crate::pulse::Pulse;

pub(super) const RECORD_LEN: usize = SortKey::LEN + PlanEntry::LEN;
const DUPLICATE_LEN: usize = 16 + 4;

/// Limits and surroundings that a batch is checked against.
pub(super) struct Rules<'a> {
    pub(super) requests_max: Option<u64>,
    pub(super) request_len_max: u64,
    /// Says why a model is not served, or nothing when it is.
    pub(super) refuse_model: &'a dyn Fn(&str) -> Option<String>,
}

/// What was found in a valid input.
pub(super) struct Valid {
    pub(super) total: u64,
    pub(super) models: Vec<String>,
    /// Sort keys and plan entries, in the order of the plan.
    pub(super) records: Sorted<RECORD_LEN>,
}

pub(super) struct Validator<'a> {
    batch: &'a Batch,
    rules: Rules<'a>,
    plan: Sorter<RECORD_LEN>,
    custom_ids: Sorter<DUPLICATE_LEN>,
    models: HashMap<String, Model>,
    model_names: Vec<String>,
    total: u64,
    inputs: u64,
    problems: Problems,
}

struct Model {
    number: u16,
    refusal: Option<String>,
}

/// The first problems, and how many there are.
#[derive(Default)]
struct Problems {
    first: Vec<BatchError>,
    count: u64,
}

impl Problems {
    fn add(&mut self, line: Option<u64>, problem: LineError) {
        self.count += 1;
        if self.first.len() < BATCH_ERRORS_MAX {
            self.first.push(BatchError {
                code: problem.code.to_owned(),
                message: problem.message,
                param: problem.param.map(str::to_owned),
                line,
            });
        }
    }

    /// In ascending order of lines; the last entry says how many more there are.
    fn into_errors(mut self) -> Vec<BatchError> {
        self.first.sort_by_key(|error| error.line);
        let more = self.count - self.first.len() as u64;
        if let (true, Some(last)) = (more > 0, self.first.last_mut()) {
            last.message = format!("{} (and {more} more problems in this file)", last.message);
        }
        self.first
    }
}

impl<'a> Validator<'a> {
    pub(super) fn new(batch: &'a Batch, rules: Rules<'a>, scratch: &Path) -> Self {
        Self {
            batch,
            rules,
            plan: Sorter::new(scratch.to_owned(), PLAN_RUN_ENTRIES),
            custom_ids: Sorter::new(scratch.to_owned(), CUSTOM_ID_RUN_ENTRIES),
            models: HashMap::new(),
            model_names: Vec::new(),
            total: 0,
            inputs: 0,
            problems: Problems::default(),
        }
    }

    pub(super) fn line(&mut self, line: Line<'_>) -> io::Result<()> {
        let index = self.total;
        self.total += 1;
        let Some(bytes) = line.bytes else {
            let message = format!(
                "the line is longer than {} bytes, the limit (dispatch.request_len_max)",
                self.rules.request_len_max
            );
            self.problems.add(Some(line.number), LineError::new("invalid_request", None, message));
            return Ok(());
        };
        let default_model = self.batch.options.model.as_deref();
        match Request::parse(bytes, LineRules { route: self.batch.route, default_model }) {
            Ok(request) => self.request(line, bytes.len(), index, &request),
            Err(problems) => {
                for problem in problems {
                    self.problems.add(Some(line.number), problem);
                }
                Ok(())
            }
        }
    }

    /// The plan's records, or what is wrong with the input.
    pub(super) fn finish(mut self, pulse: &Pulse) -> io::Result<Result<Valid, Vec<BatchError>>> {
        if self.total == 0 {
            let problem = LineError::new("empty_file", None, "the input file has no request");
            self.problems.add(None, problem);
        }
        self.find_duplicates(pulse)?;
        if self.problems.count > 0 {
            return Ok(Err(self.problems.into_errors()));
        }
        Ok(Ok(Valid { total: self.total, models: self.model_names, records: self.plan.finish()? }))
    }

    fn request(
        &mut self,
        line: Line<'_>,
        len: usize,
        index: u64,
        request: &Request<'_>,
    ) -> io::Result<()> {
        self.check_count(request.inputs);
        let Ok(index) = u32::try_from(index) else {
            return Ok(());
        };
        let line_number = u32::try_from(line.number).unwrap_or(u32::MAX);
        let mut duplicate = [0; DUPLICATE_LEN];
        duplicate[..16].copy_from_slice(&xxh3_128(request.custom_id.as_bytes()).to_be_bytes());
        duplicate[16..].copy_from_slice(&line_number.to_be_bytes());
        self.custom_ids.push(duplicate)?;

        let model = request.model.as_deref().unwrap_or_default();
        let model = match self.model(model) {
            Ok(number) => number,
            Err(problem) => {
                self.problems.add(Some(line.number), problem);
                return Ok(());
            }
        };
        if self.problems.count > 0 {
            // It will not run; there is no need to plan the rest.
            return Ok(());
        }
        let index = RequestIndex(index);
        let key = SortKey::new(
            self.batch.options.order,
            model,
            index,
            request.prompt,
            request.reload_options.as_deref(),
        );
        let entry = PlanEntry {
            offset: line.offset,
            len: len as u32,
            index,
            line: line_number,
            model,
            blob: 0,
            is_folded: false,
        };
        let mut record = [0; RECORD_LEN];
        record[..SortKey::LEN].copy_from_slice(&key.to_bytes());
        record[SortKey::LEN..].copy_from_slice(&entry.to_bytes());
        self.plan.push(record)
    }

    fn check_count(&mut self, inputs: u64) {
        let Some(limit) = self.rules.requests_max else { return };
        self.inputs += inputs;
        // Told once, when the limit is passed.
        if self.total == limit + 1 {
            let message = format!("the file has more than {limit} requests (limits.requests_per_batch)");
            self.problems.add(None, LineError::new("too_many_requests", None, message));
        } else if self.inputs > limit && self.inputs - inputs <= limit && self.total <= limit {
            let message = format!("the file has more than {limit} inputs (limits.requests_per_batch)");
            self.problems.add(None, LineError::new("too_many_inputs", None, message));
        }
    }

    fn model(&mut self, name: &str) -> Result<u16, LineError> {
        if !self.models.contains_key(name) {
            if self.models.len() >= MODELS_PER_BATCH_MAX {
                let message = format!("the file names more than {MODELS_PER_BATCH_MAX} models");
                return Err(LineError::new("invalid_request", Some("body.model"), message));
            }
            let number = self.model_names.len() as u16;
            self.model_names.push(name.to_owned());
            let refusal = (self.rules.refuse_model)(name);
            self.models.insert(name.to_owned(), Model { number, refusal });
        }
        match &self.models[name] {
            Model { refusal: Some(refusal), .. } => {
                Err(LineError::new("model_not_found", Some("body.model"), refusal.clone()))
            }
            Model { number, .. } => Ok(*number),
        }
    }

    fn find_duplicates(&mut self, pulse: &Pulse) -> io::Result<()> {
        let empty = Sorter::new(std::path::PathBuf::new(), 0);
        let mut previous: Option<[u8; DUPLICATE_LEN]> = None;
        let mut repeated = Vec::new();
        for record in std::mem::replace(&mut self.custom_ids, empty).finish()? {
            pulse.beat();
            let record = record?;
            if let Some(previous) = previous.filter(|previous| previous[..16] == record[..16]) {
                let line = |record: [u8; DUPLICATE_LEN]| {
                    u32::from_be_bytes([record[16], record[17], record[18], record[19]])
                };
                self.problems.count += 1;
                repeated.push((line(record), line(previous)));
                // Digests come in no order of lines: keep the first ones, in bounded memory.
                if repeated.len() >= 2 * BATCH_ERRORS_MAX {
                    repeated.sort_unstable();
                    repeated.truncate(BATCH_ERRORS_MAX);
                }
            }
            previous = Some(record);
        }
        repeated.sort_unstable();
        repeated.truncate(BATCH_ERRORS_MAX);
        self.problems.count -= repeated.len() as u64;
        for (line, earlier) in repeated {
            let message = format!("`custom_id` stands in line {earlier} already");
            let problem = LineError::new("duplicate_custom_id", Some("custom_id"), message);
            self.problems.add(Some(u64::from(line)), problem);
        }
        Ok(())
    }
}
