//! One of something, rarely more: the members of a call. One alone needs no allocation, and most calls are one request.

/// At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Several<T> {
    pub first: T,
    pub others: Vec<T>,
}

impl<T> Several<T> {
    pub const fn one(first: T) -> Self {
        Self { first, others: Vec::new() }
    }

    /// None when there is nothing in it.
    pub fn from_vec(mut all: Vec<T>) -> Option<Self> {
        if all.is_empty() {
            return None;
        }
        let first = all.remove(0);
        Some(Self { first, others: all })
    }

    pub const fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// Never; it stands beside [`Self::len`].
    pub const fn is_empty(&self) -> bool {
        false
    }

    pub const fn is_one(&self) -> bool {
        self.others.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.others)
    }

    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> Several<U> {
        Several { first: to(self.first), others: self.others.into_iter().map(to).collect() }
    }
}

impl<T> IntoIterator for Several<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::iter::Once<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.others)
    }
}
