//! Versions of Ollama, as far as its ways depend on them.

/// As `/api/version` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Version([u32; 3]);

impl Version {
    /// Whatever cannot be read is taken for the oldest: it is trusted least.
    pub(super) fn parse(text: &str) -> Self {
        let mut numbers = [0; 3];
        let plain = text.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        for (number, part) in numbers.iter_mut().zip(plain.split('.')) {
            *number = part.parse().unwrap_or(0);
        }
        Self(numbers)
    }

    /// `truncate` and `shift` of chat and generate came, went and came again during 0.12 (ollama#12519, #12545); since
    /// 0.13 they stay.
    pub(super) fn obeys_flags(self) -> bool {
        self >= Self([0, 13, 0])
    }

    /// Before the runner of 0.5 what was left of a prompt that was too long was about half a context.
    pub(super) fn halves(self) -> bool {
        self < Self([0, 5, 0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(Version::parse("0.13.0").obeys_flags());
        assert!(Version::parse("0.32.9-rc1").obeys_flags());
        assert!(Version::parse("v1.0").obeys_flags());
        assert!(!Version::parse("0.9.6").obeys_flags());
        assert!(!Version::parse("a fork").obeys_flags());
        assert!(Version::parse("0.4.7").halves() && !Version::parse("0.12.11").halves());
    }
}
