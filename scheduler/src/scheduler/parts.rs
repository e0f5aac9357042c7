//! What runs: the control side on the caller's runtime, a thread per core, the journal's thread; and their end.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use aya_fleet::Fleet;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::SchedulerError;
use crate::admin::{self, Admin};
use crate::handover::{Agents, Offer, Sockets, Taken};
use crate::journal::{Journal, Ring};
use crate::listener;
use crate::memory::Watch;
use crate::prober::Prober;
use crate::shared::Shared;
use crate::telemetry::{AgentStreams, FleetHandle, FleetWriter, serve_agents};

/// An agent that does not notice that it is let go is not waited for.
const LET_GO_MAX: Duration = Duration::from_secs(2);

/// Everything that has to be ended again.
#[derive(Debug)]
pub(super) struct Parts {
    shared: Arc<Shared>,
    fleet: FleetHandle,
    ring: Arc<Ring>,
    journal: JoinHandle<()>,
    /// The control side outlives the data plane: requests that finish during the drain still need the fleet.
    control: CancellationToken,
    admin: CancellationToken,
    agents: watch::Sender<Agents>,
    tasks: JoinSet<Result<(), SchedulerError>>,
    cores: Vec<JoinHandle<()>>,
}

impl Parts {
    /// Starts all but what clients and operators reach.
    pub(super) fn start(
        shared: &Arc<Shared>,
        journal: Journal,
        fleet: Fleet,
        grpc: TcpListener,
    ) -> Result<Self, SchedulerError> {
        let ring = Arc::clone(&journal.ring);
        let journal = journal.start(Arc::clone(&shared.metrics)).map_err(SchedulerError::Thread)?;
        let control = CancellationToken::new();
        let agents = watch::Sender::new(Agents::Ours);
        let (writer, fleet) = FleetWriter::new(Arc::clone(shared), fleet);
        let mut tasks = JoinSet::new();
        tasks.spawn(run_writer(writer, control.clone()));
        let listener = AgentListener {
            listener: grpc,
            shared: Arc::clone(shared),
            fleet: fleet.clone(),
            agents: agents.clone(),
        };
        tasks.spawn(listener.run(control.clone()));
        tasks.spawn(run_prober(Prober::new(Arc::clone(shared), fleet.clone()), control.clone()));
        tasks.spawn(run_watch(Watch::new(Arc::clone(shared)), control.clone()));
        let admin = control.child_token();
        let shared = Arc::clone(shared);
        Ok(Self { shared, fleet, ring, journal, control, admin, agents, tasks, cores: Vec::new() })
    }

    /// Lets clients and operators in; if the sockets are a predecessor's, as soon as we know the fleet, and then it
    /// lets them go.
    pub(super) async fn serve_clients(
        &mut self,
        mut taken: Option<Taken>,
        api: Vec<TcpListener>,
        admin: TcpListener,
    ) -> Result<(), SchedulerError> {
        let path = self.shared.config.handover.socket.as_ref().map(|path| path.display().to_string());
        let failed = |source| SchedulerError::Handover { path: path.clone().unwrap_or_default(), source };
        if let Some(taken) = &mut taken {
            taken.agents(&self.shared).await.map_err(failed)?;
        }
        self.cores = start_cores(api, &self.shared)?;
        let (shared, fleet, ring) = (Arc::clone(&self.shared), self.fleet.clone(), Arc::clone(&self.ring));
        let router = admin::router(Admin { shared, fleet, ring });
        self.tasks.spawn(serve_admin(admin, router, self.admin.clone()));
        match taken {
            Some(taken) => taken.serving().await.map_err(failed),
            None => Ok(()),
        }
    }

    /// Until `shutdown`, until a successor has taken over, or until a part fails.
    pub(super) async fn until_ended(
        &mut self,
        sockets: Sockets,
        shutdown: &CancellationToken,
    ) -> Result<(), SchedulerError> {
        let stopped = shutdown.child_token();
        let mut offering = JoinSet::new();
        if let Some(path) = &self.shared.config.handover.socket {
            let offer = Offer::at(path, sockets, Arc::clone(&self.shared), self.agents.clone());
            let offer = offer.map_err(|source| SchedulerError::Handover {
                path: path.display().to_string(),
                source: source.into(),
            })?;
            offering.spawn(offer.run(stopped.clone()));
        }
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = offering.join_next() => ended.map_err(SchedulerError::from),
            Some(ended) = self.tasks.join_next() => ended.unwrap_or_else(|panicked| Err(panicked.into())),
        };
        stopped.cancel();
        while offering.join_next().await.is_some() {}
        result
    }

    /// Drains and ends.
    pub(super) async fn stop(mut self) {
        if self.shared.stopping.is_handed_over() {
            // Operators find the successor from now on.
            self.admin.cancel();
        }
        let times = &self.shared.config.timeouts;
        info!(accepting_for = ?times.accept_grace.min(times.drain), open_requests_for = ?times.drain, "stopping");
        self.shared.stopping.run(times, join_threads(std::mem::take(&mut self.cores))).await;
        self.control.cancel();
        while self.tasks.join_next().await.is_some() {}
        drop((self.shared, self.fleet));
        join_threads(vec![self.journal]).await;
    }
}

async fn run_writer(writer: FleetWriter, shutdown: CancellationToken) -> Result<(), SchedulerError> {
    writer.run(shutdown).await;
    Ok(())
}

async fn run_watch(watch: Watch, shutdown: CancellationToken) -> Result<(), SchedulerError> {
    watch.run(shutdown).await;
    Ok(())
}

async fn run_prober(prober: Prober, shutdown: CancellationToken) -> Result<(), SchedulerError> {
    prober.run(shutdown).await;
    Ok(())
}

/// The agents' port: served as long as they are ours, and again if a successor gives them back.
struct AgentListener {
    listener: TcpListener,
    shared: Arc<Shared>,
    fleet: FleetHandle,
    agents: watch::Sender<Agents>,
}

impl AgentListener {
    async fn run(self, shutdown: CancellationToken) -> Result<(), SchedulerError> {
        let mut agents = self.agents.subscribe();
        // The sender is ours, so neither wait fails.
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = agents.wait_for(|agents| *agents == Agents::Ours) => {}
            }
            let round = shutdown.child_token();
            let mut serving = std::pin::pin!(self.serve(round.clone()));
            tokio::select! {
                ended = serving.as_mut() => return ended,
                _ = agents.wait_for(|agents| *agents == Agents::LetGo) => {}
            }
            round.cancel();
            if tokio::time::timeout(LET_GO_MAX, serving).await.is_err() {
                warn!("an agent does not notice that it is let go");
            }
            self.agents.send_if_modified(|agents| {
                let is_gone = *agents == Agents::LetGo;
                if is_gone {
                    *agents = Agents::Gone;
                }
                is_gone
            });
        }
    }

    async fn serve(&self, shutdown: CancellationToken) -> Result<(), SchedulerError> {
        let failed = |source| SchedulerError::Bind {
            what: "gRPC",
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            source,
        };
        let listener =
            self.listener.try_clone().and_then(tokio::net::TcpListener::from_std).map_err(failed)?;
        let streams = AgentStreams::new(Arc::clone(&self.shared), self.fleet.clone(), shutdown.clone());
        Ok(serve_agents(TcpListenerStream::new(listener), streams, shutdown).await?)
    }
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
