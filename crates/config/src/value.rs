//! From a raw value to a typed one, or the reason why not.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not wanted here is told by its kind, present and future kinds alike"
)]

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::source::Origin;
use crate::tree::{Entry, Table, Value};

/// A value, or what is wrong with it in words.
pub(crate) type Read<T> = Result<T, String>;

pub(crate) fn section_of(
    value: Value,
    origin: &Origin,
    from_word: impl Fn(&str) -> Read<Vec<(&'static str, String)>>,
) -> Read<Table> {
    match value {
        Value::Table(table) => Ok(table),
        Value::Word(word) => {
            let entry = |text| Entry { value: Value::Word(text), origin: origin.clone() };
            Ok(from_word(&word)?.into_iter().map(|(key, text)| (key.to_owned(), entry(text))).collect())
        }
        other => Err(wanted("a section", &other)),
    }
}

fn wanted(what: &str, found: &Value) -> String {
    let found = match found {
        Value::Word(_) | Value::Text(_) => "a text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Bool(_) => "true or false",
        Value::List(_) => "a list",
        Value::Table(_) => "a section",
        Value::Odd(what) => what,
    };
    format!("must be {what}, not {found}")
}

pub(crate) fn text(value: &Value) -> Read<&str> {
    match value {
        Value::Word(text) | Value::Text(text) => Ok(text),
        other => Err(wanted("a text in quotes", other)),
    }
}

pub(crate) fn parse_text<T: FromStr<Err: Display>>(value: &Value) -> Read<T> {
    parse_word(text(value)?)
}

pub(crate) fn parse_word<T: FromStr<Err: Display>>(word: &str) -> Read<T> {
    word.parse().map_err(|e: T::Err| format!("{word:?}: {e}"))
}

/// `example` shows the form.
pub(crate) fn socket_address(value: &Value, example: SocketAddr) -> Read<SocketAddr> {
    let word = text(value)?;
    word.parse().map_err(|_| format!("{word:?} is not an IP address with a port, such as {example}"))
}

pub(crate) fn words(value: &Value) -> Read<Vec<&str>> {
    match value {
        Value::Word(text) => Ok(text.split(',').map(str::trim).filter(|w| !w.is_empty()).collect()),
        Value::List(items) => items.iter().map(|item| text(&item.value)).collect(),
        other => Err(wanted("a list of texts", other)),
    }
}

pub(crate) fn boolean(value: &Value) -> Read<bool> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Word(word) => parse_word(word),
        other => Err(wanted("true or false", other)),
    }
}

pub(crate) fn integer(value: &Value) -> Read<u64> {
    match value {
        Value::Integer(number) => u64::try_from(*number).map_err(|_| "must not be negative".to_owned()),
        Value::Word(word) => word.parse().map_err(|_| format!("{word:?} is not a whole number")),
        other => Err(wanted("a whole number", other)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a setting with a fraction is far below 2^53")]
pub(crate) fn float(value: &Value) -> Read<f64> {
    match value {
        Value::Float(number) => Ok(*number),
        Value::Integer(number) => Ok(*number as f64),
        Value::Word(word) => word.parse().map_err(|_| format!("{word:?} is not a number")),
        other => Err(wanted("a number", other)),
    }
}

pub(crate) fn fits_usize(number: u64) -> Read<usize> {
    usize::try_from(number).map_err(|_| "is too large for this machine".to_owned())
}

pub(crate) fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Read<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{} is out of range: from {} to {}", show(&value), show(range.start()), show(range.end())))
}
