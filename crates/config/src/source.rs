//! Where a value came from, and what is wrong with it.

use std::cmp::Ordering;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// The largest file that is read, in bytes; a configuration is a few kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    File {
        name: Arc<str>,
        /// From 1.
        line: usize,
    },
    /// The variable's name.
    Env(String),
    /// The flag's name with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// How the message about a key that nobody reads begins.
pub(crate) const UNKNOWN_KEY: &str = "unknown key";

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// The key's path, such as `queue.capacity`; empty if the file as a whole is meant.
    pub key: String,
    pub message: String,
}

impl Problem {
    pub(crate) fn new(origin: Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin, key: key.into(), message: message.into() }
    }

    /// Whether the program has no such key, so that the file may be another program's.
    #[must_use]
    pub fn is_unknown_key(&self) -> bool {
        self.message.starts_with(UNKNOWN_KEY)
    }

    /// The file from top to bottom, then variables, then flags; what nobody set comes first.
    pub(crate) fn in_reading_order(&self, other: &Self) -> Ordering {
        self.origin.cmp(&other.origin).then_with(|| self.key.cmp(&other.key))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, one problem per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// One setting in force, for `GET /api/v1/config` and `aya check-config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    /// As it would be written; a secret is masked, what is not set is empty.
    pub value: String,
    pub origin: Origin,
}

/// A value given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The key's path, such as `queue.capacity`.
    pub key: &'static str,
    pub value: String,
    /// The flag's name with its dashes.
    pub flag: &'static str,
}

/// The environment of this process, the part that is ours: the one place that reads it.
#[must_use]
pub fn process_env() -> Vec<(String, String)> {
    let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    all.filter(|(name, _)| name.starts_with(crate::tree::ENV_PREFIX) || name == "NO_COLOR").collect()
}

/// Reads a text file of bounded size.
pub(crate) fn read_file(path: &Path) -> Result<String, Problems> {
    let name: Arc<str> = Arc::from(path.display().to_string());
    read_bounded(path).map_err(|message| {
        Problems(vec![Problem::new(Origin::File { name: Arc::clone(&name), line: 1 }, "", message)])
    })
}

/// The file's text, or why it cannot be had.
pub(crate) fn read_bounded(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(format!("is larger than {}", crate::format_size(FILE_BYTES_MAX)));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}
