//! Single fields: presence, ages, texts, numbers. The only place that knows how a problem with one looks.

use std::collections::BTreeSet;
use std::time::Duration;

use aya_domain::{Aged, IdError, Ratio};

use super::{AGE_MAX, ConvertError, Limits, Problem};

pub(super) type Result<T> = std::result::Result<T, ConvertError>;

pub(super) fn required<T>(value: Option<T>, field: &str) -> Result<T> {
    value.ok_or_else(|| ConvertError::at(field, Problem::Missing))
}

pub(super) fn id<T>(
    text: Option<&str>,
    field: &str,
    parse: fn(&str) -> std::result::Result<T, IdError>,
) -> Result<T> {
    let text = required(text, field)?;
    parse(text).map_err(|error| ConvertError::at(field, Problem::BadId(error)))
}

/// A wire enum by its number; 0 is UNSPECIFIED and known to none of them.
pub(super) fn named<W: TryFrom<i32>, T>(
    value: Option<i32>,
    field: &str,
    name: fn(W) -> Option<T>,
) -> Result<T> {
    let number = required(value, field)?;
    W::try_from(number)
        .ok()
        .and_then(name)
        .ok_or_else(|| ConvertError::at(field, Problem::UnknownEnum(number)))
}

pub(super) fn text(value: String, field: &str, limits: &Limits) -> Result<String> {
    let (bytes, max) = (value.len(), limits.text_bytes_max);
    if exceeds(bytes, max) {
        return Err(ConvertError::at(field, Problem::TooLong { bytes, max }));
    }
    Ok(value)
}

pub(super) fn optional_text(value: Option<String>, field: &str, limits: &Limits) -> Result<Option<String>> {
    value.map(|value| text(value, field, limits)).transpose()
}

pub(super) fn count(items: usize, max: u32, field: &str) -> Result<()> {
    if exceeds(items, max) {
        return Err(ConvertError::at(field, Problem::TooMany { count: items, max }));
    }
    Ok(())
}

fn exceeds(count: usize, max: u32) -> bool {
    u32::try_from(count).map_or(true, |count| count > max)
}

/// Refuses a list that names one thing twice: the second would silently overwrite the first.
pub(super) fn distinct<'a, T: Ord + 'a>(
    ids: impl Iterator<Item = &'a T>,
    field: &str,
    id: &str,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (at, item) in ids.enumerate() {
        if !seen.insert(item) {
            return Err(ConvertError::at(&format!("{field}[{at}].{id}"), Problem::Duplicate));
        }
    }
    Ok(())
}

pub(super) fn age(micros: Option<u64>) -> Result<Duration> {
    let micros = required(micros, "age_us")?;
    let age = Duration::from_micros(micros);
    if age > AGE_MAX {
        return Err(ConvertError::at("age_us", Problem::AgeTooHigh { micros }));
    }
    Ok(age)
}

/// An age for the wire, in whole microseconds; at most what the other side believes.
pub(super) fn age_us(age: Duration) -> Option<u64> {
    Some(micros(age.min(AGE_MAX)))
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn aged<T>(value: Option<T>, age_us: Option<u64>) -> Result<Aged<T>> {
    Ok(Aged::new(required(value, "value")?, age(age_us)?))
}

pub(super) fn ratio(value: f64, field: &str) -> Result<Ratio> {
    Ratio::new(value).map_err(|error| ConvertError::at(field, Problem::BadUnit(error)))
}

pub(super) fn optional_ratio(value: Option<f64>, field: &str) -> Result<Option<Ratio>> {
    value.map(|value| ratio(value, field)).transpose()
}

pub(super) fn seconds(value: Option<f64>, field: &str) -> Result<f64> {
    let value = required(value, field)?;
    if !value.is_finite() || value < 0.0 {
        return Err(ConvertError::at(field, Problem::BadSeconds { value }));
    }
    Ok(value)
}

pub(super) fn not_zero<T: PartialEq + From<u8>>(value: Option<T>, field: &str) -> Result<T> {
    let value = required(value, field)?;
    if value == T::from(0) {
        return Err(ConvertError::at(field, Problem::Zero));
    }
    Ok(value)
}
