//! The words of the farm: ids, units, time, what an agent reports, what a decision says.
//!
//! Every other crate speaks in these types, so this one depends on nothing and holds no behaviour
//! beyond what a type needs to be impossible to misuse. It never reads a clock, a file, the
//! environment or a random source: time ([`MonoTime`]) and seeds are arguments, everywhere.

mod condition;
mod decision;
mod endpoints;
mod engine;
mod fact;
mod fleet;
mod gpu;
mod gpu_event;
mod gpu_process;
mod id;
mod load;
mod prefix;
mod profile;
mod report;
mod request;
mod seed;
mod service;
mod signal;
mod time;
mod unit;
mod wall;

pub use condition::{Action, Cause, Condition, Trip, speed_under};
pub use decision::{
    Candidate, Chosen, Decision, HoldReason, Misses, Outcome, RefusalReason, Rejection, Terms, Verdict,
};
pub use endpoints::{Conditions, Endpoints, Outline};
pub use engine::{
    AbortPolicy, Capabilities, EngineKind, FirstEvent, HeadersWhen, KvAllocation, Overload, PrefixCache,
    ServedModel, UnknownAbortPolicy, UnknownEngineKind,
};
pub use fact::{Fact, Facts};
pub use fleet::{
    Endpoint, EndpointIndex, EndpointInfo, ForeignLoad, Freshness, Gpu, Health, Node, Phase, Pool, Snapshot,
};
pub use gpu::{GpuInfo, GpuSample, GpuSourceKind, MigSlice, PcieLink};
pub use gpu_event::{GpuEvent, GpuEventKind, GpuEvents};
pub use gpu_process::{GPU_PROCESSES_MAX, GpuProcess, GpuProcesses, ProcessView};
pub use id::{
    BootId, DecisionId, EndpointId, EndpointUrl, GpuUuid, IdError, ModelId, NodeId, PolicyName, RequestId,
    SchedulerId, TenantId,
};
pub use load::{OwnLoad, ResponseTimes};
pub use prefix::PromptPrefix;
pub use profile::{EngineProfile, Learned, LearnedCost, StepCost};
pub use report::{AgentHealth, EngineHealth, EngineReport, GpuReport, Report, ReportKind};
pub use request::{Request, RequestKind};
pub use seed::splitmix64;
pub use service::{Priority, Slo, UnknownPriority};
pub use signal::{Signal, SignalReport, SignalState};
pub use time::{Aged, MonoTime, Reading};
pub use unit::{Bytes, Celsius, Milliwatts, Ratio, Tokens, UnitError};
pub use wall::{WallTime, WallTimeError};
