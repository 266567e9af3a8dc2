//! What a request meets: decided from the script, the directives in its body and the counts, without a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use overnight_domain::route::Route;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::answer::{BadRequest, Question, tokens, write_answer};
use crate::calls::{InFlight, Ledger, body_key, marker_key};
use crate::directive::{Directive, Outcome};
use crate::lists::count_inputs;
use crate::ollama::Runner;
use crate::request::model_of;
use crate::script::{Embeddings, Rule, Script, When};
use crate::shapes::{self, Refused};
use crate::steps::{Step, push_status, steps_of};
use crate::wire::{push_error_answer, push_json_answer, push_ok_head};

/// A script at work, with what it counts.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) script: Script,
    pub(crate) since: Instant,
    /// Requests that came to each rule.
    seen: Vec<AtomicU64>,
    slots: Option<Arc<Semaphore>>,
    pub(crate) ollama: Runner,
    default_model: String,
}

/// What follows for one request. The answer itself is appended to the buffer that was passed, or stands in `steps`.
#[derive(Debug)]
pub(crate) struct Conduct {
    pub(crate) delay: Duration,
    pub(crate) slots: Option<Arc<Semaphore>>,
    pub(crate) steps: Vec<Step>,
    /// Where in the buffer the answer begins; before it stands what earlier requests are owed.
    pub(crate) own_start: usize,
}

/// Where answers are put together, kept from request to request.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Goes to the socket.
    pub(crate) out: Vec<u8>,
    body: Vec<u8>,
}

impl Active {
    pub(crate) fn new(script: Script) -> Self {
        let model = script.models.first().map_or("sim-model", String::as_str);
        let quoted = Value::from(model).to_string();
        Self {
            since: Instant::now(),
            seen: script.rules.iter().map(|_| AtomicU64::new(0)).collect(),
            slots: script
                .slots
                .map(|slots| Arc::new(Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)))),
            ollama: Runner::new(&script.ollama),
            default_model: quoted[1..quoted.len() - 1].to_owned(),
            script,
        }
    }

    /// Decides about a request for work. What it is answered stands in `buffers` or in the steps.
    pub(crate) fn meet(
        &self,
        route: Route,
        body: &[u8],
        arrived: &InFlight<'_>,
        ledger: &Ledger,
        buffers: &mut Buffers,
    ) -> Conduct {
        let hash = body_key(body);
        let directive = match Directive::find(body) {
            Ok(directive) => directive,
            Err(error) => return immediate(buffers, 400, &error.to_string(), "sim_directive"),
        };
        let marker = directive.as_ref().and_then(|directive| directive.marker.as_deref());
        let key = marker.map_or(hash, marker_key);
        let rule_counts = self.script.rules.iter().any(|rule| rule.then.times.is_some());
        let needs_count =
            rule_counts || directive.as_ref().is_some_and(|directive| directive.times.is_some());
        let call = ledger.count(key, marker, needs_count);
        let own = directive.filter(|directive| directive.times.is_none_or(|times| call <= times));
        let model = model_of(body).unwrap_or(&self.default_model);
        let has_own_outcome = own.as_ref().is_some_and(|directive| directive.outcome.is_some());
        if !has_own_outcome
            && let Some(refusal) = self.refuse(route, body, model, arrived, ledger, buffers)
        {
            return refusal;
        }
        let by_rule = if has_own_outcome { None } else { self.rule_for(model, hash, call) };
        let joined = joined(own, by_rule);
        let question = Question {
            route,
            body,
            hash,
            model,
            text: joined.text.unwrap_or(self.script.text),
            len: joined.len,
            embedding_len: self.script.embedding_len,
            shape: self.script.shape,
        };
        let delay = joined.delay.unwrap_or_else(|| {
            self.script.latency.of(hash, arrived.now) + self.list_latency(route, body)
        });
        let own_start = buffers.out.len();
        Conduct {
            delay,
            slots: self.slots.clone(),
            steps: answer(&question, &joined, buffers),
            own_start,
        }
    }

    /// What the rules say about a probe: only a status, or nothing.
    pub(crate) fn meet_probe(&self) -> Option<(u16, Directive)> {
        let rules = self.script.rules.iter().zip(&self.seen);
        rules.filter(|(rule, _)| rule.probes).find_map(|(rule, seen)| {
            let is_met = match rule.when {
                When::Always => true,
                When::For(span) => self.since.elapsed() < span,
                When::Next(count) => seen.load(Ordering::Relaxed) < count,
                When::At(_) | When::Every(_) | When::OneIn(_) => false,
            };
            match rule.then.outcome {
                Some(Outcome::Status(status)) if is_met => Some((status, rule.then.clone())),
                _ => None,
            }
        })
    }

    /// What the engine refuses before it looks at rules: no permit, a model it has not, a prompt too long.
    fn refuse(
        &self,
        route: Route,
        body: &[u8],
        model: &str,
        arrived: &InFlight<'_>,
        ledger: &Ledger,
        buffers: &mut Buffers,
    ) -> Option<Conduct> {
        if let Some(permits) = &self.script.permits
            && arrived.now > permits.max
        {
            ledger.refused();
            let directive =
                Directive { retry_after: permits.retry_after.clone(), ..Directive::default() };
            push_status(&mut buffers.out, permits.status, &directive, b"");
            return Some(Conduct::immediate());
        }
        if self.script.strict_models && !self.script.models.iter().any(|known| known == model) {
            if let Some(said) = shapes::refusal(self.script.shape, Refused::UnknownModel(model)) {
                return Some(said_by_shape(buffers, said));
            }
            let message = format!("The model `{model}` does not exist.");
            return Some(immediate(buffers, 404, &message, "model_not_found"));
        }
        if let Some(limit) = self.script.context_bytes
            && body.len() > limit
        {
            let (prompt_tokens, context_len) = (tokens(body.len()), tokens(limit));
            let refused = Refused::TooLong { prompt_tokens, context_len };
            if let Some(said) = shapes::refusal(self.script.shape, refused) {
                return Some(said_by_shape(buffers, said));
            }
            let message = format!(
                "This model's maximum context length is {limit} bytes. Your request has {}.",
                body.len()
            );
            return Some(immediate(buffers, 400, &message, "context_length_exceeded"));
        }
        if let Some(limit) = self.script.embeddings.inputs_max
            && let Some(inputs) = self.inputs(route, body).filter(|inputs| *inputs > limit)
        {
            let message = format!("batch size {inputs} > maximum allowed batch size {limit}");
            return Some(immediate(buffers, 413, &message, "Validation"));
        }
        if self.script.check_json
            && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(body)
        {
            return Some(immediate(
                buffers,
                400,
                &format!("the body is no JSON: {error}"),
                "invalid_json",
            ));
        }
        None
    }

    /// None where it makes no difference.
    fn inputs(&self, route: Route, body: &[u8]) -> Option<usize> {
        let matters = route == Route::Embeddings && self.script.embeddings != Embeddings::default();
        if matters { count_inputs(body) } else { None }
    }

    fn list_latency(&self, route: Route, body: &[u8]) -> Duration {
        let Embeddings { call_us, input_us, .. } = self.script.embeddings;
        let cost = |inputs: usize| Duration::from_micros(call_us + input_us * inputs as u64);
        self.inputs(route, body).map_or(Duration::ZERO, cost)
    }

    fn rule_for(&self, model: &str, hash: u64, call: u32) -> Option<&Directive> {
        let rules = self.script.rules.iter().zip(&self.seen);
        rules
            .filter(|(rule, _)| rule.model.as_deref().is_none_or(|wanted| wanted == model))
            .find(|(rule, seen)| self.meets(rule, seen.fetch_add(1, Ordering::Relaxed) + 1, hash, call))
            .map(|(rule, _)| &rule.then)
    }

    fn meets(&self, rule: &Rule, number: u64, hash: u64, call: u32) -> bool {
        let is_met = match rule.when {
            When::Always => true,
            When::Next(count) => number <= count,
            When::At(wanted) => number == wanted,
            When::Every(count) => number.is_multiple_of(count.max(1)),
            When::OneIn(count) => hash.is_multiple_of(count.max(1)),
            When::For(span) => self.since.elapsed() < span,
        };
        is_met && rule.then.times.is_none_or(|times| call <= times)
    }
}

impl Conduct {
    /// Neither delay nor slot: a refusal costs an engine nothing.
    const fn immediate() -> Self {
        Self { delay: Duration::ZERO, slots: None, steps: Vec::new(), own_start: 0 }
    }

    /// Whether the answer can be sent without waiting for anything.
    pub(crate) const fn is_immediate(&self) -> bool {
        self.delay.is_zero() && self.slots.is_none() && self.steps.is_empty()
    }
}

fn immediate(buffers: &mut Buffers, status: u16, message: &str, code: &str) -> Conduct {
    push_error_answer(&mut buffers.out, status, "", message, Some(code));
    Conduct::immediate()
}

fn said_by_shape(buffers: &mut Buffers, (status, body): (u16, Value)) -> Conduct {
    push_json_answer(&mut buffers.out, status, "", body.to_string().as_bytes());
    Conduct::immediate()
}

/// What the request says of itself goes before what a rule says of it.
fn joined(own: Option<Directive>, by_rule: Option<&Directive>) -> Directive {
    match (own, by_rule) {
        (None, None) => Directive::default(),
        (Some(own), None) => own,
        (None, Some(rule)) => rule.clone(),
        (Some(own), Some(rule)) => Directive {
            outcome: rule.outcome,
            retry_after: rule.retry_after.clone(),
            code: rule.code.clone(),
            delay: own.delay.or(rule.delay),
            period: own.period.or(rule.period),
            len: own.len.or(rule.len),
            text: own.text.or(rule.text),
            times: None,
            marker: own.marker,
        },
    }
}

fn answer(question: &Question<'_>, directive: &Directive, buffers: &mut Buffers) -> Vec<Step> {
    let Buffers { out, body } = buffers;
    match directive.outcome {
        Some(Outcome::Crash) => return vec![Step::Crash],
        Some(Outcome::Reset) => return vec![Step::Reset],
        Some(Outcome::Garbage(garbage)) => return steps_of(garbage, question, directive),
        Some(Outcome::Status(_)) | None => {}
    }
    body.clear();
    let written = write_answer(question, body);
    match (directive.outcome, written) {
        (Some(Outcome::Status(status)), _) => push_status(out, status, directive, body),
        (_, Ok(())) => {
            push_ok_head(out, body.len());
            out.extend_from_slice(body);
        }
        (_, Err(BadRequest(message))) => push_error_answer(out, 400, "", &message, None),
    }
    if body.capacity() > KEPT_LEN_MAX {
        *body = Vec::new();
    }
    Vec::new()
}

/// A connection that gave one long answer does not keep its memory.
const KEPT_LEN_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(script: Script, bodies: &[&str]) -> Vec<String> {
        let active = Active::new(script);
        let ledger = Ledger::new(true);
        bodies
            .iter()
            .map(|body| {
                let arrived = ledger.enter();
                let mut buffers = Buffers::default();
                let conduct = active.meet(
                    Route::ChatCompletions,
                    body.as_bytes(),
                    &arrived,
                    &ledger,
                    &mut buffers,
                );
                arrived.finish();
                match conduct.steps.first() {
                    Some(step) => format!("{step:?}"),
                    None => String::from_utf8_lossy(&buffers.out[9..12]).into_owned(),
                }
            })
            .collect()
    }

    fn rule(when: When, words: &str) -> Script {
        Script::default().with_rule(when, words.parse().unwrap())
    }

    #[test]
    fn rules_meet_whom_they_name() {
        let same = ["{}"; 5];
        assert_eq!(statuses(rule(When::Always, "status=500"), &same[..2]), ["500", "500"]);
        assert_eq!(
            statuses(rule(When::Next(2), "status=401"), &same),
            ["401", "401", "200", "200", "200"]
        );
        assert_eq!(statuses(rule(When::At(3), "crash"), &same), ["200", "200", "Crash", "200", "200"]);
        assert_eq!(
            statuses(rule(When::Every(2), "status=503"), &same),
            ["200", "503", "200", "503", "200"]
        );
        assert_eq!(statuses(rule(When::For(Duration::ZERO), "status=503"), &same[..1]), ["200"]);
        assert_eq!(statuses(rule(When::For(Duration::from_secs(3600)), "reset"), &same[..1]), ["Reset"]);
        assert_eq!(
            statuses(rule(When::Always, "status=429,times=1"), &same[..3]),
            ["429", "200", "200"]
        );
    }

    #[test]
    fn one_in_n_is_the_same_whatever_the_order() {
        let bodies: Vec<String> = (0..200).map(|index| format!("{{\"n\":{index}}}")).collect();
        let forth: Vec<&str> = bodies.iter().map(String::as_str).collect();
        let back: Vec<&str> = bodies.iter().rev().map(String::as_str).collect();
        let first = statuses(rule(When::OneIn(5), "status=500"), &forth);
        let mut second = statuses(rule(When::OneIn(5), "status=500"), &back);
        second.reverse();
        assert_eq!(first, second);
        let met = first.iter().filter(|status| *status == "500").count();
        assert!((20..60).contains(&met), "{met} of 200");
    }

    #[test]
    fn a_directive_in_the_body_goes_before_the_script() {
        let poisoned = r#"{"x":"[[sim:status=400,times=1]]"}"#;
        let script = rule(When::Always, "status=503");
        assert_eq!(statuses(script, &[poisoned, poisoned, "{}"]), ["400", "503", "503"]);
        assert_eq!(statuses(Script::default(), &["[[sim:staus=1]]"]), ["400"]);
    }

    #[test]
    fn a_rule_may_be_for_one_model() {
        let mut script = rule(When::Always, "status=404");
        script.rules[0].model = Some("b".to_owned());
        assert_eq!(statuses(script, &[r#"{"model":"a"}"#, r#"{"model":"b"}"#]), ["200", "404"]);
    }

    #[test]
    fn a_list_may_be_too_long_and_costs_by_its_inputs() {
        let embeddings = Embeddings { inputs_max: Some(2), call_us: 5_000, input_us: 200 };
        let active = Active::new(Script { embeddings, ..Script::default() });
        let ledger = Ledger::new(true);
        let meet = |route, body: &str| {
            let mut buffers = Buffers::default();
            let arrived = ledger.enter();
            let conduct = active.meet(route, body.as_bytes(), &arrived, &ledger, &mut buffers);
            arrived.finish();
            (String::from_utf8_lossy(&buffers.out[9..12]).into_owned(), conduct.delay.as_micros())
        };
        assert_eq!(meet(Route::Embeddings, r#"{"input":"a"}"#), ("200".to_owned(), 5_200));
        assert_eq!(meet(Route::Embeddings, r#"{"input":["a","b"]}"#), ("200".to_owned(), 5_400));
        assert_eq!(meet(Route::Embeddings, r#"{"input":["a","b","c"]}"#), ("413".to_owned(), 0));
        assert_eq!(meet(Route::ChatCompletions, r#"{"messages":[]}"#), ("200".to_owned(), 0));
    }

    #[test]
    fn limits_refuse() {
        let strict = Script { strict_models: true, ..Script::default() };
        assert_eq!(statuses(strict, &[r#"{"model":"x"}"#, r#"{"model":"sim-model"}"#]), ["404", "200"]);
        let short = Script { context_bytes: Some(10), ..Script::default() };
        assert_eq!(statuses(short, &["{\"a\":\"long enough\"}", "{}"]), ["400", "200"]);
        let checked = Script { check_json: true, ..Script::default() };
        assert_eq!(statuses(checked, &["{", "{}"]), ["400", "200"]);
        let permits = Some(crate::Permits { max: 0, status: 529, retry_after: None });
        assert_eq!(statuses(Script { permits, ..Script::default() }, &["{}"]), ["529"]);
    }
}
