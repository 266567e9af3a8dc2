//! Inputs for tests and benches: JSONL of any size, the same for the same options, as fast as the disk takes it.

use std::io::{self, Write};

use overnight_domain::route::Route;

use crate::answer::push_number;
use crate::lists::mixed;

/// What the input looks like.
#[derive(Debug, Clone)]
pub struct Input {
    pub requests: u64,
    /// Bytes of a line with its line feed; a line whose members need more is longer.
    pub line_len: usize,
    pub route: Route,
    /// Each request takes one of these, scattered by the seed.
    pub models: Vec<String>,
    /// Requests of a group begin with the same text, half of the prompt; 0 for none.
    pub prefix_groups: u64,
    /// So many requests in a row have the same body under different ids; 1 for none.
    pub copies: u64,
    /// Every thousandth line, and the last, repeats the id of the line before it: the input is invalid.
    pub has_duplicate_ids: bool,
    /// A directive for every n-th request, such as `[[sim:status=400]]`.
    pub directive: Option<(String, u64)>,
    pub seed: u64,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            requests: 1000,
            line_len: 940,
            route: Route::ChatCompletions,
            models: vec!["sim-model".to_owned()],
            prefix_groups: 0,
            copies: 1,
            has_duplicate_ids: false,
            directive: None,
            seed: 1,
        }
    }
}

impl Input {
    /// Writes all lines and returns how many bytes they are.
    pub fn write(&self, out: &mut impl Write) -> io::Result<u64> {
        let words = words(self.seed);
        let models: Vec<String> = self
            .models
            .iter()
            .map(|model| serde_json::Value::from(model.as_str()).to_string())
            .collect();
        let mut lines = Vec::with_capacity(WRITE_LEN + self.line_len * 2);
        let mut total = 0;
        for index in 0..self.requests {
            self.push_line(index, &words, &models, &mut lines);
            if lines.len() >= WRITE_LEN {
                out.write_all(&lines)?;
                total += lines.len() as u64;
                lines.clear();
            }
        }
        out.write_all(&lines)?;
        Ok(total + lines.len() as u64)
    }

    /// The `custom_id` of a line, from 0.
    pub fn custom_id(&self, index: u64) -> String {
        let mut id = Vec::with_capacity(16);
        push_custom_id(&mut id, self.id_number(index));
        String::from_utf8(id).expect("letters and digits")
    }

    fn id_number(&self, index: u64) -> u64 {
        let repeats = self.has_duplicate_ids && (index % 1000 == 999 || index + 1 == self.requests);
        if repeats { index.saturating_sub(1) } else { index }
    }

    fn push_line(&self, index: u64, words: &[u8], models: &[String], out: &mut Vec<u8>) {
        let start = out.len();
        let dice = mixed(self.seed ^ mixed(index / self.copies.max(1)));
        out.extend_from_slice(b"{\"custom_id\":\"");
        push_custom_id(out, self.id_number(index));
        out.extend_from_slice(b"\",\"method\":\"POST\",\"url\":\"");
        out.extend_from_slice(self.route.path().as_bytes());
        out.extend_from_slice(b"\",\"body\":{\"model\":");
        let model = models.get(dice as usize % models.len().max(1));
        out.extend_from_slice(model.map_or("\"sim-model\"", String::as_str).as_bytes());
        let (before, after) = members(self.route);
        out.extend_from_slice(before.as_bytes());
        let end_len = after.len() + 3;
        let room = (start + self.line_len).saturating_sub(out.len() + end_len);
        self.push_prompt(index, dice, words, room, out);
        out.extend_from_slice(after.as_bytes());
        out.extend_from_slice(b"}}\n");
    }

    fn push_prompt(&self, index: u64, dice: u64, words: &[u8], room: usize, out: &mut Vec<u8>) {
        let start = out.len();
        if self.prefix_groups > 0 {
            let group = (dice >> 20) % self.prefix_groups;
            out.extend_from_slice(b"Group ");
            push_number(out, group);
            out.extend_from_slice(b": ");
            push_words(out, words, mixed(group), (room / 2).saturating_sub(out.len() - start));
        }
        out.extend_from_slice(b" Request ");
        push_number(out, index / self.copies.max(1));
        out.push(b' ');
        if let Some((directive, every)) = &self.directive
            && index.is_multiple_of((*every).max(1))
        {
            out.extend_from_slice(directive.as_bytes());
            out.push(b' ');
        }
        push_words(out, words, dice, room.saturating_sub(out.len() - start));
    }
}

/// The body's members before and after the text, and the quotation marks around it.
const fn members(route: Route) -> (&'static str, &'static str) {
    match route {
        Route::ChatCompletions => {
            (",\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}],\"max_tokens\":64")
        }
        Route::Completions => (",\"prompt\":\"", "\",\"max_tokens\":64"),
        Route::Embeddings | Route::Responses | Route::Moderations => (",\"input\":\"", "\""),
        Route::Rerank => (",\"query\":\"night\",\"documents\":[\"", "\"]"),
        Route::Score => (",\"text_1\":\"night\",\"text_2\":\"", "\""),
    }
}

fn push_custom_id(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(b"req-");
    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
    out.extend_from_slice(&b"00000000"[..8_usize.saturating_sub(digits)]);
    push_number(out, number);
}

/// So many bytes of text from a place that the dice choose.
fn push_words(out: &mut Vec<u8>, words: &[u8], dice: u64, mut len: usize) {
    let mut place = (dice >> 8) as usize % words.len();
    while len > 0 {
        let part = len.min(words.len() - place);
        out.extend_from_slice(&words[place..place + part]);
        len -= part;
        place = 0;
    }
}

/// A megabyte of words from which all prompts are cut.
fn words(seed: u64) -> Vec<u8> {
    const WORDS: [&str; 32] = [
        "night", "engine", "answer", "river", "stone", "paper", "window", "light", "batch", "of", "the",
        "and", "under", "slowly", "seven", "mountain", "a", "record", "winter", "train", "garden",
        "number", "letter", "salt", "copper", "harbour", "between", "question", "morning", "green",
        "to", "quiet",
    ];
    let mut words = Vec::with_capacity(WORDS_LEN + 16);
    let mut dice = seed;
    while words.len() < WORDS_LEN {
        dice = mixed(dice);
        words.extend_from_slice(WORDS[dice as usize % WORDS.len()].as_bytes());
        words.push(b' ');
    }
    words
}

const WORDS_LEN: usize = 1 << 20;
const WRITE_LEN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn lines(input: &Input) -> Vec<Value> {
        let mut out = Vec::new();
        let len = input.write(&mut out).unwrap();
        assert_eq!(len, out.len() as u64);
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_have_the_length_asked_for_and_repeat_with_the_seed() {
        for route in Route::ALL {
            let input = Input { requests: 50, prefix_groups: 3, route, ..Input::default() };
            let mut first = Vec::new();
            input.write(&mut first).unwrap();
            assert!(first.split_inclusive(|byte| *byte == b'\n').all(|line| line.len() == 940));
            let mut second = Vec::new();
            input.write(&mut second).unwrap();
            assert_eq!(first, second);
            for line in lines(&input) {
                assert_eq!(line["url"], route.path());
                assert!(route.required_member().is_none_or(|member| !line["body"][member].is_null()));
            }
        }
    }

    #[test]
    fn ids_are_unique_unless_asked_otherwise() {
        let ids = |input: &Input| {
            lines(input)
                .iter()
                .map(|line| line["custom_id"].as_str().unwrap().to_owned())
                .collect::<HashSet<_>>()
                .len()
        };
        let input = Input { requests: 2500, ..Input::default() };
        assert_eq!(ids(&input), 2500);
        assert_eq!(input.custom_id(7), "req-00000007");
        assert_eq!(ids(&Input { has_duplicate_ids: true, ..input }), 2497);
    }

    #[test]
    fn models_groups_copies_and_directives_are_there() {
        let input = Input {
            requests: 400,
            models: vec!["a".to_owned(), "b".to_owned()],
            prefix_groups: 4,
            copies: 2,
            directive: Some(("[[sim:status=400]]".to_owned(), 10)),
            ..Input::default()
        };
        let lines = lines(&input);
        let prompt = |line: &Value| line["body"]["messages"][0]["content"].as_str().unwrap().to_owned();
        let models: HashSet<String> =
            lines.iter().map(|line| line["body"]["model"].to_string()).collect();
        assert_eq!(models.len(), 2);
        let prefixes: HashSet<String> =
            lines.iter().map(|line| prompt(line)[..300].to_owned()).collect();
        assert_eq!(prefixes.len(), 4);
        assert_eq!(lines.iter().filter(|line| prompt(line).contains("[[sim:")).count(), 40);
        assert_eq!(lines[2]["body"], lines[3]["body"]);
        assert_ne!(lines[3]["body"], lines[4]["body"]);
    }
}
