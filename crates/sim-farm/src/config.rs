//! What one run is made of.

use std::time::Duration;

use aya_estimate::NamedProfile;
use aya_placement::Policy;

/// One run.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// One profile per engine.
    pub fleet: Vec<&'static NamedProfile>,
    pub policy: Policy,
    /// Time between two reports of an agent; agent `i` of `n` begins `i/n` of it later.
    pub report_period: Duration,
    /// After this virtual time no report arrives any more.
    pub reports_until: Option<Duration>,
    /// Each with its own ledger and its own share of the requests, drawn at random.
    pub schedulers: u32,
    /// Whether schedulers tell each other their ledgers every 50 ms.
    pub share_ledgers: bool,
    /// Whether requests wait at the scheduler while every endpoint is busy, for this long at most; `None`: they
    /// are sent at once, and wait inside the engines.
    pub hold_at_most: Option<Duration>,
    /// A request that would lose more seconds than this to those before it is rejected; `None`: none is.
    pub shed_above_s: Option<f64>,
    pub seed: u64,
}
