//! What costs something even when nobody asks anything: telemetry of 500 agents at a scheduler, and one agent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::process::{MEASURED_CORE, OTHER_CORE, Process, aya, free_port, helper, pause, pinned};
use super::target::scheduler_config;

/// Time for connections, first reports and caches.
pub(crate) const SETTLE: Duration = Duration::from_secs(8);
const START_MAX: Duration = Duration::from_secs(10);
pub(crate) const ENGINES: u32 = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct TelemetryOptions {
    #[arg(long, default_value_t = 500)]
    agents: u32,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AgentOptions {
    #[arg(long, default_value_t = 30)]
    pub(crate) seconds: u64,
    /// Leave out the driver that hangs for 30 s.
    #[arg(long)]
    pub(crate) no_hang: bool,
}

/// CPU and memory over a while.
pub(crate) struct Steady {
    pub(crate) core_percent: f64,
    pub(crate) rss_mib: f64,
    pub(crate) seconds: f64,
}

pub(crate) async fn watch(process: &Process, seconds: u64) -> Steady {
    let (began, before) = (Instant::now(), process.cpu_s());
    pause(Duration::from_secs(seconds)).await;
    let seconds = began.elapsed().as_secs_f64();
    Steady { core_percent: 100.0 * (process.cpu_s() - before) / seconds, rss_mib: process.rss_mib(), seconds }
}

/// A scheduler whose ports are known.
pub(crate) struct Scheduler {
    pub(crate) process: Process,
    pub(crate) admin: u16,
    pub(crate) grpc: u16,
}

impl Scheduler {
    pub(crate) async fn start(dir: &Path, core: &str) -> Result<Self> {
        let (listen, admin, grpc) = (free_port()?, free_port()?, free_port()?);
        let conf = dir.join("scheduler.toml");
        fs::write(&conf, scheduler_config(listen, admin, grpc))?;
        let mut command = pinned(core, aya()?);
        command.arg("scheduler").arg("--config").arg(conf);
        let process = Process::start(command, dir, "scheduler")?;
        answers(admin, "/healthz").await?;
        Ok(Self { process, admin, grpc })
    }

    /// Reports applied so far.
    async fn reports(&self) -> Result<f64> {
        let text = get(self.admin, "/metrics").await?;
        let line = text.lines().find(|line| line.starts_with("aya_telemetry_reports_total"));
        Ok(line.and_then(|line| line.rsplit(' ').next()).context("no count of reports")?.parse()?)
    }
}

/// `500 agents`: a scheduler alone on its core.
pub(crate) async fn telemetry(options: TelemetryOptions) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let scheduler = Scheduler::start(dir.path(), MEASURED_CORE).await?;
    let idle = watch(&scheduler.process, 3).await;
    let mut command = helper(&["agents"])?;
    command.args(["--scheduler", &format!("http://127.0.0.1:{}", scheduler.grpc)]);
    command.args(["--count", &options.agents.to_string()]);
    let mut agents = Process::start(command, dir.path(), "agents")?;
    pause(SETTLE).await;
    let before = scheduler.reports().await?;
    let busy = watch(&scheduler.process, options.seconds).await;
    let rate = (scheduler.reports().await? - before) / busy.seconds;
    if let Some(status) = agents.ended() {
        let log = fs::read_to_string(dir.path().join("agents.log")).unwrap_or_default();
        anyhow::bail!("the agents ended early: {status}: {log}");
    }
    crate::print(&format!(
        "| agents | reports/s | scheduler CPU | per report | RSS | idle CPU | idle RSS |\n|---|---|---|---|---|---|---|\n\
         | {} | {rate:.0} | {:.1} % of a core | {:.0} us | {:.1} MiB | {:.2} % | {:.1} MiB |",
        options.agents,
        busy.core_percent,
        busy.core_percent * 1e4 / rate,
        busy.rss_mib,
        idle.core_percent,
        idle.rss_mib,
    ));
    agents.stop().await;
    scheduler.process.stop().await;
    Ok(())
}

/// One agent at its default periods, beside four simulated engines and reporting to one scheduler.
pub(crate) async fn agent(options: &AgentOptions) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let scheduler = Scheduler::start(dir.path(), OTHER_CORE).await?;
    let mut agent = pinned(MEASURED_CORE, aya()?);
    agent.args(["agent", "--node-id", "bench", "--gpu-source", "simulated", "--simulated-gpu", "8*h100-8b"]);
    agent.args(["--log", "warn", "--admin-listen", &format!("127.0.0.1:{}", free_port()?)]);
    agent.args(["--scheduler", &format!("http://127.0.0.1:{}", scheduler.grpc)]);
    let mut others = Vec::new();
    for nth in 0..ENGINES {
        let port = free_port()?;
        let mut engine = pinned(OTHER_CORE, aya()?);
        engine.args(["sim-engine", "--log", "warn", "--listen", &format!("127.0.0.1:{port}")]);
        others.push(Process::start(engine, dir.path(), &format!("engine-{nth}"))?);
        answers(port, "/health").await?;
        agent.args(["--engine", &format!("simulated=http://127.0.0.1:{port}")]);
    }
    let agent = Process::start(agent, dir.path(), "agent")?;
    pause(SETTLE).await;
    let before = scheduler.reports().await?;
    let steady = watch(&agent, options.seconds).await;
    let rate = (scheduler.reports().await? - before) / steady.seconds;
    ensure!(rate > 1.0, "the agent does not report: {}", fs::read_to_string(dir.path().join("agent.log"))?);
    crate::print(&format!(
        "| agent of 8 GPUs and {ENGINES} engines | reports/s | CPU | RSS |\n|---|---|---|---|\n\
         | {:.0} s | {rate:.1} | {:.2} % of a core | {:.1} MiB |",
        steady.seconds, steady.core_percent, steady.rss_mib,
    ));
    for process in others.into_iter().chain([agent, scheduler.process]) {
        process.stop().await;
    }
    Ok(())
}

/// Waits until a path answers.
pub(crate) async fn answers(port: u16, path: &str) -> Result<()> {
    let until = Instant::now() + START_MAX;
    while get(port, path).await.is_err() {
        ensure!(Instant::now() < until, "port {port} does not answer {path}");
        pause(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A page in one piece.
pub(crate) async fn get(port: u16, path: &str) -> Result<String> {
    let page = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = timeout(START_MAX, page).await??;
    ensure!(text.starts_with("HTTP/1.1 200"), "{path}: {}", text.lines().next().unwrap_or_default());
    Ok(text)
}
