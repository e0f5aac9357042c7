//! Memory, and what is given up for it.

use aya_observe::metrics::{MetricError, Registry};
use prometheus::{IntCounter, IntGauge};

/// Series of the watch over memory.
#[derive(Debug)]
pub(crate) struct MemoryMetrics {
    pub(crate) used: IntGauge,
    pub(crate) limit: IntGauge,
    pub(crate) pressure: IntGauge,
    pub(crate) refused: IntCounter,
}

impl MemoryMetrics {
    pub(super) fn new(make: &Registry) -> Result<Self, MetricError> {
        Ok(Self {
            used: make.gauge(
                "aya_memory_used_bytes",
                "What counts against aya_memory_limit_bytes; 0 without a limit.",
            )?,
            limit: make.gauge(
                "aya_memory_limit_bytes",
                "memory.max, or the control group's limit; 0: there is none.",
            )?,
            pressure: make.gauge(
                "aya_pressure_level",
                "0: none, 1: idle connections close early, 2: no keep-alive, 3: new requests are refused.",
            )?,
            refused: make
                .counter("aya_requests_refused_for_memory_total", "Requests refused at pressure level 3.")?,
        })
    }
}
