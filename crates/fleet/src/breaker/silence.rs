//! When silence is too long: what was predicted for the work ahead, and what the engine's own counts say about it.
//!
//! A wedge found falsely costs the endpoint new requests until its next token; one found late costs every request that
//! is sent there meanwhile. So the bound is short where nothing speaks against it: 3 s and twice the predicted prefill.

use std::time::Duration;

use super::heartbeat::Pulse;
use super::{Breaker, BreakerParams, Outcomes, Sight};

/// The predicted prefill work ahead counts so many times before silence is suspicious.
const BACKLOG_FACTOR: f64 = 2.0;
/// The prior of an endpoint that has never given a token may be far off: its prefill is taken for no faster than this,
/// in seconds per token. A GPU that serves does several times that; a slower engine shows by its own counts.
const UNPROVEN_PER_TOKEN_S: f64 = 1e-3;
/// An engine whose own counts move is waited for so many times longer: it works, perhaps on somebody else's prompt.
const MOVING: u32 = 4;
/// So is one that may have to load the model first, which takes tens of seconds.
const LOADS_ON_DEMAND: u32 = 10;

impl Breaker {
    /// Whether it holds requests for longer than any of them can need without a token. What was predicted counts
    /// doubly and by the endpoint's own pace, so that a long prefill has its time; decoding others are progress.
    pub(super) fn is_silent(&self, sight: &Sight, params: &BreakerParams) -> bool {
        if self.last.in_flight == 0 || self.silent.is_zero() {
            return false;
        }
        let after = params.wedged_after;
        let work = self.work_ahead(sight);
        if self.last.audible == 0 {
            // Whole answers are silent until they are there: only the engine can tell whether it works on them.
            let least = after.saturating_add(work);
            return match sight.pulse {
                Pulse::Moving => false,
                Pulse::Still { seen, age, trusted: true }
                    if seen.min(self.silent.saturating_sub(age)) >= least =>
                {
                    true
                }
                Pulse::Unknown | Pulse::Still { .. } => self.silent >= params.wedged_whole_after,
            };
        }
        let patience = match sight.pulse {
            _ if sight.loads_on_demand => after.saturating_mul(LOADS_ON_DEMAND),
            Pulse::Moving => after.saturating_mul(MOVING),
            Pulse::Unknown | Pulse::Still { .. } if self.proven => after,
            Pulse::Unknown | Pulse::Still { .. } => after.saturating_add(after / 3),
        };
        self.silent >= patience.saturating_add(work)
    }

    /// How long the prompts there may take, with a margin for predictions that are off.
    fn work_ahead(&self, sight: &Sight) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let tokens = self.last.prefill_tokens as f64;
        let per_token_s = sight.per_token_s * BACKLOG_FACTOR * self.pace.factor().max(1.0);
        let least_s = if self.proven { 0.0 } else { UNPROVEN_PER_TOKEN_S };
        Duration::try_from_secs_f64(tokens * per_token_s.max(least_s)).unwrap_or(Duration::MAX)
    }

    /// What the ledger had counted at the last look.
    pub(crate) const fn last(&self) -> &Outcomes {
        &self.last
    }
}
