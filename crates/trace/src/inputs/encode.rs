//! From inputs to lines: what changed since the line before.

use std::collections::BTreeMap;
use std::sync::Arc;

use aya_domain::{Condition, Endpoint, EndpointId, EndpointInfo, Health, ModelId, Phase, Pool, Snapshot};
use aya_placement::Policy;

use super::cells::{EndpointCells, LoadCells, changes, endpoint_cells, load_cells};
use super::condition::ConditionJson;
use super::endpoint::{EndpointJson, PoolsJson, pools_json};
use super::knowledge::{KnowledgeJson, LengthsWritten};
use super::line::{DecidedJson, RequestJson};
use super::policy::{PolicyJson, PolicyRef};
use super::{Decided, Inputs, checks};

/// Policies that one segment numbers; beyond it the oldest is given up and written in full again when it comes back.
const POLICIES_MAX: usize = 64;

/// Writes decisions as changes. Give it [`Encoder::reset`] at the start of a segment and whenever a line was lost.
#[derive(Debug, Default)]
pub struct Encoder {
    before: Option<Before>,
    policies: Vec<(u32, Policy)>,
    policies_seen: u32,
    lengths: LengthsWritten,
}

/// What the last line left a reader with.
#[derive(Debug)]
struct Before {
    generation: u64,
    directory: Arc<[EndpointId]>,
    models: BTreeMap<ModelId, Pool>,
    rare: Vec<Rare>,
    rows: Vec<EndpointCells>,
    loads: Vec<LoadCells>,
}

/// The part of an endpoint that changes rarely.
#[derive(Debug)]
struct Rare {
    info: Arc<EndpointInfo>,
    phase: Phase,
    health: Health,
    conditions: Arc<[Condition]>,
}

impl Rare {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            info: Arc::clone(&endpoint.info),
            phase: endpoint.phase,
            health: endpoint.health.clone(),
            conditions: Arc::clone(&endpoint.conditions),
        }
    }

    fn is_of(&self, endpoint: &Endpoint) -> bool {
        let same_info = Arc::ptr_eq(&self.info, &endpoint.info) || self.info == endpoint.info;
        same_info && self.phase == endpoint.phase && self.health == endpoint.health
    }
}

impl Encoder {
    /// The next line holds everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Appends one line, its end included.
    ///
    /// # Errors
    /// The line cannot be expressed as JSON; the encoder is reset then.
    pub fn line(&mut self, decided: &Decided<'_>, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let json = self.json(decided);
        let written = serde_json::to_writer(&mut *out, &json);
        out.push(b'\n');
        if written.is_err() {
            self.reset();
        }
        written
    }

    fn json(&mut self, decided: &Decided<'_>) -> DecidedJson {
        let Decided { decision_id, attempt, inputs, decision } = *decided;
        let Inputs { snapshot, loads, knowledge, request, policy, now, seed } = inputs;
        let same =
            self.before.as_ref().is_some_and(|before| same_ids(&before.directory, &snapshot.directory));
        if !same {
            self.reset();
        }
        let base = self.before.is_none();
        let policy = self.policy(policy);
        let knowledge = knowledge.map(|read| KnowledgeJson::new(read, &mut self.lengths));
        let before = self.before.get_or_insert_with(|| Before::nothing(snapshot));
        let FarmChanges { endpoints, conditions, models, farm } =
            if base || before.generation != snapshot.generation {
                before.farm(snapshot, base)
            } else {
                Default::default()
            };
        let mut rows: Vec<LoadCells> = loads.iter().map(load_cells).collect();
        rows.resize(snapshot.endpoints.len(), LoadCells::default());
        let changed = changes(&before.loads, &rows);
        before.loads = rows;
        DecidedJson {
            line: "decided".to_owned(),
            decision_id: decision_id.to_string(),
            attempt,
            base,
            generation: snapshot.generation,
            now_ns: now.as_nanos(),
            seed,
            policy,
            request: RequestJson::new(request, now),
            endpoints,
            conditions,
            models,
            farm,
            loads: changed,
            knowledge,
            outcome: decision.into(),
            rows: checks::row_digests(decision),
            columns: checks::column_digests(decision),
        }
    }

    fn policy(&mut self, policy: &Policy) -> PolicyRef {
        if let Some((number, _)) = self.policies.iter().find(|(_, known)| known == policy) {
            return PolicyRef::Known(*number);
        }
        if self.policies.len() == POLICIES_MAX {
            self.policies.remove(0);
        }
        let number = self.policies_seen;
        self.policies_seen = number.wrapping_add(1);
        self.policies.push((number, policy.clone()));
        PolicyRef::New(PolicyJson::new(number, policy))
    }
}

/// What is written of a snapshot.
#[derive(Debug, Default)]
struct FarmChanges {
    endpoints: Vec<(u32, EndpointJson)>,
    conditions: Vec<(u32, Vec<ConditionJson>)>,
    models: Option<PoolsJson>,
    farm: String,
}

impl Before {
    /// A farm of which only the membership is known.
    fn nothing(snapshot: &Snapshot) -> Self {
        let count = snapshot.endpoints.len();
        Self {
            generation: snapshot.generation,
            directory: Arc::clone(&snapshot.directory),
            models: BTreeMap::new(),
            rare: snapshot.endpoints.iter().map(Rare::of).collect(),
            rows: vec![EndpointCells::default(); count],
            loads: vec![LoadCells::default(); count],
        }
    }

    fn farm(&mut self, snapshot: &Snapshot, base: bool) -> FarmChanges {
        self.generation = snapshot.generation;
        let (mut endpoints, mut conditions) = (Vec::new(), Vec::new());
        for ((endpoint, rare), at) in snapshot.endpoints.iter().zip(&mut self.rare).zip(0..) {
            let other_conditions = !same_conditions(&rare.conditions, &endpoint.conditions);
            if other_conditions || (base && !endpoint.conditions.is_empty()) {
                conditions.push((at, endpoint.conditions.iter().map(ConditionJson::from).collect()));
            }
            if base || !rare.is_of(endpoint) {
                endpoints.push((at, EndpointJson::from(endpoint)));
                *rare = Rare::of(endpoint);
            } else if other_conditions {
                rare.conditions = Arc::clone(&endpoint.conditions);
            }
        }
        let models = (base || self.models != snapshot.models).then(|| {
            self.models.clone_from(&snapshot.models);
            pools_json(&snapshot.models)
        });
        let rows: Vec<EndpointCells> = snapshot.endpoints.iter().map(endpoint_cells).collect();
        let farm = changes(&self.rows, &rows);
        self.rows = rows;
        FarmChanges { endpoints, conditions, models, farm }
    }
}

fn same_conditions(a: &Arc<[Condition]>, b: &Arc<[Condition]>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn same_ids(a: &Arc<[EndpointId]>, b: &Arc<[EndpointId]>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}
