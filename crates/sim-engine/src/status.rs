//! The engine's own books, as they are shown: gauges, totals, histograms, and the last requests by id.
//!
//! The driver is the only writer. Readers copy what they need under a short lock that is never held across
//! an await. Everything here is bounded: `RECORDS_MAX` requests, one second of activity.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::activity::Activity;
use crate::engine::Counters;

/// How many requests `/sim/state` remembers, living ones first to stay.
pub(crate) const RECORDS_MAX: usize = 1000;

/// Upper bounds of the time-to-first-token histogram, in seconds (vLLM's).
pub(crate) const TTFT_BOUNDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// Upper bounds of the inter-token histogram, in seconds (vLLM's).
pub(crate) const ITL_BOUNDS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Upper bounds of the request latency histogram, in seconds (vLLM's).
pub(crate) const E2E_BOUNDS: [f64; 20] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0,
];

/// A cumulative histogram in the making.
#[derive(Debug, Clone)]
pub(crate) struct Histogram<const N: usize> {
    pub(crate) bounds: &'static [f64; N],
    /// Observations up to each bound and above the one before; those above all bounds are only in `count`.
    pub(crate) buckets: [u64; N],
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl<const N: usize> Histogram<N> {
    pub(crate) const fn new(bounds: &'static [f64; N]) -> Self {
        Self { bounds, buckets: [0; N], count: 0, sum: 0.0 }
    }

    pub(crate) fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequestState {
    Live,
    Finished,
    Aborted,
    Refused,
}

/// One request in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RequestRecord {
    /// As the client sees it: its `X-Request-Id`, or one made here.
    pub(crate) id: Arc<str>,
    pub(crate) state: RequestState,
    pub(crate) prompt_tokens: u32,
    /// Tokens of the answer so far.
    pub(crate) output_tokens: u32,
}

/// Why answers ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Successes {
    pub(crate) stop: u64,
    pub(crate) length: u64,
}

/// Everything that is shown.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) kv_used_blocks: u32,
    pub(crate) kv_blocks: u32,
    /// Requests the driver answers for.
    pub(crate) in_flight: usize,
    pub(crate) refused: u64,
    pub(crate) counters: Counters,
    pub(crate) successes: Successes,
    pub(crate) activity: Activity,
    pub(crate) ttft: Histogram<22>,
    pub(crate) itl: Histogram<19>,
    pub(crate) e2e: Histogram<20>,
    /// By arrival.
    pub(crate) records: BTreeMap<u64, RequestRecord>,
}

impl Status {
    pub(crate) fn new(kv_blocks: u32) -> Self {
        Self {
            running: 0,
            waiting: 0,
            kv_used_blocks: 0,
            kv_blocks,
            in_flight: 0,
            refused: 0,
            counters: Counters::default(),
            successes: Successes::default(),
            activity: Activity::default(),
            ttft: Histogram::new(&TTFT_BOUNDS),
            itl: Histogram::new(&ITL_BOUNDS),
            e2e: Histogram::new(&E2E_BOUNDS),
            records: BTreeMap::new(),
        }
    }

    /// From 0 to 1.
    pub(crate) fn kv_used_ratio(&self) -> f64 {
        f64::from(self.kv_used_blocks) / f64::from(self.kv_blocks.max(1))
    }

    /// Notes a new request; forgets the oldest one beyond the limit.
    pub(crate) fn open(&mut self, key: u64, record: RequestRecord) {
        self.records.insert(key, record);
        if self.records.len() > RECORDS_MAX {
            self.records.pop_first();
        }
    }

    /// Notes where a request stands, if it is still remembered.
    pub(crate) fn note(&mut self, key: u64, state: RequestState, output_tokens: u32) {
        if let Some(record) = self.records.get_mut(&key) {
            record.state = state;
            record.output_tokens = output_tokens;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::new(&ITL_BOUNDS);
        for value in [0.01, 0.011, 500.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.buckets[..3], [1, 1, 0]);
        assert_eq!((histogram.count, histogram.buckets.iter().sum::<u64>()), (3, 2));
    }

    #[test]
    fn the_books_remember_the_last_thousand_requests() {
        let mut status = Status::new(10);
        for key in 0..1500 {
            let id = Arc::from(key.to_string());
            let record = RequestRecord { id, state: RequestState::Live, prompt_tokens: 1, output_tokens: 0 };
            status.open(key, record);
        }
        assert_eq!(status.records.len(), RECORDS_MAX);
        assert_eq!(status.records.first_key_value().map(|(key, _)| *key), Some(500));
    }
}
