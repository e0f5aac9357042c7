//! What is measured: nothing in between, another proxy or router, or an Aya scheduler with an agent that feeds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use tokio::time::Instant;

use super::load::Found;
use super::process::{MEASURED_CORE, OTHER_CORE, Process, aya, free_port, helper, pause, pinned};

const READY_MAX: Duration = Duration::from_secs(20);
const READY_LOOK: Duration = Duration::from_millis(2);
const NGINX: &str = include_str!("../../conf/nginx.conf");
const HAPROXY: &str = include_str!("../../conf/haproxy.cfg");
const ENVOY: &str = include_str!("../../conf/envoy.yaml");
/// Engines behind every target but one.
const ENGINES: usize = 4;
/// Requests that a router with a limit of its own lets through at once.
const CONCURRENT: &str = "20000";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The load goes straight to one mock engine.
    Direct,
    Nginx,
    Haproxy,
    Envoy,
    VllmRouter,
    Smg,
    Aya,
    /// Aya before 64 engines instead of 4.
    Aya64,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::VllmRouter => "vllm-router",
            Self::Smg => "smg",
            Self::Aya => "aya",
            Self::Aya64 => "aya, 64 endpoints",
        }
    }
}

/// Where the other programs are.
#[derive(Debug)]
pub(crate) struct Peers {
    python: Option<PathBuf>,
}

impl Peers {
    pub(crate) const fn new(python: Option<PathBuf>) -> Self {
        Self { python }
    }

    /// Whether its program is there; a peer that is not installed is left out, loudly.
    pub(crate) async fn has(&self, kind: Kind) -> bool {
        let (program, flag) = match kind {
            Kind::Direct | Kind::Aya | Kind::Aya64 => return true,
            Kind::Nginx => (PathBuf::from("nginx"), "-v"),
            Kind::Haproxy => (PathBuf::from("haproxy"), "-v"),
            Kind::Envoy => (self.envoy(), "--version"),
            Kind::VllmRouter => (self.script("vllm-router"), "--help"),
            Kind::Smg => (self.script("smg"), "--help"),
        };
        Command::new(program).arg(flag).output().await.is_ok_and(|output| output.status.success())
    }

    /// A script of the environment, or one that the system has.
    fn script(&self, name: &str) -> PathBuf {
        self.python.as_ref().map_or_else(|| name.into(), |python| python.join("bin").join(name))
    }

    /// The program itself: the package's script would start it as a child of an interpreter, which costs memory.
    fn envoy(&self) -> PathBuf {
        let libraries =
            self.python.as_ref().map(|python| python.join("lib")).and_then(|lib| fs::read_dir(lib).ok());
        let versions = libraries.into_iter().flatten().flatten();
        let programs = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
        programs.into_iter().find(|program| program.exists()).unwrap_or_else(|| self.script("envoy"))
    }
}

/// A running target.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// What is measured; `None` for a direct connection.
    pub(crate) measured: Option<Process>,
    /// From its start to the first answer through it.
    pub(crate) started_in: Duration,
    others: Vec<Process>,
}

impl Target {
    /// Starts it in front of the engines and waits until it answers.
    pub(crate) async fn start(kind: Kind, engines: &[u16], dir: &Path, peers: &Peers) -> Result<Self> {
        let dir = dir.join(kind.as_str());
        fs::create_dir_all(&dir)?;
        let four = engines.get(..ENGINES).unwrap_or(engines);
        let began = Instant::now();
        let mut target = match kind {
            Kind::Direct => {
                let port = *engines.first().context("no engines")?;
                Self { port, measured: None, others: Vec::new(), started_in: Duration::ZERO }
            }
            Kind::Nginx => {
                let (port, conf) = filled(NGINX, "nginx.conf", four, &dir)?;
                let mut command = pinned(MEASURED_CORE, "nginx");
                command.arg("-p").arg(&dir).arg("-c").arg(conf);
                Self::alone(port, command, &dir)?
            }
            Kind::Haproxy => {
                let (port, conf) = filled(HAPROXY, "haproxy.cfg", four, &dir)?;
                let mut command = pinned(MEASURED_CORE, "haproxy");
                command.arg("-db").arg("-f").arg(conf);
                Self::alone(port, command, &dir)?
            }
            Kind::Envoy => {
                let (port, conf) = filled(ENVOY, "envoy.yaml", four, &dir)?;
                let mut command = pinned(MEASURED_CORE, peers.envoy());
                command.args(["--concurrency", "1", "-l", "error", "--disable-hot-restart", "-c"]).arg(conf);
                Self::alone(port, command, &dir)?
            }
            Kind::VllmRouter => {
                let port = free_port()?;
                let mut command = router(&peers.script("vllm-router"), &[], port, four)?;
                command.args(["--policy", "round_robin"]);
                Self::alone(port, command, &dir)?
            }
            Kind::Smg => {
                let port = free_port()?;
                let mut command = router(&peers.script("smg"), &["launch"], port, four)?;
                command.args(["--policy", "cache_aware", "--log-level", "error"]);
                command.args(["--max-concurrent-requests", CONCURRENT]);
                Self::alone(port, command, &dir)?
            }
            Kind::Aya => Self::aya(four, &dir)?,
            Kind::Aya64 => Self::aya(engines, &dir)?,
        };
        target.ready(&dir).await?;
        target.started_in = began.elapsed();
        Ok(target)
    }

    fn alone(port: u16, command: Command, dir: &Path) -> Result<Self> {
        let measured = Some(Process::start(command, dir, "proxy")?);
        Ok(Self { port, measured, others: Vec::new(), started_in: Duration::ZERO })
    }

    fn aya(engines: &[u16], dir: &Path) -> Result<Self> {
        let (port, admin, grpc) = (free_port()?, free_port()?, free_port()?);
        let conf = dir.join("scheduler.toml");
        fs::write(&conf, scheduler_config(port, admin, grpc))?;
        let mut command = pinned(MEASURED_CORE, aya()?);
        command.arg("scheduler").arg("--config").arg(conf);
        let scheduler = Process::start(command, dir, "scheduler")?;
        let mut agent = pinned(OTHER_CORE, aya()?);
        agent.args([
            "agent",
            "--node-id",
            "bench",
            "--gpu-source",
            "simulated",
            "--simulated-gpu",
            "8*h100-8b",
        ]);
        agent.args(["--log", "warn", "--admin-listen", &format!("127.0.0.1:{}", free_port()?)]);
        agent.args(["--scheduler", &format!("http://127.0.0.1:{grpc}")]);
        for engine in engines {
            agent.args(["--engine", &format!("vllm=http://127.0.0.1:{engine}")]);
        }
        let agent = Process::start(agent, dir, "agent")?;
        Ok(Self { port, measured: Some(scheduler), others: vec![agent], started_in: Duration::ZERO })
    }

    /// Ready means: an answer of a mock engine came through.
    async fn ready(&mut self, dir: &Path) -> Result<()> {
        let until = Instant::now() + READY_MAX;
        while let Err(why) = super::load::ask_once(self.port).await {
            let ended = self.measured.as_mut().and_then(Process::ended);
            if ended.is_some() || Instant::now() > until {
                bail!("not ready ({ended:?}, {why:#}); see {}", dir.display());
            }
            pause(READY_LOOK).await;
        }
        Ok(())
    }

    pub(crate) async fn stop(self) {
        for process in self.others.into_iter().chain(self.measured) {
            process.stop().await;
        }
    }
}

/// One relaying thread, as the peers have. The mock engines answer at once, which no prediction can know: the rule
/// that holds requests back from a long predicted backlog would only measure itself.
pub(crate) fn scheduler_config(listen: u16, admin: u16, grpc: u16) -> String {
    format!(
        "listen = \"127.0.0.1:{listen}\"\nadmin_listen = \"127.0.0.1:{admin}\"\ngrpc_listen = \"127.0.0.1:{grpc}\"\n\
         threads = 1\n\n[placement]\npolicy = \"aya\"\nhold_backlog = \"1h\"\n\n[log]\nfilter = \"warn\"\n"
    )
}

/// A router of the vLLM and SGLang family, which share their flags.
fn router(program: &Path, words: &[&str], port: u16, engines: &[u16]) -> Result<Command> {
    let mut command = pinned(MEASURED_CORE, program);
    command.args(words).args(["--host", "127.0.0.1", "--port", &port.to_string(), "--worker-urls"]);
    command.args(engines.iter().map(|engine| format!("http://127.0.0.1:{engine}")));
    command.args(["--prometheus-port", &free_port()?.to_string()]);
    Ok(command)
}

fn filled(template: &str, name: &str, engines: &[u16], dir: &Path) -> Result<(u16, PathBuf)> {
    let port = free_port()?;
    let mut text = template.replace("@PORT@", &port.to_string()).replace("@WORK@", &dir.to_string_lossy());
    for (nth, engine) in engines.iter().enumerate() {
        text = text.replace(&format!("@B{}@", nth + 1), &engine.to_string());
    }
    let path = dir.join(name);
    fs::write(&path, text)?;
    Ok((port, path))
}

/// One run of the load generator.
pub(crate) async fn load(port: u16, args: &[&str]) -> Result<Found> {
    let port = port.to_string();
    let mut command = helper(&["load"])?;
    let output = command.args(args).args(["--port", &port]).output().await?;
    let line = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&line).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
