//! Named policies: which scorer, with which weights, and when a request is held back.
//!
//! All policies share the filters, so a baseline never places where the recommended policy could not. The
//! constants of `aya` were tuned on published traces of conversations; they are fields, so
//! that configuration may change them, never globals.

use std::fmt;

use aya_domain::PolicyName;

/// How the endpoints that can take a request are ranked; the smallest total wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scorer {
    /// Predicted seconds: to the first token, to decode, and those it costs the requests already there.
    Cost,
    /// The request's sequence number modulo the endpoints that can take it; the total is the rank from
    /// there. Exact while one model is served; interleaved models share the count.
    RoundRobin,
    /// Requests in flight, foreign ones included.
    LeastRequests,
    /// A number drawn from the seed.
    Random,
    /// As round robin, but each endpoint in proportion to its relative speed, evenly interleaved.
    WeightedRoundRobin,
    /// Requests in flight with this one, over the endpoint's relative speed.
    WeightedRequests,
    /// The emptier of two drawn endpoints.
    PowerOfTwo,
    /// Prompts and mean answers in flight, in tokens.
    OutstandingTokens,
    /// The same with this request, over the relative speed.
    WeightedOutstandingTokens,
    /// The endpoint that the request's key hashes to.
    KeyHash,
    /// The first one on the key's ring that is not above 1.25 times the mean load.
    ConsistentHash,
    /// 3 parts of cached prefix, 2 of scraped queue, 2 of scraped KV use. A reading that is missing scores nothing.
    QueueKvPrefix,
    /// Those that hold the prefix, until they lead the emptiest by 2 s of prefill; among them the least prefill.
    Sticky,
    /// KV blocks to compute and to hold.
    KvCost,
    /// Scraped queue and what was sent since, over a fixed throughput, and a term for a full KV cache.
    ExpectedWait,
    /// Predicted seconds to the first token alone.
    PredictedTtft,
}

/// When an endpoint is too busy to be sent more, so that the request waits at the scheduler instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HoldRules {
    /// Predicted seconds of prefill and KV wait ahead of the request. An endpoint without requests is never
    /// too busy.
    pub max_backlog_s: f64,
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
    /// For each objective that the request is expected to break.
    pub miss: f64,
}

/// A named way to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: PolicyName,
    pub scorer: Scorer,
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
        write!(f, "unknown policy {:?}; known: {}", self.0, NAMES.map(|(name, _)| name).join(", "))
    }
}

impl std::error::Error for UnknownPolicy {}

const NAMES: [(&str, Scorer); 16] = [
    ("aya", Scorer::Cost),
    ("rr", Scorer::RoundRobin),
    ("lc", Scorer::LeastRequests),
    ("random", Scorer::Random),
    ("wrr", Scorer::WeightedRoundRobin),
    ("wlc", Scorer::WeightedRequests),
    ("p2c", Scorer::PowerOfTwo),
    ("lot", Scorer::OutstandingTokens),
    ("wlot", Scorer::WeightedOutstandingTokens),
    ("ip-hash", Scorer::KeyHash),
    ("chbl", Scorer::ConsistentHash),
    ("gie", Scorer::QueueKvPrefix),
    ("sticky", Scorer::Sticky),
    ("kv-cost", Scorer::KvCost),
    ("expected-wait", Scorer::ExpectedWait),
    ("least-predicted-ttft", Scorer::PredictedTtft),
];

const HOLD: HoldRules = HoldRules { max_backlog_s: 0.5 };
const SLO_TTFT_S: f64 = 2.0;
const SLO_TPOT_S: f64 = 0.1;
const WEIGHTS: CostWeights = CostWeights { ttft: 4.0, harm: 0.3, slo: 30.0, slo_share: 0.7, miss: 30.0 };

impl Policy {
    /// The policy of this name with its default constants: hold above 0.5 s of backlog, objectives 2 s and 100 ms.
    ///
    /// # Errors
    /// [`UnknownPolicy`], which lists the known names.
    pub fn named(name: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(name.to_owned());
        let (_, scorer) = NAMES.into_iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
        let name = PolicyName::parse(name).map_err(|_| unknown())?;
        Ok(Self {
            name,
            scorer,
            hold: HOLD,
            slo_ttft_s: SLO_TTFT_S,
            slo_tpot_s: SLO_TPOT_S,
            weights: WEIGHTS,
        })
    }

    /// The names of all policies, the recommended one first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().map(|(name, _)| name)
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
