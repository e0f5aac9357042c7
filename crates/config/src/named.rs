//! Things that a configuration names by a word.

use std::fmt;
use std::str::FromStr;

use aya_estimate::{NamedProfile, UnknownProfile};

/// A profile of the estimator, by its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile(pub(crate) &'static NamedProfile);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        aya_estimate::named(text).map(Self)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

/// A default that is written as text. Every default is read by the tests.
#[expect(clippy::expect_used, reason = "the argument is a constant of this crate")]
pub(crate) fn constant<T: FromStr<Err: fmt::Debug>>(text: &'static str) -> T {
    text.parse().expect("a well-formed constant")
}
