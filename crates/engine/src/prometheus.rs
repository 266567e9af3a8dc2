//! The text format of Prometheus, as far as engines use it: names, labels, numbers.
//!
//! Tolerant: a line that makes no sense is passed over, for one odd metric must not hide all others. Bounded: a page of
//! any length costs at most [`SAMPLES_MAX`] samples.

use std::borrow::Cow;

/// More than any engine exports: vLLM with eight ranks has about 4,000, nearly all of them buckets of histograms.
const SAMPLES_MAX: usize = 50_000;

/// A page of metrics, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Metrics<'a> {
    samples: Vec<Sample<'a>>,
}

/// One line: a series and its value now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    /// What stands between the braces.
    labels: &'a str,
    pub(crate) value: f64,
}

impl<'a> Metrics<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let samples = text.lines().filter_map(Sample::parse).take(SAMPLES_MAX);
        Self { samples: samples.collect() }
    }

    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample<'a>> {
        self.samples.iter()
    }

    /// The series of the first of these names that the page knows: engines rename their metrics, and keep both for a
    /// while.
    pub(crate) fn series(&self, names: &[&str]) -> Vec<Sample<'a>> {
        let of = |name: &&str| -> Vec<Sample<'a>> {
            self.samples()
                .filter(|sample| sample.name == *name && sample.value.is_finite())
                .copied()
                .collect()
        };
        names.iter().map(of).find(|series| !series.is_empty()).unwrap_or_default()
    }

    /// The sum over all series, such as those of several ranks.
    pub(crate) fn sum(&self, names: &[&str]) -> Option<f64> {
        let series = self.series(names);
        (!series.is_empty()).then(|| series.iter().map(|sample| sample.value).sum())
    }

    /// The mean over all series: for shares, which do not add up.
    pub(crate) fn mean(&self, names: &[&str]) -> Option<f64> {
        let series = self.series(names);
        (!series.is_empty())
            .then(|| series.iter().map(|sample| sample.value).sum::<f64>() / series.len() as f64)
    }

    /// A sum that counts something. Negative or absurd ones are none.
    pub(crate) fn count(&self, names: &[&str]) -> Option<u64> {
        self.sum(names).and_then(whole)
    }
}

/// A number that counts something.
pub(crate) fn whole(number: f64) -> Option<u64> {
    /// Whole numbers up to here are exact in a `f64`.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (0.0..=EXACT_MAX).contains(&number).then(|| number.round() as u64)
}

impl<'a> Sample<'a> {
    /// `name{labels} value timestamp`; none for comments and for what is no sample.
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let name_len = line.find(|c: char| !is_name_char(c)).filter(|len| *len > 0)?;
        let (name, rest) = line.split_at(name_len);
        let rest = rest.trim_start();
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inside) => {
                let end = labels_end(inside)?;
                (&inside[..end], &inside[end + 1..])
            }
            None => ("", rest),
        };
        // A timestamp or an exemplar may follow the value. `parse` also takes `NaN`, `+Inf` and exponents.
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { name, labels, value })
    }

    /// The value of a label, its escapes undone.
    pub(crate) fn label(&self, wanted: &str) -> Option<Cow<'a, str>> {
        let mut rest = self.labels;
        loop {
            let (name, tail) = rest.split_once('=')?;
            let inside = tail.trim_start().strip_prefix('"')?;
            let end = string_end(inside)?;
            if name.trim() == wanted {
                return Some(unescape(&inside[..end]));
            }
            rest = inside[end + 1..].trim_start().trim_start_matches(',');
        }
    }

    /// A label that is a whole number. Python writes `None` for what is not set.
    pub(crate) fn number(&self, wanted: &str) -> Option<u64> {
        self.label(wanted)?.parse().ok()
    }
}

const fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':')
}

/// Where the closing brace stands; one within a text in quotes is none.
fn labels_end(text: &str) -> Option<usize> {
    let mut in_quotes = false;
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_quotes => is_escaped = true,
            b'"' => in_quotes = !in_quotes,
            b'}' if !in_quotes => return Some(at),
            _ => {}
        }
    }
    None
}

/// Where the closing quotation mark stands.
fn string_end(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some(escaped) => escaped,
                None => '\\',
            },
            (c, false) => c,
        });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_a_line() {
        let page = concat!(
            "# HELP a:b Words about it\n",
            "# TYPE a:b gauge\n",
            "a:b 1\n",
            "a:b{x=\"1\"} 2.5e2\n",
            "a:b{x=\"2\",} 3 1700000000000\n",
            "  a:b { x = \"brace } and \\\"quote\\\"\" , y=\"\\\\n\\n\" } 1e0\r\n",
            "counter_total 8.128902e+06 # {trace_id=\"x\"} 1\n",
            "empty{} 7\n",
        );
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.sum(&["a:b"]), Some(1.0 + 250.0 + 3.0 + 1.0));
        let odd = metrics.series(&["a:b"])[3];
        assert_eq!(odd.label("x").unwrap(), "brace } and \"quote\"");
        assert_eq!(odd.label("y").unwrap(), "\\n\n");
        assert_eq!(odd.label("z"), None);
        assert_eq!(metrics.count(&["counter_total"]), Some(8_128_902));
        assert_eq!(metrics.count(&["empty"]), Some(7));
    }

    #[test]
    fn the_first_name_that_is_known_counts() {
        let metrics = Metrics::parse("old 1\nnew 2\nnew 3\nnan NaN\n");
        assert_eq!(metrics.sum(&["new", "old"]), Some(5.0));
        assert_eq!(metrics.mean(&["new"]), Some(2.5));
        assert_eq!(metrics.sum(&["newer", "old"]), Some(1.0));
        assert_eq!(metrics.sum(&["nan", "old"]), Some(1.0), "what is no number is not known");
        assert_eq!(metrics.sum(&["none"]), None);
    }

    #[test]
    fn nonsense_hides_nothing() {
        let page = "{\n}\na{\na{x\na{x=\"\na{x=\"y\"\na b\na\n\u{e9} 1\na{x=\"y\"}\n<html>\n-1\n\
                    a{x=\"\\\n= 1\na +Inf\na -Inf\nb -4\nb 1e300\na 5";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.sum(&["a"]), Some(5.0));
        assert_eq!(metrics.count(&["b"]), None, "no count is so large");
        assert_eq!(whole(-1.0), None);
        assert_eq!(whole(f64::NAN), None);
        // Labels that make no sense end the search for one.
        for labels in ["x", "x=", "x=y", "x=\"y", "=", ",", "x=\"y\"z=\"w\""] {
            let sample = Sample { name: "a", labels, value: 0.0 };
            assert_eq!(sample.label("q"), None, "in `{labels}`");
        }
    }

    #[test]
    fn a_page_without_end_is_bounded() {
        let page = "a 1\n".repeat(SAMPLES_MAX + 10);
        assert_eq!(Metrics::parse(&page).samples().count(), SAMPLES_MAX);
    }
}
