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
    /// How long answers took; `None`: none has ended yet.
    pub response: Option<ResponseTimes>,
}

/// Averages over the answers of one endpoint, from dispatch to the end, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResponseTimes {
    pub mean_s: f64,
    /// Jumps to a longer answer at once.
    pub peak_s: f64,
    /// When the last answer ended.
    pub at: MonoTime,
}

/// What lies so many seconds back weighs 1/e, as in Finagle and linkerd.
const RESPONSE_TAU_S: f64 = 10.0;

impl ResponseTimes {
    /// The averages after one more answer, which took so many seconds.
    #[must_use]
    pub fn after(before: Option<Self>, now: MonoTime, seconds: f64) -> Self {
        let Some(before) = before else { return Self { mean_s: seconds, peak_s: seconds, at: now } };
        let kept = before.kept(now);
        let mix = |average: f64| average * kept + seconds * (1.0 - kept);
        Self { mean_s: mix(before.mean_s), peak_s: mix(before.peak_s).max(seconds), at: now.max(before.at) }
    }

    /// The peak as it has faded since the last answer.
    #[must_use]
    pub fn faded_peak_s(&self, now: MonoTime) -> f64 {
        self.peak_s * self.kept(now)
    }

    fn kept(&self, now: MonoTime) -> f64 {
        (-now.since(self.at).as_secs_f64() / RESPONSE_TAU_S).exp()
    }
}

impl OwnLoad {
    /// Nothing of ours in flight.
    pub const NONE: Self = Self {
        in_flight: 0,
        prefilling: 0,
        prefill_tokens: 0,
        decoding: 0,
        decode_kv_tokens: 0,
        prefill_rate: 0.0,
        cooling_until: None,
        response: None,
    };

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
            response: self.response.or(other.response),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_taken_at_once_and_fades() {
        let first = ResponseTimes::after(None, MonoTime::from_millis(1_000), 2.0);
        let times = ResponseTimes::after(Some(first), MonoTime::from_millis(2_000), 6.0);
        assert!((times.peak_s - 6.0).abs() < 1e-9 && (2.0..3.0).contains(&times.mean_s), "{times:?}");
        let later = times.faded_peak_s(MonoTime::from_millis(12_000));
        assert!((later - 6.0 / std::f64::consts::E).abs() < 1e-9, "{later:?}");
    }
}
