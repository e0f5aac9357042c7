//! Reads the GPUs at their own pace, and says so when the driver does not answer.
//!
//! The driver lives on a thread of its own. Here one question is open at a time; when its answer is late, the
//! reports say since when, and go on. Readings that could not be repeated stay and grow old.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aya_config::{AgentConfig, GpuChoice as Configured};
use aya_domain::{EngineKind, GpuSourceKind, GpuUuid, MonoTime, NodeId};
use aya_gpu::{
    Answer, Ask, GpuChoice, GpuHappening, GpuSource, GpuThread, Product, SimulatedGpu, Tell, open,
};
use aya_observe::Clock;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::counters::Counters;
use crate::discovery::Holders;
use crate::gpu_round::{Listed, Round};
use crate::gpus_of::{loads, products_told};
use crate::metrics::{Metrics, Part};
use crate::view::{GpuSourceView, Update, View};

/// A driver that has not answered for this long has stalled; a slow one takes some 100 ms. Looked at with every tick,
/// and no whole number of seconds, so that the usual tick of 1 s finds it at the second one.
const STALLED_AFTER: Duration = Duration::from_millis(1_500);
/// How often the list of devices is read again: a changed list is a lost or a new GPU.
const DISCOVER_PERIOD: Duration = Duration::from_secs(30);
/// How often a failed discovery is repeated.
const DISCOVER_RETRY: Duration = Duration::from_secs(5);
/// How long simulated engines are waited for to learn which GPUs to simulate.
const ENGINES_TELL_WITHIN: Duration = Duration::from_secs(10);
/// Answers that may wait here: one question is open at a time, and the first answer comes unasked.
const ANSWERS_MAX: usize = 4;

/// Happenings that may wait here; of a storm beyond it the readings' counts tell.
const HAPPENINGS_MAX: usize = 64;

/// Makes the source, on the thread that will own it, and gives it a way to tell at once what happens.
pub(crate) type Opener = Box<dyn FnOnce(Tell) -> Box<dyn GpuSource> + Send>;

/// What the GPU task works with.
pub(crate) struct GpuTask {
    pub(crate) period: Duration,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) views: watch::Receiver<Arc<View>>,
    /// Told when other processes hold the GPUs than before.
    pub(crate) holders: watch::Sender<Holders>,
}

/// Makes the source that is configured; `told` are the devices that simulated engines play on.
fn opener(config: &AgentConfig, told: &[Product]) -> Opener {
    let choice = choice(config, told);
    Box::new(move |tell| open(choice, tell))
}

/// The configuration's choice with its simulated devices made out.
fn choice(config: &AgentConfig, told: &[Product]) -> GpuChoice {
    let simulated = || simulated_gpus(config, told);
    match config.gpu.source {
        Configured::Auto => GpuChoice::Auto { nvml_lib: config.gpu.nvml_lib.clone(), simulated: simulated() },
        Configured::Nvml => GpuChoice::Nvml { lib: config.gpu.nvml_lib.clone() },
        Configured::Simulated => GpuChoice::Simulated(simulated()),
        // The configuration insists on the file.
        Configured::Recorded => config.gpu.recording.clone().map_or(GpuChoice::None, GpuChoice::Recorded),
        Configured::None => GpuChoice::None,
    }
}

/// Whether the simulated devices are those that the engines tell of, because none are configured.
fn engines_tell(config: &AgentConfig) -> bool {
    let may_simulate = matches!(config.gpu.source, Configured::Simulated | Configured::Auto);
    let simulated = config.engines.iter().any(|engine| engine.kind == EngineKind::Simulated);
    may_simulate && simulated && config.gpu.simulated.is_empty()
}

/// The configured devices, else those that the engines told of.
fn simulated_gpus(config: &AgentConfig, told: &[Product]) -> Vec<SimulatedGpu> {
    let configured = config.gpu.simulated.iter().flat_map(|gpus| {
        let profile = gpus.profile;
        let product = Product {
            vram_total: profile.vram_total_per_gpu,
            power_limit: profile.power_limit,
            power_idle: profile.idle_power,
            ..Product::named(profile.gpu_name).unwrap_or(Product::unknown(profile.gpu_name))
        };
        (0..gpus.count).map(move |_| product)
    });
    let gpu =
        |(index, product)| Some(SimulatedGpu { uuid: simulated_uuid(&config.node_id, index)?, product });
    configured.chain(told.iter().copied()).enumerate().filter_map(gpu).collect()
}

/// Unique in the farm, as NVML's are in the world.
fn simulated_uuid(node: &NodeId, index: usize) -> Option<GpuUuid> {
    GpuUuid::parse(&format!("GPU-sim-{node}-{index}")).ok()
}

/// Passes on what happens, without ever waiting.
fn at_once(happens: mpsc::Sender<GpuHappening>) -> Tell {
    Tell::by(move |happening| {
        if let Err(mpsc::error::TrySendError::Full(lost)) = happens.try_send(happening) {
            warn!(gpu = %lost.gpu, event = %lost.kind, "too many gpu events at once: this one is told by the counts only");
        }
    })
}

fn ticks(first: Instant, step: Duration) -> Interval {
    let mut ticks = interval_at(first, step.min(STALLED_AFTER));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// The open question.
struct Open {
    since: MonoTime,
    /// The stall has been reported.
    stalled: bool,
}

/// What is known about the source itself.
struct Source {
    view: GpuSourceView,
    open: Option<Open>,
    discovered_at: Option<MonoTime>,
    discover_after: MonoTime,
    round: Round,
    listed: Listed,
}

impl Source {
    /// The open question is answered.
    fn answered(&mut self, metrics: &Metrics) {
        if self.open.take().is_some_and(|open| open.stalled) {
            info!("the gpu driver answers again");
        }
        metrics.gpu_stall(0.0);
    }
}

impl GpuTask {
    /// Opens the configured source, once it is known what there is to simulate, and reads until `shutdown`.
    pub(crate) async fn run_configured(
        mut self,
        config: AgentConfig,
        epoch: Instant,
        shutdown: CancellationToken,
    ) {
        let told = if engines_tell(&config) {
            tokio::select! {
                () = shutdown.cancelled() => return,
                told = self.told_by_engines() => told,
            }
        } else {
            Vec::new()
        };
        self.run(opener(&config, &told), epoch, shutdown).await;
    }

    /// The devices below the simulated engines; those of an engine that has not answered in time are missing.
    async fn told_by_engines(&mut self) -> Vec<Product> {
        let all = self.views.wait_for(|view| products_told(view).1);
        if tokio::time::timeout(ENGINES_TELL_WITHIN, all).await.is_err() {
            warn!("not every simulated engine has told its GPUs: theirs are missing; see gpu.simulated");
        }
        products_told(&self.views.borrow()).0
    }

    /// Reads until `shutdown`.
    pub(crate) async fn run(self, open: Opener, epoch: Instant, shutdown: CancellationToken) {
        let (tell, mut answers) = mpsc::channel(ANSWERS_MAX);
        let (happens, mut happenings) = mpsc::channel(HAPPENINGS_MAX);
        let tell_at_once = at_once(happens).counting(self.metrics.failed_calls());
        let open = || open(tell_at_once);
        let thread = match GpuThread::start(open, move |answer| tell.try_send(answer).is_ok()) {
            Ok(thread) => thread,
            Err(error) => {
                let error = Some(format!("no thread for the gpu driver: {error}"));
                let kind = GpuSourceKind::None;
                self.tell(Update::Source(GpuSourceView { kind, driver_version: None, error })).await;
                return;
            }
        };
        let mut source = Source {
            view: GpuSourceView { kind: GpuSourceKind::None, driver_version: None, error: None },
            open: Some(Open { since: self.clock.now(), stalled: false }),
            discovered_at: None,
            discover_after: MonoTime::ZERO,
            round: Round::new(self.period),
            listed: Listed::default(),
        };
        let mut counters = Counters::new();
        let mut step = source.round.step();
        let mut ticks = ticks(epoch.max(Instant::now()), step);
        loop {
            if source.round.step() != step {
                step = source.round.step();
                ticks = self::ticks(Instant::now() + step, step);
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                answer = answers.recv() => match answer {
                    Some(Answer::Held { at, holders }) => {
                        source.answered(&self.metrics);
                        counters.take(at, holders);
                        if source.listed.is_whole(self.clock.now()) {
                            counters = self.count(counters).await;
                        }
                    }
                    Some(answer) => self.take(&thread, &mut source, answer).await,
                    None => {
                        source.view.error = Some("the gpu thread has ended".to_owned());
                        self.tell(Update::Source(source.view.clone())).await;
                        shutdown.cancelled().await;
                        break;
                    }
                },
                Some(happened) = happenings.recv() => {
                    self.metrics.gpu_event(happened.kind.as_str());
                    self.tell(Update::Happened { at: self.clock.now(), happened }).await;
                }
                due = ticks.tick() => {
                    self.metrics.tick_late(Part::Gpus, due.elapsed());
                    self.tick(&thread, &mut source).await;
                }
            }
        }
        // Waits a moment for the driver's library to be closed; off this runtime, for a hanging driver's sake.
        let _ = tokio::task::spawn_blocking(move || drop(thread)).await;
    }

    async fn tell(&self, update: Update) {
        // Fails only when the writer has gone, at shutdown.
        let _ = self.updates.send(update).await;
    }

    /// Asks the next question, or finds the last one late.
    async fn tick(&self, thread: &GpuThread, source: &mut Source) {
        let now = self.clock.now();
        if let Some(open) = &mut source.open {
            let waited = now.since(open.since);
            if waited >= STALLED_AFTER {
                if !open.stalled {
                    warn!(waited_s = waited.as_secs(), "the gpu driver does not answer");
                }
                open.stalled = true;
                self.metrics.gpu_stall(waited.as_secs_f64());
                let error = Some(format!("{} stalled for {:.0} s", source.view.kind, waited.as_secs_f64()));
                if source.view.error != error {
                    source.view.error = error;
                    self.tell(Update::Source(source.view.clone())).await;
                }
            }
            return;
        }
        if source.view.kind == GpuSourceKind::None && source.discovered_at.is_some() {
            return;
        }
        let ask = if now >= source.discover_after {
            Ask::Discover
        } else if source.discovered_at.is_some() {
            let turn = source.round.turn();
            source.round.done(&turn);
            self.sample(turn, now)
        } else {
            return;
        };
        self.ask(thread, source, ask, now);
    }

    fn sample(&self, devices: Range<usize>, now: MonoTime) -> Ask {
        Ask::Sample { now, devices, loads: loads(&self.views.borrow()) }
    }

    fn ask(&self, thread: &GpuThread, source: &mut Source, ask: Ask, now: MonoTime) {
        match thread.ask(ask) {
            Ok(()) => source.open = Some(Open { since: now, stalled: false }),
            Err(error) => warn!(%error, "the gpu driver could not be asked"),
        }
    }

    async fn take(&self, thread: &GpuThread, source: &mut Source, answer: Answer) {
        let now = self.clock.now();
        source.answered(&self.metrics);
        match answer {
            // Counted by the caller.
            Answer::Held { .. } => {}
            Answer::Opened(kind) => {
                source.view.kind = kind;
                self.ask(thread, source, Ask::Discover, now);
            }
            Answer::Discovered { gpus, devices, driver_version } => {
                source.view.driver_version = driver_version.or(source.view.driver_version.take());
                match gpus {
                    Ok(found) => {
                        source.discovered_at = Some(now);
                        source.discover_after = now.after(DISCOVER_PERIOD);
                        let (infos, whole) = (found.items, found.trouble.is_none());
                        Self::error(source, found.trouble);
                        source.listed.keep(|uuid| infos.iter().any(|gpu| gpu.uuid == *uuid));
                        self.tell(Update::Gpus { infos, whole }).await;
                        // Others than before are read at once; those that are known wait for their turns.
                        if source.round.set_devices(devices) {
                            let ask = self.sample(source.round.all(), now);
                            self.ask(thread, source, ask, now);
                        }
                    }
                    Err(error) => {
                        source.discover_after = now.after(DISCOVER_RETRY);
                        Self::error(source, Some(error.to_string()));
                    }
                }
                self.tell(Update::Source(source.view.clone())).await;
            }
            Answer::Sampled { at, devices, samples } => {
                self.metrics.gpus_read(samples.is_err());
                match samples {
                    Ok(samples) => {
                        // A GPU that has gone, or slices cut anew: the list is looked at soon.
                        if samples.trouble.is_some() && samples.trouble != source.view.error {
                            let soonest = source.discovered_at.unwrap_or(now).after(DISCOVER_RETRY);
                            source.discover_after = source.discover_after.min(soonest);
                        }
                        Self::error(source, samples.trouble);
                        if source.view.kind == GpuSourceKind::Nvml
                            && source.listed.is_due(&samples.items, now)
                        {
                            self.ask(thread, source, Ask::Holders { now, devices }, now);
                        }
                        self.tell(Update::Samples { at, samples: samples.items }).await;
                    }
                    Err(error) => {
                        source.discover_after = source.discover_after.min(now.after(DISCOVER_RETRY));
                        Self::error(source, Some(error.to_string()));
                    }
                }
                self.tell(Update::Source(source.view.clone())).await;
            }
        }
    }

    /// Finds out whose the processes are, off this runtime: /proc may be slow.
    async fn count(&self, mut counters: Counters) -> Counters {
        let views = self.views.borrow().engines.clone();
        let counted = tokio::task::spawn_blocking(move || {
            let (held, lists) = counters.count(&views);
            (counters, held, lists)
        });
        match counted.await {
            Ok((counters, held, lists)) => {
                self.holders.send_if_modified(|before| {
                    *before != held && {
                        *before = held;
                        true
                    }
                });
                self.tell(Update::Processes(lists)).await;
                counters
            }
            Err(error) => {
                warn!(%error, "the processes of the gpus could not be told");
                Counters::new()
            }
        }
    }

    /// Takes the present trouble over, and logs it once.
    fn error(source: &mut Source, trouble: Option<String>) {
        if source.view.error != trouble {
            match &trouble {
                Some(error) => warn!(error, "gpus cannot be read"),
                None if source.view.kind == GpuSourceKind::None => {}
                None => info!("gpus can be read"),
            }
        }
        source.view.error = trouble;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use aya_domain::{GpuInfo, GpuSample};
    use aya_gpu::{Collected, GpuError};

    use super::*;

    /// A driver that describes its GPU and hangs when it is read, until it is let go.
    #[derive(Debug)]
    struct Hanging(std_mpsc::Receiver<()>);

    impl GpuSource for Hanging {
        fn kind(&self) -> GpuSourceKind {
            GpuSourceKind::Nvml
        }
        fn driver_version(&self) -> Option<String> {
            Some("590.48".to_owned())
        }
        fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError> {
            let uuid = GpuUuid::parse("GPU-1").unwrap();
            let name = "NVIDIA H100".to_owned();
            let info = GpuInfo {
                uuid,
                name,
                vram_total: None,
                power_limit: None,
                sm_clock_max_mhz: None,
                slowdown_margin: None,
                mig: None,
            };
            Ok(Collected::all(vec![info]))
        }
        fn sample(&mut self, _now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
            let _ = self.0.recv();
            Ok(Collected::all(Vec::new()))
        }
    }

    #[tokio::test]
    async fn a_driver_that_hangs_is_reported_while_it_hangs_and_no_longer() {
        let (let_go, hanging) = std_mpsc::channel();
        let (updates, mut told) = mpsc::channel(64);
        let (_publish, views) = watch::channel(Arc::new(View::new(Vec::new())));
        let task = GpuTask {
            period: Duration::from_millis(20),
            clock: Clock::start(),
            metrics: Arc::new(Metrics::new("n1").unwrap()),
            updates,
            views,
            holders: watch::channel(None).0,
        };
        let shutdown = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        let open = |_: Tell| -> Box<dyn GpuSource> { Box::new(Hanging(hanging)) };
        tasks.spawn(task.run(Box::new(open), Instant::now(), shutdown.clone()));
        let mut error_is = async |wanted: Option<&str>| loop {
            if let Update::Source(source) = told.recv().await.unwrap()
                && source.error.as_deref() == wanted
            {
                assert_eq!(source.driver_version.as_deref(), Some("590.48"));
                break;
            }
        };
        let story = async {
            error_is(None).await;
            error_is(Some("nvml stalled for 2 s")).await;
            error_is(Some("nvml stalled for 3 s")).await;
            drop(let_go);
            error_is(None).await;
        };
        tokio::time::timeout(Duration::from_secs(60), story).await.unwrap();
        shutdown.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }
}
