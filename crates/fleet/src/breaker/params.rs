//! Thresholds of the breaker, as plain numbers; `config` fills them.

use std::time::Duration;

/// When an endpoint is left alone for what its requests tell, and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerParams {
    pub enabled: bool,
    /// Failures one after the other that eject.
    pub failures_in_a_row: u32,
    /// Over this time, failures are held against answers ...
    pub window: Duration,
    /// ... of at least so many requests ...
    pub window_min: u32,
    /// ... and eject from this share on, 1 to 100.
    pub failure_share_percent: u32,
    /// The first ejection; the n-th in a row lasts n times as long.
    pub ejection: Duration,
    /// No ejection is longer, and ejections are forgiven after so long without one.
    pub ejection_max: Duration,
    /// Of each pool at most this share is ejected, but one of two or more may always be; never the last one.
    pub ejected_max_percent: u32,
    /// Requests of ours that an endpoint on trial may hold.
    pub trials: u32,
    /// Synthetic generations decide about an endpoint on trial, as long as they come.
    pub probes: bool,
    /// Failed synthetic generations in a row that eject an endpoint which was in.
    pub probe_failures: u32,
    /// Silence of an endpoint that holds requests, beyond what their prefill may take.
    pub wedged_after: Duration,
    /// The same where no request streams, so that only whole answers break the silence.
    pub wedged_whole_after: Duration,
    /// How long a new or recovered endpoint takes to its full share; zero: at once.
    pub slow_start: Duration,
    /// An endpoint that takes so many percent of its peers' time is predicted slower; 0: never.
    pub slower_percent: u32,
}

impl BreakerParams {
    /// The built-in values.
    pub const DEFAULT: Self = Self {
        enabled: true,
        failures_in_a_row: 3,
        window: Duration::from_secs(10),
        window_min: 10,
        failure_share_percent: 50,
        ejection: Duration::from_secs(30),
        ejection_max: Duration::from_secs(300),
        ejected_max_percent: 50,
        trials: 1,
        probes: true,
        probe_failures: 2,
        wedged_after: Duration::from_secs(3),
        wedged_whole_after: Duration::from_secs(120),
        slow_start: Duration::from_secs(10),
        slower_percent: 200,
    };
}
