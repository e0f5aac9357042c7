//! How many tokens per second were dispatched lately: the memory that stops a herd (`rho` of the cost model).
//!
//! Exponentially decayed with [`RATE_TAU`], brought to `now` whenever it is read, so an endpoint that got
//! nothing for a while reads low without anybody touching it. It never needs a timer.

use std::time::Duration;

use aya_domain::{MonoTime, Tokens};

/// After this time a dispatch weighs 1/e.
pub const RATE_TAU: Duration = Duration::from_secs(4);

/// An exponentially decayed rate of tokens per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DecayedRate {
    per_second: f64,
    at: MonoTime,
}

impl DecayedRate {
    /// A rate that was read as [`DecayedRate::parts`] told it, for those who keep it elsewhere.
    #[must_use]
    pub const fn from_parts(per_second: f64, at: MonoTime) -> Self {
        Self { per_second, at }
    }

    /// Tokens per second as of the last dispatch, and when that was.
    #[must_use]
    pub const fn parts(&self) -> (f64, MonoTime) {
        (self.per_second, self.at)
    }

    /// Counts tokens dispatched at `now`. An instant before the last one counts as the last one.
    pub fn add(&mut self, now: MonoTime, tokens: Tokens) {
        self.per_second = self.read(now) + tokens.as_f64() / RATE_TAU.as_secs_f64();
        self.at = self.at.max(now);
    }

    /// Tokens per second, decayed to `now`; 0 if nothing was ever added.
    #[must_use]
    pub fn read(&self, now: MonoTime) -> f64 {
        let elapsed = now.since(self.at).as_secs_f64();
        self.per_second * (-elapsed / RATE_TAU.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_reads_as_its_rate() {
        let mut rate = DecayedRate::default();
        for tick in 0..4000 {
            rate.add(MonoTime::from_millis(tick * 10), Tokens(50));
        }
        let read = rate.read(MonoTime::from_millis(40_000));
        assert!((read / 5_000.0 - 1.0).abs() < 0.01, "{read}");
    }

    #[test]
    fn a_burst_is_forgotten_without_being_touched() {
        let mut rate = DecayedRate::default();
        assert!(rate.read(MonoTime::from_millis(5)).abs() < f64::EPSILON);
        rate.add(MonoTime::from_millis(1000), Tokens(4000));
        assert!((rate.read(MonoTime::from_millis(1000)) - 1000.0).abs() < 1e-9);
        assert!((rate.read(MonoTime::from_millis(5000)) - 1000.0 / std::f64::consts::E).abs() < 1e-9);
        assert!(rate.read(MonoTime::from_millis(100_000)) < 1e-6);
    }

    #[test]
    fn a_rate_kept_elsewhere_reads_the_same() {
        let mut rate = DecayedRate::default();
        rate.add(MonoTime::from_millis(1000), Tokens(4000));
        let (per_second, at) = rate.parts();
        let later = MonoTime::from_millis(3000);
        assert_eq!(DecayedRate::from_parts(per_second, at).read(later).to_bits(), rate.read(later).to_bits());
    }

    #[test]
    fn time_that_runs_backwards_adds_but_does_not_amplify() {
        let mut rate = DecayedRate::default();
        rate.add(MonoTime::from_millis(1000), Tokens(40));
        rate.add(MonoTime::from_millis(900), Tokens(40));
        assert!((rate.read(MonoTime::from_millis(1000)) - 20.0).abs() < 1e-9);
    }
}
