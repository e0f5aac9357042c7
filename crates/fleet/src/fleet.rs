//! The state of the fleet, and the door to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aya_domain::{EndpointId, EndpointUrl, NodeId};

use crate::endpoint::EndpointState;
use crate::health::Rules;
use crate::learning::Learning;
use crate::models::Models;
use crate::node::NodeState;
use crate::{Notice, Params, Target};

/// Everything known about the farm. One writer owns it; see [`Fleet::apply`] and [`Fleet::snapshot`].
#[derive(Debug)]
pub struct Fleet {
    pub(crate) params: Params,
    pub(crate) rules: Rules,
    pub(crate) nodes: BTreeMap<NodeId, NodeState>,
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointState>,
    /// What operators drain; outlives reports, reboots and absence.
    pub(crate) drained: BTreeSet<Target>,
    pub(crate) models: Models,
    pub(crate) generation: u64,
    /// The ids of the last snapshot, until membership changes.
    pub(crate) directory: Option<Arc<[EndpointId]>>,
    /// Pools are out of date.
    pub(crate) models_dirty: bool,
    /// Conditions of GPUs changed, and the endpoints above do not know yet.
    pub(crate) health_dirty: bool,
    /// The endpoint that was last told at each address.
    pub(crate) addresses: BTreeMap<EndpointUrl, EndpointId>,
    /// Endpoints whose address is another one's, as was told.
    pub(crate) twins: BTreeSet<EndpointId>,
    /// What steps taught about the cost of each class of hardware.
    pub(crate) learning: Learning,
    /// Found while a snapshot was built; told with the next event.
    pub(crate) pending: Vec<Notice>,
}

impl Fleet {
    /// A farm without anything.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self {
            params,
            rules: Rules::by_default(),
            nodes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            drained: BTreeSet::new(),
            models: Models::default(),
            generation: 0,
            directory: None,
            models_dirty: false,
            health_dirty: false,
            addresses: BTreeMap::new(),
            twins: BTreeSet::new(),
            learning: Learning::default(),
            pending: Vec::new(),
        }
    }

    /// With other rules about GPUs than the built-in ones.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// With what operators drained in a former life; beyond the limit the rest is left out.
    #[must_use]
    pub fn with_drained(mut self, drained: impl IntoIterator<Item = Target>) -> Self {
        self.drained.extend(drained.into_iter().take(self.params.drains_max));
        self
    }

    /// Endpoints came or went.
    pub(crate) fn membership_changed(&mut self) {
        self.directory = None;
        self.models_dirty = true;
    }
}
