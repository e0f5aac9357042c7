//! How many of a pool's latest requests would miss an objective if all were let in: what a fair refusal goes by.
//!
//! A refusal for what a request itself would lose falls on long prompts, because they lose most wherever they go. The
//! share of the pool's misses is the same for all who ask at one instant, whatever their length. Refused requests
//! count too: the share tells of what is asked for, so refusing does not by itself make it fall.

use std::time::Duration;

use aya_domain::MonoTime;

/// After this time a request weighs 1/e.
pub const STRAIN_TAU: Duration = Duration::from_secs(2);
/// As many requests without a miss are taken to have come before: of a few requests no share can be told.
const PRIOR_REQUESTS: f64 = 8.0;
/// The most misses that one request counts for.
const MISSES_MAX: f64 = 4.0;

/// What a pool's latest requests were predicted to miss.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Strain {
    requests: f64,
    misses: f64,
    ttft_s: f64,
    at: MonoTime,
}

/// A pool's strain at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strained {
    /// Misses per request, its own and those that it causes: 0 to 4.
    pub misses_ratio: f64,
    /// The mean predicted time to the first token in seconds; 0 without requests.
    pub ttft_s: f64,
}

impl Strain {
    /// Counts a request that asks at `now` for which so many misses are expected, and so many seconds to its first
    /// token. What is not a number counts as none.
    pub fn note(&mut self, misses: f64, ttft_s: f64, now: MonoTime) {
        let faded = self.faded(now);
        let counted = |value: f64, most: f64| if value.is_nan() { 0.0 } else { value.clamp(0.0, most) };
        *self = Self {
            requests: faded.requests + 1.0,
            misses: faded.misses + counted(misses, MISSES_MAX),
            ttft_s: faded.ttft_s + counted(ttft_s, 3_600.0),
            at: self.at.max(now),
        };
    }

    /// The strain at `now`: it fades while nobody asks.
    #[must_use]
    pub fn read(&self, now: MonoTime) -> Strained {
        let faded = self.faded(now);
        Strained {
            misses_ratio: faded.misses / (faded.requests + PRIOR_REQUESTS),
            ttft_s: if faded.requests > 0.0 { faded.ttft_s / faded.requests } else { 0.0 },
        }
    }

    fn faded(&self, now: MonoTime) -> Self {
        let left = (-now.since(self.at).as_secs_f64() / STRAIN_TAU.as_secs_f64()).exp();
        Self {
            requests: self.requests * left,
            misses: self.misses * left,
            ttft_s: self.ttft_s * left,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(count: u64, gap_ms: u64, misses: impl Fn(u64) -> f64) -> Strain {
        let mut strain = Strain::default();
        for at in 0..count {
            strain.note(misses(at), 0.5, MonoTime::from_millis(at * gap_ms));
        }
        strain
    }

    #[test]
    fn the_share_is_that_of_the_latest_requests() {
        let share = |strain: Strain, now_ms| strain.read(MonoTime::from_millis(now_ms)).misses_ratio;
        for (strain, now_ms, expect) in [
            (Strain::default(), 0, 0.0),
            (after(5_000, 10, |_| 0.0), 50_000, 0.0),
            (after(5_000, 10, |at| f64::from(at % 5 == 0)), 50_000, 0.2 * 200.0 / 208.0),
            (after(5_000, 10, |at| f64::from(at < 4_000)), 50_000, 0.0),
            (after(5_000, 10, |_| f64::NAN), 50_000, 0.0),
            (after(5_000, 10, |_| 1e9), 50_000, 4.0 * 200.0 / 208.0),
            (after(5_000, 10, |_| 1.0), 90_000, 0.0),
        ] {
            assert!((share(strain, now_ms) - expect).abs() < 0.01, "{}", share(strain, now_ms));
        }
    }

    #[test]
    fn a_few_requests_tell_nothing() {
        let few = after(2, 10, |_| 1.0).read(MonoTime::from_millis(20));
        assert!(few.misses_ratio < 0.25 && (few.ttft_s - 0.5).abs() < 1e-9, "{few:?}");
        assert_eq!(Strain::default().read(MonoTime::ZERO), Strained { misses_ratio: 0.0, ttft_s: 0.0 });
    }
}
