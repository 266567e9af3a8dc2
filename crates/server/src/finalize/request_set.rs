//! Which requests of a batch have a result: a bit each, 1.25 MB for the largest batch.

use overnight_domain::ids::RequestIndex;

pub(super) struct RequestSet {
    words: Vec<u64>,
    total: u64,
    count: u64,
}

impl RequestSet {
    /// Empty, for the requests from 0 to `total`.
    pub(super) fn new(total: u64) -> Self {
        Self { words: vec![0; total.div_ceil(64) as usize], total, count: 0 }
    }

    /// Whether the request was not in it yet. One that the batch does not have never is.
    pub(super) fn insert(&mut self, index: RequestIndex) -> bool {
        let is_new = u64::from(index.0) < self.total && !self.contains(index);
        if is_new {
            self.words[index.0 as usize / 64] |= 1 << (index.0 % 64);
            self.count += 1;
        }
        is_new
    }

    pub(super) fn contains(&self, index: RequestIndex) -> bool {
        let word = self.words.get(index.0 as usize / 64);
        word.is_some_and(|word| word >> (index.0 % 64) & 1 == 1)
    }

    /// Requests of the batch that are not in it.
    pub(super) const fn missing(&self) -> u64 {
        self.total - self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_request_once() {
        let mut set = RequestSet::new(130);
        for index in [0, 63, 64, 129] {
            assert!(!set.contains(RequestIndex(index)));
            assert!(set.insert(RequestIndex(index)));
            assert!(!set.insert(RequestIndex(index)), "the second of `{index}` is none");
            assert!(set.contains(RequestIndex(index)));
        }
        assert!(!set.insert(RequestIndex(130)), "beyond the batch");
        assert!(!set.contains(RequestIndex(1_000)));
        assert_eq!(set.missing(), 126);
    }
}
