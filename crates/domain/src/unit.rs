//! Units as types, so that bytes are never tokens and a ratio is never a percentage.

use std::fmt;

macro_rules! whole_unit {
    ($(#[$doc:meta])* $name:ident, $suffix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number for arithmetic; exact up to 2^53, which no quantity here reaches.
            #[must_use]
            #[expect(clippy::cast_precision_loss, reason = "quantities stay far below 2^53")]
            pub const fn as_f64(self) -> f64 {
                self.0 as f64
            }

            /// The sum; saturates.
            #[must_use]
            pub const fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference; zero at the least.
            #[must_use]
            pub const fn minus(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }
    };
}

whole_unit!(
    /// Memory or message size in bytes.
    Bytes, " B"
);
whole_unit!(
    /// Tokens of a model's vocabulary.
    Tokens, " tokens"
);
whole_unit!(
    /// Electrical power in milliwatts, as NVML gives it.
    Milliwatts, " mW"
);

/// Degrees Celsius; may be negative (a thermal margin often is).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Celsius(pub i32);

impl fmt::Display for Celsius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} C", self.0)
    }
}

/// Why a number is not of its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UnitError {
    /// A ratio that is NaN or outside 0..=1.
    RatioOutOfRange { value: f64 },
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioOutOfRange { value } => write!(f, "{value} is not a ratio from 0 to 1"),
        }
    }
}

impl std::error::Error for UnitError {}

/// A share from 0 to 1; never NaN.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Ratio(f64);

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
    /// All of it.
    pub const ONE: Self = Self(1.0);

    /// A share from 0 to 1.
    ///
    /// # Errors
    /// [`UnitError::RatioOutOfRange`] for NaN and for numbers outside 0..=1.
    pub fn new(value: f64) -> Result<Self, UnitError> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(UnitError::RatioOutOfRange { value }) }
    }

    /// The nearest share: for our own arithmetic, never for foreign input. NaN becomes zero.
    #[must_use]
    pub fn clamped(value: f64) -> Self {
        if value.is_nan() { Self::ZERO } else { Self(value.clamp(0.0, 1.0)) }
    }

    /// From 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_never_nan_or_out_of_range() {
        for bad in [f64::NAN, -0.1, 1.1, f64::INFINITY] {
            assert!(Ratio::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Ratio::new(0.5), Ok(Ratio(0.5)));
        assert_eq!(Ratio::clamped(f64::NAN), Ratio::ZERO);
    }

    #[test]
    fn sums_and_differences_saturate() {
        assert_eq!(Bytes(3).minus(Bytes(5)), Bytes(0));
        assert_eq!(Tokens(u64::MAX).plus(Tokens(1)), Tokens(u64::MAX));
    }
}
