//! The lines of a segment that are not records: its head, and one per decision.

use std::time::Duration;

use aya_domain::{
    Decision, EndpointId, HoldReason, ModelId, MonoTime, Outcome, Priority, RefusalReason, Request,
    RequestId, RequestKind, Slo, TenantId, Tokens,
};
use serde::{Deserialize, Serialize};

use super::condition::ConditionJson;
use super::endpoint::{EndpointJson, PoolsJson};
use super::exact::Exact;
use super::knowledge::KnowledgeJson;
use super::policy::PolicyRef;

/// The first line of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeadJson {
    /// `segment`.
    pub(crate) line: String,
    pub(crate) format: u32,
    /// The program's version.
    pub(crate) aya: String,
}

/// One decision with everything it was made from, as changes since the line before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecidedJson {
    /// `decided`.
    pub(crate) line: String,
    pub(crate) decision_id: String,
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub(crate) attempt: u32,
    /// Whether nothing of the lines before counts: `endpoints` and `models` are complete, all other rows are 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) base: bool,
    pub(crate) generation: u64,
    pub(crate) now_ns: u64,
    pub(crate) seed: u64,
    pub(crate) policy: PolicyRef,
    pub(crate) request: RequestJson,
    /// By position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoints: Vec<(u32, EndpointJson)>,
    /// All conditions of those endpoints of which they changed, by position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<(u32, Vec<ConditionJson>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) models: Option<PoolsJson>,
    /// Changed rows of `endpoint_cells`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) farm: String,
    /// Changed rows of `load_cells`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) loads: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) knowledge: Option<KnowledgeJson>,
    pub(crate) outcome: OutcomeJson,
    /// One digit for each candidate.
    pub(crate) rows: String,
    /// Four digits for each field of all candidates.
    pub(crate) columns: String,
}

const fn first() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_first(attempt: &u32) -> bool {
    *attempt == 1
}

/// The request as `decide` saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestJson {
    id: String,
    #[serde(rename = "seq")]
    sequence: u64,
    model: String,
    #[serde(default = "chat", skip_serializing_if = "is_chat")]
    kind: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    prompt_bytes: u64,
    #[serde(rename = "prompt")]
    prompt_tokens: u64,
    #[serde(rename = "prompt_min")]
    prompt_tokens_min: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(rename = "output")]
    expected_output: Exact,
    #[serde(rename = "residual")]
    expected_residual: Exact,
    /// Since its arrival.
    #[serde(rename = "age_ns")]
    arrived_ns_ago: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tried: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ns: Option<u64>,
    /// Times to the first and per further token, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slo_ns: Option<(u64, u64)>,
}

fn chat() -> String {
    RequestKind::Chat.as_str().to_owned()
}

fn is_chat(kind: &str) -> bool {
    kind == RequestKind::Chat.as_str()
}

impl RequestJson {
    pub(super) fn new(request: &Request, now: MonoTime) -> Self {
        let Request {
            id,
            sequence,
            model,
            kind,
            stream,
            prompt_bytes,
            prompt_tokens,
            prompt_tokens_min,
            max_tokens,
            expected_output,
            expected_residual,
            arrived_at,
            tried,
            priority,
            tenant,
            deadline,
            slo,
            // What became of it is among the knowledge.
            prefix: _,
        } = request;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            id: id.to_string(),
            sequence: *sequence,
            model: model.to_string(),
            kind: kind.as_str().to_owned(),
            stream: *stream,
            prompt_bytes: *prompt_bytes,
            prompt_tokens: prompt_tokens.get(),
            prompt_tokens_min: prompt_tokens_min.get(),
            max_tokens: max_tokens.map(Tokens::get),
            expected_output: Exact(*expected_output),
            expected_residual: Exact(*expected_residual),
            arrived_ns_ago: now.as_nanos().wrapping_sub(arrived_at.as_nanos()),
            tried: tried.iter().map(ToString::to_string).collect(),
            priority: (*priority != Priority::default()).then(|| priority.as_str().to_owned()),
            tenant: (*tenant != TenantId::default()).then(|| tenant.to_string()),
            deadline_ns: deadline.map(MonoTime::as_nanos),
            slo_ns: slo.map(|Slo { ttft, tpot }| (nanos(ttft), nanos(tpot))),
        }
    }

    pub(super) fn request(&self, now: MonoTime) -> Result<Request, String> {
        let kinds = [RequestKind::Chat, RequestKind::Completion, RequestKind::Embedding];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == self.kind);
        let id = |name: &str, text: &str, error: &dyn std::fmt::Display| format!("{name} {text:?}: {error}");
        let tried = |text: &String| EndpointId::parse(text).map_err(|e| id("tried endpoint", text, &e));
        Ok(Request {
            id: RequestId::parse(&self.id).map_err(|e| id("request", &self.id, &e))?,
            sequence: self.sequence,
            model: ModelId::parse(&self.model).map_err(|e| id("model", &self.model, &e))?,
            kind: kind.ok_or_else(|| format!("unknown kind {:?}", self.kind))?,
            stream: self.stream,
            prompt_bytes: self.prompt_bytes,
            prompt_tokens: Tokens(self.prompt_tokens),
            prompt_tokens_min: Tokens(self.prompt_tokens_min),
            max_tokens: self.max_tokens.map(Tokens),
            expected_output: self.expected_output.0,
            expected_residual: self.expected_residual.0,
            arrived_at: MonoTime::from_nanos(now.as_nanos().wrapping_sub(self.arrived_ns_ago)),
            tried: self.tried.iter().map(tried).collect::<Result<_, _>>()?,
            prefix: aya_domain::PromptPrefix::default(),
            priority: match &self.priority {
                Some(text) => text.parse().map_err(|error: aya_domain::UnknownPriority| error.to_string())?,
                None => Priority::default(),
            },
            tenant: match &self.tenant {
                Some(text) => TenantId::parse(text).map_err(|e| id("tenant", text, &e))?,
                None => TenantId::default(),
            },
            deadline: self.deadline_ns.map(MonoTime::from_nanos),
            slo: self.slo_ns.map(|(ttft, tpot)| Slo {
                ttft: Duration::from_nanos(ttft),
                tpot: Duration::from_nanos(tpot),
            }),
        })
    }
}

/// What was decided, in words and numbers that a person can read too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(crate) enum OutcomeJson {
    Placed { endpoint: String, total: Exact, ties: u32 },
    HeldAllFull,
    HeldNoneReady,
    RefusedUnknownModel,
    RefusedTooLong { need_tokens: u64, largest_tokens: u64 },
}

impl From<&Decision> for OutcomeJson {
    fn from(decision: &Decision) -> Self {
        let name = |index| crate::json::endpoint_name(decision, index);
        match decision.outcome {
            Outcome::Placed(chosen) => Self::Placed {
                endpoint: name(chosen.endpoint),
                total: Exact(chosen.total),
                ties: chosen.ties,
            },
            Outcome::Hold(HoldReason::AllFull) => Self::HeldAllFull,
            Outcome::Hold(HoldReason::NoneReady) => Self::HeldNoneReady,
            Outcome::Refused(RefusalReason::UnknownModel) => Self::RefusedUnknownModel,
            Outcome::Refused(RefusalReason::TooLong { need, largest }) => {
                Self::RefusedTooLong { need_tokens: need.get(), largest_tokens: largest.get() }
            }
        }
    }
}

impl OutcomeJson {
    /// Each part by its name, for the comparison of two.
    pub(crate) fn parts(&self) -> [(&'static str, String); 4] {
        let (result, [a, b, c]) = match self {
            Self::Placed { endpoint, total, ties } => {
                ("placed", [endpoint.clone(), total.0.to_string(), ties.to_string()])
            }
            Self::HeldAllFull => ("held_all_full", Default::default()),
            Self::HeldNoneReady => ("held_none_ready", Default::default()),
            Self::RefusedUnknownModel => ("refused_unknown_model", Default::default()),
            Self::RefusedTooLong { need_tokens, largest_tokens } => {
                let sizes = [need_tokens.to_string(), largest_tokens.to_string(), String::new()];
                let [need, largest, ties] = sizes;
                let result = ("result", "refused_too_long".to_owned());
                return [result, ("need_tokens", need), ("largest_tokens", largest), ("ties", ties)];
            }
        };
        [("result", result.to_owned()), ("chosen", a), ("total", b), ("ties", c)]
    }
}
