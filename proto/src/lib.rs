//! The wire between agents and schedulers: `aya.agent.v1`.
//!
//! Owns the contract (`proto/aya/agent/v1/agent.proto`), the code generated from it ([`wire`]) and the
//! conversion to and from the domain's types ([`convert`]). Everything that arrives is hostile until it is
//! converted: a missing or impossible value is a typed error that names the field, never a default. It
//! holds no connections: agent and scheduler own those.

#[cfg(test)]
mod contract;
pub mod convert;
pub mod wire;

pub use convert::{
    AgentMessage, ConvertError, Heard, Limits, Problem, SchedulerMessage, Welcome, agent_message,
    events_message, from_agent, report_from_wire, report_of_message,
};
pub use wire::agent_service_client::AgentServiceClient;
pub use wire::agent_service_server::{AgentService, AgentServiceServer};

/// The largest message either side decodes and encodes, in bytes. A report of 256 GPUs and 256 engines
/// with a few models each is below 200 KB; what is larger is a mistake or an attack.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
