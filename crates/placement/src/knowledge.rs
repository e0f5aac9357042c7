//! What a scheduler may know beyond the ledger's sums: cached prefixes, the streams themselves, how long answers
//! are. All of it is optional: without it every prompt counts as uncached and no misses are foreseen.

use aya_domain::{EndpointIndex, Tokens};
use aya_estimate::LengthDistribution;

/// One answer that streams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stream {
    /// Tokens so far.
    pub tokens: f64,
    /// Seconds since its first token.
    pub since_first_s: f64,
}

/// What is known of one endpoint about one request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Insight<'a> {
    /// Leading prompt tokens that its cache probably holds.
    pub cached: Tokens,
    /// Uncached prompt tokens of each request without a first token, in order of dispatch.
    pub pending: &'a [f64],
    pub streams: &'a [Stream],
    /// Prompt tokens of everything of ours in flight there.
    pub prompts_in_flight: Option<Tokens>,
}

/// Everything beyond the ledger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Knowledge<'a> {
    /// Parallel to the snapshot's endpoints; a missing entry knows nothing.
    pub endpoints: &'a [Insight<'a>],
    /// Needed to foresee misses.
    pub lengths: Option<&'a LengthDistribution>,
    /// Requests with the same key share a session or the beginning of their prompt.
    pub affinity: Option<u64>,
}

impl Knowledge<'_> {
    pub(crate) fn of(&self, index: EndpointIndex) -> Insight<'_> {
        self.endpoints.get(index.get()).copied().unwrap_or_default()
    }
}
