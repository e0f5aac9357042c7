//! What the agent's own metrics say of the GPUs: the last reading of each, as the reports have it.
//!
//! The series are made anew for every page, so that a GPU that is gone leaves none, and nothing is done while nobody asks.

use std::sync::Arc;
use std::time::Duration;

use aya_domain::MonoTime;
use aya_gpu::{CallError, FailedCalls};
use aya_observe::metrics::prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};
use aya_observe::metrics::{MetricError, Registry};

use crate::view::{GpuView, View};

/// GPUs and slices that have series; the rest is in the reports only.
const GPUS_MAX: usize = 128;
/// Periods after which a reading is an old one.
const OLD_AFTER_PERIODS: u32 = 3;
const STATES: [&str; 3] = ["read", "stale", "unread"];
const LABELS: [&str; 2] = ["gpu", "index"];

/// The series.
pub(crate) struct GpuMetrics {
    busy: GaugeVec,
    memory_used: GaugeVec,
    memory_total: GaugeVec,
    temperature: GaugeVec,
    power: GaugeVec,
    age: GaugeVec,
    state: IntGaugeVec,
    failed_calls: IntCounterVec,
    failed: Arc<FailedCalls>,
}

impl GpuMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, MetricError> {
        let gauge = |name: &str, help: &str| registry.gauge_f64_vec(name, help, &LABELS);
        Ok(Self {
            busy: gauge("aya_agent_gpu_busy_ratio", "Share of the last second with a kernel running.")?,
            memory_used: gauge("aya_agent_gpu_memory_used_bytes", "Memory of the GPU that is in use.")?,
            memory_total: gauge("aya_agent_gpu_memory_total_bytes", "Memory of the GPU.")?,
            temperature: gauge("aya_agent_gpu_temperature_celsius", "Temperature of the GPU.")?,
            power: gauge("aya_agent_gpu_power_watts", "Power that the GPU draws.")?,
            age: gauge("aya_agent_gpu_reading_age_seconds", "Age of the GPU's last reading.")?,
            state: registry.gauge_vec(
                "aya_agent_gpu_state",
                "1 for the state of the GPU's readings: read, stale, or unread before the first.",
                &["gpu", "index", "state"],
            )?,
            failed_calls: registry.counter_vec(
                "aya_agent_gpu_failed_calls_total",
                "Calls of the GPU driver that failed; not_supported is normal.",
                &["error"],
            )?,
            failed: Arc::default(),
        })
    }

    /// Where the driver's threads count.
    pub(crate) fn failed_calls(&self) -> Arc<FailedCalls> {
        Arc::clone(&self.failed)
    }

    /// Takes over what is known now; the GPUs are meant to be read once in a period.
    pub(crate) fn show(&self, view: &View, period: Duration, now: MonoTime) {
        for error in CallError::ALL {
            let counter = self.failed_calls.with_label_values(&[error.as_str()]);
            counter.inc_by(self.failed.of(error).saturating_sub(counter.get()));
        }
        let of_readings =
            [&self.busy, &self.memory_used, &self.memory_total, &self.temperature, &self.power, &self.age];
        of_readings.iter().for_each(|gauge| gauge.reset());
        self.state.reset();
        for gpu in view.gpus.iter().take(GPUS_MAX) {
            let number = view.numbers.iter().position(|uuid| *uuid == gpu.info.uuid);
            let number = number.map(|number| number.to_string()).unwrap_or_default();
            self.show_gpu(gpu, &number, period, now);
        }
    }

    fn show_gpu(&self, gpu: &GpuView, number: &str, period: Duration, now: MonoTime) {
        let uuid = gpu.info.uuid.as_str();
        let set = |gauge: &GaugeVec, value: Option<f64>| {
            if let Some(value) = value {
                gauge.with_label_values(&[uuid, number]).set(value);
            }
        };
        let age = gpu.sample.as_ref().map(|sample| sample.age(now));
        let sample = gpu.sample.map(|sample| sample.value).unwrap_or_default();
        set(&self.busy, sample.busy.map(|busy| busy.get()));
        set(&self.memory_used, sample.vram_used.map(|bytes| bytes.as_f64()));
        set(&self.memory_total, gpu.info.vram_total.map(|bytes| bytes.as_f64()));
        set(&self.temperature, sample.temperature.map(|celsius| f64::from(celsius.0)));
        set(&self.power, sample.power.map(|power| power.as_f64() / 1_000.0));
        set(&self.age, age.map(|age| age.as_secs_f64()));
        let state = match age {
            None => "unread",
            Some(age) if age > period * OLD_AFTER_PERIODS => "stale",
            Some(_) => "read",
        };
        for name in STATES {
            self.state.with_label_values(&[uuid, number, name]).set(i64::from(name == state));
        }
    }
}
