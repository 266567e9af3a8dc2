//! Lints are expected with a reason, never allowed; names are imported, never all of them.

use crate::Violation;
use crate::source::{Source, line_at};

pub(crate) fn check(source: &Source, violations: &mut Vec<Violation>) {
    for pattern in ["#[allow", "#![allow"] {
        for (offset, _) in source.code.match_indices(pattern) {
            let detail = "write `#[expect(lint, reason = \"...\")]`";
            violations.push(Violation::new(
                &source.path,
                line_at(&source.code, offset),
                "allow",
                detail,
            ));
        }
    }
    for (offset, text) in source.code.match_indices("::*") {
        let line = line_at(&source.code, offset);
        let rest = source.code[offset + text.len()..].trim_start();
        if rest.starts_with([';', ',', '}']) && !source.is_test_line(line) {
            let detail = "name what is imported, so that a reader finds where it comes from";
            violations.push(Violation::new(&source.path, line, "glob-import", detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(text: &str) -> Vec<&'static str> {
        let mut violations = Vec::new();
        check(&Source::new("crates/a/src/b.rs", text), &mut violations);
        violations.iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn an_allowed_lint_fails_even_in_tests() {
        assert_eq!(rules_of("#[allow(dead_code)]\nfn a() {}"), ["allow"]);
        assert_eq!(rules_of("#[cfg(test)]\nmod tests {\n    #![allow(unused)]\n}"), ["allow"]);
        assert!(rules_of("#[expect(dead_code, reason = \"b\")]\nfn a() {} // #[allow(x)]").is_empty());
    }

    #[test]
    fn a_glob_import_fails_outside_tests() {
        assert_eq!(rules_of("use a::*;\nuse b::{c::*, d};"), ["glob-import", "glob-import"]);
        assert!(rules_of("#[cfg(test)]\nmod tests {\n    use super::*;\n}").is_empty());
    }
}
