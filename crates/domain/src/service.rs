//! For whom a request is, how urgent it is, and what it was promised.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How urgent a request is. The classes are strict: while a higher one waits a lower one does not go first, except
/// by the turns that keep it from starving. Ordered by rank, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// People wait for every token, or other systems do.
    Critical,
    /// What nobody labelled.
    #[default]
    Standard,
    /// May be late, and is refused first when there is too much; also called `sheddable`.
    Batch,
}

/// A text that names no class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPriority(pub String);

impl fmt::Display for UnknownPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Priority::ALL.map(Priority::as_str).join(", ");
        write!(f, "unknown priority {:?}; known: {known}, and sheddable for batch", self.0)
    }
}

impl std::error::Error for UnknownPriority {}

impl Priority {
    /// Every class, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Standard, Self::Batch];

    /// The position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Critical => 0,
            Self::Standard => 1,
            Self::Batch => 2,
        }
    }

    /// The name used in headers, configuration, records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Standard => "standard",
            Self::Batch => "batch",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(text: &str) -> Result<Self, UnknownPriority> {
        if text == "sheddable" {
            return Ok(Self::Batch);
        }
        let found = Self::ALL.into_iter().find(|priority| priority.as_str() == text);
        found.ok_or_else(|| UnknownPriority(text.to_owned()))
    }
}

/// What a request was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slo {
    /// The time to its first token.
    pub ttft: Duration,
    /// The mean time per further token.
    pub tpot: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_one_name_one_rank_and_one_further_name() {
        for (at, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!((priority.as_str().parse(), priority.index()), (Ok(priority), at));
        }
        assert_eq!("sheddable".parse(), Ok(Priority::Batch));
        let error = "urgent".parse::<Priority>().unwrap_err().to_string();
        assert!(error.contains("known: critical, standard, batch"), "{error}");
    }
}
