//! `aya-bench`: measures the release binary as a process, beside other proxies, on this machine.
//!
//! `relay`, `telemetry` and `agent` measure and print one table each; `engines`, `load` and `agents` are the other
//! sides, which those start as processes of their own so that their cost is never counted as Aya's.

mod bench;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use bench::{agents, engines, hang, load, placement, relay, steady};

/// Measures Aya; see benches/METHOD.md.
#[derive(Debug, Parser)]
#[command(name = "aya-bench")]
enum Command {
    /// Relay cost beside a direct connection, nginx and HAProxy, in interleaved rounds.
    Relay(relay::Options),
    /// What 500 agents at 4 reports per second cost a scheduler.
    Telemetry(steady::TelemetryOptions),
    /// What an agent with 8 GPUs and 4 simulated engines costs its host: simulated GPUs, then the fake NVML, which then hangs.
    Agent(steady::AgentOptions),
    /// The acceptance rows of placement over the simulated farm.
    Placement(placement::Options),
    /// Serve fixed answers as vLLM would, on several ports.
    Engines(engines::Options),
    /// Ask an OpenAI-compatible endpoint and print one line of JSON.
    Load(load::Options),
    /// Report to a scheduler as many agents.
    Agents(agents::Options),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| match command {
        Command::Relay(options) => runtime.block_on(relay::run(options)),
        Command::Telemetry(options) => runtime.block_on(steady::telemetry(options)),
        Command::Agent(options) => runtime.block_on(async {
            steady::agent(&options).await?;
            hang::agent(&options).await
        }),
        Command::Placement(options) => placement::run(&options),
        Command::Engines(options) => runtime.block_on(engines::run(options)),
        Command::Load(options) => runtime.block_on(load::run(options)),
        Command::Agents(options) => runtime.block_on(agents::run(options)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Results, to stdout.
fn print(text: &str) {
    // A reader that has gone wants no more results.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// What is going on, to stderr.
fn progress(line: &str) {
    // Nothing useful can be done about a closed stderr.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
