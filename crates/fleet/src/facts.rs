//! What a notice is about, apart from its sentence: a stable name and the entities it names.

use aya_domain::{EndpointId, GpuUuid, ModelId, NodeId};

use crate::BreakerNotice;
use crate::health::HealthNotice;
use crate::{Notice, Target};

/// How much of an operator's attention a notice deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warning,
    /// Requests are kept away because of it.
    Error,
}

impl Severity {
    /// The name used in the API and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The entities that a notice names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subject<'a> {
    pub node: Option<&'a NodeId>,
    pub endpoint: Option<&'a EndpointId>,
    pub gpu: Option<&'a GpuUuid>,
    pub model: Option<&'a ModelId>,
}

impl<'a> Subject<'a> {
    fn node(node: &'a NodeId) -> Self {
        Self { node: Some(node), ..Self::default() }
    }

    fn endpoint(endpoint: &'a EndpointId) -> Self {
        Self { endpoint: Some(endpoint), ..Self::default() }
    }

    fn gpu(node: &'a NodeId, gpu: &'a GpuUuid) -> Self {
        Self { gpu: Some(gpu), ..Self::node(node) }
    }

    fn target(target: &'a Target) -> Self {
        match target {
            Target::Node(node) => Self::node(node),
            Target::Endpoint(endpoint) => Self::endpoint(endpoint),
        }
    }
}

impl Notice {
    /// A stable name of what happened.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NodeJoined { .. } => "node_joined",
            Self::NodeRebooted { .. } => "node_rebooted",
            Self::NodeDisconnected { .. } => "node_disconnected",
            Self::NodeStale { .. } => "node_stale",
            Self::NodeSuspect { .. } => "node_suspect",
            Self::NodeFresh { .. } => "node_fresh",
            Self::NodeForgotten { .. } => "node_forgotten",
            Self::DuplicateNodeId { .. } => "duplicate_node_id",
            Self::GpusLost { .. } => "gpus_unreadable",
            Self::GpusBack { .. } => "gpus_readable",
            Self::Health(HealthNotice::Raised { .. }) => "health_raised",
            Self::Health(HealthNotice::Ended { .. }) => "health_ended",
            Self::Health(HealthNotice::Restored { .. }) => "health_restored",
            Self::Health(HealthNotice::Braked { .. }) => "health_braked",
            Self::Breaker(notice) => notice.kind(),
            Self::GpuEvent { .. } => "gpu_event",
            Self::EndpointJoined { .. } => "endpoint_joined",
            Self::EngineUp { .. } => "engine_up",
            Self::EngineDown { .. } => "engine_down",
            Self::EndpointGone { .. } => "endpoint_gone",
            Self::EndpointMoved { .. } => "endpoint_moved",
            Self::DuplicateEndpointId { .. } => "duplicate_endpoint_id",
            Self::SameEngine { .. } => "same_engine",
            Self::ReportIgnored { .. } => "report_ignored",
            Self::ReportRefused { .. } => "report_refused",
            Self::SequenceGap { .. } => "sequence_gap",
            Self::Drained { .. } => "drained",
            Self::Undrained { .. } => "undrained",
            Self::UnknownTarget { .. } => "unknown_target",
            Self::DrainLimit { .. } => "drain_limit",
            Self::ModelLimit { .. } => "model_limit",
        }
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        match self {
            Self::NodeJoined { node }
            | Self::NodeRebooted { node }
            | Self::NodeDisconnected { node }
            | Self::NodeStale { node, .. }
            | Self::NodeSuspect { node, .. }
            | Self::NodeFresh { node }
            | Self::NodeForgotten { node }
            | Self::DuplicateNodeId { node }
            | Self::GpusLost { node, .. }
            | Self::GpusBack { node, .. }
            | Self::ReportIgnored { node, .. }
            | Self::ReportRefused { node, .. }
            | Self::SequenceGap { node, .. } => Subject::node(node),
            Self::Health(
                HealthNotice::Raised { node, gpu, .. }
                | HealthNotice::Ended { node, gpu, .. }
                | HealthNotice::Restored { node, gpu, .. },
            )
            | Self::GpuEvent { node, gpu, .. } => Subject::gpu(node, gpu),
            Self::EndpointJoined { endpoint, node } | Self::EndpointMoved { endpoint, to: node, .. } => {
                Subject { node: Some(node), ..Subject::endpoint(endpoint) }
            }
            Self::DuplicateEndpointId { endpoint, ignored, .. } => {
                Subject { node: Some(ignored), ..Subject::endpoint(endpoint) }
            }
            Self::SameEngine { endpoint, .. } => Subject::endpoint(endpoint),
            Self::Breaker(notice) => Subject::endpoint(notice.endpoint()),
            Self::Health(HealthNotice::Braked { endpoint, .. })
            | Self::EngineUp { endpoint }
            | Self::EngineDown { endpoint, .. }
            | Self::EndpointGone { endpoint } => Subject::endpoint(endpoint),
            Self::Drained { target }
            | Self::Undrained { target }
            | Self::UnknownTarget { target }
            | Self::DrainLimit { target, .. } => Subject::target(target),
            Self::ModelLimit { model, .. } => Subject { model: Some(model), ..Subject::default() },
        }
    }

    /// How much attention it deserves.
    #[must_use]
    pub fn severity(&self) -> Severity {
        let excludes = |notice: &HealthNotice| matches!(notice, HealthNotice::Raised { action, .. } if action.excludes());
        if let Self::Health(notice) = self
            && excludes(notice)
        {
            return Severity::Error;
        }
        if let Self::Breaker(BreakerNotice::Ejected { .. } | BreakerNotice::Wedged { .. }) = self {
            return Severity::Error;
        }
        if self.is_warning() { Severity::Warning } else { Severity::Info }
    }
}
