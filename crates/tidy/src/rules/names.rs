//! Names that say nothing: modules called after nobody's subject, types called after a pattern.

use crate::Violation;
use crate::source::{Source, words};

const MODULES: [&str; 10] =
    ["base", "common", "helper", "helpers", "manager", "misc", "shared", "types", "util", "utils"];

const SUFFIXES: [&str; 9] =
    ["Manager", "Service", "Processor", "Helper", "Info", "Data", "Impl", "Util", "Base"];

pub(crate) fn check(source: &Source, violations: &mut Vec<Violation>) {
    check_place(source, violations);
    for (text, line) in source.code.lines().zip(1..) {
        let mut previous = "";
        for word in words(text) {
            match previous {
                "mod" if MODULES.contains(&word) => {
                    let detail = format!(
                        "`{word}` names no subject: use a noun of the domain or a verb of the flow"
                    );
                    violations.push(Violation::new(&source.path, line, "module-name", detail));
                }
                // What `http_body::Body` calls its pieces.
                "type" if word == "Data" => {}
                "struct" | "enum" | "trait" | "type" | "union" => {
                    if let Some(suffix) = SUFFIXES.iter().find(|suffix| word.ends_with(**suffix)) {
                        let detail = format!("`{word}` ends in `{suffix}`, which says nothing");
                        violations.push(Violation::new(&source.path, line, "type-name", detail));
                    }
                }
                _ => {}
            }
            previous = word;
        }
    }
}

fn check_place(source: &Source, violations: &mut Vec<Violation>) {
    let parts = source.path.trim_end_matches(".rs").split('/');
    for part in parts.filter(|part| MODULES.contains(part)) {
        let detail =
            format!("`{part}` names no subject: use a noun of the domain or a verb of the flow");
        violations.push(Violation::new(&source.path, 1, "module-name", detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(path: &str, text: &str) -> Vec<&'static str> {
        let mut violations = Vec::new();
        check(&Source::new(path, text), &mut violations);
        violations.iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn modules_without_a_subject_fail() {
        assert_eq!(rules_of("crates/a/src/utils.rs", ""), ["module-name"]);
        assert_eq!(rules_of("crates/a/src/common/batch.rs", ""), ["module-name"]);
        assert_eq!(rules_of("crates/a/src/lib.rs", "mod helpers {}"), ["module-name"]);
        assert!(rules_of("crates/a/src/commonplace.rs", "mod batch;").is_empty());
    }

    #[test]
    fn types_named_after_a_pattern_fail() {
        for name in ["BatchManager", "EngineInfo", "StoreImpl", "Data"] {
            assert_eq!(rules_of("a.rs", &format!("pub struct {name};")), ["type-name"], "{name}");
        }
        assert!(
            rules_of("a.rs", "struct Metadata; enum Database { Data } // struct BatchInfo").is_empty()
        );
    }
}
