//! Durations and sizes as people write them: a number with its unit.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number and a unit, without sign, exponent or fraction.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that leaves a whole number.
fn format(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(*factor);
    match units.iter().filter(fits).max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => "0".to_owned(),
    }
}

/// `250ms`, `10s`, `5m`, `1h`, `1d`, also `us` and `ns`.
///
/// # Errors
/// A text of another form, or a duration beyond 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let nanos = if text.trim() == "0" { Some(0) } else { parse(text, &DURATION_UNITS) };
    nanos
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("{text:?} is not a duration such as \"250ms\", \"10s\" or \"5m\""))
}

/// As [`parse_duration`] reads it.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 { "0s".to_owned() } else { format(nanos, &DURATION_UNITS) }
}

/// `512B`, `64KiB`, `8MiB`, `2GiB`, also decimal `kB`, `MB`, `GB`.
///
/// # Errors
/// A text of another form, or more than 2^64 bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZE_UNITS).ok_or_else(|| format!("{text:?} is not a size such as \"64KiB\" or \"8MiB\""))
}

/// As [`parse_size`] reads it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 { "0B".to_owned() } else { format(bytes, &SIZE_UNITS) }
}

/// The known word that was probably meant: at most two edits away, and nearer than half its length.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|k| (edits(word, k), *k)).min()?;
    (near.0 <= 2 && near.0 * 2 < near.1.len()).then_some(near.1)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_reads_back_as_written() {
        for (text, ms) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(ms), "{text}");
            assert_eq!(format_duration(duration), text);
        }
        for text in ["", "10", "s", "-1s", "1.5s", "1 0s", "10 sec", "999999999d"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_duration("0").map(format_duration).as_deref(), Ok("0s"));
    }

    #[test]
    fn a_size_has_a_unit_and_reads_back_as_written() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("8MiB", 8 << 20), ("2GB", 2_000_000_000)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(format_size(bytes), text);
        }
        for text in ["", "8", "8MB/s", "8mib", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_slip_of_the_hand_is_recognised_and_a_stranger_is_not() {
        let known = ["capacity", "wait_max", "url"];
        for (word, expect) in [
            ("capcity", Some("capacity")),
            ("wait-max", Some("wait_max")),
            ("ulr", None),
            ("urls", Some("url")),
            ("colour", None),
        ] {
            assert_eq!(nearest(word, &known), expect, "{word}");
        }
    }
}
