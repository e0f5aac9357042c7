//! Time without a clock: monotonic instants as numbers, and values that know their age.
//!
//! Two wall clocks never agree, so nothing here compares them. A sender tells ages ([`Aged`]); the
//! receiver subtracts them from its own monotonic clock ([`Reading`]).

use std::time::Duration;

/// Nanoseconds on one process's monotonic clock; zero is that process's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonoTime(u64);

impl MonoTime {
    /// The start of the process.
    pub const ZERO: Self = Self(0);

    /// An instant this many nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// An instant this many milliseconds after the start; saturates.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since the start.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        Duration::from_nanos(self.0).as_secs_f64()
    }

    /// Time since `earlier`; zero if `earlier` lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant plus a duration; saturates.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(nanos(wait)))
    }

    /// This instant minus a duration; saturates at the start.
    #[must_use]
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(age)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A value and how old it was when it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aged<T> {
    pub value: T,
    pub age: Duration,
}

impl<T> Aged<T> {
    /// A value read this long ago.
    pub const fn new(value: T, age: Duration) -> Self {
        Self { value, age }
    }

    /// The same value on the receiver's clock.
    pub fn received(self, at: MonoTime) -> Reading<T> {
        Reading { value: self.value, sampled_at: at.before(self.age) }
    }
}

/// A value and when it was sampled, on the holder's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading<T> {
    pub value: T,
    pub sampled_at: MonoTime,
}

impl<T> Reading<T> {
    /// A value sampled at this instant.
    pub const fn new(value: T, sampled_at: MonoTime) -> Self {
        Self { value, sampled_at }
    }

    /// How old the value is.
    pub fn age(&self, now: MonoTime) -> Duration {
        now.since(self.sampled_at)
    }

    /// The value with its age, to be sent to another process.
    pub fn aged(self, now: MonoTime) -> Aged<T> {
        Aged { age: now.since(self.sampled_at), value: self.value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_instead_of_wrapping() {
        let start = MonoTime::from_millis(5);
        assert_eq!(start.since(MonoTime::from_millis(9)), Duration::ZERO);
        assert_eq!(start.before(Duration::from_secs(1)), MonoTime::ZERO);
        assert_eq!(start.after(Duration::MAX).as_nanos(), u64::MAX);
    }

    #[test]
    fn an_age_survives_the_trip_to_another_clock() {
        let sent = Reading::new(7, MonoTime::from_millis(100)).aged(MonoTime::from_millis(130));
        let received = sent.received(MonoTime::from_millis(5_000));
        assert_eq!(received.age(MonoTime::from_millis(5_010)), Duration::from_millis(40));
    }
}
