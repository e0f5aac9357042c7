//! Measurements: what is to be built for each, in release, and what is then started. benches/METHOD.md explains them.

use anyhow::Result;

use crate::run::{Step, cargo, target};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bench {
    /// Single functions, with criterion.
    Micro,
    /// The relay beside a direct connection, nginx and HAProxy.
    Relay,
    /// A scheduler with 500 agents.
    Telemetry,
    /// An agent with 8 GPUs and 4 engines, and one whose driver hangs.
    Agent,
}

/// Builds and runs one measurement; `args` go to what measures.
pub(crate) fn run(bench: Bench, args: &[String]) -> Result<()> {
    let name = match bench {
        Bench::Micro => {
            let mut step = cargo(&["bench", "-p", "aya-benches", "--benches", "--"]);
            step.command.args(args);
            return step.run();
        }
        Bench::Relay => "relay",
        Bench::Telemetry => "telemetry",
        Bench::Agent => "agent",
    };
    cargo(&["build", "--release", "-p", "aya-cli", "-p", "aya-benches", "--bins"]).run()?;
    if bench == Bench::Agent {
        cargo(&["build", "--release", "-p", "aya-fake-nvml"]).run()?;
    }
    let mut step = Step::new(target().join("release/aya-bench")).args(&[name]);
    step.command.args(args);
    step.run()
}
