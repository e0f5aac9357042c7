//! How busy the engine was in the last second: what a GPU's utilization counters would show.

use std::collections::VecDeque;
use std::time::Duration;

use aya_domain::MonoTime;

/// The span looked back on.
const WINDOW: Duration = Duration::from_secs(1);

/// Adjacent steps shorter than this are kept as one, which bounds the list to about twice `WINDOW / MERGE`.
const MERGE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy)]
struct Span {
    from: MonoTime,
    until: MonoTime,
    /// Part of the span spent on prompt tokens, 0 to 1.
    prefill: f64,
}

/// Steps of the last second.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    spans: VecDeque<Span>,
}

/// Shares of the last second, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Shares {
    /// In steps at all.
    pub(crate) busy: f64,
    /// In steps, weighted with their part of prompt tokens.
    pub(crate) prefill: f64,
}

impl Activity {
    /// Notes a step, which may still be running. Steps come in order of time.
    pub(crate) fn record(&mut self, from: MonoTime, until: MonoTime, prefill: f64) {
        while self.spans.front().is_some_and(|s| s.until.after(WINDOW) < from) {
            self.spans.pop_front();
        }
        if let Some(last) = self.spans.back_mut().filter(|s| s.until >= from && s.until.since(s.from) < MERGE)
        {
            let (old, new) = (last.until.since(last.from), until.since(last.until));
            let total = (old + new).as_secs_f64();
            if total > 0.0 {
                last.prefill = (last.prefill * old.as_secs_f64() + prefill * new.as_secs_f64()) / total;
            }
            last.until = last.until.max(until);
        } else {
            self.spans.push_back(Span { from, until, prefill });
        }
    }

    /// The shares of the second before `now`.
    pub(crate) fn shares(&self, now: MonoTime) -> Shares {
        let start = now.before(WINDOW);
        let mut shares = Shares::default();
        for span in &self.spans {
            let overlap = span.until.min(now).since(span.from.max(start)).as_secs_f64();
            shares.busy += overlap / WINDOW.as_secs_f64();
            shares.prefill += overlap * span.prefill / WINDOW.as_secs_f64();
        }
        Shares { busy: shares.busy.clamp(0.0, 1.0), prefill: shares.prefill.clamp(0.0, 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_millis(ms)
    }

    #[test]
    fn only_the_part_of_a_step_within_the_last_second_counts() {
        let mut activity = Activity::default();
        activity.record(at(5_000), at(5_400), 1.0);
        activity.record(at(5_400), at(5_600), 0.0);
        let check = |now, busy: f64, prefill: f64| {
            let shares = activity.shares(at(now));
            assert!((shares.busy - busy).abs() < 1e-9, "{now}: {shares:?}");
            assert!((shares.prefill - prefill).abs() < 1e-9, "{now}: {shares:?}");
        };
        check(5_200, 0.2, 0.2);
        check(6_000, 0.6, 0.4);
        check(6_200, 0.4, 0.2);
        check(7_000, 0.0, 0.0);
    }

    #[test]
    fn many_short_steps_take_little_room() {
        let mut activity = Activity::default();
        for i in 0..100_000 {
            activity.record(MonoTime::from_nanos(i * 100_000), MonoTime::from_nanos((i + 1) * 100_000), 0.5);
        }
        assert!(activity.spans.len() < 220, "{}", activity.spans.len());
        let shares = activity.shares(at(10_000));
        assert!((shares.busy - 1.0).abs() < 0.02 && (shares.prefill - 0.5).abs() < 0.02, "{shares:?}");
    }
}
