//! What an event did, and what an operator should read about it.

use std::fmt;
use std::time::Duration;

use aya_domain::{EndpointId, EndpointUrl, GpuEventKind, GpuUuid, ModelId, NodeId};

use crate::Target;
use crate::breaker::BreakerNotice;
use crate::health::HealthNotice;

/// The outcome of one event.
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use]
pub struct Effects {
    /// A new snapshot would differ.
    pub changed: bool,
    /// The agent has to send a FULL report: a DELTA has nothing to rest on.
    pub resend_full: bool,
    /// The target of a drain or undrain is not known (404).
    pub unknown_target: bool,
    /// As many drains are remembered as may be: this one was not taken (503).
    pub drain_refused: bool,
    /// In the order in which they came up.
    pub notices: Vec<Notice>,
}

/// Why a report was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Repeated or overtaken.
    OldSequence { got: u64, last: u64 },
    /// From a start of the agent that a newer one replaced.
    OldBoot,
    /// A DELTA of a node or boot that never sent a FULL.
    NoFullYet,
}

/// Which limit a report ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NodeLimit { max: usize },
    EndpointLimit { max: usize },
}

/// One thing worth a log line.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    NodeJoined {
        node: NodeId,
    },
    /// The agent started anew.
    NodeRebooted {
        node: NodeId,
    },
    NodeDisconnected {
        node: NodeId,
    },
    NodeStale {
        node: NodeId,
        silent: Duration,
    },
    NodeSuspect {
        node: NodeId,
        silent: Duration,
    },
    /// It reports again.
    NodeFresh {
        node: NodeId,
    },
    /// Silent for so long, and so unused, that it was removed.
    NodeForgotten {
        node: NodeId,
    },
    /// Two live agents use one id; only the newer one is heard.
    DuplicateNodeId {
        node: NodeId,
    },
    /// The GPUs of a node cannot be read any more.
    GpusLost {
        node: NodeId,
        reason: String,
    },
    /// They can be read; `again`: they could before.
    GpusBack {
        node: NodeId,
        again: bool,
    },
    /// A health rule did something.
    Health(HealthNotice),
    /// The breaker of an endpoint did something.
    Breaker(BreakerNotice),
    /// The driver or the agent told of something that cannot wait.
    GpuEvent {
        node: NodeId,
        gpu: GpuUuid,
        kind: GpuEventKind,
    },
    EndpointJoined {
        endpoint: EndpointId,
        node: NodeId,
    },
    EngineUp {
        endpoint: EndpointId,
    },
    EngineDown {
        endpoint: EndpointId,
        reason: String,
    },
    /// Its agent no longer names it.
    EndpointGone {
        endpoint: EndpointId,
    },
    EndpointMoved {
        endpoint: EndpointId,
        from: NodeId,
        to: NodeId,
    },
    /// Two nodes name one endpoint id; the first keeps it.
    DuplicateEndpointId {
        endpoint: EndpointId,
        owner: NodeId,
        ignored: NodeId,
    },
    /// Two endpoints have one address: the load of one engine is counted twice.
    SameEngine {
        endpoint: EndpointId,
        other: EndpointId,
        url: EndpointUrl,
    },
    ReportIgnored {
        node: NodeId,
        reason: Ignored,
    },
    ReportRefused {
        node: NodeId,
        reason: Refused,
    },
    /// Reports were lost on the way; a FULL one was asked for.
    SequenceGap {
        node: NodeId,
        missing: u64,
    },
    Drained {
        target: Target,
    },
    Undrained {
        target: Target,
    },
    UnknownTarget {
        target: Target,
    },
    DrainLimit {
        target: Target,
        max: usize,
    },
    /// Too many models are served; this one gets no requests.
    ModelLimit {
        model: ModelId,
        max: usize,
    },
}

impl Notice {
    /// Whether an operator should look at it; else it is for the record.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        match self {
            Self::Health(notice) => notice.is_warning(),
            Self::Breaker(notice) => notice.is_warning(),
            Self::NodeStale { .. }
            | Self::NodeSuspect { .. }
            | Self::NodeForgotten { .. }
            | Self::DuplicateNodeId { .. }
            | Self::GpusLost { .. }
            | Self::GpuEvent { .. }
            | Self::EngineDown { .. }
            | Self::DuplicateEndpointId { .. }
            | Self::SameEngine { .. }
            | Self::ReportRefused { .. }
            | Self::DrainLimit { .. }
            | Self::ModelLimit { .. } => true,
            Self::NodeJoined { .. }
            | Self::NodeRebooted { .. }
            | Self::NodeDisconnected { .. }
            | Self::NodeFresh { .. }
            | Self::GpusBack { .. }
            | Self::EndpointJoined { .. }
            | Self::EngineUp { .. }
            | Self::EndpointGone { .. }
            | Self::EndpointMoved { .. }
            | Self::ReportIgnored { .. }
            | Self::SequenceGap { .. }
            | Self::Drained { .. }
            | Self::Undrained { .. }
            | Self::UnknownTarget { .. } => false,
        }
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldSequence { got, last } => write!(f, "its sequence number {got} is not above {last}"),
            Self::OldBoot => f.write_str("a newer start of the agent replaced the one it comes from"),
            Self::NoFullYet => f.write_str("no full report came before it"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeLimit { max } => write!(f, "there are already {max} nodes, the most allowed"),
            Self::EndpointLimit { max } => write!(f, "it would exceed {max} endpoints, the most allowed"),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeJoined { node } => write!(f, "node {node} joined"),
            Self::NodeRebooted { node } => write!(f, "the agent of node {node} started anew"),
            Self::NodeDisconnected { node } => write!(f, "node {node} disconnected; its last readings stay"),
            Self::NodeStale { node, silent } => write!(f, "node {node} is stale: no report for {silent:.1?}"),
            Self::NodeSuspect { node, silent } => {
                write!(f, "node {node} is suspect: no report for {silent:.1?}")
            }
            Self::NodeFresh { node } => write!(f, "node {node} reports again"),
            Self::NodeForgotten { node } => write!(f, "node {node} was silent for too long and is forgotten"),
            Self::DuplicateNodeId { node } => {
                write!(f, "two agents call themselves node {node}; only the newer one is heard")
            }
            Self::GpusLost { node, reason } => write!(f, "the gpus of node {node} cannot be read: {reason}"),
            Self::GpusBack { node, again } => {
                let again = if *again { " again" } else { "" };
                write!(f, "the gpus of node {node} can be read{again}")
            }
            Self::Health(notice) => notice.fmt(f),
            Self::Breaker(notice) => notice.fmt(f),
            Self::GpuEvent { node, gpu, kind } => write!(f, "gpu {gpu} of node {node}: {kind}"),
            Self::EndpointJoined { endpoint, node } => write!(f, "endpoint {endpoint} joined on node {node}"),
            Self::EngineUp { endpoint } => write!(f, "endpoint {endpoint} is ready"),
            Self::EngineDown { endpoint, reason } => write!(f, "endpoint {endpoint} is not ready: {reason}"),
            Self::EndpointGone { endpoint } => {
                write!(f, "endpoint {endpoint} is gone: its agent no longer names it")
            }
            Self::EndpointMoved { endpoint, from, to } => {
                write!(f, "endpoint {endpoint} moved from node {from} to node {to}")
            }
            Self::DuplicateEndpointId { endpoint, owner, ignored } => {
                write!(
                    f,
                    "endpoint {endpoint} belongs to node {owner}; the one of node {ignored} is not used"
                )
            }
            Self::SameEngine { endpoint, other, url } => write!(
                f,
                "endpoints {endpoint} and {other} are one engine, {url}: its load is counted twice; list it on one node only"
            ),
            Self::ReportIgnored { node, reason } => {
                write!(f, "a report of node {node} was ignored: {reason}")
            }
            Self::ReportRefused { node, reason } => {
                write!(f, "a report of node {node} was refused: {reason}")
            }
            Self::SequenceGap { node, missing } => {
                write!(f, "{missing} reports of node {node} were lost; a full one was asked for")
            }
            Self::Drained { target } => write!(f, "{target} is draining"),
            Self::Undrained { target } => write!(f, "{target} is no longer draining"),
            Self::UnknownTarget { target } => write!(f, "{target} is not known"),
            Self::DrainLimit { target, max } => {
                write!(f, "{target} was not drained: {max} drains are the most allowed")
            }
            Self::ModelLimit { model, max } => {
                write!(f, "model {model} gets no requests: {max} models are the most allowed")
            }
        }
    }
}
