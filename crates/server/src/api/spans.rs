//! Spans of time as callers write them: `24h`, `30s`.

use std::time::Duration;

use crate::api::error::{self, ApiError};

/// Longer than anything that is meant; beyond it dates overflow in clients.
const WINDOW_MAX: Duration = Duration::from_secs(3_660 * 24 * 3_600);

/// A number with `m`, `h` or `d`.
pub(super) fn completion_window(text: &str) -> Result<Duration, ApiError> {
    parse(text, &[("m", 60), ("h", 3_600), ("d", 86_400)]).filter(|span| *span <= WINDOW_MAX).ok_or_else(
        || {
            error::invalid_value(
                "completion_window",
                text,
                "Supported is a whole number with `m`, `h` or `d`, such as '24h'.",
            )
        },
    )
}

/// A number with `s`, `m` or `h`.
pub(super) fn timeout(text: &str) -> Option<Duration> {
    parse(text, &[("s", 1), ("m", 60), ("h", 3_600)])
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<Duration> {
    units.iter().find_map(|(unit, seconds)| {
        let digits = text.strip_suffix(unit)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let count: u64 = digits.parse().ok().filter(|count| *count > 0)?;
        Some(Duration::from_secs(count.checked_mul(*seconds)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_a_number_and_a_unit() {
        let seconds = |text| completion_window(text).map(|span| span.as_secs()).ok();
        assert_eq!(seconds("24h"), Some(86_400));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("90m"), Some(5_400));
        for text in [
            "",
            "invalid",
            "h",
            "0h",
            "-1h",
            "+1h",
            "1.5h",
            "24",
            "24 h",
            "99999999999999999999d",
            "9999999d",
        ] {
            assert_eq!(seconds(text), None, "`{text}` was taken");
        }
    }
}
