//! One request on its way through the farm, and what is recorded of it at the end.

use aya_domain::MonoTime;

use crate::ledger::Lease;
use crate::summary::{Outcome, RequestRecord};
use crate::workload::Arrival;

/// A request on its way.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) scheduler: usize,
    pub(crate) place: Option<(usize, Lease)>,
    pub(crate) endpoint: Option<usize>,
    pub(crate) arrived: MonoTime,
    /// When it was last sent to an engine.
    pub(crate) sent: Option<MonoTime>,
    /// Endpoints that failed it.
    pub(crate) tried: Vec<usize>,
    pub(crate) first_token: Option<MonoTime>,
    pub(crate) ended: MonoTime,
    pub(crate) outcome: Outcome,
    pub(crate) generated: u32,
    /// How often it ended: exactly once, as `conservation` checks.
    pub(crate) outcomes: u32,
}

impl Progress {
    /// Prompt tokens still to be computed, as estimated at dispatch.
    pub(crate) const fn uncached(&self) -> u32 {
        match self.place {
            Some((_, Lease::Prefill { uncached, .. })) => uncached,
            Some((_, Lease::Decode { .. })) | None => 0,
        }
    }

    pub(crate) fn record(&self, arrival: &Arrival) -> RequestRecord {
        RequestRecord {
            outcome: self.outcome,
            arrived_s: arrival.at_s,
            endpoint: self.endpoint,
            sent_s: self.sent.map(MonoTime::as_secs_f64),
            ttft_s: self.first_token.map_or(0.0, |at| at.since(self.arrived).as_secs_f64()),
            e2e_s: self.ended.since(self.arrived).as_secs_f64(),
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: arrival.output_tokens,
        }
    }
}
