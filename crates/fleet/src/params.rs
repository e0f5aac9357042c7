//! Limits and waits of the fleet, as plain numbers; `config` fills them.

use std::time::Duration;

use crate::breaker::BreakerParams;

/// What bounds the fleet. At a limit a report is refused whole, with a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    pub nodes_max: usize,
    pub endpoints_max: usize,
    /// Models remembered, served or not. At the limit the one unserved for longest is forgotten; if all are
    /// served, a new one is not routed to.
    pub models_max: usize,
    /// Operators' drains remembered, those of absent nodes and endpoints included; at the limit a drain is refused.
    pub drains_max: usize,
    /// A node is stale after this many of its own promised periods without a report.
    pub stale_after_periods: u32,
    /// But never earlier than this: a short period must not turn a network hiccup into staleness.
    pub stale_after_at_least: Duration,
    /// Silence after which nothing telemetry said about load is believed any more.
    pub suspect_after: Duration,
    /// Silence after which a node without requests of ours is removed.
    pub forget_after: Duration,
    /// Slack, both ways, when a report is compared with what was ours at the time of its sample: engines
    /// count a request somewhat later and longer than we do.
    pub own_window: Duration,
    pub breaker: BreakerParams,
}

impl Params {
    /// The built-in values.
    pub const DEFAULT: Self = Self {
        nodes_max: 4_096,
        endpoints_max: 16_384,
        models_max: 10_000,
        drains_max: 20_480,
        stale_after_periods: 3,
        stale_after_at_least: Duration::from_secs(1),
        suspect_after: Duration::from_secs(10),
        forget_after: Duration::from_secs(600),
        own_window: Duration::from_millis(100),
        breaker: BreakerParams::DEFAULT,
    };
}

impl Default for Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}
