//! Telemetry: the agents' streams in, one fleet writer, snapshots out.

mod grpc;
mod writer;

pub(crate) use grpc::AgentStreams;
pub(crate) use writer::{Drained, FleetHandle, FleetWriter};
