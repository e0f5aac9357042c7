//! Load that is not ours: what a report counts, minus what we had in flight when it was sampled.
//!
//! The rule that makes `own now + foreign` the load at any time, without counting one request twice.

use std::time::Duration;

use aya_domain::{ForeignLoad, MonoTime, Ratio, Reading, Tokens};

use crate::OwnInFlight;
use crate::own::OwnHistory;

/// What an engine said about its load.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Load {
    pub(crate) running: Option<Reading<u32>>,
    pub(crate) waiting: Option<Reading<u32>>,
    pub(crate) kv_used: Option<Reading<Ratio>>,
}

impl Load {
    /// When the engine's load was last read.
    pub(crate) fn sampled_at(&self) -> Option<MonoTime> {
        let counted = self.counted_at();
        self.kv_used.map(|kv| kv.sampled_at).max(counted)
    }

    /// When its requests were last counted.
    fn counted_at(&self) -> Option<MonoTime> {
        self.running.map(|r| r.sampled_at).max(self.waiting.map(|w| w.sampled_at))
    }

    /// Whether a note of our own load after the last one can still change what is foreign in this reading.
    pub(crate) fn unsettled(&self, noted_at: MonoTime, window: Duration) -> bool {
        self.sampled_at().is_some_and(|at| noted_at < at.after(window))
    }
}

/// What of `load` is foreign; `None` if the load or what was ours then is not known: the last answer stays.
pub(crate) fn foreign(
    load: &Load,
    kv_capacity: Option<Tokens>,
    history: &OwnHistory,
    window: Duration,
) -> Option<ForeignLoad> {
    let own = history.most_around(load.counted_at()?, window)?;
    let mut foreign = counts(load, own);
    if foreign.running > 0 || foreign.waiting > 0 {
        foreign.kv_tokens = kv_tokens(load, kv_capacity, history, window).unwrap_or(0);
    }
    Some(foreign)
}

/// An absent count adds nothing, so the result is a lower bound then.
fn counts(load: &Load, own: OwnInFlight) -> ForeignLoad {
    let running = load.running.map_or(0, |r| r.value);
    let waiting = load.waiting.map_or(0, |w| w.value);
    let total = running.saturating_add(waiting).saturating_sub(own.in_flight);
    // Ours that stream are in the batch; whatever else is there, up to the total, is foreign.
    let foreign_running = running.saturating_sub(own.decoding).min(total);
    let foreign_waiting = waiting.min(total - foreign_running);
    ForeignLoad { waiting: foreign_waiting, running: total - foreign_waiting, kv_tokens: 0 }
}

fn kv_tokens(load: &Load, capacity: Option<Tokens>, history: &OwnHistory, window: Duration) -> Option<u64> {
    let used = load.kv_used?;
    let own = history.most_around(used.sampled_at, window)?;
    let held = share_of(capacity?, used.value);
    Some(held.saturating_sub(own.kv_tokens))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share from 0 to 1 of a u64 is a u64; the cast saturates"
)]
fn share_of(capacity: Tokens, share: Ratio) -> u64 {
    (capacity.as_f64() * share.get()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: MonoTime = MonoTime::from_millis(10_000);
    const WINDOW: Duration = Duration::from_millis(100);

    /// `(running, waiting)` reported, `(in flight, decoding)` ours, `(running, waiting)` foreign.
    fn check(reported: (u32, u32), ours: (u32, u32), expect: (u32, u32)) {
        let mut history = OwnHistory::default();
        let own = OwnInFlight { in_flight: ours.0, decoding: ours.1, kv_tokens: 0 };
        history.note(MonoTime::from_millis(9_000), own);
        let load = Load {
            running: Some(Reading::new(reported.0, AT)),
            waiting: Some(Reading::new(reported.1, AT)),
            kv_used: None,
        };
        let found = foreign(&load, None, &history, WINDOW).unwrap();
        assert_eq!((found.running, found.waiting), expect, "reported {reported:?}, ours {ours:?}");
    }

    #[test]
    fn our_own_requests_are_not_foreign() {
        check((0, 0), (0, 0), (0, 0));
        check((5, 0), (5, 5), (0, 0));
        check((5, 0), (5, 0), (0, 0));
        check((5, 2), (9, 5), (0, 0));
        check((5, 0), (3, 3), (2, 0));
        check((8, 4), (8, 8), (0, 4));
        check((8, 4), (6, 4), (4, 2));
        check((8, 4), (0, 0), (8, 4));
        check((0, 4), (1, 0), (0, 3));
        check((u32::MAX, u32::MAX), (0, 0), (u32::MAX, 0));
    }

    #[test]
    fn kv_is_foreign_only_beside_foreign_requests() {
        let kv = |running: u32, own_kv: u64| {
            let mut history = OwnHistory::default();
            let own = OwnInFlight { in_flight: 2, decoding: 2, kv_tokens: own_kv };
            history.note(MonoTime::from_millis(9_000), own);
            let load = Load {
                running: Some(Reading::new(running, AT)),
                waiting: None,
                kv_used: Some(Reading::new(Ratio::clamped(0.5), AT)),
            };
            foreign(&load, Some(Tokens(10_000)), &history, WINDOW).map(|load| load.kv_tokens)
        };
        assert_eq!(kv(2, 100), Some(0), "ours alone: prefill and cache explain the rest");
        assert_eq!(kv(3, 1_000), Some(4_000));
        assert_eq!(kv(3, 9_000), Some(0));
    }

    #[test]
    fn without_a_count_nothing_is_concluded() {
        assert_eq!(foreign(&Load::default(), None, &OwnHistory::default(), WINDOW), None);
    }
}
