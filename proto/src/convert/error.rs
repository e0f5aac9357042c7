//! Why a message was refused, and which field of it.

use std::fmt;

use aya_domain::{IdError, UnitError};

/// A message that cannot be taken: where, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct ConvertError {
    /// The field, such as `engines[2].url`.
    pub path: String,
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("the field is missing")]
    Missing,
    #[error("{0} is not a known value of the enum")]
    UnknownEnum(i32),
    #[error("not an id: {0}")]
    BadId(IdError),
    #[error("{0}")]
    BadUnit(UnitError),
    #[error("{value} is not a finite number of seconds from 0")]
    BadSeconds { value: f64 },
    #[error("must not be 0")]
    Zero,
    #[error("an age of {micros} us is beyond belief")]
    AgeTooHigh { micros: u64 },
    #[error("a period of {micros} us is not between 1 ms and 60 s")]
    BadPeriod { micros: u64 },
    #[error("{count} items, at most {max} are taken")]
    TooMany { count: usize, max: u32 },
    #[error("{bytes} bytes of text, at most {max} are taken")]
    TooLong { bytes: usize, max: u32 },
    #[error("the same id twice")]
    Duplicate,
    #[error("not above the one before")]
    NotAscending,
}

impl ConvertError {
    /// A problem with a field of the message at hand.
    pub(crate) fn at(field: &str, problem: Problem) -> Self {
        Self { path: field.to_owned(), problem }
    }

    /// The same error as seen from the message that holds this one.
    pub(crate) fn inside(mut self, parent: impl fmt::Display) -> Self {
        self.path = format!("{parent}.{}", self.path);
        self
    }
}
