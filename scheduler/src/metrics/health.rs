//! What the health rules did, and what they do now. All labels are closed lists or the fleet's own endpoints.

use aya_fleet::health::HealthNotice;
use aya_observe::metrics::{MetricError, Registry};
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};

/// The series of GPU health.
#[derive(Debug)]
pub(crate) struct HealthMetrics {
    actions: IntCounterVec,
    pub(crate) conditions: IntGaugeVec,
    pub(crate) speed: GaugeVec,
}

impl HealthMetrics {
    pub(super) fn new(make: &Registry) -> Result<Self, MetricError> {
        Ok(Self {
            actions: make.counter_vec(
                "aya_health_actions_total",
                "What health rules did to GPUs, ends and brakes included.",
                &["action", "rule"],
            )?,
            conditions: make.gauge_vec(
                "aya_gpu_conditions",
                "GPUs under an action of a health rule.",
                &["action", "rule"],
            )?,
            speed: make.gauge_f64_vec(
                "aya_endpoint_speed_ratio",
                "The speed an endpoint is predicted with, as a share of its profile's.",
                &["endpoint"],
            )?,
        })
    }

    pub(crate) fn acted(&self, notice: &HealthNotice) {
        self.actions.with_label_values(&[notice.action(), notice.cause().rule()]).inc();
    }
}
