//! A policy with every parameter, as JSON; a segment holds each one once.

use std::str::FromStr;

use aya_domain::PolicyName;
use aya_placement::{BadWord, CostWeights, EndpointSpeed, HoldRules, Policy};
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
    /// As an operator writes them.
    filters: Vec<String>,
    scorers: Vec<String>,
    picker: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    speeds: Vec<String>,
    max_backlog_s: Exact,
    #[serde(default, skip_serializing_if = "is_false")]
    whole_pool: bool,
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
    /// Absent: without a limit, as in older records.
    #[serde(default = "unlimited", skip_serializing_if = "is_unlimited")]
    slo_most: Exact,
    miss: Exact,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

const fn unlimited() -> Exact {
    Exact(f64::INFINITY)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_unlimited(most: &Exact) -> bool {
    most.0 == f64::INFINITY
}

impl PolicyJson {
    pub(super) fn new(number: u32, policy: &Policy) -> Self {
        let Policy { name, filters, scorers, picker, speeds, hold, slo_ttft_s, slo_tpot_s, weights } = policy;
        let HoldRules { max_backlog_s, whole_pool } = *hold;
        let CostWeights { ttft, harm, slo, slo_share, slo_most, miss } = *weights;
        Self {
            number,
            name: name.to_string(),
            filters: filters.iter().map(ToString::to_string).collect(),
            scorers: scorers.iter().map(ToString::to_string).collect(),
            picker: picker.to_string(),
            speeds: speeds.iter().map(|(endpoint, speed)| format!("{endpoint}={speed}")).collect(),
            max_backlog_s: Exact(max_backlog_s),
            whole_pool,
            slo_ttft_s: Exact(*slo_ttft_s),
            slo_tpot_s: Exact(*slo_tpot_s),
            weights: WeightsJson {
                ttft: Exact(ttft),
                harm: Exact(harm),
                slo: Exact(slo),
                slo_share: Exact(slo_share),
                slo_most: Exact(slo_most),
                miss: Exact(miss),
            },
        }
    }

    pub(super) fn policy(&self) -> Result<Policy, String> {
        let speeds: Vec<EndpointSpeed> = words(&self.speeds)?;
        Ok(Policy {
            name: PolicyName::parse(&self.name).map_err(|e| format!("policy {:?}: {e}", self.name))?,
            filters: words(&self.filters)?,
            scorers: words(&self.scorers)?,
            picker: word(&self.picker)?,
            speeds: speeds.into_iter().map(|set| (set.endpoint, set.speed)).collect(),
            hold: HoldRules { max_backlog_s: self.max_backlog_s.0, whole_pool: self.whole_pool },
            slo_ttft_s: self.slo_ttft_s.0,
            slo_tpot_s: self.slo_tpot_s.0,
            weights: CostWeights {
                ttft: self.weights.ttft.0,
                harm: self.weights.harm.0,
                slo: self.weights.slo.0,
                slo_share: self.weights.slo_share.0,
                slo_most: self.weights.slo_most.0,
                miss: self.weights.miss.0,
            },
        })
    }
}

fn word<T: FromStr<Err = BadWord>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

fn words<T: FromStr<Err = BadWord>>(texts: &[String]) -> Result<Vec<T>, String> {
    texts.iter().map(|text| word(text)).collect()
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
        unlimited.weights.slo_most = f64::INFINITY;
        let text = serde_json::to_string(&PolicyJson::new(0, &unlimited)).unwrap();
        assert_eq!(serde_json::from_str::<PolicyJson>(&text).unwrap().policy(), Ok(unlimited));
    }
}
