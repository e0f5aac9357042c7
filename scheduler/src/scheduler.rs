//! Putting the parts together, and taking them apart in the right order.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use aya_admission::QueueRules;
use aya_config::{ModelPolicyConfig, QueueConfig, SchedulerConfig};
use aya_domain::{ModelId, PolicyName};
use aya_fleet::{BreakerParams, Fleet, Params};
use aya_observe::Clock;
use aya_placement::{HoldRules, Policy};
use aya_trace::DecisionLog;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::{self, Admin};
use crate::events::EventLog;
use crate::journal::{Journal, Ring};
use crate::listener;
use crate::metrics::Metrics;
use crate::models::ModelState;
use crate::pipeline::admit::Promises;
use crate::prober::Prober;
use crate::room::WaitingRoom;
use crate::shared::Shared;
use crate::stopping::Stopping;
use crate::telemetry::{AgentStreams, FleetWriter};
use crate::tenants::Tenants;
use crate::view::FarmView;

/// Why a scheduler could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error("the {what} listener cannot use {address}: {source}")]
    Bind { what: &'static str, address: SocketAddr, source: io::Error },
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
}

/// A scheduler whose listeners are bound.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    journal: Journal,
    fleet: Fleet,
    api: Vec<TcpListener>,
    admin: TcpListener,
    grpc: TcpListener,
    addresses: Addresses,
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
        let failed = |what, address| move |source| SchedulerError::Bind { what, address, source };
        if listener::is_taken(config.listen) {
            let source = io::Error::from(io::ErrorKind::AddrInUse);
            return Err(SchedulerError::Bind { what: "API", address: config.listen, source });
        }
        let api = listener::bind(config.listen, config.threads).map_err(failed("API", config.listen))?;
        let admin = listen(config.admin_listen).map_err(failed("admin", config.admin_listen))?;
        let grpc = listen(config.grpc_listen).map_err(failed("gRPC", config.grpc_listen))?;
        let address =
            |listener: Option<&TcpListener>, wanted| listener.map_or(Ok(wanted), TcpListener::local_addr);
        let addresses = Addresses {
            api: address(api.first(), config.listen).map_err(failed("API", config.listen))?,
            admin: address(Some(&admin), config.admin_listen)
                .map_err(failed("admin", config.admin_listen))?,
            grpc: address(Some(&grpc), config.grpc_listen).map_err(failed("gRPC", config.grpc_listen))?,
        };
        let fleet = Fleet::new(fleet_params(&config)).with_rules(config.health.clone());
        let (journal, sender) =
            Journal::new(config.decisions.ring, config.decisions.queue, decision_log(&config)?);
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
            upstream_authorization: config.upstream.api_key.as_ref().and_then(|key| {
                let mut value = ::http::HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?;
                value.set_sensitive(true);
                Some(value)
            }),
            stopping: Stopping::new(),
            config,
            clock,
        };
        Ok(Self { shared: Arc::new(shared), journal, fleet, api, admin, grpc, addresses })
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

    /// Serves until `shutdown`, then drains: readiness turns false, open requests finish within the configured time.
    ///
    /// # Errors
    /// [`SchedulerError`] if a listener fails while it serves.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SchedulerError> {
        let Self { shared, journal, fleet, api, admin, grpc, addresses } = self;
        info!(api = %addresses.api, admin = %addresses.admin, grpc = %addresses.grpc, "scheduler listens");
        let ring: Arc<Ring> = Arc::clone(&journal.ring);
        let journal = journal.start(Arc::clone(&shared.metrics)).map_err(SchedulerError::Thread)?;
        // The control side outlives the data plane: requests that finish during the drain still need the fleet.
        let control = CancellationToken::new();
        let (writer, handle) = FleetWriter::new(Arc::clone(&shared), fleet);
        let mut tasks: JoinSet<Result<(), SchedulerError>> = JoinSet::new();
        tasks.spawn(run_writer(writer, control.clone()));
        let streams = AgentStreams::new(Arc::clone(&shared), handle.clone(), control.clone());
        tasks.spawn(serve_grpc(grpc, streams, shared.config.limits.message_max, control.clone()));
        tasks.spawn(run_prober(Prober::new(Arc::clone(&shared), handle.clone()), control.clone()));
        let router = admin::router(Admin { shared: Arc::clone(&shared), fleet: handle, ring });
        tasks.spawn(serve_admin(admin, router, control.clone()));
        let cores = start_cores(api, &shared)?;
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => ended.unwrap_or_else(|panicked| Err(panicked.into())),
        };
        let times = &shared.config.timeouts;
        info!(accepting_for = ?times.accept_grace.min(times.drain), open_requests_for = ?times.drain, "stopping");
        shared.stopping.run(times, join_threads(cores)).await;
        control.cancel();
        while tasks.join_next().await.is_some() {}
        drop(shared);
        join_threads(vec![journal]).await;
        info!("scheduler stopped");
        result
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
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
        hold: HoldRules { max_backlog_s: config.placement.hold_backlog.as_secs_f64() },
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

async fn run_writer(writer: FleetWriter, shutdown: CancellationToken) -> Result<(), SchedulerError> {
    writer.run(shutdown).await;
    Ok(())
}

async fn run_prober(prober: Prober, shutdown: CancellationToken) -> Result<(), SchedulerError> {
    prober.run(shutdown).await;
    Ok(())
}

async fn serve_grpc(
    listener: TcpListener,
    streams: AgentStreams,
    message_max: usize,
    shutdown: CancellationToken,
) -> Result<(), SchedulerError> {
    let failed =
        |source| SchedulerError::Bind { what: "gRPC", address: SocketAddr::from(([0, 0, 0, 0], 0)), source };
    let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).map_err(failed)?);
    let service = aya_proto::AgentServiceServer::new(streams.clone())
        .max_decoding_message_size(message_max)
        .max_encoding_message_size(message_max);
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(std::time::Duration::from_secs(10)))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await;
    streams.join().await;
    Ok(served?)
}

async fn serve_admin(
    listener: TcpListener,
    router: axum::Router,
    shutdown: CancellationToken,
) -> Result<(), SchedulerError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(SchedulerError::Admin)?;
    admin::serve(listener, router, shutdown).await;
    Ok(())
}

/// One thread and one runtime per listening socket.
fn start_cores(
    sockets: Vec<TcpListener>,
    shared: &Arc<Shared>,
) -> Result<Vec<JoinHandle<()>>, SchedulerError> {
    let start = |(at, socket): (usize, TcpListener)| {
        let shared = Arc::clone(shared);
        let core = move || on_own_runtime(listener::run(socket, shared));
        std::thread::Builder::new().name(format!("aya-core-{at}")).spawn(core).map_err(SchedulerError::Thread)
    };
    sockets.into_iter().enumerate().map(start).collect()
}

fn on_own_runtime(serving: impl Future<Output = io::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Err(failure) = runtime.and_then(|runtime| runtime.block_on(serving)) {
        error!(error = %failure, "a core stopped serving");
    }
}

/// Waits for threads without blocking the runtime's workers.
async fn join_threads(threads: Vec<JoinHandle<()>>) {
    let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
    // It fails only if the joining itself panicked, and then there is nothing left to wait for.
    let _ = tokio::task::spawn_blocking(join).await;
}
