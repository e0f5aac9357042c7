//! What one run is made of.

use std::time::Duration;

use aya_placement::Policy;

use crate::fault::Fault;
use crate::fleet_spec::EngineSpec;

/// One run.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// One entry per engine.
    pub fleet: Vec<EngineSpec>,
    pub policy: Policy,
    pub telemetry: Telemetry,
    /// Each with its own ledger and its own share of the requests, drawn at random.
    pub schedulers: u32,
    /// How often schedulers tell each other their ledgers; `None`: never.
    pub share_ledgers: Option<Duration>,
    /// Whether requests wait at the scheduler while every endpoint is busy, for this long at most; `None`: they
    /// are sent at once, and wait inside the engines.
    pub hold_at_most: Option<Duration>,
    /// A request that would lose more seconds than this to those before it is rejected; `None`: none is.
    pub shed_above_s: Option<f64>,
    /// Requests are rejected around so many expected misses per request; `None`: none is.
    pub shed_misses_ratio: Option<f64>,
    /// How wrong the coefficients are that placement knows: the standard deviation of the logarithm of one factor
    /// per engine. Engines themselves run on the true ones.
    pub model_error: f64,
    pub faults: Vec<Fault>,
    /// Whether endpoints are judged by what their requests tell, as live: ejected, wedged, slower than their peers, slow
    /// to start. Nobody makes synthetic generations here.
    pub breaker: bool,
    pub seed: u64,
}

/// How reports travel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Telemetry {
    /// Time between two reports of an agent; agent `i` of `n` begins `i/n` of it later.
    pub period: Duration,
    /// From the sample to its arrival at the scheduler, which is not told of it.
    pub delay: Duration,
    /// The share of reports that get lost, drawn for each report and scheduler; the first always arrives.
    pub loss_ratio: f64,
    /// After this virtual time no report arrives any more.
    pub until: Option<Duration>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { period: Duration::from_millis(100), delay: Duration::ZERO, loss_ratio: 0.0, until: None }
    }
}

impl SimConfig {
    /// A run under the best conditions: one scheduler that sends at once, prompt telemetry, no faults.
    #[must_use]
    pub fn new(fleet: Vec<EngineSpec>, policy: Policy) -> Self {
        Self {
            fleet,
            policy,
            telemetry: Telemetry::default(),
            schedulers: 1,
            share_ledgers: None,
            hold_at_most: None,
            shed_above_s: None,
            shed_misses_ratio: None,
            model_error: 0.0,
            faults: Vec::new(),
            breaker: false,
            seed: 1,
        }
    }
}
