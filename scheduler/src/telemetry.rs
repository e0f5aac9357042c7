//! Telemetry: the agents' streams in, one fleet writer, snapshots out.

mod grpc;
mod said;
mod serve;
mod writer;

pub(crate) use grpc::AgentStreams;
pub(crate) use serve::serve_agents;
pub(crate) use writer::{Drained, FleetHandle, FleetWriter};
