//! A Rust file as the rules see it: its code without strings and comments, its comments without the code, and which
//! of its lines are tests.

use std::ops::Range;

pub(crate) struct Source {
    pub(crate) path: String,
    /// Line for line the file; strings, characters and comments are spaces.
    pub(crate) code: String,
    /// Line for line the file; all but the text of comments is spaces.
    pub(crate) comments: String,
    /// Lines, from 1, of `#[cfg(test)] mod` blocks.
    test_lines: Vec<Range<usize>>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let test_lines = test_modules(&code);
        Self { path: path.to_owned(), code, comments, test_lines }
    }

    /// Whether the whole file is tests or benches.
    pub(crate) fn is_test_file(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == "tests.rs"
            || self.path.split('/').any(|part| matches!(part, "tests" | "benches" | "bench"))
    }

    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.is_test_file() || self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// Lines with code that are not tests.
    pub(crate) fn code_line_count(&self) -> usize {
        self.code
            .lines()
            .zip(1..)
            .filter(|(text, line)| !text.trim().is_empty() && !self.is_test_line(*line))
            .count()
    }

    /// Every identifier with its line.
    pub(crate) fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().zip(1..).flat_map(|(text, line)| words(text).map(move |word| (line, word)))
    }
}

/// The line, from 1, of a byte offset.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}

/// Runs of letters, digits and `_` that do not start with a digit.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit()))
}

/// The offset just behind the bracket that closes the one at `open`, or the end of the text.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return offset + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

fn test_modules(code: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let mut at = start;
        // Other attributes may stand between `cfg` and `mod`.
        while code[at..].starts_with("#[") {
            at = closing(code, at + 1);
            at += code[at..].len() - code[at..].trim_start().len();
        }
        let Some(open) = code[at..].find(['{', ';']).map(|offset| at + offset) else { continue };
        if words(&code[at..open]).any(|word| word == "mod") && code[open..].starts_with('{') {
            ranges.push(line_at(code, start)..line_at(code, closing(code, open) - 1) + 1);
        }
    }
    ranges
}

#[derive(Clone, Copy)]
enum Kind {
    Code,
    Comment,
    Text,
}

fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) =
        (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let mut at = 0;
    while at < chars.len() {
        let (kind, end) = token(&chars, at);
        for c in &chars[at..end] {
            let blank = if *c == '\n' { '\n' } else { ' ' };
            code.push(if matches!(kind, Kind::Code) { *c } else { blank });
            comments.push(if matches!(kind, Kind::Comment) { *c } else { blank });
        }
        at = end;
    }
    (code, comments)
}

/// What starts at `at`, and where it ends.
fn token(chars: &[char], at: usize) -> (Kind, usize) {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => (Kind::Comment, find(chars, at, '\n')),
        ('/', Some('*')) => (Kind::Comment, block_comment_end(chars, at)),
        ('"', _) => (Kind::Text, quoted_end(chars, at + 1, '"')),
        ('\'', Some('\\')) => (Kind::Text, quoted_end(chars, at + 1, '\'')),
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => (Kind::Text, at + 3),
        (c, _) if c.is_alphabetic() || c == '_' => {
            let end = (at..chars.len())
                .find(|i| !chars[*i].is_alphanumeric() && chars[*i] != '_')
                .unwrap_or(chars.len());
            match raw_string_end(chars, at, end) {
                Some(end) => (Kind::Text, end),
                None => (Kind::Code, end),
            }
        }
        _ => (Kind::Code, at + 1),
    }
}

fn find(chars: &[char], from: usize, wanted: char) -> usize {
    (from..chars.len()).find(|i| chars[*i] == wanted).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Where the raw string ends whose prefix lies at `start..end`, if it is one: `r"..."`, `br#"..."#`.
fn raw_string_end(chars: &[char], start: usize, end: usize) -> Option<usize> {
    let prefix: String = chars[start..end].iter().collect();
    if !matches!(prefix.as_str(), "r" | "br" | "cr") {
        return None;
    }
    let hashes = chars[end..].iter().take_while(|c| **c == '#').count();
    if chars.get(end + hashes) != Some(&'"') {
        return None;
    }
    let body = end + hashes + 1;
    let is_end = |i: &usize| {
        chars[*i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    Some((body..chars.len()).find(is_end).map_or(chars.len(), |i| i + 1 + hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_characters_and_comments_are_no_code() {
        let text = "let a = \"fn {\\\" // no\"; // yes {\nlet b = r#\"}\"# + '{' + '\\'' + b\"}\"; /* a /* b */ } */ end::<'a>()";
        let source = Source::new("a.rs", text);
        assert_eq!(source.code.lines().count(), 2);
        assert!(!source.code.contains(['{', '}']), "{}", source.code);
        assert!(source.code.ends_with("end::<'a>()"));
        assert!(source.comments.contains("// yes {") && source.comments.contains("/* a /* b */ } */"));
        assert!(!source.comments.contains("no\""));
    }

    #[test]
    fn a_test_module_is_not_counted_and_its_lines_are_known() {
        let text = "fn a() {}\n\n// nothing\n#[cfg(test)]\n#[rustfmt::skip]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod more;\n";
        let source = Source::new("a.rs", text);
        assert!(source.is_test_line(4) && source.is_test_line(8));
        assert!(!source.is_test_line(3) && !source.is_test_line(9) && !source.is_test_line(11));
        assert_eq!(source.code_line_count(), 4);
    }

    #[test]
    fn whole_test_files_are_known_by_their_place() {
        assert!(Source::new("crates/a/tests/it/main.rs", "").is_test_file());
        assert!(Source::new("crates/a/src/b/tests.rs", "").is_test_file());
        assert!(!Source::new("crates/a/src/contests.rs", "").is_test_file());
    }
}
