//! The metric registry: Prometheus' classic text format, base units, names under `aya_`.
//!
//! Label values come from the configuration or from [`Labels`], never straight from a client.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, TextEncoder,
};

pub use prometheus;

pub use crate::labels::{Labels, OTHER};

/// Seconds that a request spends: from a cached answer to the longest generation.
pub const TIME_BUCKETS_S: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];

/// Seconds that our own code spends on a request: from a microsecond to a second.
pub const OVERHEAD_BUCKETS_S: &[f64] = &[
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.005,
    0.01, 0.1, 1.0,
];

/// The content type of [`Registry::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why a metric could not be made.
#[derive(Debug, thiserror::Error)]
#[error("metric {name}: {source}")]
pub struct MetricError {
    name: String,
    #[source]
    source: prometheus::Error,
}

/// All metrics of one program. Each is made once, at the start, and kept by its owner.
#[derive(Debug, Default, Clone)]
pub struct Registry(prometheus::Registry);

macro_rules! plain {
    ($(#[$doc:meta])* $fn:ident -> $type:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// A bad name, or a name that is taken.
        pub fn $fn(&self, name: &str, help: &str) -> Result<$type, MetricError> {
            self.keep(name, <$type>::new(name, help))
        }
    };
}

macro_rules! labelled {
    ($(#[$doc:meta])* $fn:ident -> $type:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// A bad name, or a name that is taken.
        pub fn $fn(&self, name: &str, help: &str, labels: &[&str]) -> Result<$type, MetricError> {
            self.keep(name, <$type>::new(Opts::new(name, help), labels))
        }
    };
}

impl Registry {
    /// A registry without metrics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    plain!(/** A count that only rises; its name ends in `_total`. */ counter -> IntCounter);
    plain!(/** A whole number that rises and falls. */ gauge -> IntGauge);
    plain!(/** A fraction that rises and falls. */ gauge_f64 -> Gauge);
    labelled!(/** A count per label set. */ counter_vec -> IntCounterVec);
    labelled!(/** A whole number per label set. */ gauge_vec -> IntGaugeVec);
    labelled!(/** A fraction per label set. */ gauge_f64_vec -> GaugeVec);

    /// A distribution over these upper bounds.
    ///
    /// # Errors
    /// A bad name, bounds that do not rise, or a name that is taken.
    pub fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Result<Histogram, MetricError> {
        self.keep(name, Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec())))
    }

    /// A distribution per label set.
    ///
    /// # Errors
    /// A bad name, bounds that do not rise, or a name that is taken.
    pub fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        bounds: &[f64],
    ) -> Result<HistogramVec, MetricError> {
        self.keep(name, HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), labels))
    }

    /// A constant 1 whose labels are the facts, such as `aya_build_info{version="0.1.0"}`.
    ///
    /// # Errors
    /// A bad name, or a name that is taken.
    pub fn info(&self, name: &str, help: &str, facts: &[(&str, &str)]) -> Result<(), MetricError> {
        let labels: Vec<_> = facts.iter().map(|(label, _)| *label).collect();
        let values: Vec<_> = facts.iter().map(|(_, value)| *value).collect();
        self.gauge_vec(name, help, &labels)?.with_label_values(&values).set(1);
        Ok(())
    }

    /// Everything in Prometheus' text format, for `GET /metrics`.
    ///
    /// # Errors
    /// A metric that the format cannot express; none of the kinds made here.
    pub fn render(&self) -> Result<String, MetricError> {
        let encoded = TextEncoder::new().encode_to_string(&self.0.gather());
        encoded.map_err(|source| MetricError { name: "text format".to_owned(), source })
    }

    fn keep<C>(&self, name: &str, made: Result<C, prometheus::Error>) -> Result<C, MetricError>
    where
        C: Collector + Clone + 'static,
    {
        let kept = made.and_then(|metric| self.0.register(Box::new(metric.clone())).map(|()| metric));
        kept.map_err(|source| MetricError { name: name.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_with_help_type_and_labels() {
        let registry = Registry::new();
        let requests = registry.counter_vec("aya_requests_total", "Requests.", &["outcome"]).unwrap();
        requests.with_label_values(&["completed"]).inc_by(3);
        registry.info("aya_build_info", "Build.", &[("version", "0.1.0")]).unwrap();
        let text = registry.render().unwrap();
        for line in [
            "# HELP aya_requests_total Requests.",
            "# TYPE aya_requests_total counter",
            "aya_requests_total{outcome=\"completed\"} 3",
            "aya_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_request_of_ten_minutes_has_its_own_bucket() {
        let registry = Registry::new();
        let e2e = registry.histogram("aya_e2e_seconds", "E2E.", TIME_BUCKETS_S).unwrap();
        e2e.observe(599.0);
        let text = registry.render().unwrap();
        assert!(text.contains("aya_e2e_seconds_bucket{le=\"300\"} 0"), "{text}");
        assert!(text.contains("aya_e2e_seconds_bucket{le=\"600\"} 1"), "{text}");
    }

    #[test]
    fn a_name_is_given_once() {
        let registry = Registry::new();
        let first = registry.gauge("aya_in_flight", "In flight.").unwrap();
        first.set(2);
        let error = registry.gauge("aya_in_flight", "Again.").unwrap_err().to_string();
        assert!(error.starts_with("metric aya_in_flight: "), "{error}");
    }
}
