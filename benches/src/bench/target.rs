//! What is measured: nothing in between, nginx, HAProxy, or an Aya scheduler with an agent that feeds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use tokio::time::Instant;

use super::load::Found;
use super::process::{MEASURED_CORE, OTHER_CORE, Process, aya, free_port, helper, pause, pinned};

const READY_MAX: Duration = Duration::from_secs(20);
const NGINX: &str = include_str!("../../conf/nginx.conf");
const HAPROXY: &str = include_str!("../../conf/haproxy.cfg");

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The load goes straight to one mock engine.
    Direct,
    Nginx,
    Haproxy,
    Aya,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Aya => "aya",
        }
    }

    /// Whether its program is there; a peer that is not installed is left out, loudly.
    pub(crate) async fn is_installed(self) -> bool {
        let (program, flag) = match self {
            Self::Direct | Self::Aya => return true,
            Self::Nginx => ("nginx", "-v"),
            Self::Haproxy => ("haproxy", "-v"),
        };
        Command::new(program).arg(flag).output().await.is_ok_and(|output| output.status.success())
    }
}

/// A running target.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// What is measured; `None` for a direct connection.
    pub(crate) measured: Option<Process>,
    others: Vec<Process>,
}

impl Target {
    /// Starts it in front of the engines and waits until it answers.
    pub(crate) async fn start(kind: Kind, engines: &[u16], dir: &Path) -> Result<Self> {
        let dir = dir.join(kind.as_str());
        fs::create_dir_all(&dir)?;
        let mut target = match kind {
            Kind::Direct => {
                let port = *engines.first().context("no engines")?;
                Self { port, measured: None, others: Vec::new() }
            }
            Kind::Nginx => {
                let (port, conf) = filled(NGINX, "nginx.conf", engines, &dir)?;
                let mut command = pinned(MEASURED_CORE, "nginx");
                command.arg("-p").arg(&dir).arg("-c").arg(conf);
                Self::alone(port, command, &dir)?
            }
            Kind::Haproxy => {
                let (port, conf) = filled(HAPROXY, "haproxy.cfg", engines, &dir)?;
                let mut command = pinned(MEASURED_CORE, "haproxy");
                command.arg("-db").arg("-f").arg(conf);
                Self::alone(port, command, &dir)?
            }
            Kind::Aya => Self::aya(engines, &dir)?,
        };
        target.ready(&dir).await?;
        Ok(target)
    }

    fn alone(port: u16, command: Command, dir: &Path) -> Result<Self> {
        Ok(Self { port, measured: Some(Process::start(command, dir, "proxy")?), others: Vec::new() })
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
            "4*h100-8b",
        ]);
        agent.args(["--log", "warn", "--admin-listen", &format!("127.0.0.1:{}", free_port()?)]);
        agent.args(["--scheduler", &format!("http://127.0.0.1:{grpc}")]);
        for engine in engines {
            agent.args(["--engine", &format!("vllm=http://127.0.0.1:{engine}")]);
        }
        let agent = Process::start(agent, dir, "agent")?;
        Ok(Self { port, measured: Some(scheduler), others: vec![agent] })
    }

    /// Ready means: an answer of a mock engine came through.
    async fn ready(&mut self, dir: &Path) -> Result<()> {
        let until = Instant::now() + READY_MAX;
        loop {
            let asked = load(self.port, &["hold", "--connections", "4", "--each", "1"]).await?;
            if asked.ok == 4 {
                return Ok(());
            }
            let ended = self.measured.as_mut().and_then(Process::ended);
            if ended.is_some() || Instant::now() > until {
                let why = asked.first_error.unwrap_or_default();
                bail!("not ready ({ended:?}, {why}); see {}", dir.display());
            }
            pause(Duration::from_millis(100)).await;
        }
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
