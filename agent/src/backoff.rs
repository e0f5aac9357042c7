//! How long to wait before the next attempt: exponential with jitter, so that the agents of a farm do not
//! all come back in the same millisecond after a scheduler's restart.

use std::time::Duration;

use aya_domain::splitmix64;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(4);
/// Doublings after which [`LONGEST`] is reached.
const DOUBLINGS_MAX: u32 = 6;

/// The waits of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    seed: u64,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, failures: 0 }
    }

    /// The connection worked: the next wait is short again.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Between half of the step and all of it.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.seed = splitmix64(self.seed);
        let share = u32::try_from(self.seed >> 33).unwrap_or(0);
        step.mul_f64(0.5 + 0.5 * f64::from(share) / f64::from(u32::MAX >> 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew_after_success() {
        let mut backoff = Backoff::new(7);
        for step_ms in [100, 200, 400, 800, 1600, 3200, 4000, 4000, 4000] {
            let wait = backoff.next_wait();
            let step = Duration::from_millis(step_ms);
            assert!(wait >= step / 2 && wait <= step, "{wait:?} for {step:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }

    #[test]
    fn two_agents_do_not_wait_alike() {
        let waits = |seed| Backoff::new(seed).next_wait();
        assert_ne!(waits(1), waits(2));
    }

    /// The scheduler is away for half a minute, and all have lost it at once.
    #[test]
    fn c12_a_thousand_agents_come_back_within_ten_seconds_and_not_together() {
        let back_ms = 30_000;
        let mut arrivals = [0_u32; 100];
        for seed in 0..1_000 {
            let mut backoff = Backoff::new(seed);
            let mut at_ms = 0;
            while at_ms < back_ms {
                at_ms += backoff.next_wait().as_millis();
            }
            let late = usize::try_from((at_ms - back_ms) / 100).unwrap();
            arrivals[late] += 1;
        }
        let used = arrivals.iter().rposition(|n| *n > 0).unwrap() + 1;
        let mean = 1_000 / u32::try_from(used).unwrap();
        let most = *arrivals.iter().max().unwrap();
        assert!(used <= 50, "the last comes {used} tenths of a second late");
        assert!(most <= 4 * mean, "{most} in one tenth of a second, {mean} in the mean: {arrivals:?}");
    }
}
