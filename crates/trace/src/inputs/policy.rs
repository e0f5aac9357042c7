//! A policy with every parameter, as JSON; a segment holds each one once.

use aya_domain::PolicyName;
use aya_placement::{CostWeights, HoldRules, Policy, Scorer};
use serde::{Deserialize, Serialize};

use super::exact::Exact;

/// A policy by its number in the segment, or in full where it is first used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum PolicyRef {
    Known(u32),
    New(PolicyJson),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PolicyJson {
    pub(super) number: u32,
    name: String,
    scorer: String,
    max_backlog_s: Exact,
    slo_ttft_s: Exact,
    slo_tpot_s: Exact,
    weights: WeightsJson,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WeightsJson {
    ttft: Exact,
    harm: Exact,
    slo: Exact,
    slo_share: Exact,
    miss: Exact,
}

impl PolicyJson {
    pub(super) fn new(number: u32, policy: &Policy) -> Self {
        let Policy { name, scorer, hold, slo_ttft_s, slo_tpot_s, weights } = policy;
        let HoldRules { max_backlog_s } = *hold;
        let CostWeights { ttft, harm, slo, slo_share, miss } = *weights;
        Self {
            number,
            name: name.to_string(),
            scorer: scorer_name(*scorer).to_owned(),
            max_backlog_s: Exact(max_backlog_s),
            slo_ttft_s: Exact(*slo_ttft_s),
            slo_tpot_s: Exact(*slo_tpot_s),
            weights: WeightsJson {
                ttft: Exact(ttft),
                harm: Exact(harm),
                slo: Exact(slo),
                slo_share: Exact(slo_share),
                miss: Exact(miss),
            },
        }
    }

    pub(super) fn policy(&self) -> Result<Policy, String> {
        let scorer = SCORERS.into_iter().find(|scorer| scorer_name(*scorer) == self.scorer);
        Ok(Policy {
            name: PolicyName::parse(&self.name).map_err(|e| format!("policy {:?}: {e}", self.name))?,
            scorer: scorer.ok_or_else(|| format!("unknown scorer {:?}", self.scorer))?,
            hold: HoldRules { max_backlog_s: self.max_backlog_s.0 },
            slo_ttft_s: self.slo_ttft_s.0,
            slo_tpot_s: self.slo_tpot_s.0,
            weights: CostWeights {
                ttft: self.weights.ttft.0,
                harm: self.weights.harm.0,
                slo: self.weights.slo.0,
                slo_share: self.weights.slo_share.0,
                miss: self.weights.miss.0,
            },
        })
    }
}

const SCORERS: [Scorer; 16] = [
    Scorer::Cost,
    Scorer::RoundRobin,
    Scorer::LeastRequests,
    Scorer::Random,
    Scorer::WeightedRoundRobin,
    Scorer::WeightedRequests,
    Scorer::PowerOfTwo,
    Scorer::OutstandingTokens,
    Scorer::WeightedOutstandingTokens,
    Scorer::KeyHash,
    Scorer::ConsistentHash,
    Scorer::QueueKvPrefix,
    Scorer::Sticky,
    Scorer::KvCost,
    Scorer::ExpectedWait,
    Scorer::PredictedTtft,
];

const fn scorer_name(scorer: Scorer) -> &'static str {
    match scorer {
        Scorer::Cost => "cost",
        Scorer::RoundRobin => "round_robin",
        Scorer::LeastRequests => "least_requests",
        Scorer::Random => "random",
        Scorer::WeightedRoundRobin => "weighted_round_robin",
        Scorer::WeightedRequests => "weighted_requests",
        Scorer::PowerOfTwo => "power_of_two",
        Scorer::OutstandingTokens => "outstanding_tokens",
        Scorer::WeightedOutstandingTokens => "weighted_outstanding_tokens",
        Scorer::KeyHash => "key_hash",
        Scorer::ConsistentHash => "consistent_hash",
        Scorer::QueueKvPrefix => "queue_kv_prefix",
        Scorer::Sticky => "sticky",
        Scorer::KvCost => "kv_cost",
        Scorer::ExpectedWait => "expected_wait",
        Scorer::PredictedTtft => "predicted_ttft",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_comes_back() {
        for name in Policy::names() {
            let policy = Policy::named(name).unwrap();
            let text = serde_json::to_string(&PolicyJson::new(3, &policy)).unwrap();
            assert_eq!(serde_json::from_str::<PolicyJson>(&text).unwrap().policy().as_ref(), Ok(&policy));
        }
        let mut unlimited = Policy::named("aya").unwrap();
        unlimited.hold.max_backlog_s = f64::INFINITY;
        let text = serde_json::to_string(&PolicyJson::new(0, &unlimited)).unwrap();
        assert_eq!(serde_json::from_str::<PolicyJson>(&text).unwrap().policy(), Ok(unlimited));
    }
}
