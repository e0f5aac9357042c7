//! One tree of raw values from three sources, each value with its origin.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::source::{Flag, Origin, Problem};

/// What a variable of ours begins with.
pub(crate) const ENV_PREFIX: &str = "AYA__";

/// A value before its type is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// From a variable or flag: its type is what the key wants.
    Word(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Entry>),
    Table(Table),
    /// A date, or an integer beyond 64 bits; no key wants one.
    Odd(&'static str),
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

pub(crate) type Table = BTreeMap<String, Entry>;

/// Parses a file's text; a file that is not TOML yields all its syntax errors and nothing else, because what
/// follows an error may have been read wrongly.
pub(crate) fn from_toml(name: &str, text: &str) -> Result<Table, Vec<Problem>> {
    let lines = Lines { name: Arc::from(name), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(lines.table(table.get_ref()));
    }
    let syntax = |error: &toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        Problem::new(lines.origin(at), "", error.message().replace('\n', ", "))
    };
    Err(errors.iter().map(syntax).collect())
}

struct Lines<'a> {
    name: Arc<str>,
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(at);
        Origin::File { name: Arc::clone(&self.name), line: 1 + before.filter(|b| **b == b'\n').count() }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let origin = self.origin(key.span().start);
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.to_string(), Entry { value: self.value(value.get_ref()), origin })
        };
        table.iter().map(entry).collect()
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                parsed.map_or(Value::Odd("an integer beyond 64 bits"), Value::Integer)
            }
            DeValue::Float(number) => {
                number.as_str().parse().map_or(Value::Odd("an odd number"), Value::Float)
            }
            DeValue::Boolean(bool) => Value::Bool(*bool),
            DeValue::Datetime(_) => Value::Odd("a date"),
            DeValue::Array(items) => {
                let entry = |item: &Spanned<DeValue<'_>>| Entry {
                    value: self.value(item.get_ref()),
                    origin: self.origin(item.span().start),
                };
                Value::List(items.iter().map(entry).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }
}

/// Lays `AYA__SECTION__KEY` variables over the tree; a variable without our prefix is not ours.
pub(crate) fn overlay_env(
    tree: &mut Table,
    env: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) {
    for (name, value) in env {
        if let Some(path) = name.strip_prefix(ENV_PREFIX) {
            let path = path.to_lowercase().replace("__", ".");
            put(tree, &path, Entry { value: Value::Word(value), origin: Origin::Env(name) }, problems);
        }
    }
}

/// Lays flags over the tree; a flag given several times makes a list.
pub(crate) fn overlay_flags(tree: &mut Table, flags: &[Flag], problems: &mut Vec<Problem>) {
    let mut grouped: BTreeMap<&str, Vec<&Flag>> = BTreeMap::new();
    for flag in flags {
        grouped.entry(flag.key).or_default().push(flag);
    }
    for (key, given) in grouped {
        let entry = |f: &Flag| Entry { value: Value::Word(f.value.clone()), origin: Origin::Flag(f.flag) };
        let laid = match given.as_slice() {
            [one] => entry(one),
            [first, ..] => Entry {
                value: Value::List(given.iter().map(|f| entry(f)).collect()),
                origin: Origin::Flag(first.flag),
            },
            [] => continue,
        };
        put(tree, key, laid, problems);
    }
}

fn put(tree: &mut Table, path: &str, entry: Entry, problems: &mut Vec<Problem>) {
    let (section, rest) = path.split_once('.').map_or((path, None), |(section, rest)| (section, Some(rest)));
    let Some(rest) = rest else {
        tree.insert(section.to_owned(), entry);
        return;
    };
    let origin = entry.origin.clone();
    let inner =
        tree.entry(section.to_owned()).or_insert_with(|| Entry { value: Value::Table(Table::new()), origin });
    if let Value::Table(table) = &mut inner.value {
        put(table, rest, entry, problems);
    } else {
        problems.push(Problem::new(entry.origin, path, format!("{section} is not a section")));
    }
}
