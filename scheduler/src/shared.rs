//! What every part of the scheduler shares: configuration, clock, the published view, ledger room, metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aya_admission::Pressure;
use aya_config::SchedulerConfig;
use aya_domain::{EndpointId, ModelId, PolicyName};
use aya_observe::Clock;
use aya_placement::Policy;
use aya_proxy::PrefixKey;

use crate::events::EventLog;
use crate::journal::JournalSender;
use crate::memory::PressureNow;
use crate::metrics::Metrics;
use crate::models::ModelState;
use crate::pipeline::admit::Promises;
use crate::room::WaitingRoom;
use crate::state::StateFile;
use crate::stopping::Stopping;
use crate::tenants::Tenants;
use crate::view::FarmView;

/// One per scheduler, behind an `Arc` in every task.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SchedulerConfig,
    pub(crate) clock: Clock,
    pub(crate) view: ArcSwap<FarmView>,
    pub(crate) room: Arc<WaitingRoom>,
    pub(crate) tenants: Tenants,
    pub(crate) promises: Promises,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) journal: JournalSender,
    pub(crate) events: EventLog,
    pub(crate) policies: BTreeMap<PolicyName, Policy>,
    pub(crate) default_policy: Policy,
    /// Of models that have one of their own.
    pub(crate) model_policies: BTreeMap<ModelId, Policy>,
    /// Client-facing model name -> the model that is asked for instead.
    pub(crate) aliases: BTreeMap<ModelId, ModelId>,
    /// Under which prompts are hashed; of this process alone.
    pub(crate) prefix_key: PrefixKey,
    /// Sent to every engine as `Authorization: Bearer`, if configured.
    pub(crate) upstream_authorization: Option<http::HeaderValue>,
    pub(crate) state: StateFile,
    /// Of engines with keys of their own.
    pub(crate) engine_authorization: BTreeMap<EndpointId, http::HeaderValue>,
    pub(crate) stopping: Stopping,
    /// What is given up for want of memory or connections.
    pub(crate) pressure: PressureNow,
    /// What requests of models outside the fleet are counted under.
    pub(crate) unknown_model: Arc<ModelState>,
}

impl Shared {
    /// The names that a client can ask for: served models and aliases of known ones, in order.
    pub(crate) fn known_models(&self, view: &FarmView) -> Vec<ModelId> {
        let models = &view.snapshot.models;
        let served = models.iter().filter(|(_, pool)| !pool.members.is_empty()).map(|(id, _)| id);
        let aliased =
            self.aliases.iter().filter(|(_, target)| models.contains_key(*target)).map(|(id, _)| id);
        let mut names: Vec<ModelId> = served.chain(aliased).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// Whether every answer is the last one of its connection.
    pub(crate) fn closes_connections(&self) -> bool {
        self.stopping.is_draining() || self.pressure.get() >= Pressure::NoKeepAlive
    }

    /// What is wrong with this scheduler itself, in sentences.
    pub(crate) fn problems(&self) -> Vec<&'static str> {
        let log =
            (self.metrics.log_healthy.get() == 0).then_some("decision records cannot be written to disk");
        let pressure = self.pressure.get();
        let pressure = (pressure > Pressure::None).then(|| pressure.as_str());
        log.into_iter().chain(pressure).collect()
    }

    /// What an engine is shown, if anything is configured for it.
    pub(crate) fn authorization(&self, endpoint: &EndpointId) -> Option<&http::HeaderValue> {
        self.engine_authorization.get(endpoint).or(self.upstream_authorization.as_ref())
    }

    /// The policy of requests for a model that ask for none.
    pub(crate) fn policy_of(&self, model: &ModelId) -> &Policy {
        self.model_policies.get(model).unwrap_or(&self.default_policy)
    }
}
