//! From lines back to what `decide` was given.

use std::sync::Arc;

use aya_domain::{Decision, Endpoint, EndpointId, MonoTime, OwnLoad, Request, Snapshot};
use aya_placement::{Policy, decide_knowing};

use super::cells::{self, CellsError, EndpointCells, LoadCells};
use super::condition::ConditionJson;
use super::endpoint;
use super::knowledge::{KnowledgeJson, KnowledgeRead, LengthsRead};
use super::line::{DecidedJson, OutcomeJson};
use super::policy::PolicyRef;

/// Why a line cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it holds only changes, and the line with everything is missing before it")]
    NoBase,
    #[error("policy {0} was not given before it")]
    UnknownPolicy(u32),
    #[error("endpoint {0} does not exist")]
    UnknownEndpoint(u32),
    #[error("{0}")]
    Field(String),
    #[error("farm: {0}")]
    Farm(CellsError),
    #[error("loads: {0}")]
    Loads(CellsError),
}

/// A decision as it was recorded.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub decision_id: String,
    pub attempt: u32,
    pub request: Request,
    pub policy: Policy,
    pub now: MonoTime,
    pub seed: u64,
    pub(crate) outcome: OutcomeJson,
    pub(crate) rows: String,
    pub(crate) columns: String,
}

/// One decision with the farm it was made on.
#[derive(Debug)]
pub struct Case<'a> {
    pub recorded: Recorded,
    /// Without nodes, its time that of the decision.
    pub snapshot: &'a Snapshot,
    pub loads: &'a [OwnLoad],
    /// What it asked for beyond them. Another policy may ask for more, and finds nothing.
    pub knowledge: Option<KnowledgeRead>,
}

impl Case<'_> {
    /// Makes the decision again.
    #[must_use]
    pub fn decide(&self) -> Decision {
        self.decide_by(&self.recorded.policy)
    }

    /// What another policy would have decided. Of streams that the recorded one did not look at it knows nothing.
    #[must_use]
    pub fn decide_by(&self, policy: &Policy) -> Decision {
        let Recorded { request, now, seed, .. } = &self.recorded;
        let knowledge = self.knowledge.as_ref().map(KnowledgeRead::knowledge).unwrap_or_default();
        decide_knowing(self.snapshot, self.loads, &knowledge, request, policy, *now, *seed)
    }
}

/// Follows the lines of one segment.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    farm: Option<Farm>,
    policies: Vec<(u32, Policy)>,
    lengths: LengthsRead,
}

#[derive(Debug)]
struct Farm {
    snapshot: Snapshot,
    rows: Vec<EndpointCells>,
    loads: Vec<LoadCells>,
    read: Vec<OwnLoad>,
}

impl Decoder {
    /// What one line stands for. After an error only a line with everything can be understood.
    pub(crate) fn take(&mut self, line: DecidedJson) -> Result<Case<'_>, DecodeError> {
        let now = MonoTime::from_nanos(line.now_ns);
        if line.base {
            *self = Self { farm: Some(Farm::new(&line)?), ..Self::default() };
        }
        // Taken out, so that a farm that was only half changed is never used.
        let mut farm = self.farm.take().ok_or(DecodeError::NoBase)?;
        let policy = self.policy(&line.policy)?;
        farm.change(&line, now)?;
        let request = line.request.request(now).map_err(DecodeError::Field)?;
        let read = |json: KnowledgeJson| json.read(&mut self.lengths).map_err(DecodeError::Field);
        let knowledge = line.knowledge.map(read).transpose()?;
        let farm = self.farm.insert(farm);
        let recorded = Recorded {
            decision_id: line.decision_id,
            attempt: line.attempt,
            request,
            policy,
            now,
            seed: line.seed,
            outcome: line.outcome,
            rows: line.rows,
            columns: line.columns,
        };
        Ok(Case { recorded, snapshot: &farm.snapshot, loads: &farm.read, knowledge })
    }

    fn policy(&mut self, policy: &PolicyRef) -> Result<Policy, DecodeError> {
        match policy {
            PolicyRef::Known(number) => {
                let found = self.policies.iter().find(|(known, _)| known == number);
                found.map(|(_, policy)| policy.clone()).ok_or(DecodeError::UnknownPolicy(*number))
            }
            PolicyRef::New(json) => {
                let policy = json.policy().map_err(DecodeError::Field)?;
                self.policies.retain(|(number, _)| *number != json.number);
                self.policies.push((json.number, policy.clone()));
                Ok(policy)
            }
        }
    }
}

impl Farm {
    fn new(line: &DecidedJson) -> Result<Self, DecodeError> {
        let count = line.endpoints.len();
        let mut endpoints = Vec::with_capacity(count);
        for ((at, json), expect) in line.endpoints.iter().zip(0..) {
            if *at != expect {
                return Err(DecodeError::UnknownEndpoint(*at));
            }
            endpoints.push(json.endpoint().map_err(DecodeError::Field)?);
        }
        let directory: Arc<[EndpointId]> = endpoints.iter().map(|e| e.info.id.clone()).collect();
        Ok(Self {
            snapshot: Snapshot { endpoints: endpoints.into(), directory, ..Snapshot::empty() },
            rows: vec![EndpointCells::default(); count],
            loads: vec![LoadCells::default(); count],
            read: Vec::with_capacity(count),
        })
    }

    fn change(&mut self, line: &DecidedJson, now: MonoTime) -> Result<(), DecodeError> {
        let snapshot = &mut self.snapshot;
        snapshot.generation = line.generation;
        snapshot.taken_at = now;
        for (at, json) in line.endpoints.iter().filter(|_| !line.base) {
            let place = usize::try_from(*at).ok().and_then(|at| snapshot.endpoints.get_mut(at));
            let place = place.ok_or(DecodeError::UnknownEndpoint(*at))?;
            let conditions = Arc::clone(&place.conditions);
            *place = Endpoint { conditions, ..json.endpoint().map_err(DecodeError::Field)? };
        }
        for (at, conditions) in &line.conditions {
            let place = usize::try_from(*at).ok().and_then(|at| snapshot.endpoints.get_mut(at));
            let conditions = conditions.iter().map(ConditionJson::condition).collect::<Result<_, _>>();
            place.ok_or(DecodeError::UnknownEndpoint(*at))?.conditions =
                conditions.map_err(DecodeError::Field)?;
        }
        if let Some(models) = &line.models {
            snapshot.models = endpoint::pools(models).map_err(DecodeError::Field)?;
            let members = snapshot.models.values().flat_map(|pool| &pool.members);
            if let Some((at, _)) = members.clone().find(|(at, _)| at.get() >= snapshot.endpoints.len()) {
                return Err(DecodeError::UnknownEndpoint(at.0));
            }
        }
        cells::apply(&mut self.rows, &line.farm).map_err(DecodeError::Farm)?;
        for (endpoint, row) in snapshot.endpoints.iter_mut().zip(&self.rows) {
            cells::fill_endpoint(endpoint, row).map_err(DecodeError::Farm)?;
        }
        cells::apply(&mut self.loads, &line.loads).map_err(DecodeError::Loads)?;
        self.read.clear();
        for cells in &self.loads {
            self.read.push(cells::load_of(cells, now).map_err(DecodeError::Loads)?);
        }
        Ok(())
    }
}
