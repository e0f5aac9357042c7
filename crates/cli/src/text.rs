//! Numbers, ages and names as a person reads them.

/// Whether to colour. Only whole lines are coloured, so that columns keep their width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) colour: bool,
}

impl Style {
    pub(crate) fn strong(self, text: &str) -> String {
        self.wrapped("1", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.wrapped("31", text)
    }

    fn wrapped(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// What stands where nothing is known.
pub(crate) const ABSENT: &str = "-";

/// A text from elsewhere without what would move a terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

pub(crate) fn or_absent<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| ABSENT.to_owned(), show)
}

/// Milliseconds in the unit that leaves three digits that matter.
pub(crate) fn ms(ms: f64) -> String {
    match ms {
        _ if ms < 9.95 => format!("{ms:.1} ms"),
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ if ms < 99_950.0 => format!("{:.2} s", ms / 1e3),
        _ => span(ms / 1e3),
    }
}

/// A long time in its two largest units.
fn span(seconds: f64) -> String {
    let total = seconds.round();
    let (days, hours, minutes) =
        ((total / 86_400.0).floor(), (total / 3_600.0).floor(), (total / 60.0).floor());
    if days >= 1.0 {
        format!("{days} d {} h", hours - days * 24.0)
    } else if hours >= 1.0 {
        format!("{hours} h {} m", minutes - hours * 60.0)
    } else {
        format!("{minutes} m {} s", total - minutes * 60.0)
    }
}

/// Seconds of a score, to the millisecond.
pub(crate) fn cost(seconds: f64) -> String {
    format!("{seconds:.3}")
}

/// How long ago.
pub(crate) fn ago(age_ms: f64) -> String {
    format!("{} ago", ms(age_ms))
}

/// The time of day of an RFC 3339 time, in UTC.
pub(crate) fn time_of_day(rfc3339: &str) -> &str {
    rfc3339.get(11..23).unwrap_or(rfc3339)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
pub(crate) fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

pub(crate) fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

/// `1,834`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 node`, `2 nodes`.
pub(crate) fn counted(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_keeps_the_digits_that_matter() {
        for (given, expect) in [
            (0.04, "0.0 ms"),
            (1.5, "1.5 ms"),
            (9.96, "10 ms"),
            (340.2, "340 ms"),
            (999.6, "1.00 s"),
            (81_234.0, "81.23 s"),
            (154_000.0, "2 m 34 s"),
            (7_500_000.0, "2 h 5 m"),
            (180_000_000.0, "2 d 2 h"),
        ] {
            assert_eq!(ms(given), expect);
        }
    }

    #[test]
    fn large_numbers_are_grouped_by_thousands() {
        for (number, expect) in [(0, "0"), (999, "999"), (1_834, "1,834"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), expect);
        }
    }

    #[test]
    fn a_text_from_elsewhere_cannot_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\r\nc"), "a?[2Jb??c");
    }
}
