//! Whether an engine works, by its own counts: they move with every step of it, whoever's requests it works on.
//!
//! Only a difference between two samples says something, and only while samples come. That a count stands still is
//! believed where it was seen to move in the middle of requests: some versions of some engines count at the end.

use std::time::Duration;

use aya_domain::{MonoTime, Ratio, Reading};

use super::Outcomes;

/// Samples older than this say nothing about now; engines are read once a second at the least.
const FRESH_FOR: Duration = Duration::from_secs(3);
/// A count that stood still for less may simply have been read twice within one step.
const MOVING_FOR: Duration = Duration::from_millis(1_500);
/// Movements in the middle of requests, with no answer between, after which standing still means something.
const TRUSTED_AFTER: u8 = 3;

/// What an engine's counts say at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// It tells none, or not any more.
    Unknown,
    /// They moved a moment ago.
    Moving,
    /// They were seen to stand for so long, the last time so long ago; `trusted`: and they did move in the middle of
    /// requests before.
    Still { seen: Duration, age: Duration, trusted: bool },
}

/// The last samples of one engine's counts.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    last: Option<Sample>,
    /// Since when the counts are as they are now.
    still_from: MonoTime,
    /// They moved at least once.
    moved: bool,
    movements_within: u8,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: MonoTime,
    work: u64,
    kv_used: Option<Ratio>,
    in_flight: u32,
    answers: u64,
}

impl Heartbeat {
    /// Takes a reading; `ours`: what the ledger had counted then.
    pub(crate) fn take(&mut self, work: Option<Reading<u64>>, kv: Option<Reading<Ratio>>, ours: &Outcomes) {
        let Some(work) = work else { return };
        let now = Sample {
            at: work.sampled_at,
            work: work.value,
            kv_used: kv.map(|kv| kv.value),
            in_flight: ours.in_flight,
            answers: ours.answers,
        };
        let Some(before) = self.last else {
            self.still_from = now.at;
            self.last = Some(now);
            return;
        };
        if now.at <= before.at {
            return;
        }
        let counted = now.work != before.work;
        // A long prompt fills the cache before it counts as done.
        if counted || now.kv_used != before.kv_used {
            self.still_from = now.at;
            self.moved = true;
        }
        let within = before.in_flight > 0 && now.in_flight > 0 && now.answers == before.answers;
        if counted && within {
            self.movements_within = self.movements_within.saturating_add(1);
        }
        self.last = Some(now);
    }

    /// What the counts say now.
    pub(crate) fn pulse(&self, now: MonoTime) -> Pulse {
        let Some(last) = self.last.filter(|last| now.since(last.at) <= FRESH_FOR) else {
            return Pulse::Unknown;
        };
        if self.moved && now.since(self.still_from) < MOVING_FOR {
            return Pulse::Moving;
        }
        let trusted = self.movements_within >= TRUSTED_AFTER;
        Pulse::Still { seen: last.at.since(self.still_from), age: now.since(last.at), trusted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples as `(ms, count, in flight, answers)`, and the pulse at an instant.
    #[track_caller]
    fn check(samples: &[(u64, u64, u32, u64)], at_ms: u64, expect: Pulse) {
        let mut heart = Heartbeat::default();
        for (ms, work, in_flight, answers) in samples {
            let ours = Outcomes { in_flight: *in_flight, answers: *answers, ..Outcomes::default() };
            heart.take(Some(Reading::new(*work, MonoTime::from_millis(*ms))), None, &ours);
        }
        assert_eq!(heart.pulse(MonoTime::from_millis(at_ms)), expect, "{samples:?} at {at_ms}");
    }

    fn still(seen_ms: u64, age_ms: u64, trusted: bool) -> Pulse {
        let of = Duration::from_millis;
        Pulse::Still { seen: of(seen_ms), age: of(age_ms), trusted }
    }

    #[test]
    fn counts_move_or_stand_still_or_are_not_known() {
        check(&[], 1_000, Pulse::Unknown);
        check(&[(1_000, 5, 1, 0)], 1_100, still(0, 100, false));
        check(&[(1_000, 5, 1, 0), (2_000, 6, 1, 0)], 3_000, Pulse::Moving);
        check(&[(1_000, 5, 1, 0), (2_000, 6, 1, 0)], 3_600, still(0, 1_600, false));
        check(&[(1_000, 5, 1, 0), (2_000, 5, 1, 0), (4_000, 5, 1, 0)], 4_100, still(3_000, 100, false));
        check(&[(1_000, 5, 1, 0), (2_000, 4, 1, 0)], 2_100, Pulse::Moving);
        check(&[(1_000, 5, 1, 0), (2_000, 6, 1, 0)], 5_100, Pulse::Unknown);
        check(&[(2_000, 6, 1, 0), (1_000, 5, 1, 0)], 2_100, still(0, 100, false));
    }

    #[test]
    fn standing_still_is_trusted_of_counts_that_moved_in_the_middle_of_requests() {
        let moving =
            [(1_000, 1, 1, 0), (2_000, 2, 1, 0), (3_000, 3, 1, 0), (4_000, 4, 1, 0), (5_000, 4, 1, 0)];
        check(&moving, 6_000, still(1_000, 1_000, true));
        let at_the_end = moving.map(|(ms, work, in_flight, _)| (ms, work, in_flight, ms));
        check(&at_the_end, 6_000, still(1_000, 1_000, false));
        let idle_between =
            moving.map(|(ms, work, _, answers)| (ms, work, u32::from(ms % 2_000 == 0), answers));
        check(&idle_between, 6_000, still(1_000, 1_000, false));
    }

    #[test]
    fn a_cache_that_fills_is_a_movement_and_proves_nothing() {
        let mut heart = Heartbeat::default();
        for (ms, kv) in [(1_000, 0.1), (2_000, 0.2)] {
            let at = MonoTime::from_millis(ms);
            let kv = Reading::new(Ratio::clamped(kv), at);
            heart.take(Some(Reading::new(7, at)), Some(kv), &Outcomes::default());
        }
        assert_eq!(heart.pulse(MonoTime::from_millis(2_100)), Pulse::Moving);
        assert_eq!(heart.movements_within, 0);
    }
}
