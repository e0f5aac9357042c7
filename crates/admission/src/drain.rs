//! How fast a queue drains: the mean time between two placements while somebody waits.

use std::time::Duration;

use aya_domain::MonoTime;

/// Weight of the newest gap once the mean has settled: about the last 16 placements count.
const NEWEST: f64 = 1.0 / 16.0;

/// The pace of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Drain {
    gaps: u32,
    mean_gap_s: f64,
    /// The last placement, or when the queue began to fill.
    since: Option<MonoTime>,
}

impl Drain {
    /// Somebody begins to wait where nobody did.
    pub const fn began(&mut self, now: MonoTime) {
        self.since = Some(now);
    }

    /// Somebody was placed.
    pub fn placed(&mut self, now: MonoTime) {
        let Some(since) = self.since.replace(now) else { return };
        self.gaps = self.gaps.saturating_add(1);
        let weight = (1.0 / f64::from(self.gaps)).max(NEWEST);
        self.mean_gap_s += weight * (now.since(since).as_secs_f64() - self.mean_gap_s);
    }

    /// Seconds until a ticket with so many before it is placed; `None` until somebody was placed. A queue that
    /// stands still is as slow as it has stood.
    #[must_use]
    pub fn wait_s(&self, before: usize, now: MonoTime) -> Option<f64> {
        if self.gaps == 0 {
            return None;
        }
        let standing = self.since.map_or(Duration::ZERO, |since| now.since(since)).as_secs_f64();
        let places = f64::from(u32::try_from(before).unwrap_or(u32::MAX)) + 1.0;
        Some(places * self.mean_gap_s.max(standing / places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_the_mean_gap_for_each_who_stands_before() {
        let mut drain = Drain::default();
        drain.began(MonoTime::ZERO);
        assert_eq!(drain.wait_s(3, MonoTime::from_millis(50)), None);
        for at in 1..100 {
            drain.placed(MonoTime::from_millis(at * 100));
        }
        let now = MonoTime::from_millis(9_900);
        for (before, expect) in [(0, 0.1), (9, 1.0)] {
            let wait = drain.wait_s(before, now).unwrap();
            assert!((wait - expect).abs() < 1e-9, "{before}: {wait}");
        }
        let stuck = drain.wait_s(0, MonoTime::from_millis(14_900)).unwrap();
        assert!((stuck - 5.0).abs() < 1e-9, "{stuck}");
    }
}
