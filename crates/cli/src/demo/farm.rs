//! The demo's farm: simulated engines, one agent per node, one scheduler, all in this process.
//!
//! Nothing is wired past the real interfaces: agents scrape engines over HTTP and report over gRPC, the scheduler
//! relays over HTTP. Only the addresses are made here.

use std::future::Future;
use std::net::SocketAddr;

use aya_agent::Agent;
use aya_config::{AgentConfig, Config, SchedulerConfig};
use aya_estimate::NamedProfile;
use aya_observe::Clock;
use aya_scheduler::{Scheduler, SchedulerError};
use aya_sim_engine::{SimConfig, SimEngine};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// One simulated engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineSpec {
    /// The endpoint's name.
    pub(crate) name: &'static str,
    pub(crate) profile: &'static str,
}

/// One GPU host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeSpec {
    pub(crate) name: &'static str,
    pub(crate) engines: &'static [EngineSpec],
}

const fn engine(name: &'static str, profile: &'static str) -> EngineSpec {
    EngineSpec { name, profile }
}

/// New and old GPUs side by side, as farms grow: an H100 serves ten times what an L4 does.
pub(crate) const NODES: [NodeSpec; 3] = [
    NodeSpec {
        name: "hopper",
        engines: &[engine("hopper-8b", "h100-8b"), engine("hopper-70b", "h100x4-70b")],
    },
    NodeSpec {
        name: "ampere",
        engines: &[engine("ampere-8b", "a100-8b"), engine("ampere-70b", "a100x4-70b")],
    },
    NodeSpec {
        name: "edge",
        engines: &[
            engine("edge-l4-a", "l4-8b"),
            engine("edge-l4-b", "l4-8b"),
            engine("edge-a10g", "a10g-8b"),
        ],
    },
];

impl EngineSpec {
    /// What it runs on; `None` only if the table above names an unknown profile.
    pub(crate) fn hardware(&self) -> Option<&'static NamedProfile> {
        aya_estimate::named(self.profile).ok()
    }
}

/// Placement's constants for interactive use, in modelled seconds: they shrink with the time scale.
const SLO_TTFT_S: f64 = 2.0;
const HOLD_BACKLOG_S: f64 = 0.5;
/// Longest wait in the queue, in real time: nothing of this load may fail for waiting.
const QUEUE_WAIT: &str = "60s";
/// How long open streams may go on after Ctrl-C.
const DRAIN: &str = "1s";

/// What decides how the farm is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FarmPlan {
    /// The scheduler's first port; 0 takes free ones.
    pub(crate) port: u16,
    pub(crate) seed: u64,
    /// Modelled seconds per real second.
    pub(crate) time_scale: f64,
}

/// The farm's parts while they run.
#[derive(Debug)]
pub(crate) struct Farm {
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) grpc: SocketAddr,
    agents: Parts,
    scheduler: Parts,
    engines: Parts,
}

/// Parts that stop together.
#[derive(Debug, Default)]
struct Parts {
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Parts {
    fn run<F, E>(&mut self, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + 'static,
    {
        let running = part(self.shutdown.clone());
        self.tasks.spawn(async move { running.await.map_err(Into::into) });
    }

    /// The next part that ends.
    async fn ended(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the farm has ended"),
        }
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Farm {
    /// Binds every part and lets it run until [`Farm::stop`].
    ///
    /// # Errors
    /// A busy port, named with what to do about it; a part that does not start.
    pub(crate) async fn start(plan: FarmPlan) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let config: SchedulerConfig = parsed(&scheduler_config(plan))?;
        let scheduler = Scheduler::bind(config, clock.clone()).map_err(bind_hint)?;
        let (api, admin, grpc) = (scheduler.api_addr(), scheduler.admin_addr(), scheduler.grpc_addr());
        let [agents, front, engines] = std::array::from_fn(|_| Parts::default());
        let mut farm = Self { api, admin, grpc, agents, scheduler: front, engines };
        farm.scheduler.run(|shutdown| scheduler.run(shutdown));
        let mut seed = plan.seed;
        for node in &NODES {
            let mut urls = Vec::with_capacity(node.engines.len());
            for spec in node.engines {
                seed = seed.wrapping_add(1);
                let config =
                    SimConfig { time_scale: plan.time_scale, seed, ..SimConfig::local(spec.profile) };
                let engine = SimEngine::bind(config).await?;
                urls.push(engine.addr());
                farm.engines.run(|shutdown| engine.run(shutdown));
            }
            let config: AgentConfig = parsed(&agent_config(node, &urls, grpc))?;
            let agent = Agent::bind(config, clock.clone()).await?;
            farm.agents.run(|shutdown| agent.run(shutdown));
        }
        Ok(farm)
    }

    /// Waits for the first part that ends by itself; that is always a failure.
    pub(crate) async fn broken(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.agents.ended() => error,
            error = self.scheduler.ended() => error,
            error = self.engines.ended() => error,
        }
    }

    /// Ends all parts in the order in which nobody misses anybody, and waits for them.
    pub(crate) async fn stop(mut self) {
        self.agents.stop().await;
        self.scheduler.stop().await;
        self.engines.stop().await;
    }
}

fn parsed<C: Config>(text: &str) -> anyhow::Result<C> {
    aya_config::parse("demo", text, [], &[]).map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// The scheduler's configuration: what is not named here is what every user gets.
fn scheduler_config(plan: FarmPlan) -> String {
    let port = |offset: u16| if plan.port == 0 { 0 } else { plan.port.saturating_add(offset) };
    let real = |modelled_s: f64| format!("{}ms", millis((modelled_s / plan.time_scale * 1e3).max(1.0)));
    format!(
        "listen = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\ngrpc_listen = \"127.0.0.1:{}\"\n\
         [queue]\nwait_max = \"{QUEUE_WAIT}\"\n[timeouts]\ndrain = \"{DRAIN}\"\naccept_grace = \"0s\"\n\
         [placement]\nseed = {}\nslo_ttft = \"{}\"\nhold_backlog = \"{}\"\n",
        port(0),
        port(1),
        port(2),
        plan.seed,
        real(SLO_TTFT_S),
        real(HOLD_BACKLOG_S),
    )
}

fn agent_config(node: &NodeSpec, urls: &[SocketAddr], scheduler: SocketAddr) -> String {
    let gpus: Vec<String> = node
        .engines
        .iter()
        .filter_map(|spec| Some(format!("\"{}*{}\"", spec.hardware()?.gpus_per_engine, spec.profile)))
        .collect();
    let mut text = format!(
        "node_id = \"{}\"\nschedulers = [\"http://{scheduler}\"]\nadmin_listen = \"127.0.0.1:0\"\n\
         [gpu]\nsource = \"simulated\"\nsimulated = [{}]\n",
        node.name,
        gpus.join(", "),
    );
    for (spec, url) in node.engines.iter().zip(urls) {
        text.push_str(&format!(
            "[[engine]]\nkind = \"simulated\"\nname = \"{}\"\nurl = \"http://{url}\"\n",
            spec.name
        ));
    }
    text
}

/// A busy port is the one thing that goes wrong on a developer's machine.
fn bind_hint(error: SchedulerError) -> anyhow::Error {
    if let SchedulerError::Bind { what, address, source } = &error
        && source.kind() == std::io::ErrorKind::AddrInUse
    {
        return anyhow::anyhow!(
            "port {} for the {what} listener is busy; choose others with --port N (N, N+1 and N+2 are used), \
             or take free ones with --port 0",
            address.port()
        );
    }
    error.into()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, far below 2^53")]
fn millis(ms: f64) -> u64 {
    ms.round() as u64
}

/// An address as a URL.
pub(crate) fn url(addr: SocketAddr) -> String {
    format!("http://{addr}")
}

/// All engines with their node.
pub(crate) fn engines() -> impl Iterator<Item = (&'static NodeSpec, &'static EngineSpec)> {
    NODES.iter().flat_map(|node| node.engines.iter().map(move |engine| (node, engine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farm_is_mixed() {
        let hardware: Vec<_> = engines().map(|(_, e)| e.hardware().expect(e.profile)).collect();
        let distinct = |key: fn(&NamedProfile) -> &'static str| {
            hardware.iter().map(|h| key(h)).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((NODES.len(), distinct(|h| h.gpu_name), distinct(|h| h.model)), (3, 4, 2));
    }

    #[test]
    fn every_part_gets_a_valid_configuration_and_time_limits_shrink_with_the_time_scale() {
        let config: SchedulerConfig =
            parsed(&scheduler_config(FarmPlan { port: 9000, seed: 5, time_scale: 4.0 })).unwrap();
        assert_eq!(
            (config.listen.port(), config.admin_listen.port(), config.grpc_listen.port()),
            (9000, 9001, 9002)
        );
        assert_eq!(config.placement.slo_ttft.as_millis(), 500);
        assert_eq!(config.placement.hold_backlog.as_millis(), 125);
        let addr: SocketAddr = "127.0.0.1:9".parse().unwrap();
        for node in &NODES {
            let urls: Vec<SocketAddr> =
                (1..).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).take(node.engines.len()).collect();
            let config: AgentConfig = parsed(&agent_config(node, &urls, addr)).unwrap();
            assert_eq!(config.engines.len(), node.engines.len());
        }
    }

    #[tokio::test]
    async fn a_busy_port_is_named_with_the_way_out() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().min(65_000);
        let plan = FarmPlan { port, seed: 1, time_scale: 1.0 };
        let error = Farm::start(plan).await.unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port 0"), "{error}");
    }
}
