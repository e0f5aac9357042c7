//! What came of an endpoint's requests, as counters that only grow: the breaker's evidence.
//!
//! Counted where it happens, without a lock; the fleet's writer reads it every 50 ms. Counters are read one by one,
//! so a reader may see an end before what led to it; the next reading has both.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use aya_fleet::Outcomes;

/// First tokens are compared with their prediction beyond this, so that the noise of a millisecond is no evidence.
const TIMED_FLOOR_S: f64 = 0.02;
/// No single comparison says more than this, as a logarithm: a factor of about 50.
const LATENESS_MAX: f64 = 4.0;

/// Counters of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) audible: AtomicU32,
    tokens: AtomicU64,
    answers: AtomicU64,
    failures: AtomicU64,
    /// Answers that broke off, since the last whole one.
    cuts_in_a_row: AtomicU32,
    timed: AtomicU64,
    lateness_milli: AtomicI64,
}

impl Tally {
    pub(super) fn read(&self, in_flight: u32, prefill_tokens: u64, failed_in_a_row: u32) -> Outcomes {
        Outcomes {
            in_flight,
            audible: self.audible.load(Ordering::Relaxed),
            prefill_tokens,
            tokens: self.tokens.load(Ordering::Relaxed),
            answers: self.answers.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            in_a_row: failed_in_a_row.max(self.cuts_in_a_row.load(Ordering::Relaxed)),
            timed: self.timed.load(Ordering::Relaxed),
            lateness_milli: self.lateness_milli.load(Ordering::Relaxed),
        }
    }

    pub(super) fn tokens(&self, count: u64) {
        self.tokens.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.cuts_in_a_row.store(0, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn broke_off(&self) {
        self.failed();
        self.cuts_in_a_row.fetch_add(1, Ordering::Relaxed);
    }

    /// A first token came after `took`, where `predicted_s` was expected of the endpoint at its full speed.
    #[expect(clippy::cast_possible_truncation, reason = "at most 4,000 either way")]
    pub(super) fn timed(&self, took: Duration, predicted_s: f64) {
        let lateness = ((took.as_secs_f64() + TIMED_FLOOR_S) / (predicted_s.max(0.0) + TIMED_FLOOR_S)).ln();
        if lateness.is_finite() {
            let milli = (lateness.clamp(-LATENESS_MAX, LATENESS_MAX) * 1e3) as i64;
            self.lateness_milli.fetch_add(milli, Ordering::Relaxed);
            self.timed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
