//! The agent's side of the wire without a machine beneath it: the real view and the real uplinks, while somebody else
//! says what samplers would have read, and over which network. For simulations of a farm's links.

use std::sync::Arc;

use aya_config::AgentConfig;
use aya_domain::{
    BootId, EndpointId, EngineHealth, GpuInfo, GpuSample, GpuSourceKind, GpuUuid, MonoTime, Reading,
};
use aya_engine::EngineReadings;
use aya_gpu::GpuHappening;
use aya_observe::Clock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::network::Network;
pub use crate::network::{Dial, Link};
use crate::view::{EngineView, GpuSourceView, UPDATES_MAX, Update, View, write};
use crate::{AgentError, Uplinks, endpoint_ids};

/// One start of an agent.
#[derive(Debug)]
pub struct SimulatedAgent {
    tell: mpsc::Sender<Update>,
    ids: Vec<EndpointId>,
    config: AgentConfig,
    clock: Clock,
    // Ended with the agent.
    _tasks: JoinSet<()>,
}

impl SimulatedAgent {
    /// Starts to report to the schedulers of the configuration; it ends when it is dropped. The first report waits
    /// until everything was told of once, as ever.
    ///
    /// # Errors
    /// [`AgentError`] if an engine cannot be named.
    pub fn start(config: AgentConfig, boot: BootId, clock: Clock, dial: Dial) -> Result<Self, AgentError> {
        let ids = endpoint_ids(&config.node_id, &config.engines)?;
        let engines = ids.iter().zip(&config.engines);
        let first =
            engines.map(|(id, engine)| EngineView::new(id.clone(), engine, &config.polling)).collect();
        let (publish, views) = watch::channel(Arc::new(View::new(first)));
        let (tell, updates) = mpsc::channel(UPDATES_MAX);
        let metrics = Metrics::new(config.node_id.as_str())?;
        let mut tasks = JoinSet::new();
        tasks.spawn(write(updates, publish));
        let (epoch, network) = (Instant::now(), Network::Simulated(dial));
        let uplinks = Uplinks { config: &config, boot, clock: clock.clone(), epoch, views, network };
        uplinks.start(&mut tasks, &metrics, &CancellationToken::new());
        Ok(Self { tell, ids, config, clock, _tasks: tasks })
    }

    /// The names of the configured engines.
    #[must_use]
    pub fn engines(&self) -> &[EndpointId] {
        &self.ids
    }

    /// An engine was asked now.
    pub async fn read(&self, id: &EndpointId, health: EngineHealth, readings: EngineReadings) {
        let health = Reading::new(health, self.clock.now());
        self.tell(Update::Engine { id: id.clone(), health, readings: Arc::new(readings) }).await;
    }

    /// Another engine was found: it looks like the first of the configuration, and has this name.
    pub async fn joined(&self, id: EndpointId) {
        if let Some(engine) = self.config.engines.first() {
            let engine = EngineView::new(id, engine, &self.config.polling);
            self.tell(Update::Joined(Box::new(engine))).await;
        }
    }

    /// An engine that was found has gone.
    pub async fn left(&self, id: EndpointId) {
        self.tell(Update::Left(id)).await;
    }

    /// The GPUs were found.
    pub async fn gpus(&self, infos: Vec<GpuInfo>) {
        let kind = GpuSourceKind::Simulated;
        self.tell(Update::Source(GpuSourceView { kind, driver_version: None, error: None })).await;
        self.tell(Update::Gpus { infos, whole: true }).await;
    }

    /// A GPU was read now.
    pub async fn sampled(&self, gpu: GpuUuid, sample: GpuSample) {
        self.tell(Update::Samples { at: self.clock.now(), samples: vec![(gpu, sample)] }).await;
    }

    /// Something happened to a GPU.
    pub async fn happened(&self, happened: GpuHappening) {
        self.tell(Update::Happened { at: self.clock.now(), happened }).await;
    }

    /// The agent's own time.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        self.clock.now()
    }

    async fn tell(&self, update: Update) {
        // The writer ends only with the agent.
        let _ = self.tell.send(update).await;
    }
}
