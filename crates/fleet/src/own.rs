//! What was ours on an endpoint, and when: a bounded history to hold against a report's sample.
//!
//! Only changes are kept, so an endpoint at rest needs one entry however long it rests.

use std::collections::VecDeque;
use std::time::Duration;

use aya_domain::MonoTime;

use crate::OwnInFlight;

/// Changes remembered; at one note per 50 ms under constant change they reach back 3.2 s. At the limit the oldest
/// is forgotten, and readings sampled before it no longer tell ours from foreign.
pub(crate) const HISTORY_MAX: usize = 64;

/// The history of one endpoint. Before its first entry nothing was ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnHistory {
    /// Ascending in time; each value holds until the next.
    changes: VecDeque<(MonoTime, OwnInFlight)>,
    /// The last note, changed or not.
    noted_at: MonoTime,
    truncated: bool,
}

impl OwnHistory {
    /// Notes what is ours at an instant; an instant before the last note counts as that note's.
    pub(crate) fn note(&mut self, at: MonoTime, own: OwnInFlight) {
        self.noted_at = at.max(self.noted_at);
        if self.latest() == own {
            return;
        }
        if self.changes.len() == HISTORY_MAX {
            self.changes.pop_front();
            self.truncated = true;
        }
        self.changes.push_back((self.noted_at, own));
    }

    /// What was ours at the last note.
    pub(crate) fn latest(&self) -> OwnInFlight {
        self.changes.back().map_or_else(OwnInFlight::default, |(_, own)| *own)
    }

    pub(crate) const fn noted_at(&self) -> MonoTime {
        self.noted_at
    }

    /// The most that was ours at any time from `sampled_at - window` to `sampled_at + window`, each number on its
    /// own; `None` if that is forgotten.
    pub(crate) fn most_around(&self, sampled_at: MonoTime, window: Duration) -> Option<OwnInFlight> {
        let (from, to) = (sampled_at.before(window), sampled_at.after(window));
        let mut most: Option<OwnInFlight> = None;
        for (at, own) in self.changes.iter().rev() {
            if *at <= to {
                most = Some(most.map_or(*own, |most| larger(most, *own)));
            }
            if *at <= from {
                return most;
            }
        }
        if self.truncated { None } else { Some(most.unwrap_or_default()) }
    }
}

fn larger(a: OwnInFlight, b: OwnInFlight) -> OwnInFlight {
    OwnInFlight {
        in_flight: a.in_flight.max(b.in_flight),
        decoding: a.decoding.max(b.decoding),
        kv_tokens: a.kv_tokens.max(b.kv_tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(in_flight: u32) -> OwnInFlight {
        OwnInFlight { in_flight, decoding: 0, kv_tokens: 0 }
    }

    fn check(notes: &[(u64, u32)], sampled_ms: u64, expect: Option<u32>) {
        let mut history = OwnHistory::default();
        for (at, in_flight) in notes {
            history.note(MonoTime::from_millis(*at), own(*in_flight));
        }
        let found = history.most_around(MonoTime::from_millis(sampled_ms), Duration::from_millis(100));
        assert_eq!(found.map(|own| own.in_flight), expect, "{notes:?} at {sampled_ms} ms");
    }

    #[test]
    fn the_most_of_the_window_counts() {
        check(&[], 1_000, Some(0));
        check(&[(500, 3)], 1_000, Some(3));
        check(&[(500, 3), (950, 7), (1_050, 2)], 1_000, Some(7));
        check(&[(500, 3), (700, 9), (800, 1)], 1_000, Some(1));
        check(&[(500, 3), (1_101, 9)], 1_000, Some(3));
        check(&[(500, 3), (1_100, 9)], 1_000, Some(9));
        check(&[(5_000, 3)], 1_000, Some(0));
    }

    #[test]
    fn rest_costs_no_history_and_a_forgotten_time_is_unknown() {
        let rest: Vec<_> = (0..500).map(|i| (i * 50, 4)).collect();
        check(&rest, 100, Some(4));
        let busy: Vec<_> = (0..100_u32).map(|i| (u64::from(i) * 50, i + 1)).collect();
        check(&busy, 100, None);
        check(&busy, 4_500, Some(93));
    }
}
