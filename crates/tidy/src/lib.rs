//! The rules of the house that neither the compiler nor clippy checks: floors, sizes, words, spawn sites.
//!
//! Every violation names its file, line and rule. The rules read text, not syntax trees: strings and comments are
//! blanked out first, and what is left is simple enough to count. What clippy can say (unwraps, disallowed calls)
//! is not said here a second time.

mod floors;
mod rules;
mod source;
mod walk;

use std::fmt;
use std::io;
use std::path::Path;

use crate::source::Source;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    path: String,
    /// From 1.
    line: usize,
    rule: &'static str,
    detail: String,
}

impl Violation {
    fn new(path: &str, line: usize, rule: &'static str, detail: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.detail)
    }
}

/// Reads the repository at `root` and returns every violation, by file and line.
pub fn check_repository(root: &Path) -> io::Result<Vec<Violation>> {
    let mut violations = Vec::new();
    let mut sources = Vec::new();
    for (path, text) in walk::files(root)? {
        rules::places::check(&path, &text, &mut violations);
        match path.rsplit_once('.') {
            Some((_, "toml")) => floors::check_manifest(&path, &text, &mut violations),
            Some((_, "md")) => rules::words::check_document(&path, &text, &mut violations),
            Some((_, "rs")) => sources.push(Source::new(&path, &text)),
            _ => {}
        }
    }
    for source in &sources {
        check_source(source, &mut violations);
    }
    rules::sizes::check_median(&sources, &mut violations);
    violations.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    Ok(violations)
}

fn check_source(source: &Source, violations: &mut Vec<Violation>) {
    floors::check_imports(source, violations);
    rules::sizes::check(source, violations);
    rules::names::check(source, violations);
    rules::words::check(source, violations);
    rules::spawns::check(source, violations);
    rules::attributes::check(source, violations);
}
