//! The labels that a document may have.

use std::collections::HashMap;

/// More are no longer told apart by a model that reads them all before each document.
const LABELS_MAX: usize = 500;
/// A longer one is a description without its colon.
const LABEL_CHARS_MAX: usize = 100;

/// At least two labels, no two of them alike.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    labels: Vec<Label>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) name: String,
    pub(super) description: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LabelsError {
    #[error("one label leaves nothing to decide: name at least two")]
    TooFew,
    #[error("{0} labels are too many: at most {LABELS_MAX} are told apart")]
    TooMany(usize),
    #[error("the label `{0}` stands there twice (upper and lower case count as one)")]
    Twice(String),
    #[error("the label `{0}` is longer than {LABEL_CHARS_MAX} characters")]
    TooLong(String),
    #[error("a label is empty")]
    Empty,
}

impl Labels {
    /// Names between commas.
    pub(crate) fn from_list(text: &str) -> Result<Self, LabelsError> {
        let name = |name: &str| Label { name: name.trim().to_owned(), description: None };
        Self::new(text.split(',').map(name).collect())
    }

    /// One a line, with a description behind a colon where there is one. Empty lines and those that begin with `#` are
    /// passed over.
    pub(crate) fn from_lines(text: &str) -> Result<Self, LabelsError> {
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let label = |line: &str| {
            let (name, description) = line.split_once(':').unwrap_or((line, ""));
            let description = Some(description.trim().to_owned()).filter(|text| !text.is_empty());
            Label { name: name.trim().to_owned(), description }
        };
        Self::new(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(label).collect())
    }

    fn new(labels: Vec<Label>) -> Result<Self, LabelsError> {
        if labels.len() > LABELS_MAX {
            return Err(LabelsError::TooMany(labels.len()));
        }
        let mut by_name = HashMap::new();
        for (at, label) in labels.iter().enumerate() {
            if label.name.is_empty() {
                return Err(LabelsError::Empty);
            }
            if label.name.chars().count() > LABEL_CHARS_MAX {
                return Err(LabelsError::TooLong(label.name.clone()));
            }
            if by_name.insert(folded(&label.name), at).is_some() {
                return Err(LabelsError::Twice(label.name.clone()));
            }
        }
        if labels.len() < 2 {
            return Err(LabelsError::TooFew);
        }
        Ok(Self { labels, by_name })
    }

    /// Which label is meant. Case and the spaces around it are forgiven, nothing else is.
    pub(crate) fn find(&self, text: &str) -> Option<usize> {
        self.by_name.get(&folded(text)).copied()
    }

    pub(crate) fn name(&self, label: usize) -> &str {
        &self.labels[label].name
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(|label| label.name.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }
}

fn folded(text: &str) -> String {
    text.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_a_list_and_from_lines() {
        let list = Labels::from_list(" invoice, Contract ,other").unwrap();
        assert_eq!(list.names().collect::<Vec<_>>(), ["invoice", "Contract", "other"]);

        let lines =
            Labels::from_lines("\u{feff}# kinds\r\ninvoice: asks for money: now\r\n\r\n  other  \n");
        let label = |name: &str, description: Option<&str>| Label {
            name: name.to_owned(),
            description: description.map(str::to_owned),
        };
        assert_eq!(
            lines.unwrap().labels,
            [label("invoice", Some("asks for money: now")), label("other", None)]
        );
    }

    #[test]
    fn case_and_outer_spaces_are_forgiven_and_nothing_else() {
        let labels = Labels::from_list("Rechnung,Ünfug").unwrap();
        assert_eq!(labels.find("  rechnung\n"), Some(0));
        assert_eq!(labels.find("ÜNFUG"), Some(1));
        for text in ["", "rech nung", "rechnung.", "Rechnun", "\"Rechnung\""] {
            assert_eq!(labels.find(text), None, "{text}");
        }
    }

    #[test]
    fn labels_that_cannot_be_told_apart_are_refused() {
        use LabelsError::{Empty, TooFew, TooLong, TooMany, Twice};
        let long = "x".repeat(101);
        let many: Vec<String> = (0..501).map(|at| at.to_string()).collect();
        for (text, error) in [
            ("", Empty),
            ("a,,b", Empty),
            ("a", TooFew),
            ("a,b, A", Twice("A".to_owned())),
            (&format!("a,{long}"), TooLong(long.clone())),
            (&many.join(","), TooMany(501)),
        ] {
            assert_eq!(Labels::from_list(text).unwrap_err(), error, "{text}");
        }
        assert_eq!(Labels::from_lines("# nothing\n").unwrap_err(), TooFew);
    }
}
