//! Typed reading of the raw tree: every problem is noted, and reading goes on with a stand-in value.
//!
//! A reader hands out each key once; what is left at the end is unknown, and an error.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::secret::{MASK, Secret};
use crate::source::{Origin, Problem, Setting, UNKNOWN_KEY};
use crate::tree::{Entry, Table, Value};
use crate::units::{format_duration, format_size, nearest, parse_duration, parse_size};
use crate::value::{
    Read, boolean, fits_usize, float, integer, parse_text, parse_word, section_of, socket_address, text,
    within, words,
};

/// The largest whole number that a TOML integer holds.
pub(crate) const COUNT_MAX: u64 = i64::MAX.unsigned_abs();

/// Reads one section.
#[derive(Debug)]
pub struct Reader<'a> {
    table: Table,
    /// The section's path with a final dot; empty at the top.
    prefix: String,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
    settings: &'a mut Vec<Setting>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(table: Table, problems: &'a mut Vec<Problem>, settings: &'a mut Vec<Setting>) -> Self {
        Self { table, prefix: String::new(), known: Vec::new(), problems, settings }
    }

    fn take(&mut self, key: &'static str) -> Option<Entry> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn note(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        let path = self.path(key);
        self.problems.push(Problem::new(origin, path, message));
    }

    /// Notes a problem with a key of this section that was already read, such as a clash with another one.
    pub(crate) fn object(&mut self, key: &str, message: impl Into<String>) {
        self.object_to_one_of(&[key], message);
    }

    /// Whether a key of this section was set for this run, by a flag or a variable: a file may also hold what is not
    /// used today.
    pub(crate) fn is_set_for_this_run(&self, key: &str) -> bool {
        let path = self.path(key);
        let setting = self.settings.iter().rev().find(|setting| setting.key == path);
        setting.is_some_and(|setting| matches!(setting.origin, Origin::Flag(_) | Origin::Env(_)))
    }

    /// Whether something is wrong with a key of this section already.
    pub(crate) fn objected_to(&self, key: &str) -> bool {
        let path = self.path(key);
        self.problems.iter().any(|problem| problem.key == path)
    }

    /// The same for keys that contradict each other: blames the first that somebody set.
    pub(crate) fn object_to_one_of(&mut self, keys: &[&str], message: impl Into<String>) {
        let read = |key: &&str| {
            let path = self.path(key);
            let setting = self.settings.iter().rev().find(|setting| setting.key == path);
            (path, setting.map_or(Origin::Default, |setting| setting.origin.clone()))
        };
        let blamed =
            keys.iter().map(read).reduce(|best, next| if best.1 == Origin::Default { next } else { best });
        if let Some((path, origin)) = blamed {
            self.problems.push(Problem::new(origin, path, message));
        }
    }

    /// The one way of every scalar: take, parse, note; `None` if the key is absent or bad.
    fn scalar<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Read<T>,
        show: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        let entry = self.take(key)?;
        match parse(&entry.value) {
            Ok(value) => {
                let setting = Setting { key: self.path(key), value: show(&value), origin: entry.origin };
                self.settings.push(setting);
                Some(value)
            }
            Err(message) => {
                self.note(entry.origin, key, message);
                None
            }
        }
    }

    fn or_default<T>(
        &mut self,
        key: &str,
        read: Option<T>,
        default: T,
        show: impl FnOnce(&T) -> String,
    ) -> T {
        read.unwrap_or_else(|| {
            let setting = Setting { key: self.path(key), value: show(&default), origin: Origin::Default };
            self.settings.push(setting);
            default
        })
    }

    /// A text without limits of its own.
    pub(crate) fn text(&mut self, key: &'static str, default: &str) -> String {
        let read = self.scalar(key, |v| text(v).map(str::to_owned), String::clone);
        self.or_default(key, read, default.to_owned(), String::clone)
    }

    /// A text that may be absent.
    pub(crate) fn text_if_set(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key, |v| text(v).map(str::to_owned), String::clone)
    }

    /// Something with a text form, such as an id or an address.
    pub(crate) fn parsed<T: FromStr<Err: Display> + Display>(&mut self, key: &'static str, default: T) -> T {
        let read = self.parsed_if_set(key);
        self.or_default(key, read, default, T::to_string)
    }

    /// Something with a text form that may be absent.
    pub(crate) fn parsed_if_set<T: FromStr<Err: Display> + Display>(
        &mut self,
        key: &'static str,
    ) -> Option<T> {
        self.scalar(key, parse_text, T::to_string)
    }

    /// Something with a text form that must be set; `None` has been noted as a problem.
    pub(crate) fn required<T: FromStr<Err: Display> + Display>(
        &mut self,
        key: &'static str,
        section_origin: &Origin,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            self.note(section_origin.clone(), key, "is required");
        }
        self.parsed_if_set(key)
    }

    /// An address to listen on; port 0 takes a free one.
    pub(crate) fn listen(&mut self, key: &'static str, port: u16) -> SocketAddr {
        let default = SocketAddr::from(([127, 0, 0, 1], port));
        let read = self.scalar(key, |v| socket_address(v, default), SocketAddr::to_string);
        self.or_default(key, read, default, SocketAddr::to_string)
    }

    /// A switch.
    pub(crate) fn switch(&mut self, key: &'static str, default: bool) -> bool {
        let read = self.scalar(key, boolean, bool::to_string);
        self.or_default(key, read, default, bool::to_string)
    }

    /// A count within bounds.
    pub(crate) fn count(&mut self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let parse = |v: &Value| within(integer(v).and_then(fits_usize)?, &range, usize::to_string);
        let read = self.scalar(key, parse, usize::to_string);
        self.or_default(key, read, default, usize::to_string)
    }

    /// A whole number that may be absent.
    pub(crate) fn number_if_set(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        self.scalar(key, |v| within(integer(v)?, &range, u64::to_string), u64::to_string)
    }

    /// A whole number of any size, such as a seed.
    pub(crate) fn number(&mut self, key: &'static str, default: u64) -> u64 {
        let read = self.number_if_set(key, 0..=COUNT_MAX);
        self.or_default(key, read, default, u64::to_string)
    }

    /// A number with a fraction, within bounds.
    pub(crate) fn fraction(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let read = self.fraction_if_set(key, range);
        self.or_default(key, read, default, f64::to_string)
    }

    /// A number within bounds that may be absent.
    pub(crate) fn fraction_if_set(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        self.scalar(key, |v| within(float(v)?, &range, f64::to_string), f64::to_string)
    }

    /// A duration within bounds, both given as they would be written.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        default: &str,
        range: RangeInclusive<&str>,
    ) -> Duration {
        let limit = |text: &str| parse_duration(text).unwrap_or_default();
        let range = limit(range.start())..=limit(range.end());
        let show = |d: &Duration| format_duration(*d);
        let read = self.scalar(key, |v| within(parse_duration(text(v)?)?, &range, show), show);
        self.or_default(key, read, limit(default), show)
    }

    /// A duration within bounds that may be absent.
    pub(crate) fn duration_if_set(
        &mut self,
        key: &'static str,
        range: RangeInclusive<&str>,
    ) -> Option<Duration> {
        let limit = |text: &str| parse_duration(text).unwrap_or_default();
        let range = limit(range.start())..=limit(range.end());
        let show = |d: &Duration| format_duration(*d);
        self.scalar(key, |v| within(parse_duration(text(v)?)?, &range, show), show)
    }

    /// A size in bytes within bounds, both given as they would be written.
    pub(crate) fn size(&mut self, key: &'static str, default: &str, range: RangeInclusive<&str>) -> usize {
        let limit =
            |text: &str| parse_size(text).ok().and_then(|b| usize::try_from(b).ok()).unwrap_or_default();
        let range = limit(range.start())..=limit(range.end());
        let show = |b: &usize| format_size(u64::try_from(*b).unwrap_or(u64::MAX));
        let parse = |v: &Value| within(parse_size(text(v)?).and_then(fits_usize)?, &range, show);
        let read = self.scalar(key, parse, show);
        self.or_default(key, read, limit(default), show)
    }

    /// A size in bytes that may be absent.
    pub(crate) fn size_if_set(&mut self, key: &'static str) -> Option<u64> {
        self.scalar(key, |v| parse_size(text(v)?), |b| format_size(*b))
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy + PartialEq>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let show = |value: &T| {
            let word = choices.iter().find(|(_, choice)| choice == value).map(|(word, _)| *word);
            word.unwrap_or_default().to_owned()
        };
        let parse = |v: &Value| {
            let given = text(v)?;
            let found = choices.iter().find(|(word, _)| *word == given).map(|(_, choice)| *choice);
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            found.ok_or_else(|| format!("{given:?} is not one of {}", words.join(", ")))
        };
        let read = self.scalar(key, parse, show);
        self.or_default(key, read, default, show)
    }

    /// A path that may be absent.
    pub(crate) fn path_if_set(&mut self, key: &'static str) -> Option<PathBuf> {
        self.scalar(key, |v| text(v).map(PathBuf::from), |p| p.display().to_string())
    }

    /// A list of things with a text form; from a variable or one flag, separated by commas.
    pub(crate) fn list<T: FromStr<Err: Display> + Display>(&mut self, key: &'static str) -> Vec<T> {
        let show = |list: &Vec<T>| list.iter().map(T::to_string).collect::<Vec<_>>().join(",");
        let read =
            self.scalar(key, |v| words(v)?.into_iter().map(parse_word).collect::<Read<Vec<T>>>(), show);
        self.or_default(key, read, Vec::new(), show)
    }

    /// A secret by variable (`key`), or by the name of a file that holds it (`file_key`); never in the file itself.
    pub(crate) fn secret(&mut self, key: &'static str, file_key: &'static str) -> Option<Secret> {
        if let Some(entry) = self.table.get(key)
            && !matches!(entry.origin, Origin::Env(_))
        {
            let origin = entry.origin.clone();
            self.table.remove(key);
            self.note(origin, key, format!("a secret is not written here; use {file_key} or a variable"));
        }
        let direct = self.scalar(key, |v| Secret::new(text(v)?), |_| MASK.to_owned());
        let from_file = |v: &Value| {
            let path = PathBuf::from(text(v)?);
            let content =
                crate::source::read_bounded(&path).map_err(|e| format!("{} {e}", path.display()))?;
            Ok((path, Secret::new(&content)?))
        };
        let by_file = self.scalar(file_key, from_file, |(path, _)| path.display().to_string());
        direct.or(by_file.map(|(_, secret)| secret))
    }

    /// A section; absent means that all its keys have their defaults.
    pub(crate) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let table = match self.take(key) {
            None => Table::new(),
            Some(Entry { value: Value::Table(table), .. }) => table,
            Some(entry) => {
                self.note(entry.origin, key, format!("is a section, written as [{}{key}]", self.prefix));
                Table::new()
            }
        };
        self.inner(format!("{}{key}.", self.prefix), table, read)
    }

    /// A list of sections (`[[key]]`). A variable or flag gives each as one word, which `from_word` splits into
    /// the section's texts; it then replaces the file's list.
    pub(crate) fn sections<T>(
        &mut self,
        key: &'static str,
        from_word: impl Fn(&str) -> Read<Vec<(&'static str, String)>>,
        mut read: impl FnMut(&mut Reader<'_>, &Origin) -> Option<T>,
    ) -> Vec<T> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let items = match entry.value {
            Value::List(items) => items,
            Value::Word(words) => words
                .split(',')
                .map(|w| Entry { value: Value::Word(w.trim().to_owned()), origin: entry.origin.clone() })
                .collect(),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Bool(_)
            | Value::Table(_)
            | Value::Odd(_) => {
                self.note(entry.origin, key, format!("is a list of sections, written as [[{key}]]"));
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            let path = format!("{key}[{at}]");
            match section_of(item.value, &item.origin, &from_word) {
                Ok(table) => {
                    let inner = format!("{}{path}.", self.prefix);
                    all.extend(self.inner(inner, table, |r| read(r, &item.origin)));
                }
                Err(message) => self.note(item.origin, &path, message),
            }
        }
        all
    }

    /// Sections that are named by whoever writes them (`[key.NAME]`), in the order of their names.
    pub(crate) fn named_sections<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Reader<'_>, &str, &Origin) -> Option<T>,
    ) -> Vec<T> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let Value::Table(table) = entry.value else {
            self.note(entry.origin, key, format!("holds sections, written as [{key}.NAME]"));
            return Vec::new();
        };
        let mut all = Vec::new();
        for (name, Entry { value, origin }) in table {
            let path = format!("{key}.{name}");
            if let Value::Table(table) = value {
                let inner = format!("{}{path}.", self.prefix);
                all.extend(self.inner(inner, table, |r| read(r, &name, &origin)));
            } else {
                self.note(origin, &path, format!("is a section, written as [{}{path}]", self.prefix));
            }
        }
        all
    }

    fn inner<T>(&mut self, prefix: String, table: Table, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let mut inner = Reader {
            table,
            prefix,
            known: Vec::new(),
            problems: &mut *self.problems,
            settings: &mut *self.settings,
        };
        let value = read(&mut inner);
        inner.finish();
        value
    }

    /// Notes every key that nobody asked for.
    pub(crate) fn finish(mut self) {
        for (key, entry) in std::mem::take(&mut self.table) {
            let message = match nearest(&key, &self.known) {
                Some(meant) => format!("{UNKNOWN_KEY}; did you mean {meant}?"),
                None => UNKNOWN_KEY.to_owned(),
            };
            self.note(entry.origin, &key, message);
        }
    }
}
