//! The record's JSON, in the names of the contract. Readers take unknown fields and reasons of newer writers.

use std::time::Duration;

use aya_domain::{
    Decision, DecisionId, EndpointIndex, HoldReason, Misses, Outcome, RefusalReason, Request, RequestId,
    RequestKind, Terms, WallTime,
};
use serde::{Deserialize, Serialize};

mod candidate;
mod condition;
mod number;
mod rejection;
mod shed;

pub use candidate::CandidateJson;
pub use condition::ConditionJson;
pub use rejection::RejectionJson;
pub(crate) use rejection::rejection_json;
pub use shed::{AdmissionJson, ShedJson};

use candidate::candidate_json;
use number::{finite, millis};

use crate::record::{Attempt, AttemptResult, OutcomeStatus, Record, RequestOutcome};

/// Counts up when the meaning of a field changes; a new field alone does not.
pub const VERSION: u32 = 1;

/// One line of a segment, one object of `GET /api/v1/decisions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordJson {
    #[serde(flatten)]
    pub decision: DecisionJson,
    pub attempts: Vec<AttemptJson>,
    pub queue_ms: f64,
    #[serde(flatten)]
    pub admission: AdmissionJson,
    pub outcome: OutcomeJson,
}

/// A decision with its request; what a dry run answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionJson {
    pub decision_id: String,
    pub request_id: String,
    /// Arrival, RFC 3339.
    pub time: String,
    /// The same as seconds since 1970.
    pub time_unix_s: f64,
    pub version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub request: RequestJson,
    /// Absent: the request never came to a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<String>,
    /// Endpoints with the same total, if more than one: the seed chose among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ties: Option<u32>,
    /// Empty on disk, where the inputs of the decision stand instead.
    #[serde(default)]
    pub candidates: Vec<CandidateJson>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum PlacementJson {
    Placed,
    /// Endpoints are ready, but every one that fits is full.
    HeldAllFull,
    /// No endpoint of the model is ready.
    HeldNoneReady,
    RefusedUnknownModel,
    RefusedTooLong {
        need_tokens: u64,
        largest_tokens: u64,
    },
    /// A newer writer's word.
    #[serde(other)]
    Unknown,
}

/// The request as placement saw it: sizes, never content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestJson {
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_bytes: Option<u64>,
    /// The estimate that costs were computed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_estimate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_output_tokens: Option<f64>,
    /// From arrival, as the client asked; nothing is sent later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<f64>,
}

/// Whether an endpoint could take the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    Scored,
    Rejected,
}

/// The terms of a score, in seconds; absent: not a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TermsJson {
    /// Not part of the sum.
    pub predicted_ttft_s: Option<f64>,
    /// Not part of the sum.
    pub predicted_tpot_s: Option<f64>,
    pub ttft_s: Option<f64>,
    pub decode_s: Option<f64>,
    pub harm_s: Option<f64>,
    pub slo_s: Option<f64>,
    /// What the objectives cost that the request is expected to break; absent: the streams were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss_s: Option<f64>,
    /// Instead of `miss_s`, where the endpoint lost without a look at its streams: the least that it would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss_at_least_s: Option<f64>,
    pub uncertainty_s: Option<f64>,
}

/// One endpoint the request was sent to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptJson {
    pub endpoint: String,
    /// After arrival.
    pub started_ms: f64,
    /// `answered`, `failed`, `cancelled`, `open`.
    pub result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It went on with an answer that had broken off elsewhere after so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues_after_tokens: Option<u64>,
}

/// How the request ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeJson {
    pub status: OutcomeStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itl_mean_ms: Option<f64>,
    pub e2e_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<&Record> for RecordJson {
    fn from(record: &Record) -> Self {
        let ids = (&record.decision_id, &record.request_id);
        let request = record.request.as_ref();
        Self {
            decision: decision_json(ids, record.time, record.kind, request, record.decision.as_deref()),
            attempts: record.attempts.iter().map(attempt_json).collect(),
            queue_ms: millis(record.queue),
            admission: AdmissionJson::from(&record.admission),
            outcome: outcome_json(&record.outcome),
        }
    }
}

impl RecordJson {
    /// A record beside the inputs of its decisions: what can be computed from them is left out.
    #[must_use]
    pub fn beside_inputs(record: &Record) -> Self {
        let mut json = Self::from(record);
        if record.decision.is_some() {
            let decision = &mut json.decision;
            decision.candidates = Vec::new();
            decision.request = request_json(record.kind, None);
            decision.placement = None;
            decision.policy = None;
            decision.snapshot_generation = None;
            decision.seed = None;
            decision.margin_s = None;
            decision.runner_up = None;
            decision.ties = None;
        }
        json
    }
}

impl DecisionJson {
    /// The answer to "where would this request go".
    #[must_use]
    pub fn dry_run(
        decision_id: &DecisionId,
        request_id: &RequestId,
        time: WallTime,
        request: &Request,
        decision: &Decision,
    ) -> Self {
        decision_json((decision_id, request_id), time, request.kind, Some(request), Some(decision))
    }
}

pub(crate) fn decision_json(
    (decision_id, request_id): (&DecisionId, &RequestId),
    time: WallTime,
    kind: RequestKind,
    request: Option<&Request>,
    decision: Option<&Decision>,
) -> DecisionJson {
    let chosen = decision.and_then(Decision::chosen);
    // Who was left out is nobody's runner-up, and no margin can be told to it.
    let competed = |index: &EndpointIndex| {
        let candidate = decision.and_then(|decision| decision.candidates.get(index.get()));
        !candidate.is_some_and(candidate::was_left_out)
    };
    let runner_up = chosen.and_then(|c| c.runner_up).filter(competed);
    let name = |index: EndpointIndex| decision.map(|decision| endpoint_name(decision, index));
    DecisionJson {
        decision_id: decision_id.to_string(),
        request_id: request_id.to_string(),
        time: time.to_string(),
        time_unix_s: Duration::from_millis(time.as_unix_ms()).as_secs_f64(),
        version: VERSION,
        model: request.map(|r| r.model.to_string()),
        policy: decision.map(|d| d.policy.to_string()),
        snapshot_generation: decision.map(|d| d.snapshot_generation),
        seed: decision.map(|d| d.seed),
        request: request_json(kind, request),
        placement: decision.map(|d| placement_json(&d.outcome)),
        chosen: chosen.and_then(|c| name(c.endpoint)),
        margin_s: runner_up.and_then(|_| chosen?.margin_s).and_then(finite),
        runner_up: runner_up.and_then(name),
        ties: chosen.map(|c| c.ties).filter(|ties| *ties > 1),
        candidates: decision
            .map(|d| d.candidates.iter().map(|c| candidate_json(d, c)).collect())
            .unwrap_or_default(),
    }
}

/// A candidate always stands in its decision's directory; a position is still better than nothing.
pub(crate) fn endpoint_name(decision: &Decision, index: EndpointIndex) -> String {
    decision.endpoint_id(index).map_or_else(|| format!("#{}", index.0), ToString::to_string)
}

fn request_json(kind: RequestKind, request: Option<&Request>) -> RequestJson {
    RequestJson {
        kind: kind.as_str().to_owned(),
        priority: request.map(|r| r.priority.to_string()),
        tenant: request.map(|r| r.tenant.to_string()),
        stream: request.map(|r| r.stream),
        prompt_bytes: request.map(|r| r.prompt_bytes),
        prompt_tokens_estimate: request.map(|r| r.prompt_tokens.get()),
        max_tokens: request.and_then(|r| r.max_tokens).map(|t| t.get()),
        expected_output_tokens: request.and_then(|r| finite(r.expected_output)),
        deadline_ms: request.and_then(|r| Some(millis(r.deadline?.since(r.arrived_at)))),
    }
}

fn placement_json(outcome: &Outcome) -> PlacementJson {
    match *outcome {
        Outcome::Placed(_) => PlacementJson::Placed,
        Outcome::Hold(HoldReason::AllFull) => PlacementJson::HeldAllFull,
        Outcome::Hold(HoldReason::NoneReady) => PlacementJson::HeldNoneReady,
        Outcome::Refused(RefusalReason::UnknownModel) => PlacementJson::RefusedUnknownModel,
        Outcome::Refused(RefusalReason::TooLong { need, largest }) => {
            PlacementJson::RefusedTooLong { need_tokens: need.get(), largest_tokens: largest.get() }
        }
    }
}

fn terms_json(terms: &Terms) -> TermsJson {
    TermsJson {
        predicted_ttft_s: finite(terms.predicted_ttft_s),
        predicted_tpot_s: finite(terms.predicted_tpot_s),
        ttft_s: finite(terms.ttft_s),
        decode_s: finite(terms.decode_s),
        harm_s: finite(terms.harm_s),
        slo_s: finite(terms.slo_s),
        miss_s: match terms.misses {
            Misses::Expected(seconds) => finite(seconds),
            Misses::Unknown | Misses::AtLeast(_) => None,
        },
        miss_at_least_s: match terms.misses {
            Misses::AtLeast(seconds) => finite(seconds),
            Misses::Unknown | Misses::Expected(_) => None,
        },
        uncertainty_s: finite(terms.uncertainty_s),
    }
}

fn attempt_json(attempt: &Attempt) -> AttemptJson {
    let (result, reason) = match &attempt.result {
        AttemptResult::Open => ("open", None),
        AttemptResult::Answered => ("answered", None),
        AttemptResult::Cancelled => ("cancelled", None),
        AttemptResult::Failed { reason } => ("failed", Some(reason.clone())),
    };
    AttemptJson {
        endpoint: attempt.endpoint.to_string(),
        started_ms: millis(attempt.started),
        result: result.to_owned(),
        reason,
        continues_after_tokens: attempt.continues.map(|tokens| tokens.get()),
    }
}

fn outcome_json(outcome: &RequestOutcome) -> OutcomeJson {
    OutcomeJson {
        status: outcome.status,
        http_status: outcome.http_status,
        ttft_ms: outcome.ttft.map(millis),
        itl_mean_ms: outcome.itl_mean.map(millis),
        e2e_ms: millis(outcome.e2e),
        prompt_tokens: outcome.prompt_tokens.map(|t| t.get()),
        completion_tokens: outcome.completion_tokens.map(|t| t.get()),
        finish_reason: outcome.finish_reason.clone(),
        error: outcome.error.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
