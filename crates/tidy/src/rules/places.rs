//! Paths of the machine that something was built on have no place in what others read.

use crate::Violation;
use crate::source::line_at;

/// Written in two halves, so that this file does not find itself.
const PLACES: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/tmp/", "t-"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
];

pub(crate) fn check(path: &str, text: &str, violations: &mut Vec<Violation>) {
    for place in PLACES {
        for (offset, _) in text.match_indices(place) {
            // A folder further down, or a path behind a host, is no place of a machine.
            let starts = !text[..offset]
                .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}'));
            if starts {
                let detail = format!("`{place}` is a path of somebody's machine");
                violations.push(Violation::new(path, line_at(text, offset), "machine-path", detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_machine_fails_with_its_line() {
        let mut violations = Vec::new();
        check("a.md", &format!("a\nsee {}main/b\n", PLACES[0]), &mut violations);
        assert_eq!(violations.len(), 1);
        assert_eq!((violations[0].line, violations[0].rule), (2, "machine-path"));
    }

    #[test]
    fn a_path_below_something_else_passes() {
        let mut violations = Vec::new();
        check(
            "a.md",
            &format!("s3://bucket{}x and host.example{}", PLACES[3], PLACES[2]),
            &mut violations,
        );
        assert_eq!(violations, []);
    }
}
