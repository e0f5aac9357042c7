//! Putting the parts together, and taking them apart in the right order.

mod parts;
mod passed;
mod sockets;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aya_admission::QueueRules;
use aya_config::{ModelPolicyConfig, QueueConfig, SchedulerConfig, Secret};
use aya_domain::{ModelId, PolicyName};
use aya_fleet::{BreakerParams, Fleet, Params};
use aya_observe::Clock;
use aya_placement::{HoldRules, Policy};
use aya_trace::DecisionLog;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::parts::Parts;
use crate::events::EventLog;
use crate::handover::{self, HandoverError, Sockets, Taken};
use crate::journal::Journal;
use crate::memory::PressureNow;
use crate::metrics::Metrics;
use crate::models::ModelState;
use crate::pipeline::admit::Promises;
use crate::process::connections_allowed;
use crate::room::WaitingRoom;
use crate::shared::Shared;
use crate::state::StateFile;
use crate::stopping::Stopping;
use crate::tenants::Tenants;
use crate::view::FarmView;

/// Why a scheduler could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error("the {what} listener cannot use {address}: {source}")]
    Bind { what: &'static str, address: SocketAddr, source: io::Error },
    /// Socket activation.
    #[error("descriptor {descriptor}, passed by LISTEN_FDS: {source}")]
    Passed { descriptor: i32, source: io::Error },
    #[error("decision records cannot be written to {dir}: {source}")]
    Records { dir: String, source: aya_trace::SegmentError },
    #[error("{0}")]
    Policy(#[from] aya_placement::UnknownPolicy),
    #[error("{0}")]
    Tenants(String),
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] aya_observe::metrics::MetricError),
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    #[error("the agents' listener failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
    #[error("the admin listener failed: {0}")]
    Admin(io::Error),
    /// A panic: the process must not end as if it had been asked to.
    #[error("a part of the scheduler failed: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("taking over through {path}: {source}")]
    Handover { path: String, source: HandoverError },
    #[error("the running scheduler listens on {has} for {what}, not on {wanted}: stop it to move")]
    Elsewhere { what: &'static str, has: SocketAddr, wanted: SocketAddr },
}

/// A scheduler whose listeners are bound.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    journal: Journal,
    fleet: Fleet,
    sockets: Sockets,
    addresses: Addresses,
    /// The scheduler whose sockets these are, if they are taken over.
    taken: Option<Taken>,
}

/// Where the scheduler listens.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    api: SocketAddr,
    admin: SocketAddr,
    grpc: SocketAddr,
}

impl Scheduler {
    /// Binds all listeners. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SchedulerError`]: a busy address, an unknown policy, a directory that cannot be written.
    pub fn bind(config: SchedulerConfig, clock: Clock) -> Result<Self, SchedulerError> {
        let sockets = sockets::bind(&config)?;
        Self::on(sockets, None, config, clock)
    }

    /// The same; or, if the configuration says so, takes over the listeners of the scheduler that runs.
    ///
    /// # Errors
    /// As [`Scheduler::bind`]; a scheduler that runs and does not let its sockets go.
    pub async fn start(config: SchedulerConfig, clock: Clock) -> Result<Self, SchedulerError> {
        let Some(path) = config.handover.socket.clone() else { return Self::bind(config, clock) };
        let failed = |source| SchedulerError::Handover { path: path.display().to_string(), source };
        if !config.handover.take_over {
            if handover::is_offered(&path).await {
                return Err(failed(HandoverError::InUse));
            }
            return Self::bind(config, clock);
        }
        match handover::take(&path).await.map_err(failed)? {
            None => Self::bind(config, clock),
            Some((sockets, taken)) => {
                sockets::check(&sockets, &config)?;
                Self::on(sockets, Some(taken), config, clock)
            }
        }
    }

    fn on(
        sockets: Sockets,
        taken: Option<Taken>,
        mut config: SchedulerConfig,
        clock: Clock,
    ) -> Result<Self, SchedulerError> {
        let addresses = Addresses::of(&sockets, &config)?;
        // One loop per socket: a socket that is taken over and not accepted from would keep its clients waiting.
        config.threads = sockets.api.len();
        let allowed = connections_allowed();
        if allowed < config.limits.connections_max {
            info!(
                allowed,
                configured = config.limits.connections_max,
                "the limit of open files bounds the connections"
            );
            config.limits.connections_max = allowed;
        }
        let Assembled { shared, journal, fleet } = Assembled::new(config, clock)?;
        Ok(Self { shared, journal, fleet, sockets, addresses, taken })
    }

    /// Where clients connect.
    #[must_use]
    pub fn api_addr(&self) -> SocketAddr {
        self.addresses.api
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.addresses.admin
    }

    /// Where agents connect.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.addresses.grpc
    }

    /// Serves until `shutdown` or until a successor has taken over, then drains: readiness turns false, open requests
    /// finish within the configured time.
    ///
    /// # Errors
    /// [`SchedulerError`] if a listener fails while it serves, or a predecessor keeps its own.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SchedulerError> {
        let Self { shared, journal, fleet, sockets, addresses, taken } = self;
        let offered = sockets.try_clone().map_err(SchedulerError::Admin)?;
        let mut parts = Parts::start(&shared, journal, fleet, sockets.grpc)?;
        let serving = tokio::select! {
            () = shutdown.cancelled() => None,
            serving = parts.serve_clients(taken, sockets.api, sockets.admin) => Some(serving),
        };
        let result = match serving {
            Some(Ok(())) => {
                info!(api = %addresses.api, admin = %addresses.admin, grpc = %addresses.grpc, "scheduler listens");
                parts.until_ended(offered, &shutdown).await
            }
            None | Some(Err(_)) => {
                // The predecessor goes on with these sockets.
                shared.stopping.hand_over();
                serving.unwrap_or(Ok(()))
            }
        };
        drop(shared);
        parts.stop().await;
        info!("scheduler stopped");
        result
    }
}

/// A scheduler without listeners, threads and tasks.
pub(crate) struct Assembled {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Journal,
    pub(crate) fleet: Fleet,
}

impl Assembled {
    pub(crate) fn new(config: SchedulerConfig, clock: Clock) -> Result<Self, SchedulerError> {
        let state = StateFile::open(config.state.file.as_deref());
        let fleet =
            Fleet::new(fleet_params(&config)).with_rules(config.health.clone()).with_drained(state.drained());
        let (journal, sender) = Journal::new(&config.decisions, decision_log(&config)?);
        let metrics = Arc::new(Metrics::new(config.limits.models_max)?);
        let policies = policies(&config)?;
        let shared = Shared {
            view: ArcSwap::from_pointee(FarmView::empty()),
            room: Arc::new(WaitingRoom::new(queue_rules(&config), clock.clone())),
            tenants: Tenants::new(&config.tenants, &config.tenant).map_err(SchedulerError::Tenants)?,
            promises: Promises::new(&config, &policies.default),
            unknown_model: Arc::new(ModelState::new(metrics.model(None))),
            metrics,
            journal: sender,
            events: EventLog::default(),
            policies: policies.all,
            default_policy: policies.default,
            model_policies: policies.of_models,
            aliases: config.aliases.iter().map(|a| (a.name.clone(), a.model.clone())).collect(),
            prefix_key: aya_proxy::PrefixKey::new(uuid::Uuid::now_v7().as_u64_pair().1),
            upstream_authorization: config.upstream.api_key.as_ref().and_then(bearer),
            engine_authorization: config
                .upstream
                .engines
                .iter()
                .filter_map(|engine| Some((engine.endpoint.clone(), bearer(&engine.api_key)?)))
                .collect(),
            state,
            stopping: Stopping::new(),
            pressure: PressureNow::default(),
            config,
            clock,
        };
        Ok(Self { shared: Arc::new(shared), journal, fleet })
    }
}

impl Addresses {
    fn of(sockets: &Sockets, config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        let address = |what, listener: Option<&TcpListener>, wanted: SocketAddr| {
            let failed = |source| SchedulerError::Bind { what, address: wanted, source };
            listener.map_or(Ok(wanted), TcpListener::local_addr).map_err(failed)
        };
        Ok(Self {
            api: address("API", sockets.api.first(), config.listen)?,
            admin: address("admin", Some(&sockets.admin), config.admin_listen)?,
            grpc: address("gRPC", Some(&sockets.grpc), config.grpc_listen)?,
        })
    }
}

/// A key as engines are shown it.
fn bearer(key: &Secret) -> Option<::http::HeaderValue> {
    let mut value = ::http::HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn fleet_params(config: &SchedulerConfig) -> Params {
    let telemetry = &config.telemetry;
    Params {
        nodes_max: telemetry.nodes_max,
        stale_after_periods: u32::try_from(telemetry.stale_after_reports).unwrap_or(u32::MAX),
        suspect_after: telemetry.suspect_after,
        forget_after: telemetry.forget_after,
        breaker: breaker_params(config),
        ..Params::DEFAULT
    }
}

fn queue_rules(config: &SchedulerConfig) -> QueueRules {
    let QueueConfig { capacity, look_ahead, overtakes_max, turn_after, .. } = config.queue;
    QueueRules {
        limit: capacity,
        look_ahead,
        overtakes_max: u32::try_from(overtakes_max).unwrap_or(u32::MAX),
        turn_after: u32::try_from(turn_after).unwrap_or(u32::MAX),
    }
}

fn breaker_params(config: &SchedulerConfig) -> BreakerParams {
    let breaker = &config.breaker;
    let few = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    BreakerParams {
        enabled: breaker.enabled,
        failures_in_a_row: few(breaker.failures_in_a_row),
        window: breaker.window,
        window_min: few(breaker.window_min),
        failure_share_percent: few(breaker.failure_share_percent),
        ejection: breaker.ejection,
        ejection_max: breaker.ejection_max,
        ejected_max_percent: few(breaker.ejected_max_percent),
        trials: few(breaker.trials),
        probes: config.probe.recovery,
        probe_failures: few(config.probe.failures),
        wedged_after: breaker.wedged_after,
        // Silence for longer than a request may take at all has outlasted every request there.
        wedged_whole_after: breaker.wedged_whole_after.min(config.timeouts.total),
        slow_start: breaker.slow_start,
        slower_percent: few(breaker.slower_percent),
    }
}

fn decision_log(config: &SchedulerConfig) -> Result<Option<DecisionLog>, SchedulerError> {
    let Some(dir) = &config.decisions.dir else { return Ok(None) };
    let opened = DecisionLog::open(dir, config.decisions.segment_max, config.decisions.segments_max);
    opened.map(Some).map_err(|source| SchedulerError::Records { dir: dir.display().to_string(), source })
}

/// Every policy, the one of requests that ask for none, and those of models that have one of their own.
struct Policies {
    all: BTreeMap<PolicyName, Policy>,
    default: Policy,
    of_models: BTreeMap<ModelId, Policy>,
}

fn policies(config: &SchedulerConfig) -> Result<Policies, SchedulerError> {
    let placed = |policy: Policy| Policy {
        slo_ttft_s: config.placement.slo_ttft.as_secs_f64(),
        slo_tpot_s: config.placement.slo_tpot.as_secs_f64(),
        hold: HoldRules { max_backlog_s: config.placement.hold_backlog.as_secs_f64(), ..policy.hold },
        ..policy
    };
    let named: Result<Vec<Policy>, _> = Policy::names().map(Policy::named).collect();
    let composed = config.policies.iter().cloned();
    let all: BTreeMap<PolicyName, Policy> =
        named?.into_iter().chain(composed).map(|policy| (policy.name.clone(), placed(policy))).collect();
    let find = |name: &PolicyName| {
        all.get(name).cloned().ok_or_else(|| aya_placement::UnknownPolicy(name.to_string()))
    };
    let default = find(&config.placement.policy)?;
    let of_model = |own: &ModelPolicyConfig| Ok((own.model.clone(), find(&own.policy)?));
    let of_models: Result<_, aya_placement::UnknownPolicy> =
        config.model_policies.iter().map(of_model).collect();
    Ok(Policies { of_models: of_models?, all, default })
}
