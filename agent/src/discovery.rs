//! Finds the engines of this host that nobody listed: processes that hold a GPU, the ports that they and what belongs to
//! them listen on, and what those answer.
//!
//! One task looks every so often, and as soon as other processes hold the GPUs. It reads /proc, asks the fewest ports
//! that will do (see `lookout`), one at a time, read only, with limits on time and bytes, and starts a sampler for each
//! engine that it finds. An engine leaves when its process is gone, not when it is silent: that is for its health. Ports
//! of processes that hold no GPU are not touched unless the operator says so. What was found, and why the rest was left,
//! stands in the log and at `GET /api/v1/discovery`.

mod family;
mod lookout;
mod published;
mod statement;
mod survey;
mod vigil;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aya_config::{AgentConfig, DiscoveryMode, EngineConfig};
use aya_domain::{EndpointId, EndpointUrl, EngineKind, MonoTime};
use aya_engine::{Heard, NextProbe, NoEngine, fingerprint};
use aya_observe::Clock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::lookout::{Listed, Lookout, Standing, Verdict};
use self::survey::{Listener, Site, Survey};
use self::vigil::{Vigil, Wanted};
use crate::metrics::Metrics;
use crate::prober::Prober;
use crate::procfs::Procfs;
use crate::sampler::Sampler;
use crate::view::{EngineView, Update};

pub(crate) use self::statement::{Board, Statement};

/// Bytes of one answer of an unknown port that are read: a list of models has some kilobytes.
const PAGE_MAX: usize = 256 * 1024;
/// Pages of one port, whatever the verdict wants.
const PAGES_MAX: usize = 4;
/// Ports asked in one look; the others wait for the next.
const PROBES_MAX: usize = 32;
/// Time for asking in one look: an engine that has gone is not to be noticed later because others are silent.
const ASKING_MAX: Duration = Duration::from_secs(5);
/// Engines found on one host; more are left.
const FOUND_MAX: usize = 64;

/// The processes that hold the GPUs, in ascending order; `None`: no driver has told yet, or it tells nobody.
pub(crate) type Holders = Option<Vec<u32>>;

/// What the finder of engines works with.
pub(crate) struct Discovery {
    pub(crate) config: AgentConfig,
    /// The names of the listed engines, in their order.
    pub(crate) ids: Vec<EndpointId>,
    pub(crate) proc: Procfs,
    pub(crate) clock: Clock,
    pub(crate) epoch: Instant,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) holders: watch::Receiver<Holders>,
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) board: watch::Sender<Arc<Statement>>,
}

/// An engine that was found, under watch.
struct Found {
    id: EndpointId,
    kind: EngineKind,
    since: MonoTime,
    stop: CancellationToken,
    sampler: JoinSet<()>,
}

/// What is remembered between two looks.
#[derive(Default)]
struct Memory {
    lookout: Lookout,
    vigil: Vigil,
    found: BTreeMap<Site, Found>,
    looks: u64,
}

impl Discovery {
    /// Looks until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        if self.config.discovery.mode == DiscoveryMode::Off {
            return;
        }
        let listed = listed(&self.ids, &self.config.engines);
        let mut memory = Memory::default();
        let mut ticks = interval(self.config.discovery.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
                Ok(()) = self.holders.changed() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.look(&mut memory, &listed, &shutdown) => {}
            }
        }
        for mut found in memory.found.into_values() {
            while found.sampler.join_next().await.is_some() {}
        }
    }

    /// Looks once at everything.
    async fn look(&mut self, memory: &mut Memory, listed: &[Listed], shutdown: &CancellationToken) {
        let holders = self.holders.borrow_and_update().clone();
        let survey = self.survey(holders.clone().unwrap_or_default(), memory).await;
        memory.lookout.keep(&survey);
        self.dismiss(memory, &survey).await;
        let begun = self.clock.now();
        for _ in 0..PROBES_MAX {
            let now = self.clock.now();
            if now.since(begun) > ASKING_MAX {
                break;
            }
            let Some(site) = memory.lookout.next(&survey, listed, now) else { break };
            let verdict = self.ask(site.addr).await;
            debug!(pid = site.pid, addr = %site.addr, ?verdict, "a port was asked what it is");
            memory.lookout.note(site, verdict, self.config.discovery.period, self.clock.now());
        }
        for listener in &survey.listeners {
            if let Standing::Engine(kind) = memory.lookout.standing(listener, &survey, listed)
                && !memory.found.contains_key(&listener.site)
            {
                self.take_in(memory, listener, kind, shutdown).await;
            }
        }
        memory.looks += 1;
        self.state(memory, holders, &survey, listed);
    }

    /// Reads /proc off this runtime: it may be slow.
    async fn survey(&self, holders: Vec<u32>, memory: &mut Memory) -> Arc<Survey> {
        let (proc, mode, own) = (self.proc.clone(), self.config.discovery.mode, std::process::id());
        let kept = memory.found.keys().map(|site| site.pid).collect();
        let mut vigil = std::mem::take(&mut memory.vigil);
        let surveyed = tokio::task::spawn_blocking(move || {
            let survey = vigil.look(&proc, Wanted { mode, holders, kept }, own);
            (vigil, survey)
        });
        match surveyed.await {
            Ok((vigil, survey)) => {
                memory.vigil = vigil;
                survey
            }
            Err(error) => {
                warn!(%error, "the listening processes could not be told");
                Arc::default()
            }
        }
    }

    /// Asks one port what it is, on one connection that is closed afterwards.
    async fn ask(&self, addr: SocketAddr) -> Verdict {
        let url = url(addr).ok_or_else(|| NoEngine::Silent("its address makes no URL".to_owned()))?;
        let mut prober = Prober::new(&url, None, self.config.discovery.probe_timeout, PAGE_MAX);
        let mut pages: Vec<(&'static str, u16, Vec<u8>)> = Vec::new();
        loop {
            let heard: Vec<_> =
                pages.iter().map(|(path, status, body)| Heard { path, status: *status, body }).collect();
            let path = match fingerprint(&heard) {
                NextProbe::Done(verdict) => return verdict,
                NextProbe::Ask(_) if pages.len() >= PAGES_MAX => {
                    return Err(NoEngine::UnknownKind { owned_by: None });
                }
                NextProbe::Ask(path) => path,
            };
            match prober.get(path).await {
                Ok(status) => pages.push((path, status, prober.body().to_vec())),
                Err(error) => return Err(NoEngine::Silent(format!("GET {path}: {error}"))),
            }
        }
    }

    /// Lets go of the engines whose processes are gone.
    async fn dismiss(&self, memory: &mut Memory, survey: &Survey) {
        let alive = |site: &Site| survey.listeners.iter().any(|listener| listener.site == *site);
        let gone: Vec<Site> = memory.found.keys().filter(|site| !alive(site)).copied().collect();
        for site in gone {
            let Some(mut found) = memory.found.remove(&site) else { continue };
            // Its last word has to come before the word that it has left.
            found.stop.cancel();
            while found.sampler.join_next().await.is_some() {}
            info!(endpoint = %found.id, pid = site.pid, "a discovered engine has gone");
            self.metrics.forget(&found.id);
            self.tell(Update::Left(found.id)).await;
        }
    }

    /// Puts an engine under watch.
    async fn take_in(
        &self,
        memory: &mut Memory,
        listener: &Listener,
        kind: EngineKind,
        shutdown: &CancellationToken,
    ) {
        let site = listener.site;
        let taken =
            |id: &EndpointId| self.ids.contains(id) || memory.found.values().any(|found| found.id == *id);
        // Left otherwise, and stated so.
        let (Some(id), Some(url)) = (name(&self.config, kind, site, taken), url(site.addr)) else { return };
        if memory.found.len() >= FOUND_MAX {
            return;
        }
        info!(endpoint = %id, %kind, %url, pid = site.pid, "an engine is discovered");
        if listener.loopback_only {
            warn!(endpoint = %id, "it listens on loopback only: a scheduler on another host cannot reach it");
        }
        let (engine, polling) = (EngineConfig::found(kind, url), &self.config.polling);
        let view = EngineView { pid: Some(site.pid), ..EngineView::new(id.clone(), &engine, polling) };
        self.tell(Update::Joined(Box::new(view))).await;
        let (clock, metrics) = (self.clock.clone(), Arc::clone(&self.metrics));
        let sampler = Sampler::new(id.clone(), &engine, polling, clock, metrics, self.updates.clone());
        let (stop, mut task) = (shutdown.child_token(), JoinSet::new());
        task.spawn(sampler.run(self.epoch, stop.clone()));
        let found = Found { id, kind, since: self.clock.now(), stop, sampler: task };
        memory.found.insert(site, found);
    }

    async fn tell(&self, update: Update) {
        // Fails only when the writer has gone, at shutdown.
        let _ = self.updates.send(update).await;
    }
}

/// The listed engines, as they are compared with what is found.
fn listed(ids: &[EndpointId], engines: &[EngineConfig]) -> Vec<Listed> {
    let entry = |(id, engine): (&EndpointId, &EngineConfig)| {
        let host = engine.url.host().trim_start_matches('[').trim_end_matches(']');
        Listed { id: id.clone(), ip: host.parse().ok(), port: engine.url.port() }
    };
    ids.iter().zip(engines).map(entry).collect()
}

fn url(addr: SocketAddr) -> Option<EndpointUrl> {
    EndpointUrl::parse(&format!("http://{addr}")).ok()
}

/// `NODE-KIND-PORT` as for listed engines; with the process where that is taken.
fn name(
    config: &AgentConfig,
    kind: EngineKind,
    site: Site,
    taken: impl Fn(&EndpointId) -> bool,
) -> Option<EndpointId> {
    let plain = format!("{}-{kind}-{}", config.node_id, site.addr.port());
    let with_pid = format!("{plain}-{}", site.pid);
    [plain, with_pid].iter().filter_map(|name| EndpointId::parse(name).ok()).find(|id| !taken(id))
}
