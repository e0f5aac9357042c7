//! When endpoints are left alone for what their requests tell, and how they are probed.

use std::time::Duration;

use aya_domain::ModelId;

use crate::reader::Reader;
use crate::source::Origin;

/// The breaker of every endpoint. Its defaults are those of `fleet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerConfig {
    pub enabled: bool,
    /// Failures one after the other that eject.
    pub failures_in_a_row: usize,
    /// Over which failures are held against answers.
    pub window: Duration,
    /// Requests in the window before their share means something.
    pub window_min: usize,
    /// Failed share of the window that ejects.
    pub failure_share_percent: usize,
    /// The first ejection; the n-th in a row lasts n times as long.
    pub ejection: Duration,
    pub ejection_max: Duration,
    /// Most of a pool that is ejected at once; never its last endpoint.
    pub ejected_max_percent: usize,
    /// Requests that an endpoint on trial may hold.
    pub trials: usize,
    /// Silence of streams, beyond their predicted prefill, that makes an endpoint wedged.
    pub wedged_after: Duration,
    /// The same where no request streams and the engine's own counts do not tell; at most the request's total time.
    pub wedged_whole_after: Duration,
    /// How long new and recovered endpoints take to their full share.
    pub slow_start: Duration,
    /// From this share of its peers' time on, an endpoint is predicted slower; 0: never.
    pub slower_percent: usize,
}

/// Synthetic generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Before an ejected endpoint gets requests again.
    pub recovery: bool,
    /// Of endpoints that are new.
    pub startup: bool,
    /// Of idle endpoints that are in.
    pub periodic: bool,
    /// Between two probes of one endpoint.
    pub interval: Duration,
    pub timeout: Duration,
    pub max_tokens: usize,
    pub prompt: String,
    /// Failures in a row that eject an endpoint that is in.
    pub failures: usize,
    /// Models that are probed differently.
    pub models: Vec<ModelProbe>,
}

/// How one model is probed, where that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProbe {
    pub name: ModelId,
    /// Not probed at all: an embedding model answers no chat.
    pub enabled: bool,
    pub timeout: Duration,
    pub max_tokens: usize,
    pub prompt: String,
}

impl BreakerConfig {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            enabled: r.switch("enabled", true),
            failures_in_a_row: r.count("failures_in_a_row", 3, 1..=1_000),
            window: r.duration("window", "10s", "1s"..="10m"),
            window_min: r.count("window_min", 10, 1..=100_000),
            failure_share_percent: r.count("failure_share_percent", 50, 1..=100),
            ejection: r.duration("ejection", "30s", "100ms"..="1h"),
            ejection_max: r.duration("ejection_max", "5m", "100ms"..="1d"),
            ejected_max_percent: r.count("ejected_max_percent", 50, 0..=100),
            trials: r.count("trials", 1, 1..=1_000),
            wedged_after: r.duration("wedged_after", "3s", "100ms"..="10m"),
            wedged_whole_after: r.duration("wedged_whole_after", "2m", "1s"..="1h"),
            slow_start: r.duration("slow_start", "10s", "0s"..="1h"),
            slower_percent: r.count("slower_percent", 200, 0..=1_000),
        }
    }
}

impl ProbeConfig {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            recovery: r.switch("recovery", true),
            startup: r.switch("startup", false),
            periodic: r.switch("periodic", false),
            interval: r.duration("interval", "30s", "1s"..="1d"),
            timeout: r.duration("timeout", TIMEOUT, "100ms"..="10m"),
            max_tokens: r.count("max_tokens", MAX_TOKENS, 1..=8),
            prompt: r.text("prompt", PROMPT),
            failures: r.count("failures", 2, 1..=100),
            models: r.sections("model", |word| Ok(vec![("name", word.to_owned())]), ModelProbe::read),
        }
    }
}

const TIMEOUT: &str = "10s";
const MAX_TOKENS: usize = 4;
const PROMPT: &str = "Say yes.";

impl ModelProbe {
    fn read(r: &mut Reader<'_>, origin: &Origin) -> Option<Self> {
        let name = r.required("name", origin);
        let (enabled, timeout) = (r.switch("enabled", true), r.duration("timeout", TIMEOUT, "100ms"..="10m"));
        let (max_tokens, prompt) = (r.count("max_tokens", MAX_TOKENS, 1..=8), r.text("prompt", PROMPT));
        Some(Self { name: name?, enabled, timeout, max_tokens, prompt })
    }
}
