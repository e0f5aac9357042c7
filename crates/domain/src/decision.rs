//! The full answer to "where does this request go", with the reason for every endpoint.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    Action, Bytes, Cause, Condition, Conditions, EndpointId, EndpointIndex, Facts, Freshness, Phase,
    PolicyName, Ratio, Tokens, Trip,
};

/// Why an endpoint cannot take a request, with the numbers behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rejection {
    /// The engine does not serve the model.
    ModelNotServed,
    /// Draining, joining or gone.
    NotServing { phase: Phase },
    /// The engine or its node says it cannot work.
    Unhealthy,
    /// Nobody has yet said that it can.
    HealthUnknown,
    /// A GPU beneath it is at fault; which one is told by [`Decision::conditions`].
    GpuFault { action: Action, cause: Cause },
    /// Its requests fail: nothing is sent there for so long.
    Ejected { trip: Trip, remaining: Duration },
    /// It took requests and gives no tokens.
    Wedged { silent: Duration },
    /// It is back from an ejection and holds as many requests as it may until one has succeeded.
    OnTrial { in_flight: u32, limit: u32 },
    /// It is to have this part of its share, slow start or a slow pace, and was not drawn this time.
    Thinned { share: Ratio },
    /// It failed this very request.
    AlreadyTried,
    /// It failed or pushed back a moment ago.
    Cooling { remaining: Duration },
    /// Prompt and answer exceed the context; `certain` if even the smallest possible token count does.
    ContextTooLong { need: Tokens, limit: Tokens, certain: bool },
    /// Prompt and answer exceed the whole KV pool.
    KvPoolTooSmall { need: Tokens, limit: Tokens },
    /// The KV cache would need more VRAM than is free.
    VramShort { need: Bytes, free: Bytes },
    /// Every slot is taken.
    SlotsFull { in_flight: u32, limit: u32 },
    /// Its predicted prefill and KV backlog is longer than requests are sent into.
    Backlogged { wait_s: f64, limit_s: f64 },
}

impl Rejection {
    /// The name used in records and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ModelNotServed => "model_not_served",
            Self::NotServing { .. } => "not_serving",
            Self::Unhealthy => "unhealthy",
            Self::HealthUnknown => "health_unknown",
            Self::GpuFault { .. } => "gpu_fault",
            Self::Ejected { .. } => "ejected",
            Self::Wedged { .. } => "wedged",
            Self::OnTrial { .. } => "on_trial",
            Self::Thinned { .. } => "thinned",
            Self::AlreadyTried => "already_tried",
            Self::Cooling { .. } => "cooling",
            Self::ContextTooLong { .. } => "context_too_long",
            Self::KvPoolTooSmall { .. } => "kv_pool_too_small",
            Self::VramShort { .. } => "vram_short",
            Self::SlotsFull { .. } => "slots_full",
            Self::Backlogged { .. } => "backlogged",
        }
    }

    /// Whether waiting can make this endpoint fit: then the request is held, not refused.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::ModelNotServed | Self::ContextTooLong { .. } | Self::KvPoolTooSmall { .. } => false,
            Self::NotServing { .. }
            | Self::Unhealthy
            | Self::HealthUnknown
            | Self::GpuFault { .. }
            | Self::Ejected { .. }
            | Self::Wedged { .. }
            | Self::OnTrial { .. }
            | Self::Thinned { .. }
            | Self::AlreadyTried
            | Self::Cooling { .. }
            | Self::VramShort { .. }
            | Self::SlotsFull { .. }
            | Self::Backlogged { .. } => true,
        }
    }
}

/// What the objectives that a newcomer breaks add to a total, in weighted seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Misses {
    /// Nothing is known of the streams, or the policy does not ask.
    #[default]
    Unknown,
    /// The streams were not looked at, because others won without; so the total is a lower bound too.
    AtLeast(f64),
    /// The weighted number of misses to expect.
    Expected(f64),
}

impl Misses {
    /// What is summed; 0 where nothing is known.
    #[must_use]
    pub const fn seconds(self) -> f64 {
        match self {
            Self::Unknown => 0.0,
            Self::AtLeast(seconds) | Self::Expected(seconds) => seconds,
        }
    }
}

/// The terms of a score; the smallest total wins. All are seconds, weighted as they are summed, except where noted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Terms {
    /// Predicted time to first token, unweighted, for the record: `ttft_s` is not itself part of the sum.
    pub predicted_ttft_s: f64,
    /// Predicted time per output token after placement, unweighted, for the record.
    pub predicted_tpot_s: f64,
    /// Weighted time to first token.
    pub ttft_s: f64,
    /// The answer's expected decode time.
    pub decode_s: f64,
    /// Weighted slowdown of the requests already there.
    pub harm_s: f64,
    /// Penalty for a predicted TTFT close to or beyond its objective.
    pub slo_s: f64,
    /// Objectives that the newcomer breaks.
    pub misses: Misses,
    /// Widening by the age of the data.
    pub uncertainty_s: f64,
}

/// What was found about one endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Rejected(Rejection),
    Scored { total: f64, terms: Terms },
}

/// One endpoint in a decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub endpoint: EndpointIndex,
    pub verdict: Verdict,
    pub freshness: Freshness,
    /// Age of the engine's last reading; `None`: never read.
    pub age: Option<Duration>,
    /// In flight by the scheduler's ledger when the decision was made; a lease claims against it.
    pub own_in_flight: u32,
    /// What the policy wanted to know of it and nobody told; it was then judged as the mean of the others.
    pub missing: Facts,
    /// Leading prompt tokens that its cache probably holds; `None`: nobody keeps account of its cache.
    pub cached: Option<Tokens>,
}

/// Where the request goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    pub endpoint: EndpointIndex,
    pub total: f64,
    /// Seconds between this endpoint's total and the next best one's, at the least if the runner-up's misses are only a
    /// lower bound; `None` without a runner-up.
    pub margin_s: Option<f64>,
    pub runner_up: Option<EndpointIndex>,
    /// How many endpoints had the same total; the seed chose among them.
    pub ties: u32,
}

/// Why a request has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// Endpoints are ready, but every one that fits is full.
    AllFull,
    /// No endpoint of the model is ready.
    NoneReady,
}

/// Why a request can never be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// No endpoint serves or served this model.
    UnknownModel,
    /// It fits nowhere; the largest context that any endpoint of the model gives.
    TooLong { need: Tokens, largest: Tokens },
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    Placed(Chosen),
    Hold(HoldReason),
    Refused(RefusalReason),
}

/// A decision with everything it rests on. Same inputs, same bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub policy: PolicyName,
    pub seed: u64,
    pub snapshot_generation: u64,
    /// Names the candidates' positions.
    pub directory: Arc<[EndpointId]>,
    pub candidates: Vec<Candidate>,
    /// What was wrong with endpoints, shared by all decisions of a snapshot.
    pub conditions: Conditions,
    pub outcome: Outcome,
}

impl Decision {
    /// The name of a candidate.
    #[must_use]
    pub fn endpoint_id(&self, index: EndpointIndex) -> Option<&EndpointId> {
        self.directory.get(index.get())
    }

    /// What was wrong with a candidate that serves the model, the worst first.
    #[must_use]
    pub fn conditions_of(&self, index: EndpointIndex) -> &[Condition] {
        let candidate = self.candidates.get(index.get());
        if candidate.is_none_or(|c| c.verdict == Verdict::Rejected(Rejection::ModelNotServed)) {
            return &[];
        }
        let at = self.conditions.binary_search_by_key(&index, |(of, _)| *of).ok();
        at.and_then(|at| self.conditions.get(at)).map_or(&[], |(_, conditions)| conditions)
    }

    /// The chosen endpoint, if there is one.
    #[must_use]
    pub const fn chosen(&self) -> Option<&Chosen> {
        match &self.outcome {
            Outcome::Placed(chosen) => Some(chosen),
            Outcome::Hold(_) | Outcome::Refused(_) => None,
        }
    }
}
