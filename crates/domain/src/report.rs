//! What an agent says about its node, with ages instead of times.
//!
//! A FULL report is authoritative for membership: an engine or GPU it does not name is gone. A DELTA
//! carries whole engines and GPUs, but only those read anew since the last report.

use std::time::Duration;

use crate::{
    AbortPolicy, Aged, BootId, Bytes, EndpointId, EndpointUrl, EngineKind, EngineProfile, GpuInfo,
    GpuProcesses, GpuSample, GpuSourceKind, GpuUuid, NodeId, PrefixCache, Ratio, ServedModel, SignalReport,
    Tokens,
};

/// Whether a report names everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    Full,
    Delta,
}

/// One message of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub node: NodeId,
    pub boot: BootId,
    /// Counts up by one per report of a boot to one scheduler, over all streams to it; a repeated or lower number is ignored.
    pub sequence: u64,
    pub kind: ReportKind,
    pub agent: AgentHealth,
    pub gpus: Vec<GpuReport>,
    pub engines: Vec<EngineReport>,
}

/// How well the agent itself can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentHealth {
    pub version: String,
    pub gpu_source: GpuSourceKind,
    pub driver_version: Option<String>,
    /// Why GPUs cannot be read; `None` while they can.
    pub gpu_error: Option<String>,
    /// How often this agent means to report; staleness counts in this unit.
    pub period: Duration,
}

/// One GPU in a report.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuReport {
    pub info: GpuInfo,
    /// The last reading; `None` before the first.
    pub sample: Option<Aged<GpuSample>>,
    /// Read every 5 s; `None` before the first time.
    pub processes: Option<Aged<GpuProcesses>>,
}

/// Whether an engine can take requests, by its own health endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineHealth {
    Ready,
    /// Up, but the model is not loaded yet.
    Loading,
    /// A probe timed out while the engine was full of work: alive as far as anyone knows.
    Busy,
    Down {
        reason: String,
    },
}

/// One engine in a report. Every reading is a value with its age, or absent.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineReport {
    pub id: EndpointId,
    pub kind: EngineKind,
    /// Where the scheduler reaches it.
    pub url: EndpointUrl,
    pub health: Aged<EngineHealth>,
    pub version: Option<String>,
    pub models: Option<Aged<Vec<ServedModel>>>,
    /// Requests in the batch.
    pub running: Option<Aged<u32>>,
    /// Requests in the engine's own queue.
    pub waiting: Option<Aged<u32>>,
    pub kv_used: Option<Aged<Ratio>>,
    pub kv_capacity: Option<Aged<Tokens>>,
    /// Sequences per batch, or slots.
    pub max_sequences: Option<Aged<u32>>,
    pub prefix_cache: Option<Aged<PrefixCache>>,
    /// A count of the engine's own that grows with every step of its work (tokens, iterations), also in the middle of
    /// a request. Its size means nothing.
    pub work: Option<Aged<u64>>,
    /// The cost of a step where the engine or the configuration tells it.
    pub profile: Option<EngineProfile>,
    /// KV bytes of one token, where the engine allocates on demand and the configuration tells it.
    pub kv_bytes_per_token: Option<Bytes>,
    /// What to do when a client leaves, where the configuration says so.
    pub abort: Option<AbortPolicy>,
    /// The GPUs it runs on; empty if unknown.
    pub gpus: Vec<GpuUuid>,
    /// Whether each reading works; empty from an agent that does not say.
    pub signals: Vec<SignalReport>,
}
