//! Sizes: a file has one subject, a function fits a screen. Tests are not counted in files.

use crate::Violation;
use crate::source::{Source, closing, line_at, words};

const FILE_LINES_MAX: usize = 800;
const MEDIAN_LINES_MAX: usize = 150;
const FUNCTION_LINES_MAX: usize = 70;

pub(crate) fn check(source: &Source, violations: &mut Vec<Violation>) {
    let lines = source.code_line_count();
    if lines > FILE_LINES_MAX {
        let detail =
            format!("{lines} code lines, at most {FILE_LINES_MAX}: give each subject its own file");
        violations.push(Violation::new(&source.path, 1, "file-size", detail));
    }
    for function in functions(&source.code) {
        if function.lines > FUNCTION_LINES_MAX {
            let Function { name, line, lines } = function;
            let detail = format!("`{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}");
            violations.push(Violation::new(&source.path, line, "function-size", detail));
        }
    }
}

pub(crate) fn check_median(sources: &[Source], violations: &mut Vec<Violation>) {
    let mut lines: Vec<usize> =
        sources.iter().map(Source::code_line_count).filter(|lines| *lines > 0).collect();
    lines.sort_unstable();
    let median = lines.get(lines.len() / 2).copied().unwrap_or_default();
    if median >= MEDIAN_LINES_MAX {
        let detail =
            format!("the median file has {median} code lines, it should have under {MEDIAN_LINES_MAX}");
        violations.push(Violation::new("crates", 1, "median-file-size", detail));
    }
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    /// Lines with code between the braces, as clippy counts them.
    lines: usize,
}

fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (offset, _) in code.match_indices("fn ") {
        let starts_word = !code[..offset].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let Some(name) = words(&code[offset + 3..]).next().filter(|_| starts_word) else { continue };
        let Some(open) = body_start(code, offset) else { continue };
        let body = &code[open + 1..closing(code, open).max(open + 2) - 1];
        let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
        found.push(Function { name, line: line_at(code, offset), lines });
    }
    found
}

/// The brace that opens the body; none for a declaration, which ends in `;`, or a function pointer.
fn body_start(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations_of(text: &str) -> Vec<Violation> {
        let mut violations = Vec::new();
        check(&Source::new("crates/a/src/b.rs", text), &mut violations);
        violations
    }

    #[test]
    fn a_long_function_is_named_with_its_line() {
        let long = format!(
            "\n\nfn f<T: Iterator<Item = [u8; 2]>>() {{\n{}}}\n",
            "    g(\"}\"); // }\n".repeat(71)
        );
        let found = violations_of(&long);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].line, found[0].rule), (3, "function-size"));

        let fits =
            format!("fn f() {{\n{}\n\n// why\n}}\ntrait T {{ fn g(); }}\n", "    g();\n".repeat(70));
        assert_eq!(violations_of(&fits), []);
    }

    #[test]
    fn a_long_file_fails_and_its_tests_do_not_count() {
        let line = "const A: u8 = 1;\n";
        assert_eq!(violations_of(&line.repeat(800)), []);
        assert_eq!(violations_of(&line.repeat(801))[0].rule, "file-size");
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(800), line.repeat(100));
        assert_eq!(violations_of(&tests), []);
    }

    #[test]
    fn the_median_is_over_files_with_code() {
        let file = |lines: usize| Source::new("crates/a/src/b.rs", &"a\n".repeat(lines));
        let mut violations = Vec::new();
        check_median(&[file(0), file(100), file(149), file(700)], &mut violations);
        assert_eq!(violations, []);
        check_median(&[file(100), file(150), file(150)], &mut violations);
        assert_eq!(violations[0].rule, "median-file-size");
    }
}
