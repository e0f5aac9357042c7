//! Facts that a policy wanted and nobody told.

/// One thing that a scorer looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fact {
    /// Requests in the engine's own queue.
    Waiting = 1,
    /// Requests in the engine's batch.
    Running = 2,
    /// Use of the KV cache.
    KvUsed = 4,
    /// What the engine's cache holds of prompts.
    CachedPrefix = 8,
    /// How long answers took there.
    ResponseTime = 16,
}

impl Fact {
    const ALL: [Self; 5] =
        [Self::Waiting, Self::Running, Self::KvUsed, Self::CachedPrefix, Self::ResponseTime];

    /// The name used in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::KvUsed => "kv_used",
            Self::CachedPrefix => "cached_prefix",
            Self::ResponseTime => "response_time",
        }
    }
}

/// A set of facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts(u8);

impl Facts {
    /// Adds one.
    pub const fn add(&mut self, fact: Fact) {
        self.0 |= fact as u8;
    }

    /// One bit per fact, the same in every version.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// In the order of [`Fact`].
    pub fn iter(self) -> impl Iterator<Item = Fact> {
        Fact::ALL.into_iter().filter(move |fact| self.0 & *fact as u8 != 0)
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}
