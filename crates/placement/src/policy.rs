//! Policies as data: filters, weighted scorers and one picker, and when a request is held back.
//!
//! All policies share the filters of fit and health (`filter`), so a baseline never places where the recommended policy could not. The
//! constants of `aya` were tuned on published traces of conversations; they are fields, so
//! that configuration may change them, never globals.

use std::collections::BTreeMap;
use std::fmt;

use aya_domain::{EndpointId, PolicyName};

/// One number per endpoint; the smallest sum of the weighted numbers wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scorer {
    /// Predicted seconds: to the first token, to decode, and those it costs the requests already there.
    Cost,
    /// Predicted seconds to the first token alone.
    PredictedTtft,
    /// 0 to 1, drawn from the seed.
    Draw,
    /// 0 for the endpoint whose turn it is, 1 for the one after it: the request's sequence number modulo the
    /// endpoints that can take it. Exact while one model is served; interleaved models share the count.
    Turn,
    /// 0 for the endpoint whose turn it is, each in proportion to its relative speed, evenly interleaved.
    WeightedTurn,
    /// As turn, by the request's key.
    KeyTurn,
    /// 0 to 1, by the hash of the request's key with the endpoint: a key keeps its order of endpoints.
    KeyRing,
    /// Requests in flight, foreign ones included.
    Requests,
    /// Requests in flight with this one, over the relative speed.
    WeightedRequests,
    /// Prompts and mean answers in flight, in tokens.
    Tokens,
    /// The same with this request, over the relative speed.
    WeightedTokens,
    /// Seconds of prefill ahead and of this request, what is cached left out.
    PrefillSeconds,
    /// KV blocks to compute and to hold.
    KvBlocks,
    /// 0 to 1: the share of the prompt that is not cached.
    Uncached,
    /// 0 to 1: the engine's own queue, from the shortest to the longest of all.
    Queue,
    /// 0 to 1: use of the KV cache.
    KvUsed,
    /// Seconds: scraped queue and what was sent since, over a fixed throughput, and a term for a full KV cache.
    ExpectedWait,
    /// Mean seconds that answers took, times the requests in flight with this one.
    ResponseTime,
    /// The same with a mean that jumps to a longer answer at once and fades.
    PeakResponseTime,
}

/// Leaves endpoints out that could take the request; where it would leave out all, it leaves out none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Filter {
    /// So many drawn endpoints.
    Sample(u32),
    /// Those whose requests in flight are below so many times the mean.
    Bounded(f64),
    /// If any hold at least this share of the prompt: those, while their lead in seconds of prefill over the emptiest
    /// is at most this.
    Holders { share: f64, lead_s: f64 },
    /// If any hold more than this share of the prompt: those that hold most, unless one has so many requests more than
    /// the mean and so many times the mean (then nobody is left out).
    BestHolders { share: f64, above_mean: f64, times_mean: f64 },
}

/// How one of those that are left is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Picker {
    /// The least sum; the seed among equals.
    Least,
    /// With a probability that falls with the sum, normalised from the least to the largest: e-fold per so much of it.
    Softmax(f64),
}

macro_rules! words {
    ($($variant:ident $word:literal),+ $(,)?) => {
        impl Scorer {
            /// Every scorer.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name used in configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    Cost "cost", PredictedTtft "predicted-ttft", Draw "draw", Turn "turn", WeightedTurn "weighted-turn",
    KeyTurn "key-turn", KeyRing "key-ring", Requests "requests", WeightedRequests "weighted-requests",
    Tokens "tokens", WeightedTokens "weighted-tokens", PrefillSeconds "prefill-seconds", KvBlocks "kv-blocks",
    Uncached "uncached", Queue "queue", KvUsed "kv-used", ExpectedWait "expected-wait",
    ResponseTime "response-time", PeakResponseTime "peak-response-time",
}

/// A scorer with its weight; written `queue=2`, or `queue` for a weight of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighted {
    pub scorer: Scorer,
    pub weight: f64,
}

/// When an endpoint is too busy to be sent more, so that the request waits at the scheduler instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HoldRules {
    /// Predicted seconds of prefill and KV wait ahead of the request. An endpoint without requests is never
    /// too busy.
    pub max_backlog_s: f64,
    /// Whether it waits only while every endpoint that could take it is too busy. Otherwise each that is gets nothing,
    /// whatever the others would lose: who is late already, or finds most of its prompt cached there, then goes to
    /// an endpoint where it keeps others from being in time.
    pub whole_pool: bool,
}

/// Weights of the cost terms; all multiply seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostWeights {
    pub ttft: f64,
    /// 0.1 favours interactive tails, 1.0 mean end-to-end time.
    pub harm: f64,
    /// For each second beyond [`CostWeights::slo_share`] of the TTFT objective.
    pub slo: f64,
    pub slo_share: f64,
    /// The most that this comes to: late is late. Without it those who are late already are spread over all
    /// endpoints, and nobody is in time once there is more work than the farm can do.
    pub slo_most: f64,
    /// For each objective that the request is expected to break.
    pub miss: f64,
}

/// A named way to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: PolicyName,
    /// Applied in order to those that can take the request.
    pub filters: Vec<Filter>,
    pub scorers: Vec<Weighted>,
    pub picker: Picker,
    /// Relative speeds set by hand, for weighted scorers alone; of others the profile tells.
    pub speeds: BTreeMap<EndpointId, f64>,
    pub hold: HoldRules,
    /// The objective for the time to the first token.
    pub slo_ttft_s: f64,
    /// The objective for the time per further token.
    pub slo_tpot_s: f64,
    pub weights: CostWeights,
}

/// A text that names no policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPolicy(pub String);

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown policy {:?}; known: {}", self.0, NAMES.map(|(name, ..)| name).join(", "))
    }
}

impl std::error::Error for UnknownPolicy {}

/// A name with its filters and weighted scorers.
type Named = (&'static str, &'static [Filter], &'static [(Scorer, f64)]);

/// Constants are those their authors publish.
const NAMES: [Named; 20] = [
    ("aya", &[], &[(Scorer::Cost, 1.0)]),
    ("rr", &[], &[(Scorer::Turn, 1.0)]),
    ("lc", &[], &[(Scorer::Requests, 1.0)]),
    ("random", &[], &[(Scorer::Draw, 1.0)]),
    ("wrr", &[], &[(Scorer::WeightedTurn, 1.0)]),
    ("wlc", &[], &[(Scorer::WeightedRequests, 1.0)]),
    ("p2c", &[Filter::Sample(2)], &[(Scorer::Requests, 1.0)]),
    ("lot", &[], &[(Scorer::Tokens, 1.0)]),
    ("wlot", &[], &[(Scorer::WeightedTokens, 1.0)]),
    ("ip-hash", &[], &[(Scorer::KeyTurn, 1.0)]),
    ("chbl", &[Filter::Bounded(1.25)], &[(Scorer::KeyRing, 1.0)]),
    ("gie", &[], &[(Scorer::Uncached, 3.0), (Scorer::Queue, 2.0), (Scorer::KvUsed, 2.0)]),
    ("sticky", &[Filter::Holders { share: 0.8, lead_s: 2.0 }], &[(Scorer::PrefillSeconds, 1.0)]),
    ("kv-cost", &[], &[(Scorer::KvBlocks, 1.0)]),
    ("expected-wait", &[], &[(Scorer::ExpectedWait, 1.0)]),
    (
        "cache-aware",
        &[Filter::BestHolders { share: 0.3, above_mean: 64.0, times_mean: 1.5 }],
        &[(Scorer::ExpectedWait, 1.0)],
    ),
    ("p2c-expected-wait", &[Filter::Sample(2)], &[(Scorer::ExpectedWait, 1.0)]),
    ("least-response-time", &[], &[(Scorer::ResponseTime, 1.0)]),
    ("peak-ewma", &[Filter::Sample(2)], &[(Scorer::PeakResponseTime, 1.0)]),
    ("least-predicted-ttft", &[], &[(Scorer::PredictedTtft, 1.0)]),
];

const HOLD: HoldRules = HoldRules { max_backlog_s: 0.5, whole_pool: false };
const SLO_TTFT_S: f64 = 2.0;
const SLO_TPOT_S: f64 = 0.1;
const WEIGHTS: CostWeights =
    CostWeights { ttft: 4.0, harm: 0.3, slo: 30.0, slo_share: 0.7, slo_most: 30.0, miss: 90.0 };

impl Policy {
    /// The policy of this name with its default constants: hold above 0.5 s of backlog, objectives 2 s and 100 ms.
    ///
    /// # Errors
    /// [`UnknownPolicy`], which lists the known names.
    pub fn named(name: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(name.to_owned());
        let (_, filters, scorers) =
            NAMES.into_iter().find(|(known, ..)| *known == name).ok_or_else(unknown)?;
        let name = PolicyName::parse(name).map_err(|_| unknown())?;
        let policy = Self {
            name,
            filters: filters.to_vec(),
            scorers: scorers
                .iter()
                .map(|(scorer, weight)| Weighted { scorer: *scorer, weight: *weight })
                .collect(),
            picker: Picker::Least,
            speeds: BTreeMap::new(),
            hold: HOLD,
            slo_ttft_s: SLO_TTFT_S,
            slo_tpot_s: SLO_TPOT_S,
            weights: WEIGHTS,
        };
        let hold = HoldRules { whole_pool: policy.is_cost_alone(), ..HOLD };
        Ok(Self { hold, ..policy })
    }

    /// Whether predicted seconds decide, and nothing else: then misses are foreseen, and totals are seconds.
    #[must_use]
    pub fn is_cost_alone(&self) -> bool {
        let cost = Weighted { scorer: Scorer::Cost, weight: 1.0 };
        self.scorers == [cost] && self.filters.is_empty() && self.picker == Picker::Least
    }

    /// The names of all policies, the recommended one first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().map(|(name, ..)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_found_by_its_name_and_an_error_lists_them() {
        for name in Policy::names() {
            assert_eq!(Policy::named(name).unwrap().name.as_str(), name);
        }
        let error = Policy::named("best").unwrap_err().to_string();
        assert!(error.starts_with("unknown policy \"best\"; known: aya, rr, lc, random, wrr"), "{error}");
    }
}
