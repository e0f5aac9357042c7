//! What is known about one endpoint.
//!
//! Facts (models, limits, cost) outlive a report that does not repeat them, and a restart of the agent; load
//! readings are what the last report said. Health is only ever what the engine's own probe told.

use std::sync::Arc;

use aya_domain::{
    AbortPolicy, Aged, Bytes, Condition, Endpoint, EndpointInfo, EngineHealth, EngineKind, EngineProfile,
    EngineReport, ForeignLoad, Freshness, GpuUuid, Health, MonoTime, NodeId, Phase, PrefixCache, Ratio,
    Reading, SignalReport, Tokens, speed_under,
};
use aya_estimate::prior;

use crate::Params;
use crate::breaker::{Breaker, Heartbeat};
use crate::foreign::{Load, foreign};
use crate::node::Gpus;
use crate::own::OwnHistory;

/// One endpoint between two reports.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) info: Arc<EndpointInfo>,
    /// The cost that the engine told; else the profile is a prior for `prior_key`.
    told: Option<EngineProfile>,
    pub(crate) prior_key: (Option<String>, usize),
    /// The profile and its source before anything learned corrects it.
    pub(crate) base: (EngineProfile, String),
    pub(crate) health: Health,
    loading: bool,
    /// Its agent no longer names it; it stays until our requests on it are done.
    pub(crate) gone: bool,
    probed_at: MonoTime,
    load: Load,
    prefix_cache: Option<Reading<PrefixCache>>,
    signals: Arc<[SignalReport]>,
    foreign: ForeignLoad,
    pub(crate) own: OwnHistory,
    vram_free: Option<Reading<Bytes>>,
    /// As the rules left them after the last event.
    pub(crate) conditions: Arc<[Condition]>,
    /// What its requests told.
    pub(crate) breaker: Breaker,
    /// What its engine's own counts tell of its work.
    pub(crate) heartbeat: Heartbeat,
    /// The conditions that follow from it.
    pub(crate) watched: Arc<[Condition]>,
    /// Its GPUs as they were before one was lost: the places in the list of those that stay may differ then.
    pub(crate) stands_on: Vec<GpuUuid>,
}

/// What a report changed about an endpoint, as far as others must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) models: bool,
    pub(crate) health: bool,
}

impl EndpointState {
    /// An endpoint as its first report describes it.
    pub(crate) fn new(
        node: &NodeId,
        report: EngineReport,
        gpus: &Gpus,
        received_at: MonoTime,
        params: &Params,
    ) -> Self {
        let (name, count) = gpus.beneath(&report.gpus);
        let told = report.profile;
        let (profile, profile_source) = profile_of(told, name, count);
        let prior_key = (name.map(str::to_owned), count);
        let base = (profile, profile_source.clone());
        let info = EndpointInfo {
            id: report.id.clone(),
            node: node.clone(),
            kind: report.kind,
            url: report.url.clone(),
            models: report.models.as_ref().map(|models| models.value.clone()).unwrap_or_default(),
            profile,
            profile_source,
            learned: None,
            max_sequences: report.max_sequences.map(|aged| aged.value),
            kv_capacity: report.kv_capacity.map(|aged| aged.value),
            kv_bytes_per_token: report.kv_bytes_per_token,
            gpus: report.gpus.clone(),
            version: report.version.clone(),
            abort: abort_policy(report.kind, report.abort),
        };
        let mut state = Self {
            info: Arc::new(info),
            told,
            prior_key,
            base,
            health: Health::Unknown,
            loading: false,
            gone: false,
            probed_at: received_at,
            load: Load::default(),
            prefix_cache: None,
            signals: Arc::default(),
            foreign: ForeignLoad::default(),
            own: OwnHistory::default(),
            vram_free: None,
            conditions: Arc::from([]),
            breaker: Breaker::default(),
            heartbeat: Heartbeat::default(),
            watched: Arc::from([]),
            stands_on: Vec::new(),
        };
        let _ = state.apply(node, report, gpus, received_at, params);
        state
    }

    /// Takes a report of this endpoint's engine.
    pub(crate) fn apply(
        &mut self,
        node: &NodeId,
        report: EngineReport,
        gpus: &Gpus,
        received_at: MonoTime,
        params: &Params,
    ) -> Changed {
        let was_gone = std::mem::replace(&mut self.gone, false);
        let health = self.apply_health(&report.health, received_at);
        self.load = Load {
            running: report.running.map(|aged| aged.received(received_at)),
            waiting: report.waiting.map(|aged| aged.received(received_at)),
            kv_used: report.kv_used.map(|aged| aged.received(received_at)),
        };
        let work = report.work.map(|aged| aged.received(received_at));
        self.heartbeat.take(work, self.load.kv_used, self.breaker.last());
        self.prefix_cache = report.prefix_cache.map(|aged| aged.received(received_at));
        if *self.signals != *report.signals {
            self.signals = report.signals.as_slice().into();
        }
        self.told = report.profile.or(self.told);
        let models = self.apply_facts(node, report, gpus) || was_gone;
        self.settle(params);
        Changed { models, health }
    }

    fn apply_health(&mut self, told: &Aged<EngineHealth>, received_at: MonoTime) -> bool {
        self.probed_at = received_at.before(told.age);
        let was_loading = std::mem::replace(&mut self.loading, told.value == EngineHealth::Loading);
        let health = match &told.value {
            EngineHealth::Ready => Health::Healthy,
            EngineHealth::Loading => Health::Unhealthy { reason: "loading".to_owned() },
            // Too busy to answer a probe: no news about its health, except that it lives.
            EngineHealth::Busy => match &self.health {
                Health::Unknown => Health::Healthy,
                // Down and then busy: it works on requests, and its breaker sees to the rest.
                Health::Unhealthy { .. } if !was_loading => Health::Healthy,
                known @ (Health::Healthy | Health::Degraded { .. } | Health::Unhealthy { .. }) => {
                    known.clone()
                }
            },
            EngineHealth::Down { reason } => Health::Unhealthy { reason: reason.clone() },
        };
        let changed = health != self.health;
        self.health = health;
        changed
    }

    /// Replaces the shared description if it changed; whether the list of models did.
    fn apply_facts(&mut self, node: &NodeId, report: EngineReport, gpus: &Gpus) -> bool {
        let old = &*self.info;
        let models = report.models.map(|aged| aged.value).filter(|models| *models != old.models);
        let max_sequences = report.max_sequences.map(|aged| aged.value).or(old.max_sequences);
        let kv_capacity = report.kv_capacity.map(|aged| aged.value).or(old.kv_capacity);
        let version = report.version.filter(|version| old.version.as_ref() != Some(version));
        let profile = self.new_profile(&report.gpus, gpus);
        let abort = abort_policy(report.kind, report.abort);
        let same = models.is_none()
            && version.is_none()
            && profile.is_none()
            && old.node == *node
            && old.kind == report.kind
            && old.abort == abort
            && old.url == report.url
            && old.max_sequences == max_sequences
            && old.kv_capacity == kv_capacity
            && old.kv_bytes_per_token == report.kv_bytes_per_token
            && old.gpus == report.gpus;
        if same {
            return false;
        }
        let models_changed = models.is_some();
        let info = Arc::make_mut(&mut self.info);
        info.node = node.clone();
        info.kind = report.kind;
        info.abort = abort;
        info.url = report.url;
        info.max_sequences = max_sequences;
        info.kv_capacity = kv_capacity;
        info.kv_bytes_per_token = report.kv_bytes_per_token;
        info.gpus = report.gpus;
        if let Some(models) = models {
            info.models = models;
        }
        if version.is_some() {
            info.version = version;
        }
        if let Some((key, base)) = profile {
            // What was learned belonged to the old one; the next tick looks what the new class knows.
            self.prior_key = key;
            self.base = base;
            info.profile = self.base.0;
            info.profile_source.clone_from(&self.base.1);
            info.learned = None;
        }
        models_changed
    }

    /// The profile and where it is from, if it is another than before.
    #[expect(clippy::type_complexity, reason = "used once, right below its only caller")]
    fn new_profile(
        &self,
        uuids: &[GpuUuid],
        gpus: &Gpus,
    ) -> Option<((Option<String>, usize), (EngineProfile, String))> {
        let (name, count) = gpus.beneath(uuids);
        let key_is_same = self.prior_key.0.as_deref() == name && self.prior_key.1 == count;
        let same = match &self.told {
            Some(told) => self.base.1 == SOURCE_ENGINE && *told == self.base.0,
            None => key_is_same,
        };
        (!same).then(|| ((name.map(str::to_owned), count), profile_of(self.told, name, count)))
    }

    /// Works out anew what is foreign in the last reading.
    fn settle(&mut self, params: &Params) {
        if let Some(load) = foreign(&self.load, self.kv_pool(), &self.own, params.own_window) {
            self.foreign = load;
        }
    }

    /// The KV pool that `kv_used` is a share of; a prior's guess does not count.
    fn kv_pool(&self) -> Option<Tokens> {
        self.info.kv_capacity.or(self.told.map(|profile| profile.kv_capacity))
    }

    /// Notes what is ours; whether the foreign load changed by it. A reading is settled only once our own load is
    /// known for its whole window, so the notes right after a report still correct it.
    pub(crate) fn note_own(&mut self, at: MonoTime, own: crate::OwnInFlight, params: &Params) -> bool {
        let unsettled = self.load.unsettled(self.own.noted_at(), params.own_window);
        self.own.note(at, own);
        let before = self.foreign;
        if unsettled {
            self.settle(params);
        }
        self.foreign != before
    }

    /// Reads the free VRAM anew from its node's GPUs.
    pub(crate) fn look_at_gpus(&mut self, gpus: &Gpus, one_is_lost: bool) {
        if !one_is_lost || self.stands_on.is_empty() {
            self.stands_on.clone_from(&self.info.gpus);
        }
        self.vram_free = gpus.least_free(&self.info.gpus);
    }

    /// The share of its speed that its GPUs run at.
    pub(crate) fn speed(&self) -> Ratio {
        speed_under(&self.conditions)
    }

    /// Whether everything that runs there is ours, as far as is known.
    pub(crate) const fn has_no_foreign_load(&self) -> bool {
        self.foreign.waiting == 0 && self.foreign.running == 0
    }

    /// The view of it in a snapshot.
    pub(crate) fn view(&self, freshness: Freshness, draining: bool) -> Endpoint {
        let phase = match (self.gone, draining, self.loading) {
            (true, _, _) => Phase::Gone,
            (false, true, _) => Phase::Draining,
            (false, false, true) => Phase::Joining,
            (false, false, false) => Phase::Serving,
        };
        let conditions = self.all_conditions();
        Endpoint {
            info: Arc::clone(&self.info),
            phase,
            health: self.health.clone(),
            freshness,
            sampled_at: self.load.sampled_at().or(Some(self.probed_at)),
            running: self.load.running,
            waiting: self.load.waiting,
            kv_used: self.load.kv_used,
            foreign: self.foreign,
            prefix_cache: self.prefix_cache,
            signals: Arc::clone(&self.signals),
            vram_free: self.vram_free,
            speed: speed_under(&conditions),
            conditions,
        }
    }

    /// Of its GPUs and of its requests, the worst first.
    fn all_conditions(&self) -> Arc<[Condition]> {
        if self.watched.is_empty() {
            return Arc::clone(&self.conditions);
        }
        let mut all: Vec<Condition> = self.conditions.iter().chain(&*self.watched).cloned().collect();
        all.sort_by_key(|condition| std::cmp::Reverse(condition.action.severity()));
        Arc::from(all)
    }
}

/// As configured, else as its kind needs it.
fn abort_policy(kind: EngineKind, configured: Option<AbortPolicy>) -> AbortPolicy {
    configured.unwrap_or(kind.capabilities().abort)
}

const SOURCE_ENGINE: &str = "engine";

fn profile_of(told: Option<EngineProfile>, gpu: Option<&str>, gpus: usize) -> (EngineProfile, String) {
    match told {
        Some(profile) => (profile, SOURCE_ENGINE.to_owned()),
        None => {
            let prior = prior(gpu, gpus);
            (prior.profile, prior.source)
        }
    }
}
