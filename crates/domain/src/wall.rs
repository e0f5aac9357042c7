//! Wall time for people: a number, its RFC 3339 text, and back. Never compared across machines, never
//! used to measure; that is what [`crate::MonoTime`] is for.

use std::fmt;
use std::str::FromStr;

/// Milliseconds since 1970-01-01T00:00:00Z, for display and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(u64);

/// A text that is not of the form `2026-11-21T04:24:34.123Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallTimeError;

impl fmt::Display for WallTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is not a time such as 2026-11-21T04:24:34.123Z")
    }
}

impl std::error::Error for WallTimeError {}

/// 9999-12-31T23:59:59.999Z; RFC 3339 has four digits for the year.
const MAX_UNIX_MS: u64 = 253_402_300_799_999;
const DAY_MS: u64 = 86_400_000;

impl WallTime {
    /// The instant this many milliseconds after the epoch; at most the end of the year 9999.
    #[must_use]
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(if ms > MAX_UNIX_MS { MAX_UNIX_MS } else { ms })
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_unix_ms(self) -> u64 {
        self.0
    }

    /// Seconds since the epoch, for fields such as OpenAI's `created`.
    #[must_use]
    pub const fn as_unix_s(self) -> u64 {
        self.0 / 1_000
    }
}

/// Year, month and day of a day number counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
const fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// The inverse of [`civil_from_days`] for dates from 1970 on.
const fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let year_of_era = year % 400;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (year / 400) * 146_097 + day_of_era - 719_468
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / DAY_MS);
        let ms = self.0 % DAY_MS;
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
    }
}

impl WallTime {
    /// A time as people write it: RFC 3339 with or without a fraction of a second (beyond milliseconds it is cut off),
    /// in UTC (`Z`) or with an offset such as `+01:00`, its `T` perhaps a space or small.
    ///
    /// # Errors
    /// [`WallTimeError`]: it is no such time, or one before 1970.
    pub fn parse_written(text: &str) -> Result<Self, WallTimeError> {
        let (day, rest) = text.trim().split_at_checked(10).ok_or(WallTimeError)?;
        let clock = rest.strip_prefix(['T', 't', ' ']).ok_or(WallTimeError)?;
        let zone = clock.find(['Z', 'z', '+', '-']).ok_or(WallTimeError)?;
        let (clock, zone) = clock.split_at_checked(zone).ok_or(WallTimeError)?;
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(WallTimeError);
        }
        let ms: String = fraction.chars().chain("00".chars()).take(3).collect();
        let local: Self = format!("{day}T{clock}.{ms}Z").parse()?;
        let (ahead, offset) = match zone.strip_prefix(['+', '-']) {
            Some(offset) => (zone.starts_with('+'), offset),
            None if zone.eq_ignore_ascii_case("z") => (true, "00:00"),
            None => return Err(WallTimeError),
        };
        let number = |digits: &str| -> Result<u64, WallTimeError> {
            let good = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
            if good { digits.parse().map_err(|_| WallTimeError) } else { Err(WallTimeError) }
        };
        let (hours, minutes) = offset.split_once(':').ok_or(WallTimeError)?;
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        if hours > 23 || minutes > 59 {
            return Err(WallTimeError);
        }
        let offset_ms = (hours * 60 + minutes) * 60_000;
        let unix_ms = local.as_unix_ms();
        let utc = if ahead { unix_ms.checked_sub(offset_ms) } else { unix_ms.checked_add(offset_ms) };
        utc.map(Self::from_unix_ms).ok_or(WallTimeError)
    }
}

impl FromStr for WallTime {
    type Err = WallTimeError;

    /// Reads back what `Display` writes, and nothing else: a date that does not exist is an error.
    fn from_str(text: &str) -> Result<Self, WallTimeError> {
        let number = |from: usize, to: usize| -> Result<u64, WallTimeError> {
            let digits = text.get(from..to).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|d| d.parse().ok()).ok_or(WallTimeError)
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second, ms) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
        if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(WallTimeError);
        }
        let of_day = ((hour * 60 + minute) * 60 + second) * 1_000 + ms;
        let time = Self(days_from_civil(year, month, day) * DAY_MS + of_day);
        // The one check of separators, of hours beyond 23 and of a 31st of June.
        if time.to_string() == text { Ok(time) } else { Err(WallTimeError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_rfc_3339_and_back() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_795_235_074_123, "2026-11-21T04:24:34.123Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            let time = WallTime::from_unix_ms(unix_ms);
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time), "{text}");
        }
    }

    #[test]
    fn a_time_is_read_as_people_write_it() {
        let at = |unix_ms| Ok(WallTime::from_unix_ms(unix_ms));
        for (text, expect) in [
            ("2026-11-21T04:24:34Z", at(1_795_235_074_000)),
            (" 2026-11-21 04:24:34z ", at(1_795_235_074_000)),
            ("2026-11-21T04:24:34.1Z", at(1_795_235_074_100)),
            ("2026-11-21T04:24:34.123456789Z", at(1_795_235_074_123)),
            ("2026-11-21T05:24:34+01:00", at(1_795_235_074_000)),
            ("2026-11-20T22:54:34-05:30", at(1_795_235_074_000)),
            ("1970-01-01T00:30:00+01:00", Err(WallTimeError)),
            ("2026-11-21T04:24:34", Err(WallTimeError)),
            ("2026-11-21T04:24:34.Z", Err(WallTimeError)),
            ("2026-11-21T04:24:34.-1Z", Err(WallTimeError)),
            ("2026-11-21T04:24:34+1:00", Err(WallTimeError)),
            ("2026-11-21T04:24:34+24:00", Err(WallTimeError)),
            ("2026-06-31T04:24:34Z", Err(WallTimeError)),
            ("2026-11-21", Err(WallTimeError)),
            ("2026-11-2\u{e9}T04:24:34Z", Err(WallTimeError)),
            ("yesterday", Err(WallTimeError)),
            ("", Err(WallTimeError)),
        ] {
            assert_eq!(WallTime::parse_written(text), expect, "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_trip() {
        for day in 0..146_097 {
            let (year, month, of_month) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, of_month), day, "{year}-{month}-{of_month}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T04:24:34Z",
            "2026-11-21 04:24:34.123Z",
            "2026-02-30T00:00:00.000Z",
            "2026-13-01T00:00:00.000Z",
            "2026-11-21T24:00:00.000Z",
            "2026-11-21T04:24:34.123+01:00",
            "1969-12-31T23:59:59.999Z",
            "20é6-11-21T04:24:34.12Z",
        ] {
            assert_eq!(text.parse::<WallTime>(), Err(WallTimeError), "{text}");
        }
    }
}
