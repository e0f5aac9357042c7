//! Everything that can happen to the fleet.

use std::fmt;

use aya_domain::{EndpointId, GpuEvents, GpuUuid, MonoTime, NodeId, Report};

use crate::ObservedSteps;
use crate::breaker::Outcomes;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An agent said something; `received_at` is when its message was read.
    Report { report: Box<Report>, received_at: MonoTime },
    /// A node's stream ended, whose last report was received at `at`: of a node that was heard since then it was a
    /// leftover.
    Disconnected { node: NodeId, at: MonoTime },
    /// An agent told what cannot wait for its next report; `received_at` is when its message was read.
    GpuEvents { events: GpuEvents, received_at: MonoTime },
    /// An operator wants no new requests there.
    Drain(Target),
    /// An operator takes a drain back.
    Undrain(Target),
    /// An operator says that a GPU is good again, whatever the rules found.
    ClearGpu(GpuUuid),
    /// What this scheduler has in flight, endpoint by endpoint. An endpoint that is not named is unchanged.
    OwnLoad { at: MonoTime, loads: Vec<(EndpointId, OwnInFlight)> },
    /// What came of requests, endpoint by endpoint; due every 50 ms while requests run.
    Outcomes { at: MonoTime, all: Vec<(EndpointId, Outcomes)> },
    /// A synthetic generation on an endpoint ended.
    Probed { endpoint: EndpointId, ok: bool },
    /// What the engines' iterations took since the last such event, endpoint by endpoint.
    Steps { steps: Vec<(EndpointId, ObservedSteps)> },
    /// Time passed; due at least once per second.
    Tick,
}

/// What an operator drains.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Node(NodeId),
    Endpoint(EndpointId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::Endpoint(id) => write!(f, "endpoint {id}"),
        }
    }
}

/// What this scheduler has in flight on one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnInFlight {
    /// Requests sent and not finished.
    pub in_flight: u32,
    /// Those of them that stream tokens.
    pub decoding: u32,
    /// Prompt and streamed tokens of the decoding ones.
    pub kv_tokens: u64,
}
