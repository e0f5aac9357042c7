//! The agent's own metrics. Labels come from the configuration (endpoints, schedulers) or closed sets.

use std::sync::Arc;
use std::time::Duration;

use aya_domain::{
    EndpointId, EndpointUrl, EngineHealth, MonoTime, ReportKind, Signal, SignalReport, SignalState,
};
use aya_engine::{Absent, Page};
use aya_gpu::FailedCalls;
use aya_observe::metrics::prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use aya_observe::metrics::{MetricError, Registry};

use crate::gpu_metrics::GpuMetrics;
use crate::prober::FetchError;
use crate::view::View;

/// What one uplink counts; made once per scheduler.
#[derive(Debug, Clone)]
pub(crate) struct UplinkMetrics {
    pub(crate) full: IntCounter,
    pub(crate) delta: IntCounter,
    pub(crate) skipped: IntCounter,
    pub(crate) connects: IntCounter,
    pub(crate) connected: IntGauge,
}

/// All metrics of the agent.
pub(crate) struct Metrics {
    registry: Registry,
    probes: IntCounterVec,
    engine_health: IntGaugeVec,
    absent: IntGaugeVec,
    signals: IntGaugeVec,
    reports: IntCounterVec,
    skipped: IntCounterVec,
    connects: IntCounterVec,
    connected: IntGaugeVec,
    ticks: [Histogram; 2],
    gpu_samples: IntCounter,
    gpu_failures: IntCounter,
    gpu_stall: Gauge,
    gpu_events: IntCounterVec,
    gpus: GpuMetrics,
}

/// What of the agent keeps a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Gpus,
    Engines,
}

/// Upper bounds, in seconds, of how late a beat may be.
const LATE_SECONDS: [f64; 8] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5];

const HEALTHS: [&str; 4] = ["ready", "loading", "busy", "down"];

impl Metrics {
    pub(crate) fn new(node: &str) -> Result<Self, MetricError> {
        let registry = Registry::new();
        let version = env!("CARGO_PKG_VERSION");
        let ticks = registry.histogram_vec(
            "aya_agent_tick_late_seconds",
            "How late the readings of GPUs and engines began.",
            &["part"],
            &LATE_SECONDS,
        )?;
        registry.info("aya_agent_info", "The agent.", &[("version", version), ("node", node)])?;
        Ok(Self {
            probes: registry.counter_vec(
                "aya_agent_probes_total",
                "Pages asked of engines, by what came of it.",
                &["endpoint", "page", "result"],
            )?,
            engine_health: registry.gauge_vec(
                "aya_agent_engine_health",
                "1 for the state an engine is in.",
                &["endpoint", "health"],
            )?,
            absent: registry.gauge_vec(
                "aya_agent_engine_reading_absent",
                "1 for a reading that an engine does not give, with the reason.",
                &["endpoint", "reading", "reason"],
            )?,
            signals: registry.gauge_vec(
                "aya_agent_engine_signal",
                "1 for the state that a reading of an engine is in.",
                &["endpoint", "signal", "state"],
            )?,
            reports: registry.counter_vec(
                "aya_agent_reports_total",
                "Reports handed to the stream.",
                &["scheduler", "kind"],
            )?,
            skipped: registry.counter_vec(
                "aya_agent_reports_skipped_total",
                "Reports left out because the stream was still busy with the last one.",
                &["scheduler"],
            )?,
            connects: registry.counter_vec(
                "aya_agent_connects_total",
                "Attempts to reach a scheduler.",
                &["scheduler"],
            )?,
            connected: registry.gauge_vec(
                "aya_agent_scheduler_connected",
                "1 while the stream to a scheduler stands.",
                &["scheduler"],
            )?,
            ticks: ["gpus", "engines"].map(|part| ticks.with_label_values(&[part])),
            gpu_samples: registry
                .counter("aya_agent_gpu_collections_total", "Readings of one or more GPUs.")?,
            gpu_failures: registry
                .counter("aya_agent_gpu_collection_failures_total", "Readings of GPUs that failed.")?,
            gpu_stall: registry.gauge_f64(
                "aya_agent_gpu_stall_seconds",
                "Age of a question that the driver does not answer; 0 while it answers in time.",
            )?,
            gpu_events: registry.counter_vec(
                "aya_agent_gpu_events_total",
                "What the driver told between two readings, and GPUs that were lost.",
                &["kind"],
            )?,
            gpus: GpuMetrics::new(&registry)?,
            registry,
        })
    }

    /// The page; the GPUs are meant to be read once in a period.
    pub(crate) fn render(&self, view: &View, period: Duration, now: MonoTime) -> Result<String, MetricError> {
        self.gpus.show(view, period, now);
        self.registry.render()
    }

    pub(crate) fn failed_calls(&self) -> Arc<FailedCalls> {
        self.gpus.failed_calls()
    }

    pub(crate) fn probe(&self, endpoint: &EndpointId, page: Page, got: &Result<u16, FetchError>) {
        let result = match got {
            Ok(200..=299) => "ok",
            Ok(_) => "status",
            Err(FetchError::Failed(_)) => "failed",
            Err(FetchError::TimedOut(_)) => "timeout",
            Err(FetchError::TooLarge) => "too_large",
        };
        self.probes.with_label_values(&[endpoint.as_str(), page.as_str(), result]).inc();
    }

    pub(crate) fn engine_health(&self, endpoint: &EndpointId, health: &EngineHealth) {
        let now = match health {
            EngineHealth::Ready => "ready",
            EngineHealth::Loading => "loading",
            EngineHealth::Busy => "busy",
            EngineHealth::Down { .. } => "down",
        };
        for name in HEALTHS {
            self.engine_health.with_label_values(&[endpoint.as_str(), name]).set(i64::from(name == now));
        }
    }

    /// Replaces the absences of one engine.
    pub(crate) fn absences(
        &self,
        endpoint: &EndpointId,
        before: &[(&'static str, Absent)],
        now: &[(&'static str, Absent)],
    ) {
        for (reading, reason) in before {
            // Fails only if the series is gone already.
            let _ = self.absent.remove_label_values(&[endpoint.as_str(), reading, reason.as_str()]);
        }
        for (reading, reason) in now {
            self.absent.with_label_values(&[endpoint.as_str(), reading, reason.as_str()]).set(1);
        }
    }

    /// The state of every reading of one engine.
    pub(crate) fn signals(&self, endpoint: &EndpointId, states: &[SignalReport]) {
        for told in states {
            for state in SignalState::ALL {
                let labels = [endpoint.as_str(), told.signal.as_str(), state.as_str()];
                self.signals.with_label_values(&labels).set(i64::from(state == told.state));
            }
        }
    }

    /// An engine that was found has gone: its states are nobody's now. What was counted stays.
    pub(crate) fn forget(&self, endpoint: &EndpointId) {
        // Each fails only if the series was never there.
        for name in HEALTHS {
            let _ = self.engine_health.remove_label_values(&[endpoint.as_str(), name]);
        }
        for signal in Signal::ALL {
            for state in SignalState::ALL {
                let labels = [endpoint.as_str(), signal.as_str(), state.as_str()];
                let _ = self.signals.remove_label_values(&labels);
            }
        }
    }

    pub(crate) fn uplink(&self, scheduler: &EndpointUrl) -> UplinkMetrics {
        let scheduler = scheduler.as_str();
        UplinkMetrics {
            full: self.reports.with_label_values(&[scheduler, "full"]),
            delta: self.reports.with_label_values(&[scheduler, "delta"]),
            skipped: self.skipped.with_label_values(&[scheduler]),
            connects: self.connects.with_label_values(&[scheduler]),
            connected: self.connected.with_label_values(&[scheduler]),
        }
    }

    /// A beat came so late.
    pub(crate) fn tick_late(&self, part: Part, late: Duration) {
        let [gpus, engines] = &self.ticks;
        let histogram = match part {
            Part::Gpus => gpus,
            Part::Engines => engines,
        };
        histogram.observe(late.as_secs_f64());
    }

    pub(crate) fn gpus_read(&self, failed: bool) {
        self.gpu_samples.inc();
        if failed {
            self.gpu_failures.inc();
        }
    }

    pub(crate) fn gpu_event(&self, kind: &str) {
        self.gpu_events.with_label_values(&[kind]).inc();
    }

    pub(crate) fn gpu_stall(&self, seconds: f64) {
        self.gpu_stall.set(seconds);
    }
}

impl UplinkMetrics {
    pub(crate) fn sent(&self, kind: ReportKind) {
        match kind {
            ReportKind::Full => self.full.inc(),
            ReportKind::Delta => self.delta.inc(),
        }
    }
}
