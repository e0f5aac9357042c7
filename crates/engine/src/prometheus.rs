//! A tolerant scanner of Prometheus text: it hands out series and leaves numbers and labels unread until
//! they are wanted, because a vLLM page has 700 lines of which six matter, four times a second.
//!
//! It never allocates per line, never fails because of a line it does not understand, and drops a last line
//! without a line feed: half a line would turn `running 12` into `running 1`.

use memchr::{memchr, memchr2, memchr3};

use aya_domain::{PrefixCache, Tokens};

use crate::finding::{Absent, PageError, whole};

/// Longer lines are skipped.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// More samples of one name than this are no engine's: the sum would be nonsense.
const MAX_SAMPLES: u32 = 1024;

/// One sample line, split only at its name.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    name: &'a [u8],
    rest: &'a [u8],
}

/// Calls `each` for every sample line of a page.
///
/// # Errors
/// [`PageError::Html`] for a web page, [`PageError::NoSeries`] if no line looks like a sample.
pub fn scan<'a>(page: &'a [u8], mut each: impl FnMut(Series<'a>)) -> Result<(), PageError> {
    if page.trim_ascii_start().starts_with(b"<") {
        return Err(PageError::Html);
    }
    let mut any = false;
    let mut rest = page;
    while let Some(end) = memchr(b'\n', rest) {
        let (line, tail) = rest.split_at(end);
        rest = tail.get(1..).unwrap_or_default();
        if line.len() <= MAX_LINE_BYTES
            && let Some(series) = Series::split(line)
        {
            any = true;
            each(series);
        }
    }
    if any { Ok(()) } else { Err(PageError::NoSeries) }
}

/// [`scan`] of a page on which some name has to begin with `prefix`.
///
/// # Errors
/// As [`scan`], and [`PageError::Foreign`] if there are series and none of them begins so.
pub(crate) fn scan_of<'a>(
    prefix: &[u8],
    page: &'a [u8],
    mut each: impl FnMut(Series<'a>),
) -> Result<(), PageError> {
    let mut ours = false;
    scan(page, |series| {
        if series.name().starts_with(prefix) {
            ours = true;
            each(series);
        }
    })?;
    if ours { Ok(()) } else { Err(PageError::Foreign) }
}

/// The prefix cache from two counters of tokens. More found than asked is an engine that miscounts.
pub(crate) fn prefix_cache(asked: &Tally, hit: &Tally) -> Result<PrefixCache, Absent> {
    let (asked, hit) = (asked.sum().and_then(whole)?, hit.sum().and_then(whole)?);
    if hit > asked {
        return Err(Absent::TooLarge);
    }
    Ok(PrefixCache::Counters { asked: Tokens(asked), hit: Tokens(hit) })
}

impl<'a> Series<'a> {
    fn split(line: &'a [u8]) -> Option<Self> {
        let first = *line.first()?;
        if !(first.is_ascii_alphabetic() || matches!(first, b'_' | b':')) {
            return None;
        }
        let end = memchr3(b'{', b' ', b'\t', line)?;
        let (name, rest) = line.split_at(end);
        Some(Self { name, rest })
    }

    /// The metric's name.
    #[must_use]
    pub const fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The number of this sample, as it stands there.
    ///
    /// # Errors
    /// [`Absent::Malformed`] if there is none.
    pub fn value(&self) -> Result<f64, Absent> {
        let after = self.labels_and_value().ok_or(Absent::Malformed)?.1.trim_ascii_start();
        let end = memchr2(b' ', b'\t', after).unwrap_or(after.len());
        let text = after.get(..end).unwrap_or_default().trim_ascii();
        std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or(Absent::Malformed)
    }

    /// The text of a label, without its escapes resolved; `None` if the sample has no such label.
    #[must_use]
    pub fn label(&self, wanted: &str) -> Option<&'a str> {
        let mut rest = self.labels_and_value()?.0;
        loop {
            rest = rest.trim_ascii_start();
            let equals = memchr(b'=', rest)?;
            let (name, value) = rest.split_at(equals);
            let value = value.get(1..)?.trim_ascii_start().strip_prefix(b"\"")?;
            let end = end_of_quoted(value)?;
            let (text, tail) = value.split_at(end);
            if name.trim_ascii() == wanted.as_bytes() {
                return std::str::from_utf8(text).ok();
            }
            rest = tail.get(1..)?.trim_ascii_start();
            rest = rest.strip_prefix(b",").unwrap_or(rest);
        }
    }

    /// What stands between the braces, and what follows them.
    fn labels_and_value(&self) -> Option<(&'a [u8], &'a [u8])> {
        let Some(labels) = self.rest.strip_prefix(b"{") else { return Some((&[], self.rest)) };
        let mut at = 0;
        loop {
            let tail = labels.get(at..)?;
            let next = memchr2(b'"', b'}', tail)?;
            if tail.get(next) == Some(&b'}') {
                let end = at + next;
                return Some((labels.get(..end)?, labels.get(end + 1..)?));
            }
            let quoted = tail.get(next + 1..)?;
            at += next + 1 + end_of_quoted(quoted)? + 1;
        }
    }
}

/// The position of the quote that ends a label's text.
fn end_of_quoted(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let tail = text.get(at..)?;
        let next = memchr2(b'"', b'\\', tail)?;
        if tail.get(next) == Some(&b'"') {
            return Some(at + next);
        }
        at += next + 2;
    }
}

/// The samples of one name, added up: an engine with several data-parallel ranks tells one sample per rank.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    sum: f64,
    samples: u32,
    bad: Option<Absent>,
}

impl Tally {
    /// Takes one sample in. One bad sample spoils the whole: a sum without it would be too small.
    pub(crate) fn add(&mut self, value: Result<f64, Absent>) {
        self.samples = self.samples.saturating_add(1);
        match value.and_then(crate::finding::finite) {
            Ok(v) => self.sum += v,
            Err(reason) => self.bad = Some(reason),
        }
    }

    /// The sum of all samples.
    pub(crate) fn sum(&self) -> Result<f64, Absent> {
        match (self.bad, self.samples) {
            (Some(reason), _) => Err(reason),
            (None, 0) => Err(Absent::Missing),
            (None, n) if n > MAX_SAMPLES => Err(Absent::TooLarge),
            (None, _) => Ok(self.sum),
        }
    }

    /// The mean of all samples.
    pub(crate) fn mean(&self) -> Result<f64, Absent> {
        self.sum().map(|sum| sum / f64::from(self.samples.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(page: &str, name: &str) -> Result<f64, Absent> {
        let mut tally = Tally::default();
        match scan(page.as_bytes(), |s| {
            if s.name() == name.as_bytes() {
                tally.add(s.value());
            }
        }) {
            Ok(()) => tally.sum(),
            Err(error) => Err(Absent::Page(error)),
        }
    }

    #[test]
    fn a_value_is_read_or_absent_with_a_reason() {
        let html = Err(Absent::Page(PageError::Html));
        let nothing = Err(Absent::Page(PageError::NoSeries));
        for (page, expect) in [
            ("a 1\n", Ok(1.0)),
            ("a 1.5e1 1700000000\n", Ok(15.0)),
            ("a\t2\r\n", Ok(2.0)),
            ("a{x=\"1\"} 2\na{x=\"2\"} 3\n", Ok(5.0)),
            ("a{x=\"}\",y=\"\\\"}\"} 4 # {trace=\"x\"} 1\n", Ok(4.0)),
            ("# TYPE a gauge\nb 1\n", Err(Absent::Missing)),
            ("a NaN\n", Err(Absent::NotFinite)),
            ("a +Inf\n", Err(Absent::NotFinite)),
            ("a 1e999\n", Err(Absent::NotFinite)),
            ("a -1\n", Err(Absent::Negative)),
            ("a 1\na NaN\n", Err(Absent::NotFinite)),
            ("a one\n", Err(Absent::Malformed)),
            ("a \n", Err(Absent::Malformed)),
            ("a{x=\"1\n", Err(Absent::Malformed)),
            ("a{x=\"1\" 5\n", Err(Absent::Malformed)),
            ("b 1\na 12", Err(Absent::Missing)),
            ("<!DOCTYPE html><p>\na 1\n", html),
            ("  \n<html>a 1\n", html),
            ("", nothing),
            ("\n\n", nothing),
            ("{\"error\":\"x\"}\n", nothing),
            ("\u{0}\u{1}\n", nothing),
        ] {
            assert_eq!(value_of(page, "a"), expect, "{page:?}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_and_the_rest_is_read() {
        let page = format!("b{{x=\"{}\"}} 1\na 2\n", "y".repeat(MAX_LINE_BYTES));
        assert_eq!(value_of(&page, "a"), Ok(2.0));
        assert_eq!(value_of(&page, "b"), Err(Absent::Missing));
    }

    #[test]
    fn a_label_is_found_by_its_whole_name() {
        let page = b"i{xab=\"1\", ab = \"2\",q=\"a\\\"b,ab=\\\"9\",z=\"\"} 1\n";
        let mut seen = Vec::new();
        scan(page, |s| seen = ["ab", "xab", "b", "z", "q"].map(|l| s.label(l).map(str::to_owned)).to_vec())
            .unwrap();
        let expect = [Some("2"), Some("1"), None, Some(""), Some("a\\\"b,ab=\\\"9")];
        assert_eq!(seen, expect.map(|o| o.map(str::to_owned)).to_vec());
    }
}
