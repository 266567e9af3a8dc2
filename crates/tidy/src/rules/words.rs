//! Words: one thing has one name. A short list of the synonyms that creep in, not a dictionary.
//!
//! Names fixed elsewhere (by the wire, by the standard library, by a crate) are listed and stand. In prose, what is
//! in backticks or a code block is somebody's name and is not read.

use std::collections::HashSet;

use crate::Violation;
use crate::source::{Source, words};

/// Parts of identifiers, in the singular: the word, and what it is called here.
const PARTS: [(&str, &str); 10] = [
    ("backend", "engine or endpoint"),
    ("canceled", "cancelled"),
    ("daemon", "worker"),
    ("dlq", "failed request"),
    ("janitor", "upkeep"),
    ("job", "batch"),
    ("parallelism", "window"),
    ("provider", "engine or endpoint"),
    ("shard", "chunk"),
    ("upstream", "engine or endpoint"),
];

/// Identifiers that others fixed.
const FIXED: [&str; 12] = [
    "CryptoProvider",
    "LlamaBackend",
    "LlamaBackendDeviceType",
    "active_jobs",
    "available_parallelism",
    "builder_with_provider",
    "current_job_id",
    "default_provider",
    "is_canceled",
    "list_llama_ggml_backend_devices",
    "llama_backend",
    "stuck_jobs",
];

/// Words of prose, in the singular and in lower case.
const PROSE: [(&str, &str); 8] = [
    ("backend", "engine or endpoint"),
    ("dlq", "failed request"),
    ("fixme", "an issue, or the fix"),
    ("janitor", "upkeep"),
    ("shard", "chunk"),
    ("todo", "an issue, or the work itself"),
    ("upstream", "engine or endpoint"),
    ("xxx", "an issue, or the fix"),
];

pub(crate) fn check(source: &Source, violations: &mut Vec<Violation>) {
    let mut seen = HashSet::new();
    let names = source.identifiers().filter(|(_, name)| !FIXED.contains(name));
    // Once is enough: whoever renames it finds the rest.
    for (line, name) in names.filter(|(_, name)| seen.insert(*name)) {
        for part in parts(name) {
            if let Some((_, ours)) = PARTS.iter().find(|(word, _)| is_word(&part, word)) {
                let detail = format!("`{name}`: `{part}` is called {ours} here");
                violations.push(Violation::new(&source.path, line, "word", detail));
            }
        }
    }
    check_prose(&source.path, &source.comments, violations);
}

/// A page of documentation. It may name the dead letter queue once, so that people who look for it find us.
pub(crate) fn check_document(path: &str, text: &str, violations: &mut Vec<Violation>) {
    let mut found = Vec::new();
    check_prose(path, text, &mut found);
    if let Some(first) = found.iter().position(|violation| violation.detail.starts_with("`dlq`")) {
        found.remove(first);
    }
    violations.append(&mut found);
}

fn check_prose(path: &str, text: &str, violations: &mut Vec<Violation>) {
    let mut in_block = false;
    for (text, line) in text.lines().zip(1..) {
        if text.trim_start_matches(['/', '!', ' ']).starts_with("```") {
            in_block = !in_block;
            continue;
        }
        // Every second piece stands between backticks.
        let prose = text.split('`').step_by(2).flat_map(words).map(str::to_lowercase);
        for word in prose.filter(|_| !in_block) {
            if let Some((wrong, ours)) = PROSE.iter().find(|(wrong, _)| is_word(&word, wrong)) {
                let detail = format!("`{wrong}` is called {ours} here");
                violations.push(Violation::new(path, line, "word", detail));
            }
        }
    }
}

fn is_word(text: &str, word: &str) -> bool {
    text == word || text.strip_suffix('s') == Some(word)
}

/// The parts of a name in any of the three cases, in lower case.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut after_lower = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && after_lower) {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().expect("starts with one part and only grows").extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details_of(text: &str) -> Vec<String> {
        let mut violations = Vec::new();
        check(&Source::new("a.rs", text), &mut violations);
        violations.into_iter().map(|violation| violation.detail).collect()
    }

    #[test]
    fn synonyms_in_names_fail() {
        for name in ["job_id", "JobState", "BACKEND_URL", "upstreams", "ShardKey", "model_provider"] {
            assert_eq!(details_of(&format!("let {name} = 1;")).len(), 1, "{name}");
        }
    }

    #[test]
    fn names_fixed_elsewhere_and_longer_words_stand() {
        for name in ["current_job_id", "CryptoProvider", "available_parallelism", "objob", "jobless"] {
            assert!(details_of(&format!("let {name} = \"backend\";")).is_empty(), "{name}");
        }
    }

    #[test]
    fn synonyms_in_prose_fail_but_not_in_backticks() {
        assert_eq!(details_of("// Asks the backends.").len(), 1);
        assert_eq!(details_of("/// Todo: later.").len(), 1);
        assert!(
            details_of("// Reads `upstream` as nginx calls it.\n/// ```\n/// upstream\n/// ```")
                .is_empty()
        );
    }

    #[test]
    fn a_page_may_name_the_dead_letter_queue_once() {
        let mut violations = Vec::new();
        check_document("docs/a.md", "A DLQ elsewhere.\n", &mut violations);
        assert_eq!(violations, []);
        check_document("docs/a.md", "A DLQ elsewhere.\nThe DLQ.\nA shard.\n", &mut violations);
        let lines: Vec<usize> = violations.iter().map(|violation| violation.line).collect();
        assert_eq!(lines, [2, 3]);
    }
}
