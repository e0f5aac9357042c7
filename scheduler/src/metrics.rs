//! The scheduler's metrics: handles resolved once, counted without locks on the way of a request.
//!
//! Label values come from configuration, from the fleet's own models and endpoints, or are `other`; a client
//! cannot make a series. Gauges that mirror state (in flight, queue depth, ages) are set at scrape time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aya_domain::{ModelId, Rejection, Verdict};
use aya_observe::metrics::{Labels, MetricError, Registry, TIME_BUCKETS_S};
use aya_trace::{OutcomeStatus, Record};
use parking_lot::{Mutex, MutexGuard};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

mod admission;
mod breaker;
mod health;
mod memory;

pub(crate) use admission::AdmissionMetrics;
pub(crate) use breaker::BreakerMetrics;
pub(crate) use health::HealthMetrics;
pub(crate) use memory::MemoryMetrics;

/// Upper bounds of a decision's time, in seconds.
const DECISION_BUCKETS_S: &[f64] = &[1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2];

fn rejections(make: &Registry) -> Result<IntCounterVec, MetricError> {
    make.counter_vec(
        "aya_placement_rejections_total",
        "Endpoints of the asked model that were rejected in the last decision of a request.",
        &["reason"],
    )
}

/// Counts of one model's requests.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    outcomes: [IntCounter; OutcomeStatus::ALL.len()],
    duration: Histogram,
    ttft: Histogram,
    queue: Histogram,
}

impl ModelMetrics {
    pub(crate) fn ended(&self, status: OutcomeStatus, duration_s: f64) {
        if let Some(counter) = self.outcomes.get(status.index()) {
            counter.inc();
        }
        self.duration.observe(duration_s);
    }

    pub(crate) fn first_token(&self, ttft_s: f64) {
        self.ttft.observe(ttft_s);
    }

    pub(crate) fn queued(&self, wait_s: f64) {
        self.queue.observe(wait_s);
    }
}

/// Counts of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointMetrics {
    pub(crate) placements: IntCounter,
    pub(crate) failures: IntCounter,
}

/// Every series of the scheduler.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    labels: Labels,
    requests: IntCounterVec,
    duration: HistogramVec,
    ttft: HistogramVec,
    queue: HistogramVec,
    endpoint_placements: IntCounterVec,
    endpoint_failures: IntCounterVec,
    pub(crate) endpoint_in_flight: IntGaugeVec,
    pub(crate) endpoint_ready: IntGaugeVec,
    pub(crate) endpoint_signal: IntGaugeVec,
    pub(crate) queue_depth: IntGaugeVec,
    pub(crate) sample_age: prometheus::GaugeVec,
    in_flight: IntGauge,
    pub(crate) endpoints: IntGauge,
    rejections: IntCounterVec,
    pub(crate) admission: AdmissionMetrics,
    pub(crate) health: HealthMetrics,
    pub(crate) breaker: BreakerMetrics,
    pub(crate) memory: MemoryMetrics,
    open_requests: AtomicI64,
    scrape: Mutex<()>,
    pub(crate) accepted: IntCounter,
    pub(crate) retries: IntCounter,
    continued: IntCounterVec,
    pub(crate) lost_races: IntCounter,
    pub(crate) placement: Histogram,
    pub(crate) tokens_in: IntCounter,
    pub(crate) tokens_out: IntCounter,
    pub(crate) connections: IntGauge,
    pub(crate) accept_errors: IntCounter,
    pub(crate) reports: IntCounter,
    pub(crate) reports_refused: IntCounter,
    pub(crate) records: IntCounter,
    pub(crate) records_dropped: IntCounter,
    pub(crate) inputs_dropped: IntCounter,
    pub(crate) record_write_errors: IntCounter,
    pub(crate) log_healthy: IntGauge,
}

/// Eight readings per endpoint, each in one state.
fn endpoint_signal(make: &Registry) -> Result<IntGaugeVec, MetricError> {
    let help = "1 for the state that a reading of an endpoint's engine is in.";
    make.gauge_vec("aya_endpoint_signal", help, &["endpoint", "signal", "state"])
}

fn sample_age(make: &Registry) -> Result<prometheus::GaugeVec, MetricError> {
    make.gauge_f64_vec("aya_agent_last_sample_age_seconds", "Age of a node's last report.", &["node"])
}

fn continued(make: &Registry) -> Result<IntCounterVec, MetricError> {
    let what = "Streams that broke off and were to go on from another engine.";
    make.counter_vec("aya_streams_continued_total", what, &["result"])
}

impl Metrics {
    /// Registers every series once.
    pub(crate) fn new(models_max: usize) -> Result<Self, MetricError> {
        let make = Registry::new();
        let times = |name, help| make.histogram_vec(name, help, &["model"], TIME_BUCKETS_S);
        let tokens = make.counter_vec("aya_tokens_total", "Tokens by direction.", &["direction"])?;
        Ok(Self {
            labels: Labels::new(models_max),
            requests: make.counter_vec("aya_requests_total", "Ended requests.", &["model", "outcome"])?,
            duration: times("aya_request_duration_seconds", "Arrival to the last byte.")?,
            ttft: times("aya_ttft_seconds", "Arrival to the first token.")?,
            queue: times("aya_queue_seconds", "Time in the scheduler's queue.")?,
            endpoint_placements: make.counter_vec(
                "aya_endpoint_placements_total",
                "Requests sent to an endpoint, retries included.",
                &["endpoint"],
            )?,
            endpoint_failures: make.counter_vec(
                "aya_endpoint_failures_total",
                "Requests that an endpoint failed before or after the first byte.",
                &["endpoint"],
            )?,
            endpoint_in_flight: make.gauge_vec("aya_endpoint_inflight", "Leases held.", &["endpoint"])?,
            endpoint_ready: make.gauge_vec(
                "aya_endpoint_ready",
                "1 if healthy or degraded and serving, else 0.",
                &["endpoint"],
            )?,
            endpoint_signal: endpoint_signal(&make)?,
            queue_depth: make.gauge_vec("aya_queue_depth", "Requests that wait.", &["model", "priority"])?,
            sample_age: sample_age(&make)?,
            in_flight: make.gauge("aya_requests_in_flight", "Accepted and not ended.")?,
            endpoints: make.gauge("aya_endpoints", "Endpoints in the current snapshot.")?,
            rejections: rejections(&make)?,
            memory: MemoryMetrics::new(&make)?,
            health: HealthMetrics::new(&make)?,
            breaker: BreakerMetrics::new(&make)?,
            admission: AdmissionMetrics::new(&make)?,
            open_requests: AtomicI64::new(0),
            scrape: Mutex::new(()),
            accepted: make
                .counter("aya_requests_accepted_total", "Inference requests whose head was read.")?,
            retries: make.counter("aya_retries_total", "Attempts after the first.")?,
            continued: continued(&make)?,
            lost_races: make.counter(
                "aya_placement_lost_races_total",
                "Claims that found the endpoint changed since the decision.",
            )?,
            placement: make.histogram(
                "aya_placement_seconds",
                "Time of one decision.",
                DECISION_BUCKETS_S,
            )?,
            tokens_in: tokens.with_label_values(&["prompt"]),
            tokens_out: tokens.with_label_values(&["completion"]),
            connections: make.gauge("aya_client_connections", "Open client connections.")?,
            accept_errors: make
                .counter("aya_accept_errors_total", "Connections that could not be accepted, try by try.")?,
            reports: make.counter("aya_telemetry_reports_total", "Reports of agents applied.")?,
            reports_refused: make
                .counter("aya_telemetry_reports_refused_total", "Reports that were impossible.")?,
            records: make.counter("aya_decision_records_total", "Decision records kept.")?,
            records_dropped: make
                .counter("aya_decision_records_dropped_total", "Decision records lost to a full queue.")?,
            inputs_dropped: make.counter("aya_decision_inputs_dropped_total", "Inputs lost: full queue.")?,
            record_write_errors: make.counter(
                "aya_decision_record_write_errors_total",
                "Records that could not be written to disk.",
            )?,
            log_healthy: make
                .gauge("aya_decision_log_healthy", "0 while decision records cannot be written to disk.")?,
            registry: make,
        })
    }

    /// Handles for a model; `None` and models beyond the limit share `other`.
    pub(crate) fn model(&self, model: Option<&ModelId>) -> Arc<ModelMetrics> {
        let label = self.labels.get(model.map_or("other", ModelId::as_str));
        let outcome = |status: OutcomeStatus| self.requests.with_label_values(&[&*label, status.as_str()]);
        Arc::new(ModelMetrics {
            outcomes: OutcomeStatus::ALL.map(outcome),
            duration: self.duration.with_label_values(&[&*label]),
            ttft: self.ttft.with_label_values(&[&*label]),
            queue: self.queue.with_label_values(&[&*label]),
        })
    }

    /// Handles for an endpoint of the fleet.
    pub(crate) fn endpoint(&self, id: &str) -> Arc<EndpointMetrics> {
        Arc::new(EndpointMetrics {
            placements: self.endpoint_placements.with_label_values(&[id]),
            failures: self.endpoint_failures.with_label_values(&[id]),
        })
    }

    /// The endpoint left the fleet: its series go too, so that their number stays bounded.
    pub(crate) fn forget_endpoint(&self, id: &str) {
        // An error only says that the series never existed.
        let _ = self.endpoint_placements.remove_label_values(&[id]);
        let _ = self.endpoint_failures.remove_label_values(&[id]);
    }

    /// Counts why endpoints of the model's pool did not take the request; not for the way of a request.
    pub(crate) fn rejected(&self, record: &Record) {
        let candidates = record.decision.iter().flat_map(|decision| &decision.candidates);
        for candidate in candidates {
            match candidate.verdict {
                Verdict::Scored { .. } | Verdict::Rejected(Rejection::ModelNotServed) => {}
                Verdict::Rejected(rejection) => {
                    self.rejections.with_label_values(&[rejection.as_str()]).inc();
                }
            }
        }
    }

    /// A stream broke off and was to go on elsewhere.
    pub(crate) fn continued(&self, did: bool) {
        self.continued.with_label_values(&[if did { "continued" } else { "failed" }]).inc();
    }

    pub(crate) fn opened(&self) {
        self.accepted.inc();
        self.open_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.open_requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// The label of a model that a request names: its name if the fleet has or had it, else `other`.
    pub(crate) fn label(&self, model: &ModelId) -> Arc<str> {
        self.labels.known(model.as_str())
    }

    /// One scrape at a time: each empties and fills the gauges that mirror state.
    pub(crate) fn begin_scrape(&self) -> MutexGuard<'_, ()> {
        self.scrape.lock()
    }

    /// The exposition text. Gauges that mirror state are set by the caller just before.
    pub(crate) fn render(&self) -> Result<String, MetricError> {
        self.in_flight.set(self.open_requests.load(Ordering::Relaxed));
        self.registry.render()
    }
}
