//! The scheduler's own account of one endpoint: the fresh truth between two reports.

use crate::MonoTime;

/// What this scheduler has in flight on an endpoint, read at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OwnLoad {
    /// Leases held. The claim of a lease compares this number with the one the decision saw.
    pub in_flight: u32,
    /// Requests without a first token (nf).
    pub prefilling: u32,
    /// Their estimated prompt tokens (P).
    pub prefill_tokens: u64,
    /// Requests that stream tokens (nd).
    pub decoding: u32,
    /// Prompt and streamed tokens of the decoding requests (K).
    pub decode_kv_tokens: u64,
    /// Dispatched prompt tokens per second, decayed to now (rho, tau 4 s).
    pub prefill_rate: f64,
    /// Not to be chosen before this instant: it failed or pushed back a moment ago.
    pub cooling_until: Option<MonoTime>,
}

impl OwnLoad {
    /// This account and another scheduler's of the same endpoint together.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self {
            in_flight: self.in_flight.saturating_add(other.in_flight),
            prefilling: self.prefilling.saturating_add(other.prefilling),
            prefill_tokens: self.prefill_tokens.saturating_add(other.prefill_tokens),
            decoding: self.decoding.saturating_add(other.decoding),
            decode_kv_tokens: self.decode_kv_tokens.saturating_add(other.decode_kv_tokens),
            prefill_rate: self.prefill_rate + other.prefill_rate,
            cooling_until: self.cooling_until.max(other.cooling_until),
        }
    }
}
