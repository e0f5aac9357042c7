//! The agent of a GPU host: it watches the engines and the GPUs beside it and reports what it sees.
//!
//! Parts: one `sampler` per engine, listed or found by `discovery`, and one task for the GPUs tell the one writer of the `view`; one
//! `uplink` per scheduler turns views into reports. Nothing that an engine, a driver or a scheduler does
//! ends the agent: what is down is reported down, and what is not known is not reported.

mod admin;
mod advertise;
mod backoff;
mod census;
mod counters;
mod discovery;
mod gpu_metrics;
mod gpu_round;
mod gpus;
mod gpus_of;
mod hint;
mod local;
mod metrics;
mod network;
mod prober;
mod procfs;
mod report;
mod sampler;
pub mod simulation;
mod uplink;
mod view;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aya_config::{AgentConfig, DiscoveryMode, EngineConfig, GpuChoice};
use aya_domain::{BootId, EndpointId, EngineKind, NodeId, splitmix64};
use aya_gpu::{GpuError, Recording};
use aya_observe::Clock;
use aya_observe::metrics::MetricError;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::Told;
use crate::discovery::{Board, Discovery, Statement};
use crate::gpus::GpuTask;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::procfs::Procfs;
use crate::report::Identity;
use crate::sampler::{Sampler, round_period};
use crate::uplink::{Shared, Uplink};
use crate::view::{EngineView, UPDATES_MAX, View};

/// The longest reporting period, whatever is configured: a scheduler counts silence in this unit.
const REPORT_PERIOD_MAX: Duration = aya_proto::convert::PERIOD_MAX;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The admin listener's address is taken or not ours.
    #[error("the admin listener cannot use {address}: {source}; choose another with --admin-listen")]
    Bind { address: SocketAddr, source: std::io::Error },
    /// Two engines would have the same name.
    #[error("two engines would be called {id}: give one of them a name")]
    SameName { id: EndpointId },
    /// The node's and the engine's names make no valid name together.
    #[error("no name can be made for the engine at {url}: {source}; give it a name")]
    NoName { url: String, source: aya_domain::IdError },
    /// The recording that is to be played cannot be.
    #[error("{0}; see gpu.recording")]
    Recording(GpuError),
    /// A metric could not be registered.
    #[error(transparent)]
    Metrics(#[from] MetricError),
}

/// An agent that is bound to its address and not yet running.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    ids: Vec<EndpointId>,
    clock: Clock,
    admin: TcpListener,
    admin_addr: SocketAddr,
}

/// Binds and runs an agent until `shutdown`.
///
/// # Errors
/// [`AgentError`] if it cannot start; once it runs, nothing ends it but `shutdown`.
pub async fn run(config: AgentConfig, clock: Clock, shutdown: CancellationToken) -> Result<(), AgentError> {
    Agent::bind(config, clock).await?.run(shutdown).await
}

impl Agent {
    /// Names the engines and takes the admin address; port 0 picks a free one.
    ///
    /// # Errors
    /// [`AgentError`] if the address is taken, an engine cannot be named or the recording cannot be played.
    pub async fn bind(config: AgentConfig, clock: Clock) -> Result<Self, AgentError> {
        let ids = endpoint_ids(&config.node_id, &config.engines)?;
        if let (GpuChoice::Recorded, Some(path)) = (config.gpu.source, &config.gpu.recording) {
            Recording::read(path).map_err(AgentError::Recording)?;
        }
        let bind_error = |source| AgentError::Bind { address: config.admin_listen, source };
        let admin = TcpListener::bind(config.admin_listen).await.map_err(bind_error)?;
        let admin_addr = admin.local_addr().map_err(bind_error)?;
        Ok(Self { config, ids, clock, admin, admin_addr })
    }

    /// Where the admin listener listens.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Watches and reports until `shutdown`.
    ///
    /// # Errors
    /// [`AgentError`] if it cannot start.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let metrics = Arc::new(Metrics::new(self.config.node_id.as_str())?);
        info!(
            node = %self.config.node_id,
            discover = self.config.discovery.mode.as_str(),
            engines = self.config.engines.len(),
            schedulers = self.config.schedulers.len(),
            admin = %self.admin_addr,
            "the agent is running"
        );
        let mut tasks = JoinSet::new();
        let (discovery, views) = self.start(&mut tasks, &metrics, &shutdown);
        let gpu_period = self.config.gpu.period;
        tasks.spawn(admin::serve(self.admin, Told { metrics, discovery, views, gpu_period }, shutdown));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a part of the agent broke");
            }
        }
        info!("the agent has ended");
        Ok(())
    }

    fn start(
        &self,
        tasks: &mut JoinSet<()>,
        metrics: &Arc<Metrics>,
        shutdown: &CancellationToken,
    ) -> (Board, watch::Receiver<Arc<View>>) {
        let config = &self.config;
        let epoch = Instant::now();
        let engines = self.ids.iter().zip(&config.engines);
        let first = engines
            .clone()
            .map(|(id, engine)| EngineView::new(id.clone(), engine, &config.polling))
            .collect();
        let (publish, views) = watch::channel(Arc::new(View::new(first)));
        let (updates, incoming) = mpsc::channel(UPDATES_MAX);
        tasks.spawn(view::write(incoming, publish));
        for (id, engine) in engines {
            let (clock, metrics) = (self.clock.clone(), Arc::clone(metrics));
            let tell = updates.clone();
            let sampler = Sampler::new(id.clone(), engine, &config.polling, clock, metrics, tell);
            tasks.spawn(sampler.run(epoch, shutdown.clone()));
        }
        let (hold, holders) = watch::channel(None);
        let (board, statements) = watch::channel(Arc::new(Statement::of(config.discovery.mode.as_str())));
        let discovery = Discovery {
            config: config.clone(),
            ids: self.ids.clone(),
            proc: Procfs::new("/proc"),
            clock: self.clock.clone(),
            epoch,
            metrics: Arc::clone(metrics),
            holders,
            updates: updates.clone(),
            board,
        };
        tasks.spawn(discovery.run(shutdown.clone()));
        let gpus = GpuTask {
            period: config.gpu.period,
            clock: self.clock.clone(),
            metrics: Arc::clone(metrics),
            updates,
            views: views.clone(),
            holders: hold,
        };
        tasks.spawn(gpus.run_configured(config.clone(), epoch, shutdown.clone()));
        let uplinks = Uplinks {
            config,
            boot: boot_id(),
            clock: self.clock.clone(),
            epoch,
            views: views.clone(),
            network: Network::Machine,
        };
        uplinks.start(tasks, metrics, shutdown);
        tasks.spawn(hint::hint(views.clone(), config.discovery.mode, shutdown.clone()));
        (Board { clock: self.clock.clone(), statements }, views)
    }
}

/// What the uplinks of one agent are made of.
struct Uplinks<'a> {
    config: &'a AgentConfig,
    boot: BootId,
    clock: Clock,
    epoch: Instant,
    views: watch::Receiver<Arc<View>>,
    network: Network,
}

impl Uplinks<'_> {
    /// One for each scheduler of the configuration.
    fn start(self, tasks: &mut JoinSet<()>, metrics: &Metrics, shutdown: &CancellationToken) {
        let Self { config, boot, clock, epoch, views, network } = self;
        let shared = Arc::new(Shared {
            identity: Identity { node: config.node_id.clone(), boot, period: report_period(config) },
            full_period: config.report.full_period,
            advertise_host: config.advertise_host.clone(),
            clock,
            epoch,
            views,
            network,
        });
        let mut seed = boot.0;
        for scheduler in &config.schedulers {
            seed = splitmix64(seed);
            let (shared, scheduler) = (Arc::clone(&shared), scheduler.clone());
            let (metrics, sequence) = (metrics.uplink(&scheduler), AtomicU64::new(0));
            let uplink = Uplink { metrics, shared, scheduler, sequence, seed };
            tasks.spawn(uplink.run(shutdown.clone()));
        }
    }
}

/// Reports come as often as the fastest thing that is read; an engine that is found later may be of the fastest kind.
fn report_period(config: &AgentConfig) -> Duration {
    let listed = config.engines.iter().map(|engine| engine.kind);
    let none_listed = config.engines.is_empty() && config.discovery.mode != DiscoveryMode::Off;
    let kinds = listed.chain(none_listed.then_some(EngineKind::Vllm));
    let engines = kinds.map(|kind| round_period(kind, &config.polling));
    engines.fold(config.gpu.period, Duration::min).min(REPORT_PERIOD_MAX)
}

/// Differs between any two starts of any two agents.
fn boot_id() -> BootId {
    let (high, low) = uuid::Uuid::now_v7().as_u64_pair();
    BootId(splitmix64(high ^ low.rotate_left(17)))
}

/// The configured names, and `NODE-KIND-PORT` for the others.
fn endpoint_ids(node: &NodeId, engines: &[EngineConfig]) -> Result<Vec<EndpointId>, AgentError> {
    let mut seen = BTreeSet::new();
    let mut ids = Vec::with_capacity(engines.len());
    for engine in engines {
        let id = match &engine.name {
            Some(name) => name.clone(),
            None => EndpointId::parse(&format!("{node}-{}-{}", engine.kind, engine.url.port()))
                .map_err(|source| AgentError::NoName { url: engine.url.to_string(), source })?,
        };
        if !seen.insert(id.clone()) {
            return Err(AgentError::SameName { id });
        }
        ids.push(id);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests;
