//! The immutable view of the farm that decisions are made on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::{
    AbortPolicy, Action, AgentHealth, BootId, Bytes, Condition, EndpointId, EndpointUrl, Endpoints,
    EngineKind, EngineProfile, GpuInfo, GpuProcesses, GpuSample, GpuUuid, KvAllocation, LearnedCost, ModelId,
    MonoTime, NodeId, PrefixCache, Ratio, Reading, ServedModel, SignalReport, Tokens,
};

/// Where an entity is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Known, but its first complete report is missing.
    Joining,
    Serving,
    /// An operator drains it: running requests finish, new ones go elsewhere.
    Draining,
    /// Its agent no longer names it.
    Gone,
}

/// Whether an entity works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nobody has said yet.
    Unknown,
    Healthy,
    /// Works, but worse than it should.
    Degraded {
        reason: String,
    },
    Unhealthy {
        reason: String,
    },
}

/// How far telemetry about a node can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Reports arrive as promised.
    Fresh,
    /// Three reports are missing: the scheduler's own ledger leads.
    Stale,
    /// Silent for 10 s: only the ledger counts. Never "idle", never a reason to stop relaying.
    Suspect,
}

macro_rules! names {
    ($type:ty { $($pattern:pat => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name used in the API, metrics and tables.
            #[must_use]
            pub const fn as_str(&self) -> &'static str {
                match self { $($pattern => $name),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

names!(Phase { Self::Joining => "joining", Self::Serving => "serving", Self::Draining => "draining", Self::Gone => "gone" });
names!(Health {
    Self::Unknown => "unknown",
    Self::Healthy => "healthy",
    Self::Degraded { .. } => "degraded",
    Self::Unhealthy { .. } => "unhealthy",
});
names!(Freshness { Self::Fresh => "fresh", Self::Stale => "stale", Self::Suspect => "suspect" });

/// The position of an endpoint in one snapshot's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIndex(pub u32);

impl EndpointIndex {
    /// For indexing into a slice parallel to the snapshot's endpoints.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// What changes about an endpoint only when its engine is reconfigured.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointInfo {
    pub id: EndpointId,
    pub node: NodeId,
    pub kind: EngineKind,
    pub url: EndpointUrl,
    pub models: Vec<ServedModel>,
    /// The cost of a step: told by the engine, configured, or a prior from the GPU's name.
    pub profile: EngineProfile,
    /// Where `profile` comes from, for the explanation: `engine`, `config`, `prior:h100-8b`.
    pub profile_source: String,
    /// How `profile` was corrected; `None`: no step of its class was seen.
    pub learned: Option<LearnedCost>,
    /// Sequences per batch, or slots, as the engine tells it.
    pub max_sequences: Option<u32>,
    /// The KV pool as the engine tells it.
    pub kv_capacity: Option<Tokens>,
    /// KV bytes per token, where free VRAM decides the fit.
    pub kv_bytes_per_token: Option<Bytes>,
    pub gpus: Vec<GpuUuid>,
    pub version: Option<String>,
    /// Of its kind, or as its configuration says.
    pub abort: AbortPolicy,
}

impl EndpointInfo {
    /// The KV pool as a fact, where requests share one: a prior from the GPU's name may predict, but must not refuse.
    #[must_use]
    pub fn told_kv_capacity(&self) -> Option<Tokens> {
        if self.kind.capabilities().kv != KvAllocation::Preallocated {
            return None;
        }
        let profile_is_fact = || self.kind == EngineKind::Simulated || self.profile_source == "engine";
        self.kv_capacity.or_else(|| profile_is_fact().then_some(self.profile.kv_capacity))
    }
}

/// Load on an endpoint that is not ours: the last report minus what we had in flight when it was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ForeignLoad {
    /// Foreign requests in the engine's own queue.
    pub waiting: u32,
    /// Foreign requests in the batch.
    pub running: u32,
    /// KV tokens they hold, at the least.
    pub kv_tokens: u64,
}

/// One endpoint in a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub info: Arc<EndpointInfo>,
    pub phase: Phase,
    pub health: Health,
    pub freshness: Freshness,
    /// When the engine was last read; `None`: never.
    pub sampled_at: Option<MonoTime>,
    pub running: Option<Reading<u32>>,
    pub waiting: Option<Reading<u32>>,
    pub kv_used: Option<Reading<Ratio>>,
    pub foreign: ForeignLoad,
    /// How well its prefix cache serves.
    pub prefix_cache: Option<Reading<PrefixCache>>,
    /// Whether each of its readings works; empty if its agent does not say.
    pub signals: Arc<[SignalReport]>,
    /// The least free VRAM over the endpoint's GPUs.
    pub vram_free: Option<Reading<Bytes>>,
    /// What is wrong with it, its GPUs included, the worst first; the engine's own health is `health`.
    pub conditions: Arc<[Condition]>,
    /// How fast it is now, as a share of what its profile says.
    pub speed: Ratio,
}

impl Endpoint {
    /// An endpoint that serves, of which nothing has been read and nothing is known to be wrong.
    #[must_use]
    pub fn unread(info: Arc<EndpointInfo>) -> Self {
        Self {
            info,
            phase: Phase::Serving,
            health: Health::Healthy,
            freshness: Freshness::Fresh,
            sampled_at: None,
            running: None,
            waiting: None,
            kv_used: None,
            foreign: ForeignLoad::default(),
            prefix_cache: None,
            signals: Arc::default(),
            vram_free: None,
            conditions: Arc::default(),
            speed: Ratio::ONE,
        }
    }

    /// The worst condition that keeps new requests away.
    #[must_use]
    pub fn excluded_by(&self) -> Option<&Condition> {
        self.conditions.iter().filter(|c| c.action.excludes()).max_by_key(|c| c.action.severity())
    }

    /// How many requests of ours it may hold at once while it is on trial.
    #[must_use]
    pub fn limited_to(&self) -> Option<u32> {
        let limit = |c: &Condition| if let Action::Limit(most) = c.action { Some(most) } else { None };
        self.conditions.iter().filter_map(limit).min()
    }

    /// The condition that slows it down most.
    #[must_use]
    pub fn slowed_by(&self) -> Option<&Condition> {
        let speed = |c: &&Condition| match c.action {
            Action::Derate(speed) => speed.get(),
            Action::Note | Action::Limit(_) | Action::Drain | Action::Cordon | Action::Fail => 1.0,
        };
        let slowest = self.conditions.iter().min_by(|a, b| speed(a).total_cmp(&speed(b)));
        slowest.filter(|c| matches!(c.action, Action::Derate(_)))
    }
}

/// One GPU in a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    pub info: GpuInfo,
    pub sample: Option<Reading<GpuSample>>,
    /// Shared between snapshots.
    pub processes: Option<Reading<Arc<GpuProcesses>>>,
    pub health: Health,
    /// What is wrong with it, the worst first.
    pub conditions: Arc<[Condition]>,
}

/// One node in a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub id: NodeId,
    pub boot: BootId,
    pub phase: Phase,
    pub health: Health,
    pub freshness: Freshness,
    pub connected: bool,
    pub last_report_at: MonoTime,
    pub agent: AgentHealth,
    pub gpus: Vec<Gpu>,
}

/// The endpoints that serve a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pool {
    /// Members in ascending order with the context length each gives the model.
    pub members: Vec<(EndpointIndex, Option<Tokens>)>,
}

/// The farm at one instant. Readers share it; nobody changes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Counts up by one with every published snapshot.
    pub generation: u64,
    pub taken_at: MonoTime,
    /// In ascending order of id.
    pub endpoints: Endpoints,
    /// The ids of `endpoints`, shared by all snapshots of the same membership, so that a record can name
    /// its candidates without holding a whole snapshot alive.
    pub directory: Arc<[EndpointId]>,
    /// In ascending order of id.
    pub nodes: Vec<Arc<Node>>,
    /// Every model that was ever served since the start, its pool possibly empty.
    pub models: BTreeMap<ModelId, Pool>,
}

impl Snapshot {
    /// A farm without anything.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            generation: 0,
            taken_at: MonoTime::ZERO,
            endpoints: Endpoints::default(),
            directory: Arc::from([]),
            nodes: Vec::new(),
            models: BTreeMap::new(),
        }
    }

    /// The endpoint at a position.
    #[must_use]
    pub fn endpoint(&self, index: EndpointIndex) -> Option<&Endpoint> {
        self.endpoints.get(index.get())
    }

    /// The position of an endpoint.
    #[must_use]
    pub fn index_of(&self, id: &EndpointId) -> Option<EndpointIndex> {
        let at = self.directory.binary_search(id).ok()?;
        u32::try_from(at).ok().map(EndpointIndex)
    }
}
