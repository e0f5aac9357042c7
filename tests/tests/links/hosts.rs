//! What runs on the simulated hosts: an agent, or the scheduler. A host whose process is down answers as a machine does.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use aya_agent::simulation::{Dial, SimulatedAgent};
use aya_domain::{
    BootId, Bytes, EndpointId, EngineHealth, EngineKind, GpuEventKind, GpuInfo, GpuSample, GpuUuid, ModelId,
    Ratio, ServedModel, splitmix64,
};
use aya_engine::{EngineReadings, Findings, Page};
use aya_gpu::GpuHappening;
use aya_observe::Clock;
use aya_scheduler::simulation::SimulatedScheduler;
use futures_util::stream;
use turmoil::net::{TcpListener, TcpStream};

use crate::rules::Rules;
use crate::truth::{FOREIGN, Shared, Start};

pub(crate) const SCHEDULER: &str = "scheduler";
const PORT: u16 = 8082;
/// Between two rounds of readings, and of reports.
pub(crate) const PERIOD: Duration = Duration::from_millis(500);
/// How often the scheduler's view is held against the truth.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often a process that is down looks whether it may start.
const DOWN_LOOK: Duration = Duration::from_millis(20);
/// What [`code_of`] reads from a share.
const CODES: f64 = 1e9;

/// What makes one agent's host differ from another's.
#[derive(Debug, Clone)]
pub(crate) struct AgentHost {
    pub(crate) at: usize,
    pub(crate) node: String,
    /// How fast its clock runs.
    pub(crate) rate: f64,
    pub(crate) seed: u64,
}

/// A share of KV memory that says which round of readings it is.
fn share_of(code: u64) -> Ratio {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let code = code as f64;
    Ratio::new(code / CODES).unwrap()
}

pub(crate) fn code_of(share: Ratio) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a code")]
    let code = (share.get() * CODES).round() as u64;
    code
}

/// A machine's clock: it began at some time of its own and runs at its own rate.
fn clock(rate: f64, seed: u64) -> Clock {
    let (began, ahead) = (tokio::time::Instant::now(), Duration::from_secs(seed % 1_000_000));
    Clock::told_by(move || ahead + began.elapsed().mul_f64(rate))
}

pub(crate) fn agent_config(node: &str) -> aya_config::AgentConfig {
    let text = format!(
        "node_id = \"{node}\"\nschedulers = [\"http://{SCHEDULER}:{PORT}\"]\n\
         [gpu]\nperiod = \"{0}ms\"\n[report]\nfull_period = \"7s\"\n[engines]\nperiod = \"{0}ms\"\n\
         [[engine]]\nkind = \"vllm\"\nurl = \"http://10.9.8.7:8000\"\nname = \"{node}-a\"\n",
        PERIOD.as_millis()
    );
    aya_config::parse("agent.toml", &text, [], &[]).unwrap()
}

/// Dials over the simulated network.
pub(crate) fn dial() -> Dial {
    Dial::by(TcpStream::connect::<String>)
}

pub(crate) fn gpu_of(node: &str) -> GpuInfo {
    GpuInfo {
        uuid: GpuUuid::parse(&format!("GPU-{node}")).unwrap(),
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        vram_total: None,
        power_limit: None,
        sm_clock_max_mhz: None,
        slowdown_margin: None,
        mig: None,
    }
}

/// What one round of questions found.
pub(crate) fn readings(agent: &SimulatedAgent, code: u64, running: u32) -> EngineReadings {
    let mut readings = EngineReadings::new(EngineKind::Vllm);
    let model = ServedModel { id: ModelId::parse("m").unwrap(), context_length: None, parent: None };
    let findings = Findings {
        running: Some(Ok(running)),
        waiting: Some(Ok(0)),
        kv_used: Some(Ok(share_of(code))),
        models: Some(Ok(vec![model])),
        ..Findings::default()
    };
    readings.merge(Page::Metrics, findings, agent.now());
    readings
}

/// The software of an agent's host.
pub(crate) async fn agent(host: AgentHost, truth: Shared) -> turmoil::Result {
    while !truth.borrow().hosts[host.at].up {
        tokio::time::sleep(DOWN_LOOK).await;
    }
    let config = agent_config(&host.node);
    let (a, b) = (format!("{}-a", host.node), format!("{}-b", host.node));
    let start = truth.borrow_mut().begin(host.at, &host.node, BTreeSet::from([a]));
    let clock = clock(host.rate, splitmix64(host.seed ^ start.0));
    let agent = SimulatedAgent::start(config, BootId(start.boot()), clock, dial())?;
    let gpu = gpu_of(&host.node);
    agent.gpus(vec![gpu.clone()]).await;
    let mut draw = splitmix64(host.seed ^ start.boot());
    loop {
        round(&agent, &truth, start, &gpu.uuid).await;
        draw = if truth.borrow().quiet { u64::MAX } else { splitmix64(draw) };
        if draw.is_multiple_of(16) {
            let (code, xids) = truth.borrow_mut().xid(start);
            let kind = GpuEventKind::Xid { code };
            agent.happened(GpuHappening { gpu: gpu.uuid.clone(), kind, xids: Some(xids) }).await;
        }
        if draw >> 32 & 15 == 0 {
            let is_new = truth.borrow_mut().life(start).engines.insert(b.clone());
            let id = EndpointId::parse(&b).unwrap();
            if is_new {
                agent.joined(id).await;
            } else {
                truth.borrow_mut().life(start).engines.remove(&b);
                agent.left(id).await;
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Reads every engine and the GPU once.
async fn round(agent: &SimulatedAgent, truth: &Shared, start: Start, gpu: &GpuUuid) {
    let (code, engines, xids) = {
        let mut truth = truth.borrow_mut();
        let code = truth.sample(start, turmoil::sim_elapsed().unwrap());
        let own = truth.own.clone();
        let life = truth.life(start);
        let running = |id: &String| (id.clone(), FOREIGN + own.get(id).copied().unwrap_or(0));
        let engines: Vec<_> = life.engines.iter().map(running).collect();
        (code, engines, u32::try_from(life.xids.len()).unwrap())
    };
    for (id, running) in engines {
        let id = EndpointId::parse(&id).unwrap();
        agent.read(&id, EngineHealth::Ready, readings(agent, code, running)).await;
    }
    let sample = GpuSample { xids: Some(xids), vram_free: Some(Bytes(code)), ..GpuSample::default() };
    agent.sampled(gpu.clone(), sample).await;
}

/// The software of the scheduler's host.
pub(crate) async fn scheduler(seed: u64, truth: Shared) -> turmoil::Result {
    while !truth.borrow().scheduler_up {
        tokio::time::sleep(DOWN_LOOK).await;
    }
    truth.borrow_mut().own.clear();
    let scheduler = Rc::new(start_scheduler(seed)?);
    let began = turmoil::sim_elapsed().unwrap();
    let rules = RefCell::new(Rules::new(began, Rc::clone(&scheduler), Rc::clone(&truth), seed));
    let watching = async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            rules.borrow_mut().look(turmoil::sim_elapsed().unwrap());
        }
    };
    tokio::select! {
        biased;
        ended = scheduler.serve(accepted().await?) => Ok(ended?),
        () = watching => Ok(()),
    }
}

pub(crate) fn start_scheduler(seed: u64) -> Result<SimulatedScheduler, aya_scheduler::SchedulerError> {
    let config = aya_config::parse("scheduler.toml", "", [], &[]).unwrap();
    SimulatedScheduler::start(config, clock(1.0, seed))
}

/// The connections of agents.
pub(crate) async fn accepted() -> std::io::Result<impl stream::Stream<Item = std::io::Result<TcpStream>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(link, _)| link);
        Some((accepted, listener))
    }))
}
