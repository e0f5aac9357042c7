//! The one writer of the fleet: events in, an immutable view out.
//!
//! Reports, operators' commands and the ledger's own counts all pass one bounded channel, so the fleet needs no
//! lock and its order of events is the truth. Views are published at most every [`PUBLISH_EVERY`], whatever
//! the number of reports; a change is visible that much later at the most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{
    Endpoint, EndpointId, GpuEvents, GpuUuid, Health, ModelId, MonoTime, NodeId, Phase, Report, Snapshot,
};
use aya_estimate::PrefixIndex;
use aya_fleet::{Effects, Event, Fleet, Notice, OwnInFlight, Target};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::fallen::has_fallen;
use crate::ledger::LedgerCell;
use crate::models::ModelState;
use crate::shared::Shared;
use crate::view::{Companion, FarmView};

/// Reports and commands that wait for the writer; at the limit an agent's stream is not read further.
const EVENTS_MAX: usize = 1024;
/// The shortest time between two published views.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);
/// How often the ledger's own counts are noted, so that a report can be compared with what was ours when
/// it was sampled; also the tick of staleness.
const NOTE_LEDGER_EVERY: Duration = Duration::from_millis(50);
/// Tokens of one prompt block, about: its 256 bytes at four bytes per token.
const PREFIX_BLOCK_TOKENS: u64 = 64;
/// Events applied before the view is considered again.
const BATCH_MAX: usize = 256;

/// What can be asked of the writer.
#[derive(Debug)]
pub(crate) enum Command {
    Report { report: Box<Report>, received_at: MonoTime, resend: oneshot::Sender<bool> },
    Disconnected { node: NodeId, heard_at: MonoTime },
    GpuEvents { events: GpuEvents, received_at: MonoTime },
    Probed { endpoint: EndpointId, ok: bool },
    Drain { target: Target, done: oneshot::Sender<Drained> },
    Undrain { target: Target, done: oneshot::Sender<Drained> },
    ClearGpu { gpu: GpuUuid, done: oneshot::Sender<Drained> },
}

/// What became of a drain or undrain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    Done,
    /// The fleet does not know the target.
    Unknown,
    /// There are as many drains as may be.
    Refused,
}

/// The writer has stopped: the scheduler is shutting down.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the scheduler is shutting down")]
pub(crate) struct CommandError;

/// How the rest of the scheduler reaches the writer.
#[derive(Debug, Clone)]
pub(crate) struct FleetHandle(mpsc::Sender<Command>);

impl FleetHandle {
    /// Applies a report; true if the agent shall send everything anew.
    pub(crate) async fn report(
        &self,
        report: Box<Report>,
        received_at: MonoTime,
    ) -> Result<bool, CommandError> {
        let (resend, answer) = oneshot::channel();
        self.ask(Command::Report { report, received_at, resend }, answer).await
    }

    /// A stream of this node ended; its last report was received at `heard_at`.
    pub(crate) async fn disconnected(&self, node: NodeId, heard_at: MonoTime) -> Result<(), CommandError> {
        self.0.send(Command::Disconnected { node, heard_at }).await.map_err(|_| CommandError)
    }

    /// Applies what an agent tells between its reports.
    pub(crate) async fn gpu_events(
        &self,
        events: GpuEvents,
        received_at: MonoTime,
    ) -> Result<(), CommandError> {
        self.0.send(Command::GpuEvents { events, received_at }).await.map_err(|_| CommandError)
    }

    /// A synthetic generation on an endpoint ended.
    pub(crate) async fn probed(&self, endpoint: EndpointId, ok: bool) -> Result<(), CommandError> {
        self.0.send(Command::Probed { endpoint, ok }).await.map_err(|_| CommandError)
    }

    /// Drains or undrains.
    pub(crate) async fn drain(&self, target: Target, on: bool) -> Result<Drained, CommandError> {
        let (done, answer) = oneshot::channel();
        let command = if on { Command::Drain { target, done } } else { Command::Undrain { target, done } };
        self.ask(command, answer).await
    }

    /// Ends what the health rules did to a GPU.
    pub(crate) async fn clear_gpu(&self, gpu: GpuUuid) -> Result<Drained, CommandError> {
        let (done, answer) = oneshot::channel();
        self.ask(Command::ClearGpu { gpu, done }, answer).await
    }

    async fn ask<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Result<T, CommandError> {
        self.0.send(command).await.map_err(|_| CommandError)?;
        answer.await.map_err(|_| CommandError)
    }
}

/// The writer with everything it owns.
#[derive(Debug)]
pub(crate) struct FleetWriter {
    shared: Arc<Shared>,
    fleet: Fleet,
    commands: mpsc::Receiver<Command>,
    companions: BTreeMap<EndpointId, Companion>,
    models: BTreeMap<ModelId, Arc<ModelState>>,
}

impl FleetWriter {
    pub(crate) fn new(shared: Arc<Shared>, fleet: Fleet) -> (Self, FleetHandle) {
        let (sender, commands) = mpsc::channel(EVENTS_MAX);
        let writer = Self { shared, fleet, commands, companions: BTreeMap::new(), models: BTreeMap::new() };
        (writer, FleetHandle(sender))
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut note = tokio::time::interval(NOTE_LEDGER_EVERY);
        note.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut publish = tokio::time::interval(PUBLISH_EVERY);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut dirty = true;
        loop {
            // In this order, so that a simulation repeats; none of them can keep the others waiting.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = publish.tick(), if dirty => {
                    self.publish();
                    dirty = false;
                }
                _ = note.tick() => {
                    dirty |= self.note_ledger();
                    dirty |= self.apply_waiting();
                }
                received = self.commands.recv_many(&mut batch, BATCH_MAX) => {
                    if received == 0 {
                        return;
                    }
                    for command in batch.drain(..) {
                        dirty |= self.apply(command);
                    }
                }
            }
        }
    }

    /// Applies what waits, so that a note which takes as long as its period holds nothing up.
    fn apply_waiting(&mut self) -> bool {
        let mut changed = false;
        for _ in 0..BATCH_MAX {
            let Ok(command) = self.commands.try_recv() else { break };
            changed |= self.apply(command);
        }
        changed
    }

    /// Whether the view changed.
    fn apply(&mut self, command: Command) -> bool {
        let now = self.shared.clock.now();
        match command {
            Command::Report { report, received_at, resend } => {
                // What was sent since the last note must not look foreign in this report.
                self.note_endpoints(report.engines.iter().map(|engine| &engine.id), now);
                let effects = self.fleet.apply(Event::Report { report, received_at }, now);
                self.shared.metrics.reports.inc();
                // A dropped receiver is a stream that ended meanwhile: nobody needs the answer.
                let _ = resend.send(effects.resend_full);
                tell(&self.shared, &effects)
            }
            Command::Disconnected { node, heard_at } => {
                tell(&self.shared, &self.fleet.apply(Event::Disconnected { node, at: heard_at }, now))
            }
            Command::GpuEvents { events, received_at } => {
                tell(&self.shared, &self.fleet.apply(Event::GpuEvents { events, received_at }, now))
            }
            Command::Probed { endpoint, ok } => {
                tell(&self.shared, &self.fleet.apply(Event::Probed { endpoint, ok }, now))
            }
            Command::Drain { target, done } => self.apply_drain(Event::Drain(target), done, now),
            Command::ClearGpu { gpu, done } => self.apply_drain(Event::ClearGpu(gpu), done, now),
            Command::Undrain { target, done } => self.apply_drain(Event::Undrain(target), done, now),
        }
    }

    fn apply_drain(&mut self, event: Event, done: oneshot::Sender<Drained>, now: MonoTime) -> bool {
        let effects = self.fleet.apply(event, now);
        let changed = tell(&self.shared, &effects);
        // The operator's answer must describe what the next request will see.
        self.publish();
        let _ = done.send(match (effects.unknown_target, effects.drain_refused) {
            (true, _) => Drained::Unknown,
            (false, true) => Drained::Refused,
            (false, false) => Drained::Done,
        });
        changed
    }

    fn note_ledger(&mut self) -> bool {
        let now = self.shared.clock.now();
        let loads = self.companions.iter().map(|(id, companion)| (id.clone(), own(companion, now))).collect();
        let noted = tell(&self.shared, &self.fleet.apply(Event::OwnLoad { at: now, loads }, now));
        let all = self.companions.iter().map(|(id, of)| (id.clone(), of.cell.outcomes())).collect();
        let judged = tell(&self.shared, &self.fleet.apply(Event::Outcomes { at: now, all }, now));
        let seen = |(id, companion): (&EndpointId, &Companion)| {
            companion.cell.steps().take().map(|steps| (id.clone(), steps))
        };
        let steps = self.companions.iter().filter_map(seen).collect();
        // Steps only teach; what they taught shows with the tick.
        let _ = self.fleet.apply(Event::Steps { steps }, now);
        tell(&self.shared, &self.fleet.apply(Event::Tick, now)) || noted || judged
    }

    fn note_endpoints<'a>(&mut self, ids: impl Iterator<Item = &'a EndpointId>, now: MonoTime) {
        let known = ids.filter_map(|id| self.companions.get_key_value(id));
        let loads = known.map(|(id, companion)| (id.clone(), own(companion, now))).collect();
        // Notes change no view and give no notice.
        let _ = self.fleet.apply(Event::OwnLoad { at: now, loads }, now);
    }

    fn publish(&mut self) {
        let snapshot = self.fleet.snapshot(self.shared.clock.now());
        self.forget_gone(&snapshot);
        let companions = snapshot.endpoints.iter().map(|endpoint| self.companion(endpoint));
        let companions: Vec<Companion> = companions.collect();
        for (endpoint, companion) in snapshot.endpoints.iter().zip(&companions) {
            companion.cell.fallen().set(has_fallen(endpoint));
        }
        for model in snapshot.models.keys() {
            if !self.models.contains_key(model) {
                let state = Arc::new(ModelState::new(self.shared.metrics.model(Some(model))));
                self.models.insert(model.clone(), state);
            }
        }
        self.models.retain(|model, _| snapshot.models.contains_key(model));
        // Laid out here, not by the first request that reads it.
        snapshot.endpoints.prepare();
        let view = FarmView { snapshot, companions, models: self.models.clone() };
        self.shared.view.store(Arc::new(view));
        self.shared.room.wake_heads();
    }

    fn companion(&mut self, endpoint: &Endpoint) -> Companion {
        let (id, url) = (&endpoint.info.id, &endpoint.info.url);
        let blocks = prefix_blocks(endpoint, self.shared.config.placement.prefix_blocks_max);
        if let Some(companion) = self.companions.get_mut(id) {
            let lost = matches!(endpoint.health, Health::Unhealthy { .. }) || endpoint.phase == Phase::Gone;
            if companion.prefixes.capacity() != blocks || (lost && companion.prefixes.is_used()) {
                companion.prefixes = Arc::new(PrefixIndex::new(blocks));
            }
            if companion.url != *url {
                (companion.url, companion.address) = (url.clone(), url.authority().parse().ok());
            }
            return companion.clone();
        }
        let companion = Companion {
            prefixes: Arc::new(PrefixIndex::new(blocks)),
            cell: Arc::new(LedgerCell::new(Arc::clone(&self.shared.room))),
            metrics: self.shared.metrics.endpoint(id.as_str()),
            since: self.shared.clock.now(),
            url: url.clone(),
            address: url.authority().parse().ok(),
        };
        self.companions.insert(id.clone(), companion.clone());
        companion
    }

    /// An endpoint that left keeps its cell while requests run on it, so that its return finds them counted.
    fn forget_gone(&mut self, snapshot: &Snapshot) {
        let metrics = &self.shared.metrics;
        self.companions.retain(|id, companion| {
            let keep = snapshot.index_of(id).is_some() || companion.cell.in_flight() > 0;
            if !keep {
                metrics.forget_endpoint(id.as_str());
            }
            keep
        });
    }
}

fn own(companion: &Companion, now: MonoTime) -> OwnInFlight {
    let own = companion.cell.read(now);
    OwnInFlight { in_flight: own.in_flight, decoding: own.decoding, kv_tokens: own.decode_kv_tokens }
}

/// Blocks that the engine's cache can hold: its KV pool, as far as it is known.
fn prefix_blocks(endpoint: &Endpoint, most: usize) -> usize {
    let info = &endpoint.info;
    let pool = info.kv_capacity.unwrap_or(info.profile.kv_capacity).get();
    usize::try_from(pool / PREFIX_BLOCK_TOKENS).unwrap_or(usize::MAX).min(most)
}

/// Logs, counts and keeps what an operator should know; whether the view changed.
fn tell(shared: &Shared, effects: &Effects) -> bool {
    if effects.notices.is_empty() {
        return effects.changed;
    }
    let (view, time) = (shared.view.load(), shared.clock.wall(shared.clock.now()));
    for notice in &effects.notices {
        shared.events.keep(notice, &view.snapshot, time);
        if let Notice::Health(health) = notice {
            shared.metrics.health.acted(health);
        }
        if let Notice::Breaker(breaker) = notice {
            shared.metrics.breaker.told(breaker);
        }
        if matches!(notice, Notice::ReportIgnored { .. }) {
            // Once per report, as long as its cause lasts; the cause has a notice of its own.
            debug!("{notice}");
        } else if notice.is_warning() {
            warn!("{notice}");
        } else {
            info!("{notice}");
        }
    }
    effects.changed
}
