//! The scheduler's side of the agents' links without listeners and threads: the real streams, writer, fleet and ledger
//! over connections that somebody else accepted. For simulations of a farm's links.

use std::io;
use std::sync::Arc;

use aya_config::SchedulerConfig;
use aya_domain::{EndpointId, MonoTime, Snapshot};
use aya_observe::Clock;
use aya_trace::EventJson;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use crate::SchedulerError;
use crate::events::{Query, Since};
use crate::journal::Journal;
use crate::ledger::Lease;
use crate::scheduler::Assembled;
use crate::shared::Shared;
use crate::telemetry::{AgentStreams, FleetWriter, serve_agents};

/// One start of a scheduler.
#[derive(Debug)]
pub struct SimulatedScheduler {
    shared: Arc<Shared>,
    streams: AgentStreams,
    shutdown: CancellationToken,
    // Nothing is journaled: its thread is never started.
    _journal: Journal,
    // Ended with the scheduler.
    _tasks: JoinSet<()>,
}

/// A request of ours that is in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    _lease: Lease,
}

impl SimulatedScheduler {
    /// Starts the writer of an empty farm; it ends when this is dropped.
    ///
    /// # Errors
    /// As [`crate::Scheduler::bind`], listeners aside.
    pub fn start(config: SchedulerConfig, clock: Clock) -> Result<Self, SchedulerError> {
        let Assembled { shared, journal, fleet } = Assembled::new(config, clock)?;
        let shutdown = CancellationToken::new();
        let (writer, fleet) = FleetWriter::new(Arc::clone(&shared), fleet);
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run(shutdown.clone()));
        let streams = AgentStreams::new(Arc::clone(&shared), fleet, shutdown.clone());
        Ok(Self { shared, streams, shutdown, _journal: journal, _tasks: tasks })
    }

    /// Serves the agents' streams over these connections; ends with them.
    ///
    /// # Errors
    /// [`SchedulerError`] if the transport cannot be set up.
    pub async fn serve<L>(&self, incoming: impl Stream<Item = io::Result<L>>) -> Result<(), SchedulerError>
    where
        L: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Ok(serve_agents(incoming, self.streams.clone(), self.shutdown.clone()).await?)
    }

    /// Looks at what requests would see now.
    pub fn look<T>(&self, at: impl FnOnce(&Snapshot) -> T) -> T {
        at(&self.shared.view.load().snapshot)
    }

    /// What happened after the event of this id, the newest first.
    #[must_use]
    pub fn events_after(&self, id: u64) -> Vec<EventJson> {
        let since = Some(Since::Id(id));
        self.shared.events.find(&Query { limit: usize::MAX, since, ..Query::default() })
    }

    /// The scheduler's own time.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        self.shared.clock.now()
    }

    /// The agents' streams that have not ended.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.open()
    }

    /// Sends a request to an endpoint, as the ledger counts it: its prompt has been computed, and it streams.
    #[must_use]
    pub fn send(&self, to: &EndpointId) -> Option<InFlight> {
        let view = self.shared.view.load();
        let companion = view.companion(view.snapshot.index_of(to)?)?;
        let (cell, now) = (&companion.cell, self.shared.clock.now());
        let mut lease = cell.claim(cell.in_flight(), 1, 1, now).ok()?;
        lease.first_token(now);
        Some(InFlight { _lease: lease })
    }
}
