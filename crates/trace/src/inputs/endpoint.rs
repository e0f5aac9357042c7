//! What changes rarely about an endpoint, and the models' pools, as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use aya_domain::{
    AbortPolicy, Bytes, Endpoint, EndpointId, EndpointIndex, EndpointInfo, EndpointUrl, EngineKind,
    EngineProfile, GpuUuid, Health, ModelId, NodeId, Phase, Pool, ServedModel, StepCost, Tokens,
};
use serde::{Deserialize, Serialize};

use super::exact::Exact;

/// An endpoint without what its reports change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointJson {
    id: String,
    node: String,
    kind: String,
    url: String,
    /// Each with its context length.
    models: Vec<(String, Option<u64>)>,
    profile: ProfileJson,
    profile_source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_sequences: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kv_capacity: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kv_bytes_per_token: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    phase: String,
    health: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileJson {
    base_s: Exact,
    per_token_s: Exact,
    overhead_s: Exact,
    per_kv_token_s: Exact,
    attention_s: Exact,
    kv_capacity: u64,
    max_batched_tokens: u32,
    max_sequences: u32,
}

impl From<&Endpoint> for EndpointJson {
    fn from(endpoint: &Endpoint) -> Self {
        let EndpointInfo {
            id,
            node,
            kind,
            url,
            models,
            profile,
            profile_source,
            // `profile` has it already; a decision reads nothing else of it.
            learned: _,
            max_sequences,
            kv_capacity,
            kv_bytes_per_token,
            gpus,
            version,
            // Matters when a client leaves, which is after every decision.
            abort: _,
        } = &*endpoint.info;
        let (health, health_reason) = match &endpoint.health {
            known @ (Health::Unknown | Health::Healthy) => (known.as_str(), None),
            known @ (Health::Degraded { reason } | Health::Unhealthy { reason }) => {
                (known.as_str(), Some(reason.clone()))
            }
        };
        let model = |m: &ServedModel| (m.id.to_string(), m.context_length.map(Tokens::get));
        Self {
            id: id.to_string(),
            node: node.to_string(),
            kind: kind.as_str().to_owned(),
            url: url.to_string(),
            models: models.iter().map(model).collect(),
            profile: profile.into(),
            profile_source: profile_source.clone(),
            max_sequences: *max_sequences,
            kv_capacity: kv_capacity.map(Tokens::get),
            kv_bytes_per_token: kv_bytes_per_token.map(Bytes::get),
            gpus: gpus.iter().map(ToString::to_string).collect(),
            version: version.clone(),
            phase: endpoint.phase.as_str().to_owned(),
            health: health.to_owned(),
            health_reason,
        }
    }
}

impl From<&EngineProfile> for ProfileJson {
    fn from(profile: &EngineProfile) -> Self {
        let EngineProfile { cost, kv_capacity, max_batched_tokens, max_sequences } = *profile;
        let StepCost { base_s, per_token_s, overhead_s, per_kv_token_s, attention_s } = cost;
        Self {
            base_s: Exact(base_s),
            per_token_s: Exact(per_token_s),
            overhead_s: Exact(overhead_s),
            per_kv_token_s: Exact(per_kv_token_s),
            attention_s: Exact(attention_s),
            kv_capacity: kv_capacity.get(),
            max_batched_tokens,
            max_sequences,
        }
    }
}

impl ProfileJson {
    const fn profile(&self) -> EngineProfile {
        EngineProfile {
            cost: StepCost {
                base_s: self.base_s.0,
                per_token_s: self.per_token_s.0,
                overhead_s: self.overhead_s.0,
                per_kv_token_s: self.per_kv_token_s.0,
                attention_s: self.attention_s.0,
            },
            kv_capacity: Tokens(self.kv_capacity),
            max_batched_tokens: self.max_batched_tokens,
            max_sequences: self.max_sequences,
        }
    }
}

/// What of an endpoint is no value of its field.
pub(super) type Problem = String;

fn parsed<T, E: std::fmt::Display>(name: &str, text: &str, result: Result<T, E>) -> Result<T, Problem> {
    result.map_err(|error| format!("{name} {text:?}: {error}"))
}

impl EndpointJson {
    /// The endpoint, never read yet.
    pub(super) fn endpoint(&self) -> Result<Endpoint, Problem> {
        let model = |(id, context): &(String, Option<u64>)| {
            let id = parsed("model", id, ModelId::parse(id))?;
            Ok::<_, Problem>(ServedModel { id, context_length: context.map(Tokens), parent: None })
        };
        let gpu = |id: &String| parsed("gpu", id, GpuUuid::parse(id));
        let info = EndpointInfo {
            id: parsed("endpoint", &self.id, EndpointId::parse(&self.id))?,
            node: parsed("node", &self.node, NodeId::parse(&self.node))?,
            kind: parsed("kind", &self.kind, self.kind.parse::<EngineKind>())?,
            url: parsed("url", &self.url, EndpointUrl::parse(&self.url))?,
            models: self.models.iter().map(model).collect::<Result<_, _>>()?,
            profile: self.profile.profile(),
            profile_source: self.profile_source.clone(),
            learned: None,
            max_sequences: self.max_sequences,
            kv_capacity: self.kv_capacity.map(Tokens),
            kv_bytes_per_token: self.kv_bytes_per_token.map(Bytes),
            gpus: self.gpus.iter().map(gpu).collect::<Result<_, _>>()?,
            version: self.version.clone(),
            abort: AbortPolicy::Cancel,
        };
        // What no decision looks at stays unread.
        Ok(Endpoint { phase: self.phase()?, health: self.health()?, ..Endpoint::unread(Arc::new(info)) })
    }

    fn phase(&self) -> Result<Phase, Problem> {
        let all = [Phase::Joining, Phase::Serving, Phase::Draining, Phase::Gone];
        let found = all.into_iter().find(|phase| phase.as_str() == self.phase);
        found.ok_or_else(|| format!("unknown phase {:?}", self.phase))
    }

    fn health(&self) -> Result<Health, Problem> {
        let reason = || self.health_reason.clone().unwrap_or_default();
        let all = [
            Health::Unknown,
            Health::Healthy,
            Health::Degraded { reason: reason() },
            Health::Unhealthy { reason: reason() },
        ];
        let found = all.into_iter().find(|health| health.as_str() == self.health);
        found.ok_or_else(|| format!("unknown health {:?}", self.health))
    }
}

/// The members of each model's pool: positions with the context that each gives the model.
pub(crate) type PoolsJson = BTreeMap<String, Vec<(u32, Option<u64>)>>;

pub(super) fn pools_json(models: &BTreeMap<ModelId, Pool>) -> PoolsJson {
    let member = |(at, context): &(EndpointIndex, Option<Tokens>)| (at.0, context.map(Tokens::get));
    let pool = |(id, pool): (&ModelId, &Pool)| (id.to_string(), pool.members.iter().map(member).collect());
    models.iter().map(pool).collect()
}

pub(super) fn pools(json: &PoolsJson) -> Result<BTreeMap<ModelId, Pool>, Problem> {
    let member = |(at, context): &(u32, Option<u64>)| (EndpointIndex(*at), context.map(Tokens));
    let pool = |(id, members): (&String, &Vec<(u32, Option<u64>)>)| {
        let pool = Pool { members: members.iter().map(member).collect() };
        Ok((parsed("model", id, ModelId::parse(id))?, pool))
    };
    json.iter().map(pool).collect()
}
