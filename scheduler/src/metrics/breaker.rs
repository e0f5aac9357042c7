//! What breakers and probes did, and where each endpoint's breaker is.

use aya_fleet::BreakerNotice;
use aya_observe::metrics::{MetricError, Registry};
use prometheus::{IntCounterVec, IntGaugeVec};

/// Series of the breakers; their labels are a closed list and the fleet's endpoints.
#[derive(Debug)]
pub(crate) struct BreakerMetrics {
    probes: IntCounterVec,
    events: IntCounterVec,
    pub(crate) state: IntGaugeVec,
}

impl BreakerMetrics {
    pub(super) fn new(make: &Registry) -> Result<Self, MetricError> {
        Ok(Self {
            probes: make.counter_vec(
                "aya_probes_total",
                "Synthetic generations; they are no requests and counted nowhere else.",
                &["result"],
            )?,
            events: make.counter_vec(
                "aya_breaker_events_total",
                "What the breakers of endpoints did.",
                &["event"],
            )?,
            state: make.gauge_vec(
                "aya_endpoint_state",
                "0: in, 1: slow start or slower than its peers, 2: on trial, 3: wedged or ejected.",
                &["endpoint"],
            )?,
        })
    }

    pub(crate) fn probed(&self, ok: bool) {
        self.probes.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    pub(crate) fn told(&self, notice: &BreakerNotice) {
        self.events.with_label_values(&[notice.as_str()]).inc();
    }
}
