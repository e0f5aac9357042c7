//! What the health rules did, for the log, the event list and the counters.

use std::fmt;

use aya_domain::{Action, Cause, EndpointId, GpuUuid, NodeId};

use super::rules::Rule;
use super::state::{Change, EndedBy};

/// One thing that a rule did.
#[derive(Debug, Clone, PartialEq)]
pub enum HealthNotice {
    /// A rule acts, or acts harder than before.
    Raised { node: NodeId, gpu: GpuUuid, cause: Cause, action: Action },
    /// Its cause has gone. On probation, the GPU is given requests slowly at first.
    Ended { node: NodeId, gpu: GpuUuid, cause: Cause, by: EndedBy, probation: bool },
    /// The probation is over.
    Restored { node: NodeId, gpu: GpuUuid, cause: Cause },
    /// A rule wants an endpoint out, but too much of its pool would be: it is only slowed down.
    Braked { endpoint: EndpointId, cause: Cause, wanted: Action },
}

impl HealthNotice {
    pub(crate) fn of(node: &NodeId, gpu: &GpuUuid, change: Change) -> Self {
        let (node, gpu) = (node.clone(), gpu.clone());
        match change {
            Change::Raised { cause, action } => Self::Raised { node, gpu, cause, action },
            Change::Ended { cause, by, probation } => Self::Ended { node, gpu, cause, by, probation },
            Change::Restored { cause } => Self::Restored { node, gpu, cause },
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn cause(&self) -> &Cause {
        match self {
            Self::Raised { cause, .. }
            | Self::Ended { cause, .. }
            | Self::Restored { cause, .. }
            | Self::Braked { cause, .. } => cause,
        }
    }

    /// What was done: an action of a rule, or the end of one.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Raised { action, .. } => action.as_str(),
            Self::Ended { .. } => "end",
            Self::Restored { .. } => "restore",
            Self::Braked { .. } => "brake",
        }
    }

    /// No news: a GPU at its power limit works as it should.
    pub(crate) fn is_normal(&self) -> bool {
        Rule::of(self.cause()) == Some(Rule::PowerCap)
    }

    /// Whether an operator should look at it.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        match self {
            Self::Raised { action, .. } => action.severity() > 0,
            Self::Braked { .. } => true,
            Self::Ended { .. } | Self::Restored { .. } => false,
        }
    }
}

impl fmt::Display for HealthNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised { node, gpu, cause, action } => {
                write!(f, "gpu {gpu} of node {node}: {action}, because of {}: {cause}", cause.rule())
            }
            Self::Ended { node, gpu, cause, by, probation } => {
                let by = match by {
                    EndedBy::GoodReadings => "its readings are good again",
                    EndedBy::Reset => "it was reset",
                    EndedBy::Operator => "an operator cleared it",
                };
                let then = if *probation { ", on probation" } else { "" };
                write!(f, "gpu {gpu} of node {node}: {} ended, {by}{then} ({cause})", cause.rule())
            }
            Self::Restored { node, gpu, cause } => {
                write!(f, "gpu {gpu} of node {node}: probation after {} is over", cause.rule())
            }
            Self::Braked { endpoint, cause, wanted } => write!(
                f,
                "endpoint {endpoint} stays in although {} wants it out ({wanted}: {cause}): too much of a pool would be out for causes that many GPUs share",
                cause.rule()
            ),
        }
    }
}
