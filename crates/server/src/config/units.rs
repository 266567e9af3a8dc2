//! Values with units, as people write them: `"10ms"`, `"1h30m"`, `"200MB"`, `"16GiB"`.
//!
//! A bare number is refused: nobody remembers whether it meant seconds or milliseconds.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The decimal units first: sizes are shown in the first that divides them.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads `10ms`, `30s`, `5m`, `24h`, `30d`, and sums of them such as `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is no duration: write a number with ms, s, m, h or d, as in `10ms` or `1h30m`")
    };
    let mut rest = text.trim();
    let mut millis = 0_u64;
    let mut count = 0;
    while !rest.is_empty() {
        let (number, behind) = split_at(rest, |byte| !byte.is_ascii_digit());
        let (unit, behind) = split_at(behind, |byte| !byte.is_ascii_alphabetic());
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let part = number.checked_mul(*factor);
        millis = part.and_then(|part| millis.checked_add(part)).ok_or_else(wrong)?;
        rest = behind.trim_start();
        count += 1;
    }
    if count == 0 { Err(wrong()) } else { Ok(Duration::from_millis(millis)) }
}

/// Reads `200MB`, `1.5GB`, `16GiB`, `512B`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is no size: write a number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, as in `200MB`"
        )
    };
    let (number, unit) = split_at(text.trim(), |byte| !byte.is_ascii_digit() && byte != b'.');
    let unit = unit.trim();
    let (_, factor) =
        SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut len = whole.checked_mul(*factor).ok_or_else(wrong)?;
    if number.contains('.') {
        let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let fraction: u64 = fraction.parse().map_err(|_| wrong())?;
        let part = u128::from(fraction) * u128::from(*factor) / u128::from(scale.ok_or_else(wrong)?);
        len = u64::try_from(part).ok().and_then(|part| len.checked_add(part)).ok_or_else(wrong)?;
    }
    Ok(len)
}

/// The `completion_window` of a batch: one number with `m`, `h` or `d`.
pub(crate) fn check_window(text: &str) -> Result<(), String> {
    let (number, unit) = split_at(text, |byte| !byte.is_ascii_digit());
    let is_number = number.parse::<u32>().is_ok_and(|number| number > 0);
    if is_number && matches!(unit, "m" | "h" | "d") {
        Ok(())
    } else {
        Err(format!("`{text}` is no window: write a number with m, h or d, as in `24h`"))
    }
}

/// In the largest units that lose nothing: `1h30m`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS {
        if millis >= factor {
            text = format!("{text}{}{unit}", millis / factor);
            millis %= factor;
        }
    }
    text
}

/// In the largest unit that divides it.
pub(crate) fn show_size(len: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, factor)| len >= *factor && len.is_multiple_of(*factor));
    match unit {
        Some((unit, factor)) => format!("{}{unit}", len / factor),
        None => format!("{len}B"),
    }
}

fn split_at(text: &str, ends: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(ends).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in [
            ("10ms", 10),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(show_duration(duration), text);
        }
        assert_eq!(parse_duration("90s").map(show_duration), Ok("1m30s".to_owned()));
        for text in
            ["", "10", "ms", "1w", "-5s", "1.5h", "5m x", "99999999999999999999d", "9999999999999999d"]
        {
            assert!(parse_duration(text).is_err(), "`{text}` was taken");
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, len) in [
            ("200MB", 200_000_000),
            ("16GB", 16_000_000_000),
            ("256MiB", 256 << 20),
            ("7B", 7),
            ("1537B", 1_537),
        ] {
            assert_eq!(parse_size(text), Ok(len), "{text}");
            assert_eq!(show_size(len), text);
        }
        assert_eq!(parse_size("1.5GB"), Ok(1_500_000_000));
        assert_eq!(parse_size("64 kib"), Ok(65_536));
        for text in [
            "",
            "200",
            "MB",
            "1.x",
            "1.MB",
            "-1MB",
            "1XB",
            "99999999999999TB",
            "1.0000000000000000000000B",
        ] {
            assert!(parse_size(text).is_err(), "`{text}` was taken");
        }
    }

    #[test]
    fn a_window_is_one_number_with_one_unit() {
        for text in ["24h", "30m", "7d"] {
            assert_eq!(check_window(text), Ok(()));
        }
        for text in ["", "h", "24", "0h", "1h30m", "24H", "10s", "-1h", "99999999999h"] {
            assert!(check_window(text).is_err(), "`{text}` was taken");
        }
    }
}
