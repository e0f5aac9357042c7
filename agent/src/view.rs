//! What the agent knows of its node: one writer, immutable views for everybody else.
//!
//! Everything that changes carries the revision of its last change, so that each uplink can say what is new
//! since it last spoke, independently of the others. Nothing is forgotten here because it is old: a reading
//! that could not be repeated stays, and its age tells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aya_config::{EngineConfig, EnginePolling, GpuRef};
use aya_domain::{
    AbortPolicy, Aged, Bytes, EndpointId, EndpointUrl, EngineHealth, EngineKind, EngineProfile, GpuEvent,
    GpuInfo, GpuProcesses, GpuSample, GpuSourceKind, GpuUuid, MonoTime, Reading, Tokens,
};
use aya_engine::EngineReadings;
use aya_gpu::GpuHappening;
use tokio::sync::{mpsc, watch};

use crate::sampler::round_period;

/// One engine as configured or found, and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct EngineView {
    pub(crate) id: EndpointId,
    pub(crate) kind: EngineKind,
    pub(crate) url: EndpointUrl,
    /// The process that listens, of an engine that was found.
    pub(crate) pid: Option<u32>,
    pub(crate) profile: Option<EngineProfile>,
    pub(crate) context_length: Option<Tokens>,
    pub(crate) max_sequences: Option<u32>,
    pub(crate) kv_bytes_per_token: Option<Bytes>,
    pub(crate) abort: Option<AbortPolicy>,
    pub(crate) gpus: Vec<GpuRef>,
    /// GPUs of one engine of the configured profile.
    pub(crate) gpus_per_engine: Option<u32>,
    /// `None` before the first probe has ended.
    pub(crate) health: Option<Reading<EngineHealth>>,
    pub(crate) readings: Arc<EngineReadings>,
    /// Between two rounds of questions.
    pub(crate) period: Duration,
    pub(crate) revision: u64,
}

impl EngineView {
    pub(crate) fn new(id: EndpointId, config: &EngineConfig, polling: &EnginePolling) -> Self {
        Self {
            id,
            kind: config.kind,
            url: config.url.clone(),
            pid: None,
            profile: config.profile.map(|named| named.profile),
            context_length: config.context_length,
            max_sequences: config.max_sequences,
            kv_bytes_per_token: config.kv_bytes_per_token,
            abort: config.abort,
            gpus: config.gpus.clone(),
            gpus_per_engine: config.profile.map(|named| named.gpus_per_engine),
            health: None,
            readings: Arc::new(EngineReadings::new(config.kind)),
            period: round_period(config.kind, polling),
            revision: 0,
        }
    }
}

/// One GPU and its last reading.
#[derive(Debug, Clone)]
pub(crate) struct GpuView {
    pub(crate) info: GpuInfo,
    pub(crate) sample: Option<Reading<GpuSample>>,
    pub(crate) processes: Option<Reading<Arc<GpuProcesses>>>,
    pub(crate) revision: u64,
}

/// How GPUs are read, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GpuSourceView {
    pub(crate) kind: GpuSourceKind,
    pub(crate) driver_version: Option<String>,
    pub(crate) error: Option<String>,
}

/// The node at one instant.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Counts the views.
    pub(crate) revision: u64,
    /// The last revision that changed what a FULL report names.
    pub(crate) membership: u64,
    /// The last revision that cannot wait for the next report: an engine or a GPU source came or went.
    pub(crate) urgent: u64,
    pub(crate) engines: Vec<Arc<EngineView>>,
    /// Found, and not looked at yet: what nothing is known of would only be told as down.
    joining: Vec<EngineView>,
    pub(crate) gpus: Vec<Arc<GpuView>>,
    /// What the numbers of GPUs in the configuration mean: their places in the first list that was whole, and after them
    /// what came later. A GPU that is lost keeps its number, and no other one gets it.
    pub(crate) numbers: Arc<Vec<GpuUuid>>,
    /// `None` until the GPUs were found or could not be.
    pub(crate) source: Option<GpuSourceView>,
    pub(crate) events: Events,
}

/// What happened to the GPUs lately, for schedulers that have not been told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    /// The number of the last one; they count up from 1.
    pub(crate) last: u64,
    /// The oldest first, at most [`EVENTS_MAX`]; what a full list forgets is in the counts of the readings.
    recent: Arc<VecDeque<Reading<GpuEvent>>>,
}

/// GPUs and slices of one host that get a number; slices that are cut anew have new names every time.
const NUMBERS_MAX: usize = 1_024;
/// Events kept for a scheduler that is away, and told in one message.
pub(crate) const EVENTS_MAX: usize = 64;
/// A scheduler that was away for longer reads of older ones in the counts only.
const EVENTS_KEPT_FOR: Duration = Duration::from_secs(600);

impl Events {
    fn add(&mut self, happened: GpuHappening, at: MonoTime) {
        self.last += 1;
        let GpuHappening { gpu, kind, xids } = happened;
        let recent = Arc::make_mut(&mut self.recent);
        if recent.len() == EVENTS_MAX {
            recent.pop_front();
        }
        recent.push_back(Reading::new(GpuEvent { sequence: self.last, gpu, kind, xids }, at));
    }

    /// Those after this number, with their ages; at most `max`, the latest.
    pub(crate) fn since(&self, told: u64, max: usize, now: MonoTime) -> Vec<Aged<GpuEvent>> {
        let new =
            |event: &&Reading<GpuEvent>| event.value.sequence > told && event.age(now) <= EVENTS_KEPT_FOR;
        let mut events: Vec<_> =
            self.recent.iter().rev().filter(new).take(max).map(|event| event.clone().aged(now)).collect();
        events.reverse();
        events
    }
}

impl View {
    pub(crate) fn new(engines: Vec<EngineView>) -> Self {
        let engines = engines.into_iter().map(Arc::new).collect();
        Self {
            revision: 0,
            membership: 0,
            urgent: 0,
            engines,
            joining: Vec::new(),
            gpus: Vec::new(),
            numbers: Arc::default(),
            source: None,
            events: Events::default(),
        }
    }

    /// Whether everything has been looked at once: before that, a FULL report would say less than is true.
    pub(crate) fn ready(&self) -> bool {
        self.source.is_some() && self.engines.iter().all(|engine| engine.health.is_some())
    }

    /// Takes one update in.
    pub(crate) fn apply(&mut self, update: Update) {
        self.revision += 1;
        match update {
            Update::Engine { id, health, readings } => self.apply_engine(&id, health, readings),
            Update::Joined(engine) => self.joining.push(*engine),
            Update::Left(id) => self.apply_left(&id),
            Update::Source(source) => {
                if self.source.as_ref() != Some(&source) {
                    self.urgent = self.revision;
                }
                self.source = Some(source);
            }
            Update::Gpus { infos, whole } => {
                if whole {
                    self.number(&infos);
                }
                self.apply_gpus(infos);
            }
            Update::Happened { at, happened } => self.events.add(happened, at),
            Update::Samples { at, samples } => {
                for (uuid, sample) in samples {
                    self.gpu(&uuid, |gpu| gpu.sample = Some(Reading::new(sample, at)));
                }
            }
            Update::Processes(lists) => {
                for (uuid, Reading { value, sampled_at }) in lists {
                    self.gpu(&uuid, |gpu| gpu.processes = Some(Reading::new(Arc::new(value), sampled_at)));
                }
            }
        }
    }

    /// Changes a GPU that is known.
    fn gpu(&mut self, uuid: &GpuUuid, change: impl FnOnce(&mut GpuView)) {
        if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.info.uuid == *uuid) {
            let gpu = Arc::make_mut(gpu);
            change(gpu);
            gpu.revision = self.revision;
        }
    }

    fn apply_engine(
        &mut self,
        id: &EndpointId,
        health: Reading<EngineHealth>,
        readings: Arc<EngineReadings>,
    ) {
        if let Some(at) = self.joining.iter().position(|engine| engine.id == *id) {
            self.engines.push(Arc::new(self.joining.swap_remove(at)));
            self.membership = self.revision;
        }
        let Some(engine) = self.engines.iter_mut().find(|engine| engine.id == *id) else { return };
        if engine.health.as_ref().map(|h| &h.value) != Some(&health.value) {
            self.urgent = self.revision;
        }
        let engine = Arc::make_mut(engine);
        engine.health = Some(health);
        engine.readings = readings;
        engine.revision = self.revision;
    }

    fn apply_left(&mut self, id: &EndpointId) {
        self.joining.retain(|engine| engine.id != *id);
        let before = self.engines.len();
        self.engines.retain(|engine| engine.id != *id);
        if self.engines.len() < before {
            self.membership = self.revision;
            self.urgent = self.revision;
        }
    }

    fn number(&mut self, infos: &[GpuInfo]) {
        let new = |info: &&GpuInfo| !self.numbers.contains(&info.uuid);
        let new: Vec<GpuUuid> = infos.iter().filter(new).map(|info| info.uuid.clone()).collect();
        if !new.is_empty() {
            let room = NUMBERS_MAX.saturating_sub(self.numbers.len());
            Arc::make_mut(&mut self.numbers).extend(new.into_iter().take(room));
        }
    }

    fn apply_gpus(&mut self, infos: Vec<GpuInfo>) {
        let same = self.gpus.len() == infos.len()
            && self.gpus.iter().zip(&infos).all(|(gpu, info)| gpu.info == *info);
        if same {
            return;
        }
        self.membership = self.revision;
        self.urgent = self.revision;
        let known = std::mem::take(&mut self.gpus);
        let views = infos.into_iter().map(|info| {
            let before = known.iter().find(|gpu| gpu.info.uuid == info.uuid);
            let sample = before.and_then(|gpu| gpu.sample);
            let processes = before.and_then(|gpu| gpu.processes.clone());
            Arc::new(GpuView { info, sample, processes, revision: self.revision })
        });
        self.gpus = views.collect();
    }
}

/// What the samplers tell the writer.
#[derive(Debug)]
pub(crate) enum Update {
    Engine {
        id: EndpointId,
        health: Reading<EngineHealth>,
        readings: Arc<EngineReadings>,
    },
    /// An engine was found; it is one of the node's with its first reading.
    Joined(Box<EngineView>),
    /// An engine that was found has gone; its sampler has ended before.
    Left(EndpointId),
    Source(GpuSourceView),
    /// The list of GPUs; `whole`: every one could be described.
    Gpus {
        infos: Vec<GpuInfo>,
        whole: bool,
    },
    Samples {
        at: MonoTime,
        samples: Vec<(GpuUuid, GpuSample)>,
    },
    Processes(Vec<(GpuUuid, Reading<GpuProcesses>)>),
    Happened {
        at: MonoTime,
        happened: GpuHappening,
    },
}

/// Updates that may wait for the writer; a sampler that finds it full waits too.
pub(crate) const UPDATES_MAX: usize = 64;

/// The writer: takes updates in until all samplers are gone, and publishes a view whenever it has caught up.
pub(crate) async fn write(mut updates: mpsc::Receiver<Update>, views: watch::Sender<Arc<View>>) {
    let mut view = View::clone(&views.borrow());
    while let Some(update) = updates.recv().await {
        view.apply(update);
        while let Ok(update) = updates.try_recv() {
            view.apply(update);
        }
        views.send_replace(Arc::new(view.clone()));
    }
}
