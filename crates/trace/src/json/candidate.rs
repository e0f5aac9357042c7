//! One endpoint of a decision as JSON. Numbers that only keep an order are not shown: they are absent.

use aya_domain::{Candidate, Decision, Verdict, speed_under};
use aya_placement::is_left_out;
use serde::{Deserialize, Serialize};

use super::number::{finite, millis};
use super::{
    ConditionJson, RejectionJson, TermsJson, VerdictKind, endpoint_name, rejection_json, terms_json,
};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What was found about one endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateJson {
    pub endpoint: String,
    pub verdict: VerdictKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<RejectionJson>,
    /// Seconds; the smallest wins. Absent where a filter of the policy left the endpoint out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// Whether a filter of the policy left it out, so that it has no total and did not compete.
    #[serde(default, skip_serializing_if = "is_false")]
    pub left_out: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms: Option<TermsJson>,
    /// Age of the engine's last reading; absent: never read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<f64>,
    pub freshness: String,
    /// By the scheduler's own ledger.
    pub in_flight: u32,
    /// What the policy wanted to know of it and nobody told: `waiting`, `running`, `kv_used`, `cached_prefix`,
    /// `response_time`. It was then judged as the mean of the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// What was wrong with it, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionJson>,
    /// The speed it was predicted with, as a share of its profile's; absent: the full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_ratio: Option<f64>,
    /// Leading prompt tokens that its cache probably held; absent: nobody kept account of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
}

/// Whether a filter of the policy left it out. What is no number at all has a total beyond, and was not.
pub(super) fn was_left_out(candidate: &Candidate) -> bool {
    matches!(&candidate.verdict, Verdict::Scored { total, .. } if is_left_out(*total) && *total < f64::MAX)
}

pub(super) fn candidate_json(decision: &Decision, candidate: &Candidate) -> CandidateJson {
    let conditions = decision.conditions_of(candidate.endpoint);
    let left_out = was_left_out(candidate);
    let (verdict, rejection, total, terms) = match &candidate.verdict {
        Verdict::Rejected(rejection) => {
            (VerdictKind::Rejected, Some(rejection_json(rejection, conditions)), None, None)
        }
        Verdict::Scored { total, terms } => (
            VerdictKind::Scored,
            None,
            finite(*total).filter(|total| !is_left_out(*total)),
            Some(terms_json(terms)),
        ),
    };
    CandidateJson {
        endpoint: endpoint_name(decision, candidate.endpoint),
        verdict,
        rejection,
        total,
        left_out,
        terms,
        age_ms: candidate.age.map(millis),
        freshness: candidate.freshness.as_str().to_owned(),
        in_flight: candidate.own_in_flight,
        missing: candidate.missing.iter().map(|fact| fact.as_str().to_owned()).collect(),
        conditions: conditions.iter().map(ConditionJson::from).collect(),
        speed_ratio: Some(speed_under(conditions).get()).filter(|speed| *speed < 1.0),
        cached_tokens: candidate.cached.map(|tokens| tokens.get()),
    }
}
