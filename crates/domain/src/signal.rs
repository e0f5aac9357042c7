//! Which readings of an engine there are, and whether each of them works.
//!
//! A probe that stops working must be seen: an absent number alone does not tell a kind of engine that never gives
//! it from one that should and does not.

use std::fmt;
use std::str::FromStr;

/// A reading of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    Running,
    Waiting,
    KvUsed,
    KvCapacity,
    MaxSequences,
    PrefixCache,
    Models,
    /// A count that grows with every step of the engine: it tells work from standstill.
    Work,
}

/// Whether a reading works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignalState {
    /// The last time its page was due it gave a number that can be one.
    Parsed,
    /// The page is there and the reading is not, or is no number; see the reason.
    Missing,
    /// It was read once, and not within three periods of its page.
    Stale,
    /// This kind of engine does not tell it: nothing is wrong.
    NotTold,
}

/// One reading and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalReport {
    pub signal: Signal,
    pub state: SignalState,
    /// Why it is missing; `None` in the other states.
    pub reason: Option<String>,
}

impl Signal {
    /// Every reading, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Running,
        Self::Waiting,
        Self::KvUsed,
        Self::KvCapacity,
        Self::MaxSequences,
        Self::PrefixCache,
        Self::Models,
        Self::Work,
    ];

    /// The name used in the API, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::KvUsed => "kv_used",
            Self::KvCapacity => "kv_capacity",
            Self::MaxSequences => "max_sequences",
            Self::PrefixCache => "prefix_cache",
            Self::Models => "models",
            Self::Work => "work",
        }
    }
}

impl SignalState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Parsed, Self::Missing, Self::Stale, Self::NotTold];

    /// The name used in the API, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parsed => "parsed",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::NotTold => "not_told",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for SignalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Signal {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == text).ok_or(())
    }
}
