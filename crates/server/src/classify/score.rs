//! How many answers are those that were expected.

use std::collections::BTreeMap;

use serde::Serialize;

use super::labels::Labels;

/// Answers beside expected labels, a row for each label. Documents of which nobody knows the label do not count.
#[derive(Debug, Serialize)]
pub(crate) struct Score {
    pub(crate) documents: u64,
    pub(crate) right: u64,
    pub(crate) labels: Vec<LabelScore>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LabelScore {
    pub(crate) label: String,
    pub(crate) documents: u64,
    pub(crate) right: u64,
    /// What was answered in its place, [`NO_LABEL`] where that was no label.
    pub(crate) instead: BTreeMap<String, u64>,
}

/// What stands for no label.
pub(crate) const NO_LABEL: &str = "(none)";

impl Score {
    pub(super) fn new(labels: &Labels) -> Self {
        let row = |name: &str| LabelScore {
            label: name.to_owned(),
            documents: 0,
            right: 0,
            instead: BTreeMap::new(),
        };
        Self { documents: 0, right: 0, labels: labels.names().map(row).collect() }
    }

    pub(super) fn add(&mut self, expected: usize, answered: Option<usize>) {
        let name = answered.map_or(NO_LABEL, |label| self.labels[label].label.as_str()).to_owned();
        let row = &mut self.labels[expected];
        self.documents += 1;
        row.documents += 1;
        if answered == Some(expected) {
            self.right += 1;
            row.right += 1;
        } else {
            *row.instead.entry(name).or_default() += 1;
        }
    }

    /// In percent; none where there is nothing to be right about.
    pub(crate) fn accuracy(right: u64, documents: u64) -> Option<f64> {
        (documents > 0).then(|| right as f64 * 100.0 / documents as f64)
    }
}

impl LabelScore {
    /// What was answered in its place, most often first.
    pub(crate) fn confusions(&self) -> Vec<(&str, u64)> {
        let mut confusions: Vec<(&str, u64)> =
            self.instead.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        confusions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        confusions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_beside_what_was_expected() {
        let mut score = Score::new(&Labels::from_list("a,b,c").unwrap());
        for (expected, answered) in
            [(0, Some(0)), (0, Some(0)), (0, Some(2)), (0, None), (0, Some(2)), (1, Some(1))]
        {
            score.add(expected, answered);
        }
        assert_eq!((score.documents, score.right), (6, 3));
        assert_eq!(score.labels[0].confusions(), [("c", 2), (NO_LABEL, 1)]);
        assert_eq!(score.labels[2].documents, 0);
        assert_eq!(Score::accuracy(3, 6), Some(50.0));
        assert_eq!(Score::accuracy(0, 0), None);
    }
}
